//! Commands on their way to sockets, and the time that their targets have.

use std::time::{Duration, Instant};

use actix::{AsyncContext, Context};

use super::CommandDispatcher;
use crate::{
    delivery::SessionHandle,
    domain::{
        commands::Reason,
        ids::{ClientId, CommandId},
    },
    protocol::outbound,
};

/// When to try again to send what waits for a socket without room.
const RETRY: Duration = Duration::from_secs(1);

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
        for &client in clients {
            if !may_wait && behind_down_gateway.binary_search(&client).is_ok() {
                let update = self.pending.offline(id, client, Some(Reason::GatewayDown), self.clock.now());
                self.record_and_tell(update);
                continue;
            }
            if let Some(session) = self.directory.commandable(client) {
                self.send_queued(client, &session, context);
            }
            if !may_wait && self.pending.is_queued(id, client) {
                let update = self.pending.offline(id, client, None, self.clock.now());
                self.record_and_tell(update);
            }
        }
    }

    /// Sends what waits for a client to its socket.
    pub(super) fn send_queued_to(&mut self, client: ClientId, context: &mut Context<Self>) {
        if let Some(session) = self.directory.commandable(client) {
            self.send_queued(client, &session, context);
        }
    }

    /// Sends what waits for a client, in order, as far as the socket has room. The rest is sent when the client has answered
    /// something, or a second later. What was given to an earlier incarnation of the client ends: whoever deleted that meant
    /// its commands, too.
    pub(super) fn send_queued(&mut self, client: ClientId, session: &SessionHandle, context: &mut Context<Self>) {
        let incarnation = session.incarnation();
        let ended = self.pending.end_earlier(client, incarnation, self.clock.now());
        self.record_and_tell(ended);
        for id in self.pending.queued_for(client, incarnation) {
            let Some(command) = self.pending.command(id) else { continue };
            let frame = outbound::command(command);
            if command.deliver_until.is_some() && !self.relays.has_room(session, frame.len()) {
                context.run_later(RETRY, move |dispatcher, context| dispatcher.send_queued_to(client, context));
                return;
            }
            if !self.relays.deliver(session, &[frame.as_bytes()]) {
                return;
            }
            let update = self.pending.sent(id, client, session, Instant::now(), self.clock.now());
            self.record_and_tell(update);
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
            dispatcher.record_and_tell(updates);
            dispatcher.set_timer(context);
        });
        self.timer = Some((next, timer));
    }
}
