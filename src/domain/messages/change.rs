//! Changes of acknowledged messages, which the database decides, and their outcomes.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Answer, MessageState, Party, Priority};
use crate::domain::ids::{ClientId, DeliveryId};

/// A change of acknowledged messages.
#[derive(Debug, Clone)]
pub enum MessageChange {
    /// A message is to be stored.
    Accept(NewMessage),
    /// A recipient has answered a message.
    Answer(AnswerOf),
    /// A message is to end before it is acknowledged.
    End {
        /// The message.
        id: DeliveryId,
        /// Its recipient.
        to: ClientId,
        /// Why.
        why: Ending,
    },
    /// Some messages are to go to a connected recipient.
    Take(Take),
    /// The sender has been told that the message has ended.
    Told(DeliveryId),
    /// Nothing: its outcome follows those before it.
    Nothing,
}

/// Why a message ends before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It has been withdrawn.
    Cancelled,
    /// Its time is over, if it is.
    Expired,
}

/// For messages that came otherwise than through a device socket. No stamp is that high.
pub const NO_SOCKET: u64 = i64::MAX as u64;

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Who sends it.
    pub from: Party,
    /// The device that is to get it.
    pub to: ClientId,
    /// The sender's id of it.
    pub msgid: String,
    /// The JSON object that the recipient gets, as text.
    pub object: Bytes,
    /// How urgent it is.
    pub priority: Priority,
    /// How long it may wait.
    pub ttl: Duration,
    /// What its recipient is doing.
    pub recipient: RecipientPresence,
    /// With other nodes, the stamp of the device socket through which it came, or [`NO_SOCKET`].
    pub socket: Option<u64>,
    /// With other nodes, the stamp of the recipient's socket at this node, if it has one. If it is not
    /// the newest one, or is not stored yet, the message waits.
    pub recipient_socket: Option<u64>,
}

/// Whether the recipient of a new message can get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientPresence {
    /// It is not connected.
    Absent,
    /// It is connected, and gets others first.
    Connected,
    /// It gets the message as soon as it is stored.
    Ready,
}

/// A recipient's answer to a message.
#[derive(Debug, Clone)]
pub struct AnswerOf {
    /// The recipient.
    pub from: Party,
    /// The message, if it is on its way; else it is looked for.
    pub id: Option<DeliveryId>,
    /// Its `msgid`.
    pub msgid: String,
    /// Whose message it is; if that is not given, the oldest open one is meant, else the newest.
    pub sender: Option<ClientId>,
    /// The answer.
    pub answer: Answer,
}

/// Which messages of a recipient are to go to it: the first by priority and age.
#[derive(Debug, Clone)]
pub struct Take {
    /// The recipient.
    pub to: ClientId,
    /// Those that are on their way, or will go again later.
    pub except: Vec<DeliveryId>,
    /// Whose messages of this priority or a lower one wait, since an earlier one will go again later.
    pub held: Vec<(ClientId, Priority)>,
    /// How many, at most.
    pub most: usize,
    /// Of how many bytes, at most; one may exceed it.
    pub bytes: usize,
    /// With other nodes, the stamp of the socket that is to get them. Only the newest gets some.
    pub socket: Option<u64>,
}

/// What is decided of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageDecided {
    /// Of [`MessageChange::Accept`].
    Accepted(Result<Accepted, MessageRefusal>),
    /// Of [`MessageChange::Answer`]: `None` if there is no such message.
    Answered(Option<Answered>),
    /// Of [`MessageChange::End`]: how it has ended, if it had not before.
    Ended(Option<MessageUpdate>),
    /// Of [`MessageChange::Take`].
    Taken {
        /// In the order in which they go.
        messages: Vec<TakenMessage>,
        /// Whether no others wait.
        is_all: bool,
    },
    /// Of [`MessageChange::Take`]: the socket is not stored as the recipient's newest.
    NotNewest,
    /// Of the others.
    Done,
}

/// A message that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: DeliveryId,
    /// Its state now.
    pub state: MessageState,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
    /// Whether it had been stored before.
    pub is_known: bool,
    /// Whether, with other nodes, messages wait for the recipient that have not gone yet, since another node may have stored them: it
    /// goes after them, although the recipient could get it.
    pub waits: bool,
}

/// Why a message is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageRefusal {
    /// There is no such device.
    #[error("there is no such device")]
    RecipientUnknown,
    /// The sender has sent the recipient another message with this `msgid`.
    #[error("msgid was used for another message to this recipient")]
    MsgidReused,
    /// The sender has a newer socket at another node: messages that came through that may be stored already.
    #[error("a newer socket of the device has replaced this one")]
    SocketReplaced,
    /// The sender's socket is not stored: messages of an older one could still be accepted after this one.
    #[error("the socket of the device is not stored")]
    SocketNotStored,
    /// The queue of the recipient is full: this limit, by its key, is reached.
    #[error("the queue of the recipient is full ({0})")]
    QueueFull(&'static str),
    /// The limit of all bytes that are stored is reached.
    #[error("the limit of stored bytes is reached (messages.total_bytes)")]
    TotalReached,
    /// Storage is nearly full.
    #[error("storage is nearly full")]
    StorageFull,
}

/// A message after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Its id.
    pub id: DeliveryId,
    /// Its state now.
    pub state: MessageState,
    /// If the answer has ended it: what its sender is told.
    pub update: Option<MessageUpdate>,
    /// If it goes again: after this time.
    pub again: Option<Duration>,
}

/// A message that goes to its recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenMessage {
    /// Its id.
    pub id: DeliveryId,
    /// Who sent it.
    pub from: ClientId,
    /// The sender's id of it.
    pub msgid: String,
    /// How urgent it is.
    pub priority: Priority,
    /// The JSON object that the recipient gets.
    pub object: String,
    /// How often it has been sent before.
    pub earlier_attempts: u32,
}

/// How a message has ended, for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageUpdate {
    /// The message.
    pub id: DeliveryId,
    /// Its sender.
    pub from: Party,
    /// Its recipient.
    pub to: ClientId,
    /// The sender's id of it.
    pub msgid: String,
    /// How it has ended.
    pub state: MessageState,
}

impl MessageChange {
    /// The recipient whose messages it changes.
    pub fn recipient(&self) -> Option<ClientId> {
        match self {
            Self::Accept(message) => Some(message.to),
            Self::Answer(answer) => Some(answer.from.client),
            Self::End { to, .. } => Some(*to),
            Self::Take(take) => Some(take.to),
            Self::Told(_) | Self::Nothing => None,
        }
    }

    /// Whether there is something to write.
    pub fn is_something(&self) -> bool {
        !matches!(self, Self::Nothing)
    }
}
