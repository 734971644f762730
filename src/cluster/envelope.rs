//! What nodes send each other: several messages in an envelope.
//!
//! | bytes | content |
//! | --- | --- |
//! | 1 | version |
//! | 16 | incarnation of the sending node |
//! | 8 | number of the envelope among those from this node to the other, little endian |
//! | the rest | messages, one after the other, as postcard writes them |

mod commands;

use std::ops::RangeInclusive;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::commands::{CommandMessage, HandOver, ReplyText};
use super::{Origin, elsewhere::ClientState, findings::Findings};
use crate::domain::{
    ids::RoomId,
    rooms::{Message as ChatMessage, OccupantState, Participant, RoomEvent},
    topics::history::Kept,
};

/// The versions that this program understands. It writes the first that all nodes understand.
pub const VERSIONS: RangeInclusive<u8> = 1..=1;

/// Longest envelope that is read, in bytes.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A message from one node to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// A node's own, with its number: it shows the node that its inbox works.
    Ping(u64),
    /// Nothing has happened: a node that misses an envelope notices it at the next one.
    Alive,
    /// The state of a client at the sending node has changed.
    Client(ClientState),
    /// Asks for a snapshot: for the state of all clients at the other node.
    GetSnapshot,
    /// A snapshot begins: the messages up to its end are all that there is.
    SnapshotBegins,
    /// The end of a snapshot.
    SnapshotEnds,
    /// Asks to be told when all messages before it are handled.
    Barrier(u64),
    /// The messages before the barrier with this number are handled.
    Passed(u64),
    /// A message to a device at the other node.
    Direct {
        /// For the answer.
        number: u64,
        /// The device.
        to: Uuid,
        /// Who sent it.
        from: Origin,
        /// The text of the frame.
        text: Bytes,
    },
    /// The number of subscribers of a topic or a pattern at the sending node has changed.
    Interest {
        /// The name of the topic, or the text of the pattern.
        id: String,
        /// Whether it is a pattern.
        is_pattern: bool,
        /// The number of subscribers; none if it is 0.
        subscribers: u32,
    },
    /// A publication to a topic that has subscribers at the other node.
    Publication {
        /// For the answer.
        number: u64,
        /// The topic.
        topic: String,
        /// Who published it, and gets no copy.
        from: Origin,
        /// Where it is kept, if the topic has a history.
        kept: Option<Kept>,
        /// The text of the frame that subscribers get.
        text: Bytes,
    },
    /// The number of clients that a publication has reached.
    Reached {
        /// The number of the publication.
        number: u64,
        /// So many.
        clients: u32,
    },
    /// A client has connected to the other node: its subscriptions move there.
    Subscriptions {
        /// The client.
        client: Uuid,
        /// Topics, and patterns if the flag is set.
        ids: Vec<(String, bool)>,
    },
    /// A question.
    Ask {
        /// For the answer.
        number: u64,
        /// What is asked for.
        question: Question,
    },
    /// The answer to a question.
    Answer {
        /// The number of the question.
        number: u64,
        /// What it is.
        answer: Answer,
    },
    /// A topic has been changed or deleted.
    TopicChanged {
        /// Its name.
        topic: String,
        /// Whether it is deleted.
        is_deleted: bool,
    },
    /// An acknowledged message is stored for a recipient that is connected to the other node.
    DeliveryWaits(Uuid),
    /// An acknowledged message of a sender, or for a recipient, that is connected to the other node has ended.
    DeliveryEnded {
        /// The id of the message.
        id: i64,
        /// The sender, and how often its UUID had been deleted.
        from: (Uuid, i64),
        /// The recipient.
        to: Uuid,
        /// The sender's id of the message.
        msgid: String,
        /// How it has ended: the word for clients.
        state: String,
        /// Whether the sender has been told.
        is_told: bool,
    },
    /// Accounts or tokens have changed, as the database says.
    AccountsChanged,
    /// What became of a direct message.
    Outcome {
        /// The number of the message.
        number: u64,
        /// Whether the device's outbox has accepted it.
        is_delivered: bool,
    },
    /// An event of a room that has sockets at the other node.
    RoomEvent {
        /// The room.
        room: RoomId,
        /// The number of the event in the room.
        sequence: i64,
        /// What has happened.
        event: RoomEvent,
        /// The message that it is about.
        message: Option<ChatMessage>,
        /// The client that has joined had no socket in the room before, and has one now.
        comes_online: bool,
    },
    /// The number of sockets that a client has in a room at the sending node.
    Occupant {
        /// The client.
        occupant: OccupantState,
        /// An event of the room tells that it has come or gone.
        is_told: bool,
    },
    /// A client is typing in a room that has sockets at the other node.
    Typing {
        /// The room.
        room: RoomId,
        /// The client.
        who: Participant,
    },
    /// What the sending node, which probes the gateways, has found.
    Gateways(Findings),
    /// Asks the node that probes gateways for all that it has found.
    GetGateways,
    /// Gateways have been created, changed or deleted, as the database says.
    GatewaysChanged,
    /// The sending node stops: its clients are told to connect to another one.
    Leaving,
    /// About a command.
    Command(CommandMessage),
}

/// What a node asks another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// To subscribe a client that is connected there. Allowed already.
    Subscribe {
        /// The client.
        client: Uuid,
        /// The topic, or the pattern if the flag is set.
        id: (String, bool),
    },
    /// To end a client's subscription.
    Unsubscribe {
        /// The client.
        client: Uuid,
        /// The name of the topic, or the text of the pattern.
        id: String,
    },
    /// Whether a client is subscribed to a topic.
    IsSubscribed {
        /// The client.
        client: Uuid,
        /// The name of the topic.
        topic: String,
    },
    /// The subscribers of a topic.
    Subscribers(String),
    /// To write what has happened to the commands that it owns.
    WriteCommands,
    /// To cancel a command that it owns, and to write that. The answer is no if it does not own it or it is finished.
    CancelCommand(Uuid),
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done, or yes.
    Yes,
    /// No.
    No,
    /// The client has too many subscriptions.
    TooMany,
    /// These clients.
    Clients(Vec<Uuid>),
}

