//! The backplane of a single node.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;

use super::Backplane;
use crate::domain::{
    accounts::AccountChange,
    ids::{ClientId, TopicId},
};

/// The backplane of a single node: it has no other nodes to reach.
#[derive(Debug)]
pub struct LocalBackplane;

#[async_trait]
impl Backplane for LocalBackplane {
    fn connected(&self, _: ClientId, _: &str) {}

    fn disconnected(&self, _: ClientId) {}

    async fn clients(&self) -> Vec<(ClientId, String)> {
        Vec::new()
    }

    async fn forward(&self, _: ClientId, _: Bytes) -> bool {
        false
    }

    fn publish(&self, _: &TopicId, _: ClientId, _: &Bytes) -> usize {
        0
    }

    fn has_observers(&self) -> bool {
        false
    }

    fn announce(&self, _: &str) {}

    async fn subscribe(&self, _: ClientId, _: &TopicId) -> bool {
        false
    }

    async fn unsubscribe(&self, _: ClientId, _: &TopicId) -> bool {
        false
    }

    async fn members(&self, _: &str) -> Vec<ClientId> {
        Vec::new()
    }

    async fn member_counts(&self) -> HashMap<TopicId, usize> {
        HashMap::new()
    }

    fn notify(&self, _: &AccountChange) {}
}
