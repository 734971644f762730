//! The states of a target.

/// The state of one target of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetState {
    /// Waits for the target to connect.
    Queued,
    /// Has been handed to the target's socket.
    Sent,
    /// The target has reported progress.
    InProgress,
    /// The target has answered.
    Succeeded,
    /// The target has answered with an `error`.
    Failed,
    /// The target has not answered in time.
    TimedOut,
    /// The target was not connected, and the command may not wait.
    Offline,
    /// The target's socket was lost before it answered; it may answer later.
    Disconnected,
    /// The target did not connect in time.
    Expired,
    /// The command was cancelled.
    Cancelled,
}

impl TargetState {
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

    /// Whether the target has ended: its state changes no more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Sent | Self::InProgress)
    }
}

/// Why a target is offline, where the broker knows more than that it is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its gateway is down.
    GatewayDown,
    /// It may be connected to another node, which cannot be asked.
    NodeUnavailable,
}

impl Reason {
    /// The word on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GatewayDown => "gateway_down",
            Self::NodeUnavailable => "node_unavailable",
        }
    }

    /// The reason of that word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::GatewayDown, Self::NodeUnavailable].into_iter().find(|reason| reason.as_str() == text)
    }
}
