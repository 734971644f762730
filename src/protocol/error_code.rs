//! The `code` of error frames (contract section 8), by which programs tell errors apart. An HTTP answer that has the same
//! reason has the same code.

use std::fmt::{self, Display};

use crate::domain::rooms::RoomRefusal;

/// The text that clients get when the server failed. The cause is in its log.
pub const INTERNAL_ERROR: &str = "Internal server error";

macro_rules! codes {
    ($($name:ident = $word:literal, $because:literal;)*) => {
        /// Why a frame is refused (contract section 8).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorCode {
            $(#[doc = $because] $name,)*
        }

        impl ErrorCode {
            /// All codes, in the order of the README's table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// Because of what it is sent, as the README and `/asyncapi.json` say it.
            pub fn because(self) -> &'static str {
                match self {
                    $(Self::$name => $because,)*
                }
            }
        }
    };
}

codes! {
    InvalidJson = "invalid_json", "the frame is not JSON";
    InvalidMessage = "invalid_message", "the frame has the wrong shape; the text says where";
    UnknownType = "unknown_type", "this kind of socket has no such `type`";
    MissingField = "missing_field", "a field of a chat frame is missing";
    MessageTooLarge = "message_too_large", "a chat message exceeds `limits.message_bytes`, or an acknowledged message `limits.outbound_bytes`";
    SenderMismatch = "sender_mismatch", "`from` is not the sender";
    RecipientNotConnected = "recipient_not_connected", "the recipient of a direct message is not connected";
    RecipientUnknown = "recipient_unknown", "the recipient of an acknowledged message is not registered";
    MsgidReused = "msgid_reused", "the sender used the `msgid` for another message to the same recipient";
    QueueFull = "queue_full", "the queue of the recipient is full (`limits.queued_per_device`, `limits.queued_bytes_per_device`): send it again once the recipient has taken some";
    TopicNotFound = "topic_not_found", "the topic does not exist";
    NotSubscribed = "not_subscribed", "the sender is not subscribed to the topic";
    NoHistory = "no_history", "the topic has no history";
    NotFound = "not_found", "the room or its message does not exist";
    AlreadyExists = "already_exists", "another room has that name";
    NotAMember = "not_a_member", "the sender is not a member of the room";
    Forbidden = "forbidden", "not allowed; the text says why";
    InvalidCredentials = "invalid_credentials", "the token is invalid, expired or revoked";
    InactiveUser = "inactive_user", "the user is disabled";
    RateLimited = "rate_limited", "too many frames (`limits.frames_per_second`); if that goes on, the socket is closed with 4429";
    TooManyRequests = "too_many_requests", "a limit of the client; the text names its key";
    AtLimit = "at_limit", "a limit of the server: try again later";
    DatabaseUnavailable = "database_unavailable", "the database is unavailable and nothing was stored: try again later";
    StorageFull = "storage_full", "the storage is nearly full, or the limit of stored bytes is reached (`messages.total_bytes`); nothing was stored";
    ClusterUnavailable = "cluster_unavailable", "the recipient may be connected to another node, which cannot be asked now: try again later";
    DeliveryUnknown = "delivery_unknown", "the recipient is connected to another node, which did not say within a second whether it got the message";
    InternalError = "internal_error", "the server failed; its log has the cause";
}

impl Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<RoomRefusal> for ErrorCode {
    fn from(refusal: RoomRefusal) -> Self {
        match refusal {
            RoomRefusal::NoSuchRoom | RoomRefusal::NoSuchMember | RoomRefusal::NoSuchMessage => Self::NotFound,
            RoomRefusal::NameTaken => Self::AlreadyExists,
            RoomRefusal::ClientDeleted => Self::InvalidCredentials,
            RoomRefusal::NotAMember => Self::NotAMember,
            RoomRefusal::NotTheAuthor
            | RoomRefusal::ModeratorRequired
            | RoomRefusal::HigherRoleRequired
            | RoomRefusal::OwnerStays
            | RoomRefusal::OwnerRequired => Self::Forbidden,
            RoomRefusal::TooManyRooms | RoomRefusal::TheyHaveTooManyRooms => Self::TooManyRequests,
            RoomRefusal::DatabaseUnavailable => Self::DatabaseUnavailable,
            RoomRefusal::StorageFull => Self::StorageFull,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_codes_in_a_table() {
        let readme = include_str!("../../README.md");
        let (_, table) = readme.split_once("| `code` | because |\n| --- | --- |\n").expect("the table of codes");
        let rows = table.lines().take_while(|line| line.starts_with("| `"));
        let documented: Vec<_> = rows.collect();
        let sent = ErrorCode::ALL.iter().map(|code| format!("| `{code}` | {} |", code.because()));
        assert_eq!(documented, sent.collect::<Vec<_>>());
    }
}
