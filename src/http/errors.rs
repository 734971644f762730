//! The errors of HTTP answers (contract section 2). `answers` has their statuses, codes and headers; `layers` turns the errors of
//! the layers below into them.

mod answers;
mod fault;
mod layers;

use serde_json::Value;

pub use self::fault::Fault;
use crate::{
    auth::IdentityError,
    domain::{budget::OverLimit, rooms::RoomRefusal},
    protocol::error_code::INTERNAL_ERROR,
    store::UserRefusal,
};

/// Why a request is refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Input of the wrong shape; every fault that was found.
    #[error("validation error")]
    Validation(Vec<Fault>),
    /// No credentials where they are needed.
    #[error("Not authenticated")]
    NotAuthenticated,
    /// Credentials that are bad, expired, revoked, or of nobody.
    #[error("{}", IdentityError::InvalidCredentials)]
    InvalidCredentials,
    /// As above, in the words of the topic routes.
    #[error("Invalid token")]
    InvalidToken,
    /// Wrong username or password.
    #[error("Incorrect username or password")]
    IncorrectLogin,
    /// A wrong old password.
    #[error("Incorrect password")]
    IncorrectPassword,
    /// A refresh token that is unknown, expired or used.
    #[error("Invalid refresh token")]
    InvalidRefreshToken,
    /// A disabled user.
    #[error("{}", IdentityError::InactiveUser)]
    InactiveUser,
    /// The same at a handshake, where the contract asks for another status.
    #[error("{}", IdentityError::InactiveUser)]
    InactiveAtHandshake,
    /// The right identity without the right; the text says which one it lacks.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A cookie that came with a page of another origin.
    #[error("Origin not allowed")]
    ForeignOrigin,
    /// No such thing; the text names it.
    #[error("{0}")]
    NotFound(&'static str),
    /// The path is there, the method is not; the value of `Allow`.
    #[error("Method Not Allowed")]
    MethodNotAllowed(String),
    /// Something of that name is there already; the text says what.
    #[error("{0}")]
    AlreadyExists(&'static str),
    /// A room does not allow it.
    #[error(transparent)]
    Room(RoomRefusal),
    /// Somebody wants to leave a room without being a member.
    #[error("{}", RoomRefusal::NotAMember)]
    CannotLeave,
    /// The target of a command has no socket; the text says what it is.
    #[error("{0}")]
    NotConnected(&'static str),
    /// The target's socket went before it answered.
    #[error("Connection lost while waiting for command response.")]
    ConnectionLost,
    /// The target did not answer in time.
    #[error("Timeout waiting for command response.")]
    CommandTimeout,
    /// The target is behind a gateway that is down; its name.
    #[error("Gateway {0} is down")]
    GatewayDown(String),
    /// Somebody called the command off.
    #[error("Command was cancelled")]
    CommandCancelled,
    /// An idempotency key that stands for another request.
    #[error("Idempotency-Key was used for another request")]
    IdempotencyKeyReused,
    /// A change that would leave nobody to administer users.
    #[error("{0}")]
    LastAdmin(UserRefusal),
    /// A UUID that is bound to another device.
    #[error("UUID already registered")]
    UuidClaimed,
    /// A body over `limits.body_bytes`.
    #[error("Request body over {0} bytes (limits.body_bytes)")]
    BodyTooLarge(usize),
    /// A command that is too large for the sockets of its targets.
    #[error("Command over {0} bytes (half of limits.outbound_bytes)")]
    CommandTooLarge(usize),
    /// A body that did not come in time.
    #[error("The request body did not arrive in time")]
    BodyTimeout,
    /// A body of another content type than the route takes.
    #[error("Unsupported content type, expected {0}")]
    UnsupportedMediaType(&'static str),
    /// A WebSocket path without a WebSocket handshake, or one of another version.
    #[error("{0}")]
    UpgradeRequired(&'static str),
    /// A limit of the client's own was hit.
    #[error(transparent)]
    TooMany(OverLimit),
    /// A limit of the server's was hit; its key.
    #[error("Server is at its limit ({0})")]
    AtLimit(&'static str),
    /// The database is away, locked or too slow, or its answer was lost.
    #[error("Database unavailable")]
    DatabaseUnavailable,
    /// There is no space left, or less than `storage.min_free_bytes`.
    #[error("Storage is nearly full")]
    StorageFull,
    /// The server is stopping.
    #[error("Server is shutting down")]
    Draining,
    /// The server failed; the cause is in the log alone.
    #[error("{INTERNAL_ERROR}")]
    Internal(String),
}

impl ApiError {
    /// One fault, as an error.
    pub fn invalid(kind: &'static str, loc: &[&str], msg: impl Into<String>, input: Value) -> Self {
        let loc = loc.iter().map(|&part| part.to_owned()).collect();
        Self::Validation(vec![Fault::new(kind, loc, msg, &input)])
    }

    /// A limit of the client's own was hit: its key, and the seconds until it should try again.
    pub fn too_many(limit: &'static str, retry_after: u64) -> Self {
        Self::TooMany(OverLimit { limit, retry_after })
    }
}
