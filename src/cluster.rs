//! What crosses nodes. Everything above works through [`Backplane`] and does not know how many nodes there are: a client
//! that is not here may be elsewhere, a topic may have members elsewhere, a revocation concerns all.

mod local;

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::{
    accounts::AccountChange,
    ids::{ClientId, TopicId},
};

pub use local::LocalBackplane;

/// The way to other nodes. What a node has itself (its sockets, and the subscriptions and presence that hang on them)
/// it announces here; questions are answered for the *other* nodes alone.
#[async_trait]
pub trait Backplane: Send + Sync + 'static {
    /// A client is online on this node.
    fn connected(&self, client: ClientId, name: &str);

    /// A client is not online on this node any more.
    fn disconnected(&self, client: ClientId);

    /// The clients that are online on other nodes, with their names.
    async fn clients(&self) -> Vec<(ClientId, String)>;

    /// Hands a text frame to a device on another node. False: it is on none.
    async fn forward(&self, to: ClientId, frame: Bytes) -> bool;

    /// Hands a publication to the members on other nodes, except for its sender. Answers how many those are.
    fn publish(&self, topic: &TopicId, sender: ClientId, frame: &Bytes) -> usize;

    /// Whether `$status` has members on other nodes.
    fn has_observers(&self) -> bool;

    /// Hands an event, a JSON text, to the members of `$status` on other nodes.
    fn announce(&self, event: &str);

    /// Subscribes a client where its socket is. False: on no other node.
    async fn subscribe(&self, client: ClientId, topic: &TopicId) -> bool;

    /// Unsubscribes a client where its socket is. False: on no other node.
    async fn unsubscribe(&self, client: ClientId, topic: &TopicId) -> bool;

    /// The members that a topic has on other nodes.
    async fn members(&self, topic: &str) -> Vec<ClientId>;

    /// How many members each topic has on other nodes.
    async fn member_counts(&self) -> HashMap<TopicId, usize>;

    /// Tells other nodes that an account or token changed, so that they close the sockets concerned at once.
    fn notify(&self, change: &AccountChange);
}
