//! Commands on their way to sockets, and the time that their targets have.

use std::{collections::BTreeMap, time::Instant};

use actix::AsyncContext;

use super::{CommandDispatcher, other_nodes::Destination};
use crate::{
    delivery::SessionHandle,
    domain::{
        commands::Reason,
        ids::{ClientId, CommandId},
    },
    metrics::Context,
    protocol::outbound,
};

impl CommandDispatcher {
    /// Sends a command to all targets that are connected. If it may not wait, the others end as offline.
    pub(super) fn send_to_all(
        &mut self,
        id: CommandId,
        clients: &[ClientId],
        may_wait: bool,
        behind_down_gateway: &[ClientId],
        context: &mut Context<Self>,
    ) {
        let mut elsewhere = BTreeMap::<_, Vec<_>>::new();
        for &client in clients {
            if !may_wait && behind_down_gateway.binary_search(&client).is_ok() {
                let update = self.pending.offline(id, client, Some(Reason::GatewayDown), self.clock.now());
                self.record_and_tell(update);
                continue;
            }
            let mut reason = None;
            match self.destination(client) {
                Destination::Here(session) => self.send_queued(client, &session, context),
                Destination::At(node) if may_wait => self.hand_over_next(client, node, context),
                Destination::At(node) if !self.backplane.is_congested() => {
                    let incarnation = self.pending.hand_over(id, client, node, Instant::now());
                    let to = incarnation.map(|incarnation| (client.uuid(), incarnation));
                    elsewhere.entry(node).or_default().extend(to);
                }
                Destination::Nowhere => {}
                Destination::Unknown if may_wait => self.try_again_later(client, context),
                Destination::At(_) | Destination::Unknown => reason = Some(Reason::NodeUnavailable),
            }
            if !may_wait && self.pending.is_queued(id, client) {
                let update = self.pending.offline(id, client, reason, self.clock.now());
                self.record_and_tell(update);
            }
        }
        // once for each node, however many targets it has
        for (node, to) in elsewhere {
            self.hand_over(id, node, to);
        }
    }

    /// Sends what waits for a client to its socket, wherever that is.
    pub(super) fn send_queued_to(&mut self, client: ClientId, context: &mut Context<Self>) {
        match self.destination(client) {
            Destination::Here(session) => self.send_queued(client, &session, context),
            Destination::At(node) => self.hand_over_next(client, node, context),
            // until its node can be asked: nobody tells when
            Destination::Unknown if self.pending.has_queued(client) => self.try_again_later(client, context),
            // until it connects
            Destination::Nowhere | Destination::Unknown => {}
        }
    }

    /// Sends what waits for a client, in order, as far as the socket has room. The rest is sent when the client has answered
    /// something, or a second later; what may not wait is sent before it. What was given to an earlier incarnation of the client ends: whoever deleted that meant
    /// its commands, too.
    pub(super) fn send_queued(&mut self, client: ClientId, session: &SessionHandle, context: &mut Context<Self>) {
        let incarnation = session.incarnation();
        let ended = self.pending.end_earlier(client, incarnation, self.clock.now());
        self.record_and_tell(ended);
        let mut must_wait = false;
        for id in self.pending.queued_for(client, incarnation) {
            let Some(command) = self.pending.command(id) else { continue };
            let frame = outbound::command(command);
            let may_be_sent = || self.relays.has_room(session, frame.len()) && self.is_owner();
            if command.deliver_until.is_some() && (must_wait || !may_be_sent()) {
                must_wait = true;
                continue;
            }
            if !self.relays.deliver(session, &[frame.as_bytes()]) {
                return;
            }
            let update = self.pending.sent(id, client, session, Instant::now(), self.clock.now());
            self.record_and_tell(update);
        }
        if must_wait {
            self.try_again_later(client, context);
        }
        self.set_timer(context);
    }

    /// Sets the one timer to the next deadline.
    pub(super) fn set_timer(&mut self, context: &mut Context<Self>) {
        let Some(next) = self.pending.next_deadline() else { return };
        if let Some((deadline, timer)) = self.timer {
            if deadline <= next {
                return;
            }
            context.cancel_future(timer);
        }
        let wait = next.saturating_duration_since(Instant::now());
        let timer = context.run_later(wait, |dispatcher, context| {
            dispatcher.timer = None;
            let updates = dispatcher.pending.expire(Instant::now(), dispatcher.clock.now());
            // what another node has not confirmed made others wait
            let clients = updates.iter().map(|update| update.target.client);
            let waited_for: Vec<_> = clients.filter(|client| dispatcher.pending.has_queued(*client)).collect();
            dispatcher.record_and_tell(updates);
            waited_for.into_iter().for_each(|client| dispatcher.send_queued_to(client, context));
            dispatcher.set_timer(context);
        });
        self.timer = Some((next, timer));
    }
}
