//! Communication between nodes. The modules above use [`Backplane`] and do not know how many nodes there are: a client that
//! is not connected to this node may be connected to another, a topic may have subscribers on others, and a revocation
//! applies to all.

mod local;

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::{
    accounts::AccountChange,
    ids::{ClientId, TopicId},
};

pub use local::LocalBackplane;

/// The connection to other nodes. A node announces its own sockets, and the subscriptions and presence that depend on them.
/// Queries return data of the *other* nodes only.
#[async_trait]
pub trait Backplane: Send + Sync + 'static {
    /// Announces that a client is online on this node.
    fn connected(&self, client: ClientId, name: &str);

    /// Announces that a client is no longer online on this node.
    fn disconnected(&self, client: ClientId);

    /// The clients that are online on other nodes, with their names.
    async fn clients(&self) -> Vec<(ClientId, String)>;

    /// Delivers a text frame to a device on another node. Returns false if it is on none.
    async fn forward(&self, to: ClientId, frame: Bytes) -> bool;

    /// Delivers a publication to the subscribers on other nodes, except for its sender. Returns their number.
    fn publish(&self, topic: &TopicId, sender: ClientId, frame: &Bytes) -> usize;

    /// Whether `$status` has subscribers on other nodes.
    fn has_observers(&self) -> bool;

    /// Delivers an event, a JSON text, to the subscribers of `$status` on other nodes.
    fn announce(&self, event: &str);

    /// Subscribes a client on the node of its socket. Returns false if no other node has one.
    async fn subscribe(&self, client: ClientId, topic: &TopicId) -> bool;

    /// Unsubscribes a client on the node of its socket. Returns false if no other node has one.
    async fn unsubscribe(&self, client: ClientId, topic: &TopicId) -> bool;

    /// The subscribers of a topic on other nodes.
    async fn members(&self, topic: &str) -> Vec<ClientId>;

    /// The number of subscribers on other nodes, by topic.
    async fn member_counts(&self) -> HashMap<TopicId, usize>;

    /// Tells other nodes that an account or token changed, so that they close the affected sockets at once.
    fn notify(&self, change: &AccountChange);
}
