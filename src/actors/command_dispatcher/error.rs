//! Why commands are refused.

use actix::MailboxError;

use crate::{
    auth::LookupError,
    domain::{budget::OverLimit, commands::Exceeded},
    store::{StoreError, patience::OutOfPatience},
};

/// Why a command is refused, or can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such command, or the client may not see it.
    #[error("command not found")]
    NotFound,
    /// No connected client fits.
    #[error("no matching clients")]
    NoMatch,
    /// More targets are named than the requester may name.
    #[error("List should have at most {most} items, not {given}")]
    TooManyTargets { most: usize, given: usize },
    /// A named target does not exist.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Somebody who is no operator commands others.
    #[error("operator role required to command others")]
    NotAllowed,
    /// All named targets are behind gateways that are down. This is the name of one.
    #[error("gateway {0} is down")]
    GatewayDown(String),
    /// The command takes more than so many bytes, half of `limits.outbound_bytes`.
    #[error("command over {0} bytes")]
    TooLarge(usize),
    /// Its requester has reached `limits.stored_bytes_per_minute`.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// It would exceed a limit.
    #[error("command over a limit: {0:?}")]
    Limit(Exceeded),
    /// Its idempotency key stands for another request.
    #[error("idempotency key was used for another request")]
    KeyReused,
    /// Commands can't be recorded: the database does not keep up, or takes nothing for this reason.
    #[error("commands can't be recorded")]
    NotRecorded(Option<StoreError>),
    /// The node that handles the command cannot be asked.
    #[error("The node that handles the command cannot be asked")]
    ClusterUnavailable,
    /// The broker stops, and nobody waits for commands any more.
    #[error("the broker is stopping")]
    Stopping,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database takes too long.
    #[error(transparent)]
    OutOfPatience(#[from] OutOfPatience),
    /// An actor that is needed has ended.
    #[error("an actor has ended")]
    ActorEnded,
}

impl From<MailboxError> for CommandError {
    fn from(_: MailboxError) -> Self {
        Self::ActorEnded
    }
}

impl From<Exceeded> for CommandError {
    fn from(exceeded: Exceeded) -> Self {
        Self::Limit(exceeded)
    }
}
