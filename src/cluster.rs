//! Communication between nodes, by way of Redis servers.
//!
//! | file | what it is |
//! | --- | --- |
//! | `elsewhere` | the clients that are connected to other nodes |
//! | `envelope` | what nodes send each other, as bytes |
//! | `node` | what nodes know of each other |
//! | `peers` | the order of what other nodes send, and whether all of it is known |
//! | `shard` | a Redis server |
//!
//! The modules above use [`Backplane`] and do not know how many nodes there are: a client that is not connected to this node may
//! be connected to another, a topic may have subscribers on others, and a revocation applies to all.

pub mod elsewhere;
pub mod envelope;
pub mod node;
pub mod peers;
pub mod shard;

use std::{collections::HashMap, sync::LazyLock};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use self::elsewhere::Elsewhere;
use crate::domain::{
    accounts::AccountChange,
    ids::{ClientId, TopicId},
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

    /// Announces a client whose sessions at this node have changed.
    fn client_changed(&self, _client: ClientId) {}

    /// Waits until the other nodes know what was announced before, or do not answer.
    async fn announced(&self) {}

    /// Sends the text of a frame to a device on another node.
    fn forward(&self, _to: ClientId, _text: Bytes) -> Forwarding {
        Forwarding::Absent
    }

    /// Delivers a publication to the subscribers on other nodes, except for its sender. Returns their number.
    fn publish(&self, _topic: &TopicId, _sender: ClientId, _frame: &Bytes) -> usize {
        0
    }

    /// Whether `$status` has subscribers on other nodes.
    fn has_observers(&self) -> bool {
        false
    }

    /// Delivers an event, a JSON text, to the subscribers of `$status` on other nodes.
    fn announce(&self, _event: &str) {}

    /// Subscribes a client on the node of its socket. Returns false if no other node has one.
    async fn subscribe(&self, _client: ClientId, _topic: &TopicId) -> bool {
        false
    }

    /// Unsubscribes a client on the node of its socket. Returns false if no other node has one.
    async fn unsubscribe(&self, _client: ClientId, _topic: &TopicId) -> bool {
        false
    }

    /// The subscribers of a topic on other nodes.
    async fn members(&self, _topic: &str) -> Vec<ClientId> {
        Vec::new()
    }

    /// The number of subscribers on other nodes, by topic.
    async fn member_counts(&self) -> HashMap<TopicId, usize> {
        HashMap::new()
    }

    /// Tells other nodes that an account or token changed, so that they close the affected sockets at once.
    fn notify(&self, _change: &AccountChange) {}
}

/// The backplane of a single node: it has no other nodes to reach.
#[derive(Debug)]
pub struct LocalBackplane;

impl Backplane for LocalBackplane {}
