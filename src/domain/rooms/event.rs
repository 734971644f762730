//! What happens in rooms, numbered by room without gaps: nodes tell each other, and read from the database what they miss.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Message, Participant, RoomOutcome, RoomRole};
use crate::domain::{
    ids::{MessageId, RoomId},
    line::Position,
};

/// Something that has happened in a room. Messages are named by their ids, since the database has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names of the fields say it
pub enum RoomEvent {
    /// A client has become a member.
    Joined(Participant),
    /// A client is no longer a member.
    Left { who: Participant, removed: bool, new_owner: Option<Participant> },
    /// A member has another role.
    RoleSet { who: Participant, role: RoomRole },
    /// A message was posted.
    Posted(MessageId),
    /// The content of a message was replaced.
    Edited(MessageId),
    /// The content of a message was removed.
    Deleted(MessageId),
    /// A member has marked all messages up to this one as read.
    MarkedRead { who: Participant, message: MessageId },
}

/// The outcome of a change that is written.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The outcome.
    pub outcome: RoomOutcome,
    /// None: the node is alone, or nobody but the requester is told.
    pub position: Option<Position>,
}

impl From<RoomOutcome> for Placed {
    fn from(outcome: RoomOutcome) -> Self {
        Self { outcome, position: None }
    }
}

impl RoomEvent {
    /// The message that it is about, unless its id says enough.
    pub fn message(&self) -> Option<MessageId> {
        match self {
            Self::Posted(id) | Self::Edited(id) | Self::Deleted(id) => Some(*id),
            _ => None,
        }
    }
}

impl RoomOutcome {
    /// The event that it is, and its room.
    pub fn event(&self) -> Option<(RoomId, RoomEvent)> {
        Some(match self {
            Self::Joined { room, who, newly: true, .. } => (room.id, RoomEvent::Joined(who.clone())),
            Self::Left { room, who, removed, new_owner } => {
                (*room, RoomEvent::Left { who: who.clone(), removed: *removed, new_owner: new_owner.clone() })
            }
            Self::RoleSet { room, who, role } => (*room, RoomEvent::RoleSet { who: who.clone(), role: *role }),
            Self::Posted { message, newly: true } => (message.room, RoomEvent::Posted(message.id)),
            Self::Edited(message) => (message.room, RoomEvent::Edited(message.id)),
            Self::Deleted { message, newly: true } => (message.room, RoomEvent::Deleted(message.id)),
            Self::MarkedRead { room, who, message, newly: true } => {
                (*room, RoomEvent::MarkedRead { who: who.clone(), message: *message })
            }
            _ => return None,
        })
    }

    /// The room that a client has joined again, which is no event.
    pub fn rejoined(&self) -> Option<RoomId> {
        match self {
            Self::Joined { room, newly: false, .. } => Some(room.id),
            _ => None,
        }
    }

    /// The message that it is about.
    pub fn message(&self) -> Option<&Arc<Message>> {
        match self {
            Self::Posted { message, .. } | Self::Edited(message) | Self::Deleted { message, .. } => Some(message),
            _ => None,
        }
    }
}
