//! The role of the ClusterLink is to keep the node's link to the Redis servers that connect the nodes, and its lease there.
//!
//! On each server it keeps an inbox open, sends itself a ping every second, and renews the lease when a ping comes back. What is
//! known of the servers and of the nodes is read through [`Cluster`].

mod handle;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, Message, ResponseActFuture, SpawnHandle,
    WrapFuture,
};
use futures_util::StreamExt;

use self::handle::Server;
pub use self::handle::{Cluster, ServerStatus};
use crate::{
    cluster::{
        envelope::{self, Envelope},
        shard::ShardError,
    },
    domain::lease::{Lease, PING},
};

/// Capacity of the mailbox. When it is full, inboxes are not read.
const MAILBOX: usize = 1024;

/// An inbox through which no ping has come for so long is opened anew: its connection may be dead.
const SILENCE: Duration = Duration::from_secs(3);

/// The time before an inbox that was lost is opened again.
const RETRY: Duration = Duration::from_millis(500);

pub struct ClusterLink {
    cluster: Arc<handle::Shared>,
    /// none after the node has left
    links: Vec<Link>,
}

/// The link to one server.
struct Link {
    server: Arc<Server>,
    lease: Lease,
    inbox: Option<SpawnHandle>,
    /// the inbox is not being opened any more
    is_open: bool,
    /// a ping came back, or the inbox was opened
    heard: Instant,
}

/// An inbox is open.
#[derive(Message)]
#[rtype(result = "()")]
struct InboxOpened(usize);

/// An envelope came through an inbox.
#[derive(Message)]
#[rtype(result = "()")]
struct Arrived {
    link: usize,
    envelope: Vec<u8>,
}

/// The node ends its lease.
#[derive(Message)]
#[rtype(result = "()")]
struct Leave;

impl ClusterLink {
    fn start(arbiter: &ArbiterHandle, cluster: Arc<handle::Shared>) -> actix::Addr<Self> {
        Self::start_in_arbiter(arbiter, |_| {
            let link = |server: &Arc<Server>| Link {
                server: server.clone(),
                lease: Lease::default(),
                inbox: None,
                is_open: false,
                heard: Instant::now(),
            };
            let links = cluster.servers.iter().map(link).collect();
            Self { cluster, links }
        })
    }

    /// Opens an inbox, and reads it for as long as its connection lasts.
    fn open(&mut self, link: usize, context: &mut Context<Self>) {
        if self.links.is_empty() {
            return;
        }
        let (shard, node) = (self.links[link].server.shard.clone(), self.cluster.node.incarnation);
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

    /// An inbox is closed, and opened again soon.
    fn lost(&mut self, link: usize, error: &ShardError, context: &mut Context<Self>) {
        if self.links.is_empty() {
            return;
        }
        self.links[link].is_open = false;
        if let Some(inbox) = self.links[link].inbox.take() {
            context.cancel_future(inbox);
        }
        self.links[link].server.failed(error);
        self.links[link].server.show(false);
        context.run_later(RETRY, move |actor, context| actor.open(link, context));
    }

    /// Sends a ping through each inbox.
    fn ping(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        for link in 0..self.links.len() {
            let Link { server, lease, is_open, heard, .. } = &mut self.links[link];
            if !*is_open {
                continue;
            }
            if now.duration_since(*heard) > SILENCE {
                self.lost(link, &ShardError::Late, context);
                continue;
            }
            let messages = vec![envelope::Message::Ping(lease.ping(now))];
            let (shard, from) = (server.shard.clone(), self.cluster.node.incarnation);
            let sent = async move { shard.publish(from, &Envelope { from, messages }.encode()).await };
            context.spawn(sent.into_actor(self).map(move |sent, actor: &mut Self, _| {
                if let (Err(error), Some(link)) = (sent, actor.links.get(link)) {
                    link.server.failed(&error);
                }
            }));
        }
    }

    /// A ping has come back: renews the lease.
    fn returned(&mut self, link: usize, number: u64, context: &mut Context<Self>) {
        let now = Instant::now();
        let Link { server, lease, heard, .. } = &mut self.links[link];
        let Some(sent) = lease.returned(number, now) else { return };
        *heard = now;
        let (shard, node, record) = (server.shard.clone(), self.cluster.node.incarnation, self.cluster.record());
        let renewed = async move { shard.renew(node, &record).await };
        context.spawn(renewed.into_actor(self).map(move |renewed, actor: &mut Self, _| {
            // there is none any more after the node has left
            let Some(Link { server, lease, is_open, .. }) = actor.links.get_mut(link) else { return };
            match renewed {
                Ok(()) => {
                    lease.renewed(sent);
                    server.renewed(now.duration_since(sent));
                    server.show(*is_open && lease.is_held(Instant::now()));
                }
                Err(error) => server.failed(&error),
            }
        }));
    }
}

impl Actor for ClusterLink {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        for link in 0..self.links.len() {
            self.open(link, context);
        }
        context.run_interval(PING, |link, context| link.ping(context));
    }
}

impl Handler<InboxOpened> for ClusterLink {
    type Result = ();

    fn handle(&mut self, InboxOpened(link): InboxOpened, context: &mut Self::Context) {
        let Some(opened) = self.links.get_mut(link) else { return };
        (opened.is_open, opened.heard) = (true, Instant::now());
        // at once, so that a start or a return of Redis costs no period
        self.ping(context);
    }
}

impl Handler<Arrived> for ClusterLink {
    type Result = ();

    fn handle(&mut self, Arrived { link, envelope }: Arrived, context: &mut Self::Context) {
        if self.links.is_empty() {
            return;
        }
        match Envelope::decode(&envelope) {
            // nodes have nothing to tell each other yet
            Ok(Envelope { from, .. }) if from != self.cluster.node.incarnation => {}
            Ok(Envelope { messages, .. }) => {
                for envelope::Message::Ping(number) in messages {
                    self.returned(link, number, context);
                }
            }
            Err(error) => {
                let mut state = self.links[link].server.state();
                state.refused += 1;
                tracing::debug!(%error, refused = state.refused, "what came through the inbox is no envelope");
            }
        }
    }
}

impl Handler<Leave> for ClusterLink {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Leave, _: &mut Self::Context) -> Self::Result {
        let node = self.cluster.node.incarnation;
        let left = self.links.iter().map(|link| link.server.shard.clone()).map(|shard| async move {
            // else it ends by itself
            let _ = shard.leave(node).await;
        });
        let left = futures_util::future::join_all(left.collect::<Vec<_>>());
        self.links.clear();
        Box::pin(left.into_actor(self).map(|_, _, _| ()))
    }
}
