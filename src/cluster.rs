//! Communication between nodes, by way of Redis servers ([`shard`]), each of which is asked about its own share. The modules above use [`Backplane`] and do not know how many nodes there are: a client that
//! is not connected to this node may be connected to another, a topic may have subscribers on others, and a revocation
//! applies to all.

pub mod envelope;
pub mod node;
pub mod shard;

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::{
    accounts::AccountChange,
    ids::{ClientId, TopicId},
};

/// The connection to other nodes. A node announces its own sockets, and the subscriptions and presence that depend on them.
/// Queries return data of the *other* nodes only.
///
/// What an implementation leaves out answers as if there were no other node.
#[async_trait]
pub trait Backplane: Send + Sync + 'static {
    /// Announces that a client is online on this node.
    fn connected(&self, _client: ClientId, _name: &str) {}

    /// Announces that a client is no longer online on this node.
    fn disconnected(&self, _client: ClientId) {}

    /// The clients that are online on other nodes, with their names.
    async fn clients(&self) -> Vec<(ClientId, String)> {
        Vec::new()
    }

    /// Delivers a text frame to a device on another node. Returns false if it is on none.
    async fn forward(&self, _to: ClientId, _frame: Bytes) -> bool {
        false
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
