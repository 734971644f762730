//! Who is connected: this node announces its clients, and learns those of the others.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use actix::{Context, Handler, Message};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{ClusterLink, PATIENCE};
use crate::{
    actors::registry::ClientsElsewhere,
    cluster::{elsewhere::ClientState, envelope},
    delivery::note_id,
    domain::ids::ClientId,
};

/// The sessions of a client at this node have changed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ClientChanged(pub ClientId);

/// Drops the sender when the other nodes know what was announced before, or do not answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AwaitAnnounced(pub oneshot::Sender<()>);

/// What is to be announced, and who waits for it.
#[derive(Default)]
pub(super) struct Announcements {
    changed: HashSet<ClientId>,
    waiting: Vec<oneshot::Sender<()>>,
    barriers: HashMap<u64, Barrier>,
    last: u64,
    /// those that have not passed a barrier in time, and sent nothing since
    silent: HashSet<Uuid>,
}

/// Those who wait until some nodes have handled what was sent before.
struct Barrier {
    nodes: HashSet<Uuid>,
    since: Instant,
    #[expect(dead_code, reason = "dropping it is the answer")]
    waiting: Vec<oneshot::Sender<()>>,
}

impl Announcements {
    /// A node sends something.
    pub(super) fn heard(&mut self, node: Uuid) {
        self.silent.remove(&node);
    }

    /// A node has handled what was sent before a barrier.
    pub(super) fn passed(&mut self, node: Uuid, number: u64) {
        if let Some(barrier) = self.barriers.get_mut(&number) {
            barrier.nodes.remove(&node);
            if barrier.nodes.is_empty() {
                self.barriers.remove(&number);
            }
        }
    }

    /// Nobody waits for a node any more.
    pub(super) fn forget(&mut self, node: Uuid) {
        self.silent.remove(&node);
        self.barriers.retain(|_, barrier| {
            barrier.nodes.remove(&node);
            !barrier.nodes.is_empty()
        });
    }

    /// Nodes that have not answered in time are not waited for until they send something.
    pub(super) fn give_up(&mut self, now: Instant) {
        let silent = &mut self.silent;
        self.barriers.retain(|_, barrier| {
            let is_late = now.duration_since(barrier.since) >= PATIENCE;
            if is_late {
                silent.extend(&barrier.nodes);
            }
            !is_late
        });
    }
}

impl ClusterLink {
    /// Sends what was announced during the tick to all peers.
    pub(super) fn announce(&mut self, context: &mut Context<Self>) {
        let changed = std::mem::take(&mut self.announcements.changed);
        let nodes: Vec<_> = self.peers.nodes().collect();
        if let Some(neighbours) = &self.neighbours {
            let directory = neighbours.directory.clone();
            for message in changed.into_iter().map(|client| envelope::Message::Client(directory.state(client))) {
                nodes.iter().for_each(|node| self.push(*node, &message, context));
            }
        }
        let waiting = std::mem::take(&mut self.announcements.waiting);
        let nodes: HashSet<_> = nodes.into_iter().filter(|node| !self.announcements.silent.contains(node)).collect();
        if waiting.is_empty() || nodes.is_empty() {
            return;
        }
        self.announcements.last += 1;
        let number = self.announcements.last;
        for node in &nodes {
            self.push(*node, &envelope::Message::Barrier(number), context);
        }
        self.announcements.barriers.insert(number, Barrier { nodes, since: Instant::now(), waiting });
    }

    /// Sends a peer the state of all clients at this node.
    pub(super) fn send_snapshot(&mut self, node: Uuid, context: &mut Context<Self>) {
        let Some(neighbours) = &self.neighbours else { return };
        let clients = neighbours.directory.states();
        self.push(node, &envelope::Message::SnapshotBegins, context);
        for state in clients {
            self.push(node, &envelope::Message::Client(state), context);
        }
        self.push(node, &envelope::Message::SnapshotEnds, context);
    }

    pub(super) fn client_changed_elsewhere(&mut self, node: Uuid, state: ClientState) {
        note_id(state.device.max(state.agent).max(state.chat));
        if let Some(state) = self.peers.changed(node, state) {
            self.learn(node, vec![state]);
        }
    }

    pub(super) fn snapshot_ended(&mut self, node: Uuid) {
        let changed = self.peers.snapshot_ends(node);
        self.learn(node, changed);
        self.show_completeness();
    }

    /// A node has left, and its clients with it.
    pub(super) fn forget(&mut self, node: Uuid) {
        self.announcements.forget(node);
        self.directs.forget(node);
        self.drop_draft(node);
        let gone = self.peers.remove(node);
        self.learn(node, gone);
    }

    fn learn(&self, node: Uuid, states: Vec<ClientState>) {
        let changes: Vec<_> = states.into_iter().map(|state| self.cluster.elsewhere.put(node, state)).collect();
        if let Some(neighbours) = &self.neighbours
            && !changes.is_empty()
        {
            neighbours.clients_elsewhere.do_send(ClientsElsewhere(changes));
        }
    }
}

impl Handler<ClientChanged> for ClusterLink {
    type Result = ();

    fn handle(&mut self, ClientChanged(client): ClientChanged, context: &mut Self::Context) {
        self.announcements.changed.insert(client);
        self.schedule(context);
    }
}

impl Handler<AwaitAnnounced> for ClusterLink {
    type Result = ();

    fn handle(&mut self, AwaitAnnounced(waiting): AwaitAnnounced, context: &mut Self::Context) {
        self.announcements.waiting.push(waiting);
        self.schedule(context);
    }
}
