//! Communication between nodes, by way of Redis servers.
//!
//! | file | what it is |
//! | --- | --- |
//! | `elsewhere` | the clients that are connected to other nodes |
//! | `envelope` | what nodes send each other, as bytes |
//! | `findings` | what the node that probes gateways tells the others |
//! | `look_requests` | looks into the database for what others have changed, and who waits for them |
//! | `node` | what nodes know of each other |
//! | `peers` | the order of what other nodes send, and whether all of it is known |
//! | `shard` | a Redis server |
//!
//! The modules above use [`Backplane`] and do not know how many nodes there are: a client that is not connected to this node may
//! be connected to another, a topic may have subscribers on others, and a revocation applies to all.

pub mod elsewhere;
pub mod envelope;
pub mod findings;
pub mod look_requests;
pub mod node;
pub mod peers;
pub mod shard;

use std::{sync::LazyLock, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use uuid::Uuid;

use self::{
    elsewhere::{Elsewhere, Place},
    envelope::{Answer, Message, Question},
};
use crate::domain::{
    ids::{ClientId, TopicId},
    rooms::OccupantState,
    topics::history::Kept,
};

/// What becomes of a message to a device that is not connected to this node.
#[derive(Debug)]
pub enum Forwarding {
    /// It is on the way to the node of the device. Without an outcome that is [`Outcome::Unknown`].
    UnderWay(oneshot::Receiver<Outcome>),
    /// The device is connected to no node.
    Absent,
    /// The device may be connected to a node that cannot be asked now.
    Unavailable,
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The client that sent it.
    pub client: Uuid,
    /// The stamp of the device socket through which it came; 0 if it came otherwise. A message from a socket that the sender has
    /// replaced goes nowhere: later ones may have arrived.
    pub device: u64,
}

/// What became of a message to a device at another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The device's outbox has accepted it.
    Delivered,
    /// The device is not connected any more.
    Absent,
    /// The other node has not answered.
    Unknown,
}

/// Whether an event was counted for all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// It was.
    Everywhere,
    /// It was not: there are no other nodes, or they cannot be asked now. The count of this node alone decides.
    Here,
    /// There were too many. One more is possible after this time.
    TooMany(Duration),
}

/// The connection to other nodes. A node announces its own sockets, and the subscriptions and presence that depend on them.
/// Queries return data of the *other* nodes only.
///
/// What an implementation leaves out answers as if there were no other node.
#[async_trait]
pub trait Backplane: Send + Sync + 'static {
    /// The clients that are connected to other nodes.
    fn elsewhere(&self) -> &Elsewhere {
        static NOBODY: LazyLock<Elsewhere> = LazyLock::new(Elsewhere::default);
        &NOBODY
    }

    /// The incarnation of this node.
    fn incarnation(&self) -> Uuid {
        Uuid::nil()
    }

    /// Whether there may be other nodes.
    fn is_shared(&self) -> bool {
        false
    }

    /// Announces a client whose sessions at this node have changed.
    fn client_changed(&self, _client: ClientId) {}

    /// Waits until the other nodes know what was announced before, or do not answer.
    async fn announced(&self) {}

    /// Sends the text of a frame to a device on another node.
    fn forward(&self, _to: ClientId, _from: Origin, _text: Bytes) -> Forwarding {
        Forwarding::Absent
    }

    /// The other node with the socket of this client that takes commands, if that node can be asked.
    fn commandable(&self, _client: ClientId) -> Place {
        Place::Nowhere
    }

    /// The other nodes.
    fn nodes(&self) -> Vec<Uuid> {
        Vec::new()
    }

    /// Announces topics, and with the flag patterns, of which the number of subscribers on this node has changed.
    fn interest_changed(&self, _changed: Vec<((String, bool), usize)>) {}

    /// Sends the text of a publication's frame to the nodes with subscribers. Returns its number if there are any: the TopicManager is
    /// told how many clients it has reached there.
    fn publish(&self, _topic: &TopicId, _from: Origin, _kept: Option<Kept>, _frame: &Bytes) -> Option<u64> {
        None
    }

    /// Announces a client whose sockets in a room at this node have changed. `is_told`: an event of the room tells it.
    fn occupant_changed(&self, _occupant: OccupantState, _is_told: bool) {}

    /// Sends a message about a room to the nodes that have sockets there, and to those of which that is not known.
    fn send_to_room(&self, _nodes: Vec<Uuid>, _message: Message) {}

    /// Sends a message to another node.
    fn send(&self, _node: Uuid, _message: Message) {}

    /// Sends a message to all other nodes.
    fn send_to_all(&self, _message: Message) {}

    /// Asks another node. `None` if it has not answered.
    async fn ask(&self, _node: Uuid, _question: Question) -> Option<Answer> {
        None
    }

    /// Counts an event of all these at all nodes, unless one of them has had `limit` events in a minute. What is counted is a
    /// text, of which other nodes and Redis learn a keyed hash.
    async fn count(&self, _what: &[String], _limit: u32) -> Counted {
        Counted::Here
    }

    /// Takes an event that all nodes count back.
    async fn give_back(&self, _what: &[String]) {}

    /// Whether publishers should wait, since much waits to be sent to other nodes. Which of those are congested themselves says
    /// [`Backplane::elsewhere`].
    fn is_congested(&self) -> bool {
        false
    }
}

/// The backplane of a single node: it has no other nodes to reach.
#[derive(Debug)]
pub struct LocalBackplane;

impl Backplane for LocalBackplane {}
