//! The `code` of error frames (contract section 8), by which programs tell errors apart. An HTTP answer that has the same
//! reason has the same code.

use std::fmt::{self, Display};

use crate::domain::rooms::RoomRefusal;

/// The text that clients get when the server failed. The cause is in its log.
pub const INTERNAL_ERROR: &str = "Internal server error";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Why a frame is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
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
        }
    };
}

codes! {
    /// The frame is not JSON (contract section 5).
    InvalidJson = "invalid_json",
    /// The frame has the wrong shape; the text says where (contract section 5).
    InvalidMessage = "invalid_message",
    /// This kind of socket has no such `type` (contract section 7).
    UnknownType = "unknown_type",
    /// A field of a chat frame is missing (contract section 7).
    MissingField = "missing_field",
    /// A chat message exceeds `limits.message_bytes`, or an acknowledged one the outbox of a socket (contract section 10).
    MessageTooLarge = "message_too_large",
    /// `from` is not the sender (contract section 5).
    SenderMismatch = "sender_mismatch",
    /// The recipient of a direct message is not connected (contract section 5).
    RecipientNotConnected = "recipient_not_connected",
    /// The recipient of an acknowledged message is not registered (contract section 11).
    RecipientUnknown = "recipient_unknown",
    /// The sender used the `msgid` for another message to the same recipient (contract section 11).
    MsgidReused = "msgid_reused",
    /// As much waits for the recipient as may (contract section 10).
    QueueFull = "queue_full",
    /// The topic does not exist (contract section 5).
    TopicNotFound = "topic_not_found",
    /// The sender is not subscribed to the topic (contract section 5).
    NotSubscribed = "not_subscribed",
    /// The topic has no history (contract section 12).
    NoHistory = "no_history",
    /// The room or its message does not exist (contract section 7).
    NotFound = "not_found",
    /// Another room has that name (contract section 7).
    AlreadyExists = "already_exists",
    /// The sender is not a member of the room (contract section 7).
    NotAMember = "not_a_member",
    /// Not allowed; the text says why (contract sections 3 and 7).
    Forbidden = "forbidden",
    /// The token is invalid, expired or revoked (contract section 3).
    InvalidCredentials = "invalid_credentials",
    /// The user is disabled (contract section 3).
    InactiveUser = "inactive_user",
    /// Too many frames; if that goes on, the socket is closed with 4429 (contract section 10).
    RateLimited = "rate_limited",
    /// A limit of the client; the text names its key (contract section 10).
    TooManyRequests = "too_many_requests",
    /// A limit of the server (contract section 10).
    AtLimit = "at_limit",
    /// The database is unavailable; nothing was stored (contract section 2).
    DatabaseUnavailable = "database_unavailable",
    /// The storage is nearly full; nothing was stored (contract section 2).
    StorageFull = "storage_full",
    /// Another node may have what is asked for, and cannot be asked now.
    ClusterUnavailable = "cluster_unavailable",
    /// It is not known whether the recipient of a direct message, which is at another node, got it.
    DeliveryUnknown = "delivery_unknown",
    /// The server failed (contract section 8).
    InternalError = "internal_error",
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
        let documented: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let sent: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(documented, sent);
    }
}
