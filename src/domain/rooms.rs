//! Rooms, their members and messages (contract section 7).

mod change;
mod elsewhere;
mod event;
mod occupancy;
mod rules;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use change::{RoomChange, RoomOutcome, RoomRefusal};
pub use elsewhere::{Elsewhere, OccupantChange, OccupantState};
pub use event::{Placed, RoomEvent};
pub use occupancy::{Attachment, Detached, Occupancy};
pub use rules::{Memberships, RoomLimit, role_on_joining, successor};

use super::ids::{ClientId, MessageId, RoomId};

/// The number of messages that a client gets when it joins.
pub const RECENT_MESSAGES: u64 = 50;

/// The most messages that a client gets when it comes back.
pub const MISSED_MESSAGES: u64 = 1000;

/// The most bytes of messages that a client gets when it joins; more would not fit in the outbox of its socket.
pub const HISTORY_BYTES: usize = 256 * 1024;

/// The most characters of a `client_msg_id`.
pub const CLIENT_MSG_ID_CHARS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the names of the fields say it
pub struct Room {
    pub id: RoomId,
    /// Unique among the rooms that are not private.
    pub name: String,
    pub description: Option<String>,
    /// Only members see the room, and only the owner adds members.
    pub is_private: bool,
    pub created_at: DateTime<Utc>,
}

/// A client in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names of the fields say it
pub struct Participant {
    pub client: ClientId,
    /// A user's id; devices have none.
    pub user_id: Option<i64>,
    /// A user's username, a device's name.
    pub username: Arc<str>,
}

/// What a member may do. Each role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RoomRole {
    /// Read and write.
    Member,
    /// Delete messages, remove members.
    Moderator,
    /// Add members, give roles. A room with members has one owner.
    Owner,
}

impl RoomRole {
    /// The word in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Moderator => "moderator",
            Self::Owner => "owner",
        }
    }

    /// The role with this word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Member, Self::Moderator, Self::Owner].into_iter().find(|role| role.as_str() == text)
    }
}

#[derive(Debug, Clone)]
#[allow(missing_docs)] // the names of the fields say it
pub struct Member {
    pub who: Participant,
    pub role: RoomRole,
    pub joined_at: DateTime<Utc>,
    /// The newest message that the member has marked as read; 0: none.
    pub last_read: MessageId,
    /// The client that added it; None once the member has joined itself.
    pub added_by: Option<ClientId>,
}

/// A stored chat message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names of the fields say it
pub struct Message {
    /// Gives the order within the room.
    pub id: MessageId,
    pub room: RoomId,
    pub author: Participant,
    /// Empty once the message is deleted.
    pub content: Arc<str>,
    /// The author's id for the message.
    pub client_msg_id: Option<String>,
    pub created_at: DateTime<Utc>,
    /// When the content was last replaced.
    pub edited_at: Option<DateTime<Utc>>,
    /// When the content was removed.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// Messages of a room, oldest first.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // the names of the fields say it
pub struct History {
    pub messages: Vec<Message>,
    /// There are more messages in the direction of reading.
    pub truncated: bool,
    /// Read from the newest message towards older ones; else from a given message towards newer ones.
    pub recent: bool,
}

/// The history that a client asks for when it joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// No messages.
    Nothing,
    /// The last [`RECENT_MESSAGES`].
    Recent,
    /// All after this message, up to [`MISSED_MESSAGES`].
    Since(MessageId),
}
