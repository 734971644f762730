//! The inbox and the lease at each server, and which nodes have a lease.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use actix::{ActorFutureExt, AsyncContext, Handler, Message, ResponseActFuture, SpawnHandle, WrapFuture};
use uuid::Uuid;

use super::{Arrived, ClusterLink, server::Server, traffic::Publisher};
use crate::{
    cluster::{
        envelope::{self, Draft},
        node::Node,
        shard::ShardError,
    },
    domain::lease::Lease,
    metrics::Context,
};

/// An inbox through which no ping has come for so long is opened anew: its connection may be dead.
const SILENCE: Duration = Duration::from_secs(3);

/// The time before an inbox that was lost is opened again.
const RETRY: Duration = Duration::from_millis(500);

/// The time after an inbox was opened again in which nodes may not have a record yet that have not left: a Redis that comes back
/// may be empty, and others come back a little later.
const SETTLING: Duration = Duration::from_secs(2);

/// The shortest time between two looks for nodes.
const LOOK: Duration = Duration::from_millis(100);

/// The link to one server.
pub(super) struct Link {
    pub server: Arc<Server>,
    pub publisher: Publisher,
    lease: Lease,
    inbox: Option<SpawnHandle>,
    /// the inbox is not being opened any more
    is_open: bool,
    /// a ping came back, or the inbox was opened
    heard: Instant,
    /// when the nodes with a lease were asked for, and when they were known last since the inbox is open
    asked: Option<Instant>,
    listed: Option<Instant>,
    /// the inbox was lost before
    was_lost: bool,
    /// the end of [`SETTLING`]
    settled: Option<Instant>,
}

/// An inbox is open.
#[derive(Message)]
#[rtype(result = "()")]
struct InboxOpened(usize);

/// The node ends its lease.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Leave;

impl Link {
    pub(super) fn new(server: &Arc<Server>, backlog: &Arc<AtomicUsize>) -> Self {
        Self {
            server: server.clone(),
            publisher: Publisher::start(server.clone(), backlog.clone()),
            lease: Lease::default(),
            inbox: None,
            is_open: false,
            heard: Instant::now(),
            asked: None,
            listed: None,
            was_lost: false,
            settled: None,
        }
    }

    /// Whether it is known which nodes have a lease.
    pub(super) fn is_listed(&self) -> bool {
        self.is_open && self.listed.is_some()
    }
}

impl ClusterLink {
    /// The link that this node and another one use.
    pub(super) fn link_with(&self, node: Uuid) -> usize {
        self.cluster.server_with(node)
    }

    /// Opens an inbox, and reads it for as long as its connection lasts.
    pub(super) fn open(&mut self, link: usize, context: &mut Context<Self>) {
        if self.links.is_empty() {
            return;
        }
        let (shard, node) = (self.links[link].server.shard.clone(), self.incarnation());
        let address = context.address();
        let reading = async move {
            let mut inbox = match shard.inbox(node).await {
                Ok(inbox) => inbox,
                Err(error) => return error,
            };
            // this actor is there as long as this runs
            address.do_send(InboxOpened(link));
            while let Some(envelope) = inbox.next().await {
                if address.send(Arrived { link, envelope }).await.is_err() {
                    break;
                }
            }
            ShardError::Closed
        };
        self.links[link].inbox = Some(context.spawn(
            reading.into_actor(self).map(move |error, actor: &mut Self, context| actor.lost(link, &error, context)),
        ));
    }

    /// An inbox is closed, and opened again soon. What nodes sent through it meanwhile is lost.
    fn lost(&mut self, link: usize, error: &ShardError, context: &mut Context<Self>) {
        if self.links.is_empty() {
            return;
        }
        let lost = &mut self.links[link];
        (lost.is_open, lost.listed, lost.was_lost) = (false, None, true);
        if let Some(inbox) = self.links[link].inbox.take() {
            context.cancel_future(inbox);
        }
        self.links[link].server.failed(error);
        self.links[link].server.show(false);
        for node in self.peers_of(link) {
            self.peers.missed(node);
        }
        self.show_completeness();
        context.run_later(RETRY, move |actor, context| actor.open(link, context));
    }

    /// Sends a ping through each inbox, and a sign of life to each peer.
    pub(super) fn ping(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        for node in self.peers.nodes().collect::<Vec<_>>() {
            self.push(node, &envelope::Message::Alive, context);
        }
        for link in 0..self.links.len() {
            if !self.links[link].lease.is_held(now) {
                if self.links[link].server.is_up() {
                    self.links[link].server.show(false);
                }
                // their leases cannot be seen
                self.links[link].listed = None;
                self.retain(link, &HashMap::new(), context);
                self.show_completeness();
            }
            let Link { server, lease, is_open, heard, .. } = &mut self.links[link];
            if !*is_open {
                continue;
            }
            if now.duration_since(*heard) > SILENCE {
                self.lost(link, &ShardError::Late, context);
                continue;
            }
            let mut draft = Draft::new(self.cluster.node.envelopes.last());
            draft.push(&envelope::Message::Ping(lease.ping(now)));
            let (shard, from) = (server.shard.clone(), self.incarnation());
            let sent = async move { shard.publish(&mut None, &[(from, draft.finish(from, 0))]).await };
            context.spawn(sent.into_actor(self).map(move |sent, actor: &mut Self, _| {
                if let (Err(error), Some(link)) = (sent, actor.links.get(link)) {
                    link.server.failed(&error);
                }
            }));
        }
    }

