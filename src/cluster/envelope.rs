//! What nodes send each other: several messages in an envelope.
//!
//! | bytes | content |
//! | --- | --- |
//! | 1 | version |
//! | 16 | incarnation of the sending node |
//! | 8 | number of the envelope among those from this node to the other, little endian |
//! | the rest | messages, one after the other, as postcard writes them |
//!
//! **Versions.** The record of each node names the versions that it understands ([`VERSIONS`]), and what one sends another has the
//! highest version that both understand. A message that came with a later version is not sent to a node that does not
//! understand it ([`Message::since`]); the sender goes on as if that node had not got the feature.
//!
//! *To add a kind of message*, append a variant: postcard writes the number of a variant, and no names. Give it the next version in
//! `versions.rs`, raise the end of [`VERSIONS`], and add its bytes to `golden.rs`. All additions of one release have the same
//! version. *To change a kind*, or anything in it, add another one, and have the sender write the one that the other node
//! understands: the bytes of a version never change. *The oldest version may be dropped*, with what only it needs, in the release after
//! the one that brought the version that follows it: a release works with the nodes of the release before it.

mod coding;
mod commands;
#[cfg(test)]
mod golden;
mod versions;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::{
    coding::{Draft, Envelope},
    commands::{CommandMessage, HandOver, ReplyText},
    versions::{EnvelopeVersions, VERSIONS},
};
use super::{Origin, elsewhere::ClientState, findings::Findings};
use crate::domain::{
    ids::RoomId,
    rooms::{Message as ChatMessage, OccupantState, Participant, RoomEvent},
    topics::history::Kept,
};

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
    /// Whether publications on the way to sockets of the sending node wait there, so that publishers to topics with subscribers at
    /// that node should wait. Repeated while it is so.
    Congested(bool),
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
