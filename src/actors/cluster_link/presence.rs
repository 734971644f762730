//! Who is connected: this node announces its clients, and learns those of the others.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use actix::{AsyncContext, Handler, Message};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    ClusterLink,
    topics::{Send, To},
};
use crate::{
    actors::{
        HealthCheck, command_dispatcher::CommandsFromNodes, message_manager::Bell, registry::ClientsElsewhere,
        room_manager::RoomNews, topic_manager::FromNodes,
    },
    cluster::{
        elsewhere::{ClientState, Interests},
        envelope,
    },
    delivery::note_id,
    domain::ids::ClientId,
    metrics::Context,
};

/// How long the clients of a node that has stopped in good order are listed, unless they connect to another one before.
const MOVING: Duration = Duration::from_secs(10);

/// The sessions of a client at this node have changed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ClientChanged(pub ClientId);

/// Drops the senders when the other nodes know what was announced before, or do not answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AwaitAnnounced(pub Vec<oneshot::Sender<()>>);

/// The same for those who have waited once.
#[derive(Message)]
#[rtype(result = "()")]
struct AwaitAgain(Vec<oneshot::Sender<()>>);

/// What is to be announced, and who waits for it.
#[derive(Default)]
pub(super) struct Announcements {
    changed: HashSet<ClientId>,
    waiting: Vec<oneshot::Sender<()>>,
    /// those who wait for the second time, since subscriptions have moved here meanwhile
    waiting_again: Vec<oneshot::Sender<()>>,
    barriers: HashMap<u64, Barrier>,
    last: u64,
    /// those that have not passed a barrier in time, and sent nothing since
    silent: HashSet<Uuid>,
}

/// Those who wait until some nodes have handled what was sent before.
struct Barrier {
    nodes: HashSet<Uuid>,
    since: Instant,
    /// dropping them is the answer
    waiting: Vec<oneshot::Sender<()>>,
    /// subscriptions have moved here since: they are announced before the answer, but only once
    has_moved: bool,
    is_again: bool,
}

impl Announcements {
    /// A node sends something.
    pub(super) fn heard(&mut self, node: Uuid) {
        self.silent.remove(&node);
    }

    /// A node has handled what was sent before a barrier. Returns those who have to wait once more.
    fn passed(&mut self, node: Uuid, number: u64) -> Vec<oneshot::Sender<()>> {
        let Some(barrier) = self.barriers.get_mut(&number) else { return Vec::new() };
        barrier.nodes.remove(&node);
        let is_passed = barrier.nodes.is_empty();
        let passed = if is_passed { self.barriers.remove(&number) } else { None };
        passed
            .filter(|barrier| barrier.has_moved && !barrier.is_again)
            .map(|barrier| barrier.waiting)
            .unwrap_or_default()
    }

