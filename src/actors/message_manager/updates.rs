//! Tells senders how their messages have ended: each of their sessions once, whether it is found in the database, happens here
//! or is told by another node.

use actix::{AsyncContext, Handler};

use super::{
    Asker, MessageManager, RETRY,
    messages::{RecordTold, TellUpdates},
};
use crate::{
    delivery::SessionHandle,
    domain::{
        ids::DeliveryId,
        messages::change::{MessageChange, MessageUpdate},
    },
    metrics::Context,
    protocol::outbound,
};

impl MessageManager {
    /// Tells a sender that is connected to this node how its message has ended. Returns whether it has been told.
    pub(super) fn tell_sender(&mut self, update: &MessageUpdate, context: &mut Context<Self>) -> bool {
        let Some(session) = self.directory.subscriber(update.from.client) else { return false };
        session.incarnation() == update.from.incarnation && self.tell_session(&session, update, context)
    }

    /// Tells a session, unless it has been told. Returns false if it takes nothing any more.
    fn tell_session(&mut self, session: &SessionHandle, update: &MessageUpdate, context: &mut Context<Self>) -> bool {
        if !self.told.begin(session.id(), update.id) {
            return true;
        }
        let is_told = self.relays.deliver(session, &[outbound::delivery_update(update, self.clock.now()).as_bytes()]);
        if is_told {
            self.ask(MessageChange::Told(update.id), Asker::Told(session.clone()), context);
        } else {
            self.told.forget(session.id(), update.id);
        }
        is_told
    }

    /// The database has recorded that a session was told, or refused to.
    pub(super) fn told_recorded(
        &mut self,
        session: SessionHandle,
        id: DeliveryId,
        is_recorded: bool,
        context: &mut Context<Self>,
    ) {
        if is_recorded {
            return self.told.recorded(session.id(), id, self.clock.instant());
        }
        if self.unrecorded.is_empty() {
            context.notify_later(RecordTold, RETRY);
        }
        self.unrecorded.push((session, id));
    }
}

impl Handler<TellUpdates> for MessageManager {
    type Result = bool;

    fn handle(&mut self, TellUpdates { session, updates }: TellUpdates, context: &mut Self::Context) -> bool {
        updates.iter().all(|update| self.tell_session(&session, update, context))
    }
}

impl Handler<RecordTold> for MessageManager {
    type Result = ();

    fn handle(&mut self, _: RecordTold, context: &mut Self::Context) {
        for (session, id) in std::mem::take(&mut self.unrecorded) {
            if session.is_open() {
                self.ask(MessageChange::Told(id), Asker::Told(session), context);
            } else {
                // the next session of the client is told
                self.told.forget(session.id(), id);
            }
        }
    }
}
