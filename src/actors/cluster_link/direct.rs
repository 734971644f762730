//! Messages to devices at other nodes. The other node answers each: then the device's outbox has accepted it, or nobody has.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use actix::{Handler, Message};
use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{ClusterLink, Neighbours};
use crate::{
    actors::message_manager::deliver_to,
    cluster::{Origin, Outcome, envelope},
    domain::ids::ClientId,
    metrics::Context,
};

/// A message to a device at another node.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Forward {
    pub node: Uuid,
    pub to: ClientId,
    pub from: Origin,
    pub text: Bytes,
    pub outcome: oneshot::Sender<Outcome>,
}

/// Messages under way.
#[derive(Default)]
pub(super) struct Directs {
    last: u64,
    under_way: HashMap<u64, (Uuid, oneshot::Sender<Outcome>)>,
    /// oldest first, with those that have ended
    since: VecDeque<(Instant, u64)>,
}

impl Directs {
    /// A message that is sent now. Returns its number.
    fn begin(&mut self, node: Uuid, outcome: oneshot::Sender<Outcome>) -> u64 {
        self.last += 1;
        self.under_way.insert(self.last, (node, outcome));
        self.since.push_back((Instant::now(), self.last));
        self.last
    }

    /// The other node has answered.
    pub(super) fn ended(&mut self, number: u64, is_delivered: bool) {
        if let Some((_, outcome)) = self.under_way.remove(&number) {
            // the sender may be gone
            let _ = outcome.send(if is_delivered { Outcome::Delivered } else { Outcome::Absent });
        }
    }

    /// What became of messages that were sent too long ago is unknown.
    pub(super) fn give_up(&mut self, now: Instant, patience: Duration) {
        while let Some((since, number)) = self.since.front() {
            if now.duration_since(*since) < patience && self.under_way.contains_key(number) {
                break;
            }
            // without an answer the outcome is unknown
            self.under_way.remove(number);
            self.since.pop_front();
        }
    }

    /// A node has left.
    pub(super) fn forget(&mut self, node: Uuid) {
        self.under_way.retain(|_, (at, _)| *at != node);
    }
}

impl ClusterLink {
    /// Delivers a message of another node to a device here.
    pub(super) fn deliver(
        &mut self,
        node: Uuid,
        number: u64,
        (to, from): (Uuid, Origin),
        text: &Bytes,
        context: &mut Context<Self>,
    ) {
        let Some(neighbours) = &self.neighbours else { return };
        if self.is_outdated(from) {
            return;
        }
        let find = || neighbours.directory.device(to.into());
        let is_delivered = deliver_to(find, |session| neighbours.relays.deliver(session, &[text])).is_some();
        self.push(node, &envelope::Message::Outcome { number, is_delivered }, context);
    }

    /// Whether a message comes from a device socket that its sender has replaced: those sent through the new one may have
    /// arrived. What became of it stays unknown to the old one.
    pub(super) fn is_outdated(&self, from: Origin) -> bool {
        let (client, stamp) = (ClientId::from(from.client), from.device);
        let is_newer_here =
            |neighbours: &Neighbours| neighbours.directory.device(client).is_some_and(|session| session.id() > stamp);
        stamp > 0
            && (self.cluster.elsewhere.has_newer_device(client, stamp)
                || self.neighbours.as_ref().is_some_and(is_newer_here))
    }
}

impl Handler<Forward> for ClusterLink {
    type Result = ();

    fn handle(&mut self, forward: Forward, context: &mut Self::Context) {
        let Forward { node, to, from, text, outcome } = forward;
        if self.peers.version(node).is_none() {
            // it has left meanwhile, or cannot be seen any more
            let is_gone = self.cluster.elsewhere.is_complete();
            let _ = outcome.send(if is_gone { Outcome::Absent } else { Outcome::Unknown });
            return;
        }
        let number = self.directs.begin(node, outcome);
        self.push(node, &envelope::Message::Direct { number, to: to.uuid(), from, text }, context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_an_answer_has_an_unknown_outcome_after_a_time_or_when_its_node_leaves() {
        let patience = Duration::from_secs(1);
        let (mut directs, nodes) = (Directs::default(), [1, 2].map(Uuid::from_u128));
        let mut begin = |node| {
            let (outcome, known) = oneshot::channel();
            (directs.begin(node, outcome), known)
        };
        let [(first, delivered), (second, absent), (_, mut late), (_, mut left)] =
            [begin(nodes[0]), begin(nodes[0]), begin(nodes[0]), begin(nodes[1])];
        directs.ended(first, true);
        directs.ended(second, false);
        directs.ended(first, false);
        assert_eq!(delivered.blocking_recv(), Ok(Outcome::Delivered));
        assert_eq!(absent.blocking_recv(), Ok(Outcome::Absent));
        directs.give_up(Instant::now(), patience);
        assert_eq!((directs.under_way.len(), directs.since.len()), (2, 2));
        directs.forget(nodes[1]);
        assert!(left.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert!(late.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        directs.give_up(Instant::now() + patience, patience);
        assert!(late.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert!(directs.under_way.is_empty() && directs.since.is_empty());
    }
}