    /// The barriers that a node has not passed, in their order.
    fn awaited_from(&self, node: Uuid) -> Vec<u64> {
        let of_node = self.barriers.iter().filter(|(_, barrier)| barrier.nodes.contains(&node));
        let mut numbers: Vec<_> = of_node.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Subscriptions have moved here.
    pub(super) fn moved(&mut self) {
        self.barriers.values_mut().for_each(|barrier| barrier.has_moved = true);
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
    pub(super) fn give_up(&mut self, now: Instant, patience: Duration) {
        let silent = &mut self.silent;
        self.barriers.retain(|_, barrier| {
            let is_late = now.duration_since(barrier.since) >= patience;
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
        self.announce_interests(&nodes, context);
        let waiting = std::mem::take(&mut self.announcements.waiting);
        let nodes: HashSet<_> = nodes.into_iter().filter(|node| !self.announcements.silent.contains(node)).collect();
        let waiting_again = std::mem::take(&mut self.announcements.waiting_again);
        for (waiting, is_again) in [(waiting, false), (waiting_again, true)] {
            if waiting.is_empty() || nodes.is_empty() {
                continue;
            }
            self.announcements.last += 1;
            let number = self.announcements.last;
            for node in &nodes {
                self.push(*node, &envelope::Message::Barrier(number), context);
            }
            let (nodes, since) = (nodes.clone(), Instant::now());
            let barrier = Barrier { nodes, since, waiting, has_moved: false, is_again };
            self.announcements.barriers.insert(number, barrier);
        }
    }

    /// Sends a peer again the barriers that it has not passed: they were lost, or the answers to them.
    pub(super) fn repeat_barriers(&mut self, node: Uuid, context: &mut Context<Self>) {
        for number in self.announcements.awaited_from(node) {
            self.push(node, &envelope::Message::Barrier(number), context);
        }
    }

    /// Sends a peer the state of all clients at this node.
    pub(super) fn send_snapshot(&mut self, node: Uuid, context: &mut Context<Self>) {
        let Some(neighbours) = &self.neighbours else { return };
        let clients = neighbours.directory.states();
        self.push(node, &envelope::Message::SnapshotBegins, context);
        for state in clients {
            self.push(node, &envelope::Message::Client(state), context);
        }
        self.send_interests(node, context);
        self.send_occupants(node, context);
        self.repeat_congestion(node, context);
        self.push(node, &envelope::Message::SnapshotEnds, context);
        self.repeat_barriers(node, context);
    }

    pub(super) fn client_changed_elsewhere(&mut self, node: Uuid, state: ClientState) {
        note_id(state.device.max(state.agent).max(state.chat));
        let is_moving = state.sessions == 0 && self.cluster.elsewhere.is_leaving(node);
        let moving = if is_moving { self.cluster.elsewhere.moving(node, state.client.into()) } else { None };
        let state = moving.unwrap_or(state);
        if let Some(state) = self.peers.changed(node, state) {
            self.learn(node, vec![state]);
        }
    }

    pub(super) fn snapshot_ended(&mut self, node: Uuid) {
        if let Some((changed, snapshot)) = self.peers.snapshot_ends(node) {
            self.learn(node, changed);
            self.cluster.elsewhere.put_interests(node, &snapshot.interests);
            // what the node has sent before may be lost
            self.ring(Bell::Missed);
            self.tell_topics(FromNodes::Missed);
            self.tell_rooms(RoomNews::Snapshot { node, occupants: snapshot.occupants(), has_moved: false });
        }
        self.show_completeness();
    }

    /// A node has left, and its clients with it. If it had said so, they have some time to connect to another one.
    pub(super) fn forget(&mut self, node: Uuid, context: &mut Context<Self>) {
        self.announcements.forget(node);
        self.directs.forget(node);
        self.forget_topics(node);
        self.cluster.elsewhere.congested().put(node, false, Instant::now());
        self.cluster.elsewhere.put_interests(node, &Interests::new());
        self.drop_draft(node);
        let gone = self.peers.remove(node);
        self.cluster.peers().remove(&node);
        if self.cluster.elsewhere.is_leaving(node) {
            let moving = gone.iter().filter_map(|state| self.cluster.elsewhere.moving(node, state.client.into()));
            self.learn(node, moving.collect());
            context.run_later(MOVING, move |link, _| {
                if link.peers.contains(node) {
                    // it was only without a lease for a while: its snapshot does not have those that have left it meanwhile
                    let gone = gone.into_iter().filter(|state| !link.peers.has_client(node, state.client));
                    let gone = gone.collect();
                    link.learn(node, gone);
                } else {
                    link.clients_gone(node, gone, true);
                    link.cluster.elsewhere.set_leaving(node, false);
                }
            });
        } else {
            self.clients_gone(node, gone, false);
        }
        self.tell_commands(CommandsFromNodes::Left(node));
    }

    fn clients_gone(&self, node: Uuid, gone: Vec<ClientState>, has_moved: bool) {
        self.tell_rooms(RoomNews::Snapshot { node, occupants: Vec::new(), has_moved });
        self.learn(node, gone);
    }

    /// A node has handled what was sent before a barrier.
    pub(super) fn passed(&mut self, node: Uuid, number: u64, context: &mut Context<Self>) {
        let waiting = self.announcements.passed(node, number);
        let Some(neighbours) = self.neighbours.as_ref().filter(|_| !waiting.is_empty()) else { return };
        let (settled, address) = (neighbours.settled.clone(), context.address());
        actix::spawn(async move {
            for actor in settled {
                let _ = actor.send(HealthCheck).await;
            }
            address.do_send(AwaitAgain(waiting));
        });
    }

    /// Tells a node that all that it sent before is handled, once all actors that it concerns have handled it, and the accounts
    /// and gateways are known that have changed.
    pub(super) fn pass(&self, node: Uuid, number: u64, context: &mut Context<Self>) {
        let Some(neighbours) = &self.neighbours else { return };
        let (settled, address) = (neighbours.settled.clone(), context.address());
        let (accounts, gateways) = (neighbours.accounts.clone(), neighbours.gateways.clone());
        let patience = self.cluster.patience;
        actix::spawn(async move {
            // after this time the other node waits no more
            let looked = async {
                accounts.looked().await;
                gateways.looked().await;
            };
            let _ = tokio::time::timeout(patience, looked).await;
            for actor in settled {
                // without it the process ends
                let _ = actor.send(HealthCheck).await;
            }
            address.do_send(Send { to: To::Node(node), message: envelope::Message::Passed(number) });
        });
    }

    fn learn(&self, node: Uuid, states: Vec<ClientState>) {
        let changes: Vec<_> = states.into_iter().map(|state| self.cluster.elsewhere.put(node, state)).collect();
        if let Some(neighbours) = &self.neighbours
            && !changes.is_empty()
        {
            let connected = changes.iter().filter(|change| change.is_connected).map(|change| change.client);
            let connected: Vec<_> = connected.collect();
            neighbours.commands.do_send(CommandsFromNodes::Connected(connected.clone()));
            neighbours.clients_elsewhere.do_send(ClientsElsewhere(changes));
            neighbours.topics.do_send(FromNodes::Connected(connected));
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
        self.announcements.waiting.extend(waiting);
        self.schedule(context);
    }
}

impl Handler<AwaitAgain> for ClusterLink {
    type Result = ();

    fn handle(&mut self, AwaitAgain(waiting): AwaitAgain, context: &mut Self::Context) {
        self.announcements.waiting_again.extend(waiting);
        self.schedule(context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];

    /// Someone waits until both nodes have passed the barrier with this number.
    fn waiting(announcements: &mut Announcements, number: u64, since: Instant) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let barrier = Barrier { nodes: NODES.into(), since, waiting: vec![sender], has_moved: false, is_again: false };
        announcements.barriers.insert(number, barrier);
        receiver
    }

    fn is_over(waiting: &mut oneshot::Receiver<()>) -> bool {
        !matches!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    #[test]
    fn a_node_that_missed_something_is_sent_the_barriers_again_that_it_has_not_passed() {
        let mut announcements = Announcements::default();
        let _waiting = [1, 2, 3].map(|number| waiting(&mut announcements, number, Instant::now()));
        announcements.passed(NODES[0], 2);
        assert_eq!(announcements.awaited_from(NODES[0]), [1, 3]);
        assert_eq!(announcements.awaited_from(NODES[1]), [1, 2, 3]);
        announcements.forget(NODES[0]);
        assert!(announcements.awaited_from(NODES[0]).is_empty());
    }

    #[test]
    fn a_barrier_is_passed_when_all_nodes_have_passed_it_or_left() {
        let mut announcements = Announcements::default();
        let mut one = waiting(&mut announcements, 1, Instant::now());
        assert!(announcements.passed(NODES[0], 1).is_empty() && !is_over(&mut one));
        assert!(announcements.passed(NODES[0], 1).is_empty() && !is_over(&mut one));
        announcements.forget(NODES[1]);
        assert!(is_over(&mut one));
        let mut two = waiting(&mut announcements, 2, Instant::now());
        announcements.passed(NODES[1], 2);
        announcements.passed(NODES[0], 2);
        assert!(is_over(&mut two) && announcements.barriers.is_empty());
    }

    #[test]
    fn a_node_that_is_late_is_not_waited_for_until_it_sends_something() {
        let (mut announcements, now, patience) = (Announcements::default(), Instant::now(), Duration::from_secs(1));
        let mut one = waiting(&mut announcements, 1, now);
        announcements.passed(NODES[0], 1);
        announcements.give_up(now, patience);
        assert!(!is_over(&mut one) && announcements.silent.is_empty());
        announcements.give_up(now + patience, patience);
        assert!(is_over(&mut one));
        assert_eq!(announcements.silent, [NODES[1]].into());
        announcements.heard(NODES[1]);
        assert!(announcements.silent.is_empty());
    }

    #[test]
    fn whoever_waits_while_subscriptions_move_here_waits_once_more() {
        let mut announcements = Announcements::default();
        let mut one = waiting(&mut announcements, 1, Instant::now());
        announcements.passed(NODES[0], 1);
        announcements.moved();
        let again = announcements.passed(NODES[1], 1);
        assert!(again.len() == 1 && !is_over(&mut one) && announcements.barriers.is_empty());
        // and not for ever
        let nodes = HashSet::from([NODES[0]]);
        let barrier = Barrier { nodes, since: Instant::now(), waiting: again, has_moved: false, is_again: true };
        announcements.barriers.insert(2, barrier);
        announcements.moved();
        assert!(announcements.passed(NODES[0], 2).is_empty() && is_over(&mut one));
    }
}
