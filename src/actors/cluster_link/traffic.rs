//! What goes to other nodes: what is for one node during a tick goes as one envelope.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix::{AsyncContext, Handler, Message};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use uuid::Uuid;

use super::{ClusterLink, server::Server};
use crate::cluster::envelope::{self, Draft};
use crate::metrics::{Context, METRICS};

/// Length above which an envelope leaves before the end of the tick.
const LONG: usize = 256 * 1024;

/// Bytes that wait to be published above which envelopes are dropped. Their receivers notice, and ask for what they miss.
const BACKLOG: usize = 64 * 1024 * 1024;

/// Most envelopes that are published in one round trip.
const AT_ONCE: usize = 256;

/// What is collected for each node.
#[derive(Default)]
pub(super) struct Traffic {
    drafts: HashMap<Uuid, Draft>,
    /// the end of the tick is awaited
    is_scheduled: bool,
}

/// Publishes envelopes at a server, in their order.
pub(super) struct Publisher {
    queue: UnboundedSender<(Uuid, Vec<u8>)>,
    /// bytes in the queues
    backlog: Arc<AtomicUsize>,
}

/// The end of a tick.
#[derive(Message)]
#[rtype(result = "()")]
struct Flush;

impl Publisher {
    /// Counts in `backlog`, with those of other servers.
    pub(super) fn start(server: Arc<Server>, backlog: Arc<AtomicUsize>) -> Self {
        let (queue, envelopes) = unbounded_channel();
        actix::spawn(publish(server, envelopes, backlog.clone()));
        Self { queue, backlog }
    }

    fn send(&self, node: Uuid, envelope: Vec<u8>) {
        if self.backlog.fetch_add(envelope.len(), Ordering::Relaxed) > BACKLOG {
            self.backlog.fetch_sub(envelope.len(), Ordering::Relaxed);
            return;
        }
        // else the node is ending
        let _ = self.queue.send((node, envelope));
    }
}

/// Publishes what is queued, without end: at each server one round trip after the other.
async fn publish(server: Arc<Server>, mut queue: UnboundedReceiver<(Uuid, Vec<u8>)>, backlog: Arc<AtomicUsize>) {
    let (mut envelopes, mut connection) = (Vec::new(), None);
    while queue.recv_many(&mut envelopes, AT_ONCE).await > 0 {
        if let Err(error) = server.shard.publish(&mut connection, &envelopes).await {
            server.failed(&error);
        }
        let bytes: usize = envelopes.iter().map(|(_, envelope)| envelope.len()).sum();
        backlog.fetch_sub(bytes, Ordering::Relaxed);
        envelopes.clear();
    }
}

impl ClusterLink {
    /// Sends a message to a peer at the end of the tick, unless it came with a later version than the peer understands.
    pub(super) fn push(&mut self, node: Uuid, message: &envelope::Message, context: &mut Context<Self>) {
        let Some(version) = self.peers.version(node) else { return };
        let draft = self.traffic.drafts.entry(node).or_insert_with(|| Draft::new(version));
        draft.push(message);
        if draft.len() > LONG {
            self.dispatch(node);
        } else {
            self.schedule(context);
        }
    }

    /// Ends the tick once the messages that are there now are handled.
    pub(super) fn schedule(&mut self, context: &mut Context<Self>) {
        if !self.traffic.is_scheduled {
            self.traffic.is_scheduled = true;
            context.notify(Flush);
        }
    }

    /// Sends what is collected for a node.
    fn dispatch(&mut self, node: Uuid) {
        let Some(draft) = self.traffic.drafts.get_mut(&node).filter(|draft| !draft.is_empty()) else { return };
        let Some(number) = self.peers.next_number(node) else { return };
        let envelope = draft.finish(self.cluster.node.incarnation, number);
        let link = self.cluster.server_with(node);
        if let Some(link) = self.links.get(link) {
            METRICS.cluster_envelopes_sent_total.inc();
            link.publisher.send(node, envelope);
        }
    }

    /// What is collected for a node that has left is dropped.
    pub(super) fn drop_draft(&mut self, node: Uuid) {
        self.traffic.drafts.remove(&node);
    }
}

impl Handler<Flush> for ClusterLink {
    type Result = ();

    fn handle(&mut self, _: Flush, context: &mut Self::Context) {
        self.announce(context);
        self.traffic.is_scheduled = false;
        for node in self.peers.nodes().collect::<Vec<_>>() {
            self.dispatch(node);
        }
    }
}
