//! Rooms, their members and messages (contract section 7).

mod change;
mod occupancy;
mod rules;

use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use change::{RoomChange, RoomOutcome, RoomRefusal};
pub use occupancy::{Attachment, Detached, Occupancy};
pub use rules::{Memberships, RoomLimit, role_on_joining, successor};

use super::ids::{ClientId, MessageId, RoomId};

/// Messages that somebody gets who joins.
pub const RECENT_MESSAGES: u64 = 50;

/// Messages that somebody gets at most who comes back.
pub const MISSED_MESSAGES: u64 = 1000;

/// Bytes of what somebody gets who joins; more would be more than a socket can have waiting.
pub const HISTORY_BYTES: usize = 256 * 1024;

/// Characters of `client_msg_id`.
pub const CLIENT_MSG_ID_CHARS: usize = 64;

/// A room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Its id.
    pub id: RoomId,
    /// Its name, unique among those that are not private.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Only members know that it exists, and only the owner lets others in.
    pub is_private: bool,
    /// Since when it exists.
    pub created_at: DateTime<Utc>,
}

/// A client, as a room knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participant {
    /// Its UUID.
    pub client: ClientId,
    /// A user's integer id; devices have none.
    pub user_id: Option<i64>,
    /// A user's username, a device's name.
    pub username: Arc<str>,
}

/// What a member may do; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoomRole {
    /// Read and write.
    Member,
    /// Delete messages, remove members.
    Moderator,
    /// Add members, give roles. There is one owner as long as there are members.
    Owner,
}

impl RoomRole {
    /// The word in tables and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Moderator => "moderator",
            Self::Owner => "owner",
        }
    }

    /// The role of that word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Member, Self::Moderator, Self::Owner].into_iter().find(|role| role.as_str() == text)
    }
}

/// A member of a room.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who.
    pub who: Participant,
    /// What it may do.
    pub role: RoomRole,
    /// Since when.
    pub joined_at: DateTime<Utc>,
    /// The newest message that it has marked as read; 0 if none.
    pub last_read: MessageId,
    /// Who added it; None once it has joined by itself.
    pub added_by: Option<ClientId>,
}

/// A chat message as stored.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id; gives the order within the room.
    pub id: MessageId,
    /// Where it was said.
    pub room: RoomId,
    /// By whom.
    pub author: Participant,
    /// What; empty once it is deleted.
    pub content: Arc<str>,
    /// The author's own name for it.
    pub client_msg_id: Option<String>,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
    /// When its content was last exchanged.
    pub edited_at: Option<DateTime<Utc>>,
    /// When it lost its content.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// Messages of a room, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The messages.
    pub messages: Vec<Message>,
    /// There are more than these, at the end that this is read towards.
    pub truncated: bool,
    /// It is read from the newest message towards older ones, not from some message towards newer ones.
    pub recent: bool,
}

/// What of the past somebody wants who joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    Nothing,
    /// The last [`RECENT_MESSAGES`].
    Recent,
    /// All after this one, up to [`MISSED_MESSAGES`].
    Since(MessageId),
}
