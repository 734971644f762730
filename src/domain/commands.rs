//! Commands and what becomes of them.

mod pending;
mod usage;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ids::{ClientId, ClientKind};

pub use pending::{Answered, PendingCommands, Socket};
pub use usage::{CommandLimits, Exceeded};

/// What one target of a command has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for the target to connect.
    Queued,
    /// Is on its way to the target's socket.
    Sent,
    /// The target has told of progress.
    InProgress,
    /// The target has answered.
    Succeeded,
    /// The target has answered with an `error`.
    Failed,
    /// The target has not answered in time.
    TimedOut,
    /// The target could not be reached, and the command was not to wait.
    Offline,
    /// The target's socket was lost before it answered; it may answer later.
    Disconnected,
    /// The target did not connect in time.
    Expired,
    /// Somebody called it off.
    Cancelled,
}

impl State {
    /// All states.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Sent,
        Self::InProgress,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Offline,
        Self::Disconnected,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The word on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::InProgress => "in_progress",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Offline => "offline",
            Self::Disconnected => "disconnected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether nothing more will change.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Sent | Self::InProgress)
    }
}

/// Why a target could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The gateway that it is behind is down.
    GatewayDown,
}

impl Reason {
    /// The word on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GatewayDown => "gateway_down",
        }
    }

    /// The reason of that word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::GatewayDown].into_iter().find(|reason| reason.as_str() == text)
    }
}

/// One client that a command goes to, and what came of it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The client.
    pub client: ClientId,
    /// A user's integer id.
    pub user_id: Option<i64>,
    /// Device or user.
    pub kind: ClientKind,
    /// A device's name; a user's email or username.
    pub name: String,
    /// What it has come to.
    pub state: State,
    /// Why it could not be asked, where more is known than the state says.
    pub reason: Option<Reason>,
    /// The answer: JSON.
    pub result: Option<Arc<str>>,
    /// An answer that came after the target had timed out or lost its socket: JSON.
    pub late_result: Option<Arc<str>>,
    /// When it was sent.
    pub sent_at: Option<DateTime<Utc>>,
    /// When the first progress came.
    pub in_progress_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// The command's version at the last change.
    pub version: i64,
}

impl Target {
    /// A client to be asked.
    pub fn new(client: ClientId, kind: ClientKind, name: String, user_id: Option<i64>) -> Self {
        Self {
            client,
            user_id,
            kind,
            name,
            state: State::Queued,
            reason: None,
            result: None,
            late_result: None,
            sent_at: None,
            in_progress_at: None,
            ended_at: None,
            version: 0,
        }
    }
}

/// A command to one or more clients.
#[derive(Debug, Clone)]
pub struct Command {
    /// Its id, `command_id` on the wire.
    pub id: Uuid,
    /// Who asks.
    pub requested_by: ClientId,
    /// The name of who asks.
    pub requester: String,
    /// What to do.
    pub method: String,
    /// To what.
    pub url: String,
    /// With what: JSON.
    pub data: Option<Arc<str>>,
    /// How long a target may take from when it was sent.
    pub timeout: Duration,
    /// Until when it waits for targets that are not connected.
    pub deliver_until: Option<DateTime<Utc>>,
    /// When it was given.
    pub created_at: DateTime<Utc>,
    /// When its last target ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// How often it has changed.
    pub version: i64,
    /// Whom it goes to; fixed from the beginning.
    pub targets: Vec<Target>,
}

/// A change of one target.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The command.
    pub command: Uuid,
    /// The target after the change.
    pub target: Target,
    /// The target has told of progress: JSON.
    pub progress: Option<Arc<str>>,
    /// The whole command, if that was its last target.
    pub finished: Option<Arc<Command>>,
}
