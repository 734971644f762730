//! What can be asked of rooms, and what comes of it. It is decided by `rules`, in the transaction that writes it.

use std::sync::Arc;

use super::{HISTORY_BYTES, History, Message, Participant, Room, RoomRole, Wanted};
use crate::domain::ids::{ClientId, MessageId, RoomId};

/// Something that is asked of a room.
#[derive(Debug, Clone)]
pub enum RoomChange {
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
    /// Be seen typing; nothing is stored.
    Type {
        /// Where.
        room: RoomId,
        /// Who.
        who: Participant,
    },
}

impl RoomChange {
    /// Whether it is about what is said, not about who is there: many such are written together.
    pub fn is_talk(&self) -> bool {
        matches!(self, Self::Post { .. } | Self::Read { .. } | Self::Type { .. })
    }

    /// Whether it needs more space in any case.
    pub fn takes_space(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Add { .. } | Self::Post { .. } | Self::Edit { .. })
    }

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
            | Self::Read { room, .. }
            | Self::Type { room, .. } => Some(*room),
        }
    }

    /// Who asks for it, and whom it concerns besides.
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

    /// About how much memory it takes while it waits, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Post { content, .. } | Self::Edit { content, .. } => 512 + content.len(),
            Self::Create { description, .. } => 512 + description.as_ref().map_or(0, String::len),
            Self::Join { wanted: Wanted::Recent | Wanted::Since(_), .. } => HISTORY_BYTES,
            _ => 512,
        }
    }
}

/// What came of a [`RoomChange`]: it is in the database.
#[derive(Debug, Clone)]
pub enum RoomOutcome {
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
    /// A member is typing.
    Typing {
        /// Where.
        room: RoomId,
        /// Who.
        who: Participant,
    },
}

/// Why a [`RoomChange`] is refused; nothing has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub enum RoomRefusal {
    /// There is no such room, or none that the client may know of.
    NoSuchRoom,
    /// Another room has that name.
    NameTaken,
    /// The client is no member.
    NotAMember,
    /// The other client is no member.
    NoSuchMember,
    /// There is no such message in the room, or it is deleted.
    NoSuchMessage,
    /// Only the author may do that.
    NotTheAuthor,
    /// Only a moderator or the owner may do that.
    ModeratorRequired,
    /// Only somebody of a higher role than the other may do that.
    HigherRoleRequired,
    /// The owner's role can't be changed: it passes on when the owner leaves.
    OwnerStays,
    /// Only the owner may do that.
    OwnerRequired,
    /// The client is in as many rooms as it may (`limits.rooms_per_user`).
    TooManyRooms,
    /// The client that is to be added is in as many rooms as it may.
    TheyHaveTooManyRooms,
    /// The database does not take it now, or its answer was lost.
    DatabaseUnavailable,
    /// There is no space left to store it.
    StorageFull,
}

impl RoomRefusal {
    /// What the client is told.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoSuchRoom => "Chat room not found",
            Self::NameTaken => "Room name already exists",
            Self::NotAMember => "You are not a member of this room",
            Self::NoSuchMember => "Member not found",
            Self::NoSuchMessage => "Message not found",
            Self::NotTheAuthor => "Only its author may edit a message",
            Self::ModeratorRequired => "Only the owner or a moderator of this room may do that",
            Self::HigherRoleRequired => "Only somebody of a higher role may remove this member",
            Self::OwnerStays => "The owner stays the owner; leaving passes the room on",
            Self::OwnerRequired => "Only the owner of this room may do that",
            Self::TooManyRooms => "Too many requests (limits.rooms_per_user)",
            Self::TheyHaveTooManyRooms => {
                "The new member has been added to as many rooms as it may without joining them (limits.rooms_per_user)"
            }
            Self::DatabaseUnavailable => "Database unavailable",
            Self::StorageFull => "Storage is nearly full",
        }
    }

    /// The constant that programs can tell it by.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoSuchRoom | Self::NoSuchMember | Self::NoSuchMessage => "not_found",
            Self::NameTaken => "already_exists",
            Self::NotAMember => "not_a_member",
            Self::NotTheAuthor
            | Self::ModeratorRequired
            | Self::HigherRoleRequired
            | Self::OwnerStays
            | Self::OwnerRequired => "forbidden",
            Self::TooManyRooms | Self::TheyHaveTooManyRooms => "too_many_requests",
            Self::DatabaseUnavailable => "database_unavailable",
            Self::StorageFull => "storage_full",
        }
    }
}
