//! The changes of rooms that clients can request, and their outcomes. The transaction that writes a change decides it by
//! the rules in `rules`.

use std::sync::Arc;

use super::{HISTORY_BYTES, History, Message, Participant, Room, RoomRole, Wanted};
use crate::domain::ids::{ClientId, MessageId, RoomId};

/// A change of a room that a client requests.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the names of the fields say it
pub enum RoomChange {
    /// Creates a room; the creator becomes its owner.
    Create { creator: Participant, name: String, description: Option<String>, is_private: bool },
    /// Makes a client a member, unless it is one already.
    Join { room: RoomId, who: Participant, wanted: Wanted },
    /// The owner makes another client a member.
    Add { room: RoomId, by: ClientId, who: Participant, role: RoomRole },
    /// The owner gives a member another role.
    SetRole { room: RoomId, by: ClientId, whose: ClientId, role: RoomRole },
    /// A client ends its own membership.
    Leave { room: RoomId, who: ClientId },
    /// A moderator or the owner ends another client's membership.
    Remove { room: RoomId, by: ClientId, whose: ClientId },
    /// Posts a message.
    Post {
        room: RoomId,
        author: Participant,
        content: Arc<str>,
        /// The author's id for the message; a second post with the same id is the same message.
        client_msg_id: Option<String>,
    },
    /// The author replaces the content of a message.
    Edit { room: RoomId, message: MessageId, by: ClientId, content: Arc<str> },
    /// The author, a moderator or the owner removes the content of a message.
    Delete { room: RoomId, message: MessageId, by: ClientId },
    /// Marks all messages up to this one as read.
    Read { room: RoomId, message: MessageId, by: ClientId },
    /// Tells the room that a client is typing. Nothing is stored.
    Type { room: RoomId, who: Participant },
}

impl RoomChange {
    /// Whether it posts, marks or types. Consecutive changes of this kind are written together, in few statements.
    pub fn is_talk(&self) -> bool {
        matches!(self, Self::Post { .. } | Self::Read { .. } | Self::Type { .. })
    }

    /// Whether it always takes more space in the database.
    pub fn takes_space(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Add { .. } | Self::Post { .. } | Self::Edit { .. })
    }

    /// The bytes of the texts that it stores, which count against the limit of the client that requests it; `None`: it stores
    /// none.
    pub fn stored_bytes(&self) -> Option<usize> {
        match self {
            Self::Create { name, description, .. } => Some(name.len() + description.as_ref().map_or(0, String::len)),
            Self::Post { content, .. } | Self::Edit { content, .. } => Some(content.len()),
            _ => None,
        }
    }

    /// The room that it changes; a new room has no id yet.
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
            | Self::Read { room, .. }
            | Self::Type { room, .. } => Some(*room),
        }
    }

    /// The client that requests it, and the other client that it concerns.
    pub fn clients(&self) -> (ClientId, Option<ClientId>) {
        match self {
            Self::Create { creator, .. } => (creator.client, None),
            Self::Join { who, .. } | Self::Type { who, .. } => (who.client, None),
            Self::Leave { who, .. } => (*who, None),
            Self::Add { by, who, .. } => (*by, Some(who.client)),
            Self::SetRole { by, whose, .. } | Self::Remove { by, whose, .. } => (*by, Some(*whose)),
            Self::Post { author, .. } => (author.client, None),
            Self::Edit { by, .. } | Self::Delete { by, .. } | Self::Read { by, .. } => (*by, None),
        }
    }

    /// The client that may become a member by it.
    pub fn newcomer(&self) -> Option<ClientId> {
        match self {
            Self::Create { creator: who, .. } | Self::Join { who, .. } | Self::Add { who, .. } => Some(who.client),
            _ => None,
        }
    }

    /// An estimate of the memory that it takes while it waits, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Post { content, .. } | Self::Edit { content, .. } => 512 + content.len(),
            Self::Create { description, .. } => 512 + description.as_ref().map_or(0, String::len),
            Self::Join { wanted: Wanted::Recent | Wanted::Since(_), .. } => HISTORY_BYTES,
            _ => 512,
        }
    }
}

/// The outcome of a [`RoomChange`] that is written.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the names of the fields say it
pub enum RoomOutcome {
    /// The room is created.
    Created(Arc<Room>),
    /// A client is a member.
    Joined {
        room: Arc<Room>,
        who: Participant,
        /// False: it was a member already.
        newly: bool,
        /// The messages that it asked for.
        history: Option<History>,
    },
    /// A client is no longer a member.
    Left {
        room: RoomId,
        who: Participant,
        /// Another client ended the membership.
        removed: bool,
        /// The new owner, if the owner left.
        new_owner: Option<Participant>,
    },
    /// A member has another role.
    RoleSet { room: RoomId, who: Participant, role: RoomRole },
    /// A message is stored.
    Posted {
        message: Arc<Message>,
        /// False: the author had posted it before under this `client_msg_id`.
        newly: bool,
    },
    /// The content of a message is replaced.
    Edited(Arc<Message>),
    /// The content of a message is removed.
    Deleted {
        message: Arc<Message>,
        /// False: it was removed before.
        newly: bool,
    },
    /// The read mark is at this message or a later one.
    MarkedRead {
        room: RoomId,
        who: Participant,
        message: MessageId,
        /// False: the mark did not move.
        newly: bool,
    },
    /// A member is typing.
    Typing { room: RoomId, who: Participant },
}

/// Why a [`RoomChange`] is refused. Nothing is written. The text is that of HTTP answers and error frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RoomRefusal {
    /// The room does not exist, or is private and the client is not a member.
    #[error("Chat room not found")]
    NoSuchRoom,
    /// Another room has that name.
    #[error("Room name already exists")]
    NameTaken,
    /// The client is not a member.
    #[error("You are not a member of this room")]
    NotAMember,
    /// The client that wants to create or join the room has been deleted.
    #[error("Could not validate credentials")]
    ClientDeleted,
    /// The other client is not a member.
    #[error("Member not found")]
    NoSuchMember,
    /// The message does not exist in this room, or is deleted.
    #[error("Message not found")]
    NoSuchMessage,
    /// Only the author of the message may do this.
    #[error("Only its author may edit a message")]
    NotTheAuthor,
    /// Only moderators and the owner may do this.
    #[error("Only the owner or a moderator of this room may do that")]
    ModeratorRequired,
    /// Only a client with a higher role than the other may do this.
    #[error("Only somebody of a higher role may remove this member")]
    HigherRoleRequired,
    /// The owner keeps its role until it leaves.
    #[error("The owner stays the owner; leaving passes the room on")]
    OwnerStays,
    /// Only the owner may do this.
    #[error("Only the owner of this room may do that")]
    OwnerRequired,
    /// The client has reached `limits.rooms_per_user`.
    #[error("Too many requests (limits.rooms_per_user)")]
    TooManyRooms,
    /// The new member has been added to as many rooms as `limits.rooms_per_user` allows.
    #[error("The new member has been added to as many rooms as it may without joining them (limits.rooms_per_user)")]
    TheyHaveTooManyRooms,
    /// The database is unavailable, or its answer was lost.
    #[error("Database unavailable")]
    DatabaseUnavailable,
    /// The storage is full.
    #[error("Storage is nearly full")]
    StorageFull,
}
