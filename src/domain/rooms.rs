//! Rooms: what can be asked of them, and what comes of it (contract section 7). The database decides, in the transaction
//! that writes; see `store::rooms::changes`.

mod occupancy;

use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use occupancy::{Attachment, Detached, Occupancy};

use super::ids::{ClientId, MessageId, RoomId};

/// Messages that somebody gets who joins.
pub const RECENT_MESSAGES: u64 = 50;

/// Messages that somebody gets at most who comes back.
pub const MISSED_MESSAGES: u64 = 1000;

/// Bytes of what somebody gets who joins; more would be more than a socket can have waiting.
pub const HISTORY_BYTES: usize = 512 * 1024;

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

/// Something that is asked of a room.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new room, whose owner the creator becomes.
    Create {
        /// Who.
        creator: Participant,
        /// Its name.
        name: String,
        /// What it is for.
        description: Option<String>,
        /// See [`Room::is_private`].
        is_private: bool,
    },
    /// Become a member, or be one already.
    Join {
        /// Where.
        room: RoomId,
        /// Who.
        who: Participant,
        /// What of the past.
        wanted: Wanted,
    },
    /// The owner makes somebody a member.
    Add {
        /// Where.
        room: RoomId,
        /// Who asks.
        by: ClientId,
        /// Who is added.
        who: Participant,
        /// As what.
        role: RoomRole,
    },
    /// The owner gives a member another role.
    SetRole {
        /// Where.
        room: RoomId,
        /// Who asks.
        by: ClientId,
        /// Whose role.
        whose: ClientId,
        /// Which.
        role: RoomRole,
    },
    /// End one's membership.
    Leave {
        /// Where.
        room: RoomId,
        /// Who.
        who: ClientId,
    },
    /// End somebody else's membership.
    Remove {
        /// Where.
        room: RoomId,
        /// Who asks.
        by: ClientId,
        /// Whose.
        whose: ClientId,
    },
    /// Say something.
    Post {
        /// Where.
        room: RoomId,
        /// Who.
        author: Participant,
        /// What.
        content: Arc<str>,
        /// The author's own name for it.
        client_msg_id: Option<String>,
    },
    /// Exchange the content of one's own message.
    Edit {
        /// Where.
        room: RoomId,
        /// Which.
        message: MessageId,
        /// Who asks.
        by: ClientId,
        /// The new content.
        content: Arc<str>,
    },
    /// Take the content of a message away: one's own, or as a moderator.
    Delete {
        /// Where.
        room: RoomId,
        /// Which.
        message: MessageId,
        /// Who asks.
        by: ClientId,
    },
    /// Mark all messages up to this one as read.
    Read {
        /// Where.
        room: RoomId,
        /// Up to which.
        message: MessageId,
        /// Who.
        by: ClientId,
    },
}

impl Change {
    /// The room that it is asked of; a new one has no id yet.
    pub fn room(&self) -> Option<RoomId> {
        match self {
            Self::Create { .. } => None,
            Self::Join { room, .. }
            | Self::Add { room, .. }
            | Self::SetRole { room, .. }
            | Self::Leave { room, .. }
            | Self::Remove { room, .. }
            | Self::Post { room, .. }
            | Self::Edit { room, .. }
            | Self::Delete { room, .. }
            | Self::Read { room, .. } => Some(*room),
        }
    }

    /// Who asks for it, and whom it concerns besides.
    pub fn clients(&self) -> (ClientId, Option<ClientId>) {
        match self {
            Self::Create { creator, .. } => (creator.client, None),
            Self::Join { who, .. } => (who.client, None),
            Self::Leave { who, .. } => (*who, None),
            Self::Add { by, who, .. } => (*by, Some(who.client)),
            Self::SetRole { by, whose, .. } | Self::Remove { by, whose, .. } => (*by, Some(*whose)),
            Self::Post { author, .. } => (author.client, None),
            Self::Edit { by, .. } | Self::Delete { by, .. } | Self::Read { by, .. } => (*by, None),
        }
    }

    /// About how much memory it takes while it waits, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Post { content, .. } | Self::Edit { content, .. } => 512 + content.len(),
            Self::Join { wanted: Wanted::Recent | Wanted::Since(_), .. } => HISTORY_BYTES,
            _ => 512,
        }
    }
}

/// What came of a [`Change`]: it is in the database.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// There is a new room.
    Created(Arc<Room>),
    /// A client is a member.
    Joined {
        /// Where.
        room: Arc<Room>,
        /// Who.
        who: Participant,
        /// False: it was one already.
        newly: bool,
        /// What was wanted of the past.
        history: Option<History>,
    },
    /// A client is a member no more.
    Left {
        /// Where.
        room: RoomId,
        /// Who.
        who: Participant,
        /// Somebody else ended it.
        removed: bool,
        /// Whom the ownership has passed to, if it was the owner that left.
        new_owner: Option<Participant>,
    },
    /// A member has another role.
    RoleSet {
        /// Where.
        room: RoomId,
        /// Who.
        who: Participant,
        /// Which.
        role: RoomRole,
    },
    /// A message is stored.
    Posted {
        /// The message.
        message: Arc<Message>,
        /// False: it was there already under its `client_msg_id`.
        newly: bool,
    },
    /// A message has another content.
    Edited(Arc<Message>),
    /// A message has no content any more.
    Deleted {
        /// The message.
        message: Arc<Message>,
        /// False: it had none before.
        newly: bool,
    },
    /// A read mark stands here or further on.
    MarkedRead {
        /// Where.
        room: RoomId,
        /// Who.
        who: Participant,
        /// Up to which.
        message: MessageId,
        /// False: it stood there already.
        newly: bool,
    },
}

/// Why a [`Change`] is refused; nothing has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such room, or none that the client may know of.
    NoSuchRoom,
    /// A room of that name is there already.
    NameTaken,
    /// The client is no member.
    NotAMember,
    /// The client that is talked about is no member.
    NoSuchMember,
    /// There is no such message in the room, or it is deleted.
    NoSuchMessage,
    /// Only the author may do that.
    NotTheAuthor,
    /// Only a moderator, or somebody of a higher role than the other, may do that.
    ModeratorRequired,
    /// Only the owner may do that.
    OwnerRequired,
    /// The client is in as many rooms as it may (`limits.rooms_per_user`).
    TooManyRooms,
    /// The database does not take it now.
    NotStored,
}
