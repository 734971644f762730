//! How this node asks the others for something, and tells them.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    Cluster,
    direct::Forward,
    presence::{AwaitAnnounced, ClientChanged},
    rooms::OccupantChanged,
    topics::{Ask, InterestChanged, Publish, Send, To},
};
use crate::{
    cluster::{
        Backplane, Counted, Forwarding, Origin,
        elsewhere::{Elsewhere, Place},
        envelope::{self, Answer, Question},
    },
    domain::{
        ids::{ClientId, TopicId},
        rooms::OccupantState,
        topics::history::Kept,
    },
    protocol::wire,
};

/// Bytes that wait to be published above which publishers wait.
const CONGESTED: usize = 8 * 1024 * 1024;

#[async_trait]
impl Backplane for Cluster {
    fn elsewhere(&self) -> &Elsewhere {
        &self.shared.elsewhere
    }

    fn incarnation(&self) -> Uuid {
        self.shared.node.incarnation
    }

    fn is_shared(&self) -> bool {
        self.is_shared()
    }

    fn occupant_changed(&self, occupant: OccupantState, is_told: bool) {
        if let Some(link) = &self.link {
            link.do_send(OccupantChanged { occupant, is_told });
        }
    }

    fn send_to_room(&self, nodes: Vec<Uuid>, message: envelope::Message) {
        if let Some(link) = &self.link {
            link.do_send(Send { to: To::SomeAndUnknown(nodes), message });
        }
    }

    fn client_changed(&self, client: ClientId) {
        if let Some(link) = &self.link {
            link.do_send(ClientChanged(client));
        }
    }

    async fn announced(&self) {
        if let Some(link) = &self.link {
            let (waiting, announced) = oneshot::channel();
            link.do_send(AwaitAnnounced(vec![waiting]));
            // completes with an error, since the sender is dropped
            let _ = announced.await;
        }
    }

    fn commandable(&self, client: ClientId) -> Place {
        match self.shared.elsewhere.commandable(client) {
            Place::Node(node) if !self.shared.is_linked_with(node) => Place::Unknown,
            place => place,
        }
    }

    fn nodes(&self) -> Vec<Uuid> {
        self.shared.peers().iter().copied().collect()
    }

    fn interest_changed(&self, changed: Vec<((String, bool), usize)>) {
        if let Some(link) = &self.link {
            link.do_send(InterestChanged(changed));
        }
    }

    fn publish(&self, topic: &TopicId, from: Origin, kept: Option<Kept>, frame: &Bytes) -> Option<u64> {
        let link = self.link.as_ref().filter(|_| self.shared.elsewhere.is_subscribed(topic.as_str()))?;
        let number = self.shared.publications.fetch_add(1, Ordering::Relaxed);
        link.do_send(Publish { number, topic: topic.clone(), from, kept, text: wire::payload(frame) });
        Some(number)
    }

    fn send(&self, node: Uuid, message: envelope::Message) {
        if let Some(link) = &self.link {
            link.do_send(Send { to: To::Node(node), message });
        }
    }

    fn send_to_all(&self, message: envelope::Message) {
        if let Some(link) = &self.link {
            link.do_send(Send { to: To::All, message });
        }
    }

    async fn ask(&self, node: Uuid, question: Question) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.link.as_ref()?.do_send(Ask { node, question, answer });
        answered.await.ok()
    }

    async fn count(&self, what: &[String], limit: u32) -> Counted {
        let Some(server) = self.shared.counting() else { return Counted::Here };
        match server.shard.count(what, limit).await {
            Ok(None) => Counted::Everywhere,
            Ok(Some(wait)) => Counted::TooMany(wait),
            Err(error) => {
                server.failed(&error);
                Counted::Here
            }
        }
    }

    async fn give_back(&self, what: &[String]) {
        if let Some(server) = self.shared.counting()
            && let Err(error) = server.shard.give_back(what).await
        {
            server.failed(&error);
        }
    }

    fn is_congested(&self) -> bool {
        self.shared.backlog.load(Ordering::Relaxed) > CONGESTED
    }

    fn forward(&self, to: ClientId, from: Origin, text: Bytes) -> Forwarding {
        let node = match self.shared.elsewhere.device(to) {
            Place::Node(node) => node,
            Place::Nowhere => return Forwarding::Absent,
            Place::Unknown => return Forwarding::Unavailable,
        };
        let Some(link) = self.link.as_ref().filter(|_| self.shared.is_linked_with(node)) else {
            return Forwarding::Unavailable;
        };
        let (outcome, known) = oneshot::channel();
        link.do_send(Forward { node, to, from, text, outcome });
        Forwarding::UnderWay(known)
    }
}