/// Messages from a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The incarnation of the node that sent it.
    pub from: Uuid,
    /// One more than that of the envelope that the node sent here before.
    pub number: u64,
    /// In the order in which they were sent.
    pub messages: Vec<Message>,
}

/// Why bytes are not an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvelope {
    /// It is longer than [`MAX_BYTES`].
    #[error("an envelope of {0} bytes is too long")]
    TooLong(usize),
    /// Its version is not one of [`VERSIONS`].
    #[error("unknown version {0} of an envelope")]
    Version(u8),
    /// It ends in the middle of its head.
    #[error("an envelope ends in the middle")]
    Incomplete,
    /// Something in it is no message.
    #[error("an envelope contains something else than messages")]
    NotAMessage,
}

/// An envelope that is being filled.
#[derive(Debug, Default)]
pub struct Draft {
    messages: Vec<u8>,
}

impl Draft {
    /// Adds a message.
    pub fn push(&mut self, message: &Message) {
        // it takes whatever fits into memory
        if let Ok(messages) = postcard::to_extend(message, std::mem::take(&mut self.messages)) {
            self.messages = messages;
        }
    }

    /// The length of its messages in bytes.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it has no messages.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The bytes of the envelope. The draft is empty then.
    pub fn finish(&mut self, from: Uuid, number: u64) -> Vec<u8> {
        let messages = std::mem::take(&mut self.messages);
        let mut bytes = Vec::with_capacity(25 + messages.len());
        bytes.push(*VERSIONS.start());
        bytes.extend_from_slice(from.as_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&messages);
        bytes
    }
}

impl Envelope {
    /// Reads an envelope.
    ///
    /// # Errors
    /// What is wrong with it. Nothing of it counts then.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadEnvelope> {
        if bytes.len() > MAX_BYTES {
            return Err(BadEnvelope::TooLong(bytes.len()));
        }
        let (version, bytes) = bytes.split_first().ok_or(BadEnvelope::Incomplete)?;
        if !VERSIONS.contains(version) {
            return Err(BadEnvelope::Version(*version));
        }
        let (from, bytes) = bytes.split_first_chunk().ok_or(BadEnvelope::Incomplete)?;
        let (number, mut rest) = bytes.split_first_chunk().ok_or(BadEnvelope::Incomplete)?;
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let (message, after) = postcard::take_from_bytes(rest).map_err(|_| BadEnvelope::NotAMessage)?;
            messages.push(message);
            rest = after;
        }
        Ok(Self { from: Uuid::from_bytes(*from), number: u64::from_le_bytes(*number), messages })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn messages() -> Vec<Message> {
        let client = ClientState { name: "Wörld".to_owned(), device: 7, ..ClientState::gone(Uuid::from_u128(3)) };
        vec![
            Message::Ping(u64::MAX),
            Message::SnapshotBegins,
            Message::Client(client),
            Message::SnapshotEnds,
            Message::Barrier(1),
            Message::Direct {
                number: 300,
                to: Uuid::from_u128(9),
                from: Origin { client: Uuid::from_u128(8), device: 5 },
                text: Bytes::from_static(b"{}"),
            },
            Message::Outcome { number: 300, is_delivered: true },
            Message::Command(CommandMessage::HandedOver {
                command: Uuid::from_u128(4),
                outcomes: vec![(Uuid::from_u128(5), HandOver::Deleted(2))],
            }),
        ]
    }

    fn encoded() -> Vec<u8> {
        let mut draft = Draft::default();
        messages().iter().for_each(|message| draft.push(message));
        draft.finish(Uuid::from_u128(7), 5)
    }

    #[test]
    fn an_envelope_is_read_as_it_was_written() {
        let envelope = Envelope { from: Uuid::from_u128(7), number: 5, messages: messages() };
        assert_eq!(Envelope::decode(&encoded()), Ok(envelope));
    }

    #[test]
    fn what_is_no_envelope_is_refused_with_a_reason() {
        let good = encoded();
        let changed = |place: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[place] = byte;
            Envelope::decode(&bytes)
        };
        assert_eq!(Envelope::decode(&[]), Err(BadEnvelope::Incomplete));
        assert_eq!(Envelope::decode(&good[..24]), Err(BadEnvelope::Incomplete));
        assert_eq!(changed(0, 2), Err(BadEnvelope::Version(2)));
        assert_eq!(changed(25, 200), Err(BadEnvelope::NotAMessage));
        assert_eq!(Envelope::decode(&good[..good.len() - 1]), Err(BadEnvelope::NotAMessage));
        assert_eq!(Envelope::decode(&vec![1; MAX_BYTES + 1]), Err(BadEnvelope::TooLong(MAX_BYTES + 1)));
    }

    #[test]
    fn random_bytes_are_refused_without_harm() {
        let mut random = StdRng::seed_from_u64(1);
        let good = encoded();
        for _ in 0..10_000 {
            let mut bytes = good.clone();
            for _ in 0..random.random_range(1..4) {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random();
            }
            bytes.truncate(random.random_range(0..=bytes.len()));
            let _ = Envelope::decode(&bytes);
            random.fill_bytes(&mut bytes);
            let _ = Envelope::decode(&bytes);
        }
    }
}