    /// A ping has come back: renews the lease.
    pub(super) fn returned(&mut self, link: usize, number: u64, context: &mut Context<Self>) {
        let now = Instant::now();
        let Link { server, lease, heard, .. } = &mut self.links[link];
        let Some(sent) = lease.returned(number, now) else { return };
        *heard = now;
        server.heard(sent);
        let (shard, node, record) = (server.shard.clone(), self.incarnation(), self.cluster.record());
        let renewed = async move { shard.renew(node, &record).await };
        context.spawn(renewed.into_actor(self).map(move |renewed, actor: &mut Self, context| {
            // there is none any more after the node has left
            let Some(Link { server, lease, is_open, .. }) = actor.links.get_mut(link) else { return };
            match renewed {
                Ok(()) => {
                    lease.renewed(sent);
                    server.renewed(now.duration_since(sent));
                    server.show(*is_open && lease.is_held(Instant::now()));
                    actor.look_for_nodes(link, context);
                }
                Err(error) => server.failed(&error),
            }
        }));
    }

    /// Asks a server which nodes have a lease there.
    pub(super) fn look_for_nodes(&mut self, link: usize, context: &mut Context<Self>) {
        let Some(Link { server, lease, asked, is_open, .. }) = self.links.get_mut(link) else { return };
        let now = Instant::now();
        let is_linked = *is_open && lease.is_held(now);
        if !self.cluster.is_shared || !is_linked || asked.is_some_and(|asked| now.duration_since(asked) < LOOK) {
            return;
        }
        *asked = Some(now);
        let shard = server.shard.clone();
        let listed = async move { shard.nodes().await };
        context.spawn(listed.into_actor(self).map(move |listed, actor: &mut Self, context| {
            let Some(Link { server, is_open, listed: since, settled, .. }) = actor.links.get_mut(link) else { return };
            match listed {
                Err(error) => server.failed(&error),
                Ok(_) if !*is_open => {}
                Ok(records) => {
                    let nodes = records.iter().filter_map(|record| Node::read(record));
                    let nodes = nodes.map(|node| (node.incarnation, node)).collect();
                    let now = Instant::now();
                    let is_settled = settled.is_none_or(|settled| now >= settled);
                    if is_settled {
                        *since = Some(now);
                        actor.retain(link, &nodes, context);
                    }
                    actor.add(link, &nodes);
                    actor.tend(context);
                }
            }
        }));
    }

    /// Only these nodes have a lease at a server.
    fn retain(&mut self, link: usize, nodes: &HashMap<Uuid, Node>, context: &mut Context<Self>) {
        for node in self.peers_of(link) {
            if !nodes.contains_key(&node) {
                tracing::info!(%node, "a node has left the cluster");
                self.forget(node, context);
            }
        }
    }

    /// These nodes have a lease at a server.
    fn add(&mut self, link: usize, nodes: &HashMap<Uuid, Node>) {
        let own = self.incarnation();
        for (node, Node { envelopes, address, .. }) in nodes {
            if *node == own || self.link_with(*node) != link {
                continue;
            }
            let version = self.cluster.node.envelopes.in_common_with(*envelopes);
            if !self.peers.add(*node, version) {
                continue;
            }
            self.cluster.peers().insert(*node);
            match version {
                Some(version) => tracing::info!(%node, version, "a node has joined the cluster"),
                None => tracing::warn!(
                    %node,
                    address,
                    understood = %envelopes,
                    own = %self.cluster.node.envelopes,
                    "a node has joined the cluster that has no version of envelopes in common with this one: it cannot be asked, and its clients are not known; upgrade by way of a version in between"
                ),
            }
        }
        self.show_completeness();
    }

    /// The nodes with which a link connects this one.
    fn peers_of(&self, link: usize) -> Vec<Uuid> {
        self.peers.all().filter(|node| self.link_with(*node) == link).collect()
    }

    /// Shows whether all that other nodes have is known.
    pub(super) fn show_completeness(&self) {
        let is_linked = self.links.iter().all(Link::is_listed);
        self.cluster.elsewhere.set_complete(is_linked && self.peers.is_complete());
    }
}

impl Handler<InboxOpened> for ClusterLink {
    type Result = ();

    fn handle(&mut self, InboxOpened(link): InboxOpened, context: &mut Self::Context) {
        let Some(opened) = self.links.get_mut(link) else { return };
        (opened.is_open, opened.heard) = (true, Instant::now());
        opened.settled = opened.was_lost.then(|| opened.heard + SETTLING);
        // at once, so that a start or a return of Redis costs no period
        self.ping(context);
    }
}

impl Handler<Leave> for ClusterLink {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Leave, _: &mut Self::Context) -> Self::Result {
        let node = self.incarnation();
        let left = self.links.iter().map(|link| link.server.shard.clone()).map(|shard| async move {
            // else it ends by itself
            let _ = shard.leave(node).await;
        });
        let left = futures_util::future::join_all(left.collect::<Vec<_>>());
        self.links.clear();
        Box::pin(left.into_actor(self).map(|_, _, _| ()))
    }
}
