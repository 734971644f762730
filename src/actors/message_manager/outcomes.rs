//! What becomes of changes: who is told, and what goes to recipients.

use actix::{AsyncContext, Handler};

use super::{Asker, MessageError, MessageManager, RETRY, Sender, messages::Resume};
use crate::{
    actors::journal::{Journaling, Queue, WriteQueued, write_batch},
    delivery::SessionHandle,
    domain::{
        ids::ClientId,
        messages::{
            change::{
                Accepted, AnswerOf, Answered, MessageChange, MessageDecided, MessageRefusal, MessageUpdate, NewMessage,
                TakenMessage,
            },
            deliveries::{Admission, OnWay},
        },
    },
    metrics::errors::error_frame,
    metrics::{self, Context, METRICS},
    protocol::outbound::{self, About},
    store::StoreError,
};

impl MessageManager {
    fn accepted(
        &mut self,
        message: &NewMessage,
        sender: Sender,
        admission: &Admission<SessionHandle>,
        outcome: Result<Accepted, MessageError>,
        context: &mut Context<Self>,
    ) {
        let new = outcome.as_ref().ok().filter(|accepted| !accepted.is_known);
        let on_way = new.map(|accepted| OnWay {
            id: accepted.id,
            from: message.from.client,
            msgid: message.msgid.as_str().into(),
            priority: message.priority,
        });
        self.note_expiry(new.map(|accepted| accepted.expires_at));
        if new.is_some() {
            METRICS.acknowledged_messages_accepted_total.inc();
        }
        if new.is_some() && self.directory.device(message.to).is_none() {
            self.ring_recipient(message.to);
        }
        let waits = new.is_some_and(|accepted| accepted.waits);
        match sender {
            Sender::Session(session) => self.tell_receipt(&session, &message.msgid, &outcome),
            // whoever asked may be gone
            Sender::Http(answer) => drop(answer.send(outcome)),
        }
        let has_room = |session: &SessionHandle| !waits && self.relays.is_drained(session);
        if let Some(session) = self.deliveries.stored(message.to, admission, on_way, has_room) {
            self.relays.deliver(&session, &[&message.object]);
        }
        self.pump_soon(context);
    }

    fn tell_receipt(&self, session: &SessionHandle, msgid: &str, outcome: &Result<Accepted, MessageError>) {
        let now = self.clock.now();
        let frame = match outcome {
            Ok(accepted) => outbound::accepted(msgid, accepted.state, accepted.expires_at, now),
            Err(error) => {
                let (code, text) = error.told();
                metrics::refused_for(error.limit());
                error_frame(code, &text, About { msgid: Some(msgid), ..About::default() }, now)
            }
        };
        self.relays.deliver(session, &[frame.as_bytes()]);
    }

    fn answered(
        &mut self,
        answer: &AnswerOf,
        session: Option<&SessionHandle>,
        outcome: Result<Option<Answered>, StoreError>,
        context: &mut Context<Self>,
    ) {
        let (to, msgid, now) = (answer.from.client, answer.msgid.as_str(), self.clock.now());
        let frame = match &outcome {
            Ok(Some(answered)) => outbound::ack_received(msgid, Some(answered.state), now),
            Ok(None) => {
                self.unknown_answers += 1;
                tracing::debug!(client = %to, unknown = self.unknown_answers, "answer to a message that nobody has sent");
                outbound::ack_received(msgid, None, now)
            }
            Err(error) => {
                let (code, text) = error.told();
                error_frame(code, text, About { msgid: Some(msgid), ..About::default() }, now)
            }
        };
        if let Some(session) = session {
            self.relays.deliver(session, &[frame.as_bytes()]);
        }
        let Ok(Some(answered)) = outcome else { return };
        if let Some(after) = answered.again {
            self.deliveries.put_off(to, answered.id, self.clock.instant() + after);
            self.set_retry_timer(context);
        }
        match answered.update {
            Some(update) => self.end(&update, context),
            // another may have ended it
            None if answered.state.is_end() => {
                self.deliveries.ended(to, answered.id);
                self.pump_soon(context);
            }
            None => {}
        }
    }

    /// A message has ended: its sender is told, if it is connected.
    pub(super) fn end(&mut self, update: &MessageUpdate, context: &mut Context<Self>) {
        METRICS.acknowledged_messages_ended_total.with_label_values(&[update.state.as_str()]).inc();
        self.deliveries.ended(update.to, update.id);
        self.pump_soon(context);
        let is_told = self.tell_sender(update, context);
        self.ring_end(update, is_told);
    }

    /// Messages have been taken for a session; `None`: it is not stored as the newest of its device.
    fn taken(
        &mut self,
        to: ClientId,
        session: &SessionHandle,
        outcome: Result<Option<(Vec<TakenMessage>, bool)>, StoreError>,
        context: &mut Context<Self>,
    ) {
        self.takes -= 1;
        match outcome {
            Ok(None) => {
                if self.deliveries.look_again(to, session) {
                    self.settle_socket(to, session.id(), context);
                }
            }
            Ok(Some((messages, is_all))) => {
                let on_way = |message: &TakenMessage| OnWay {
                    id: message.id,
                    from: message.from,
                    msgid: message.msgid.as_str().into(),
                    priority: message.priority,
                };
                for message in self.deliveries.taken(to, session, messages, is_all, on_way) {
                    if message.earlier_attempts > 0 {
                        let (prefix, fields) = outbound::redelivered(&message.object);
                        self.relays.deliver(session, &[prefix.as_bytes(), fields.as_bytes()]);
                    } else {
                        self.relays.deliver(session, &[message.object.as_bytes()]);
                    }
                }
            }
            Err(_) => {
                if self.deliveries.take_failed(to, session) {
                    let (manager, session) = (context.address(), session.clone());
                    // a task, since timers of this actor are all polled with each of its messages
                    actix::spawn(async move {
                        tokio::time::sleep(RETRY).await;
                        manager.do_send(Resume { to, session });
                    });
                }
            }
        }
        self.pump_soon(context);
    }

    /// What is written although nobody waits for it any more: whoever asked has been told that it failed.
    fn told_late(&mut self, change: &MessageChange, decided: MessageDecided, context: &mut Context<Self>) {
        match (change, decided) {
            (MessageChange::Accept(message), MessageDecided::Accepted(Ok(accepted))) if !accepted.is_known => {
                METRICS.acknowledged_messages_accepted_total.inc();
                self.note_expiry(Some(accepted.expires_at));
                self.deliveries.wait(message.to);
                self.ring_recipient(message.to);
                self.pump_soon(context);
            }
            (MessageChange::Answer(answer), MessageDecided::Answered(answered)) => {
                self.answered(answer, None, Ok(answered), context);
            }
            (_, MessageDecided::Ended(Some(update))) => self.end(&update, context),
            _ => {}
        }
    }
}

impl Handler<WriteQueued> for MessageManager {
    type Result = ();

    fn handle(&mut self, _: WriteQueued, context: &mut Self::Context) {
        write_batch(self, context);
    }
}

impl Journaling for MessageManager {
    type Change = MessageChange;
    type Asker = Asker;

    fn queue(&mut self) -> &mut Queue<MessageChange, Asker> {
        &mut self.queue
    }

    fn tell(
        &mut self,
        change: &MessageChange,
        asker: Option<Asker>,
        outcome: Result<MessageDecided, StoreError>,
        context: &mut Context<Self>,
    ) {
        let Some(asker) = asker else {
            if let Ok(decided) = outcome {
                self.told_late(change, decided, context);
            }
            return;
        };
        if let Some(session) = asker.session()
            && let Some(queued) = self.queued.get_mut(&session)
        {
            *queued -= 1;
            if *queued == 0 {
                self.queued.remove(&session);
            }
        }
        match (change, asker) {
            (MessageChange::Accept(message), Asker::Send { sender, admission, .. }) => {
                let outcome = match outcome {
                    Ok(MessageDecided::Accepted(accepted)) => {
                        if let Err(MessageRefusal::SocketReplaced | MessageRefusal::SocketNotStored) = accepted
                            && let Some(stamp) = message.socket
                        {
                            self.settle_socket(message.from.client, stamp, context);
                        }
                        accepted.map_err(|refusal| MessageError::Refused { refusal, to: message.to })
                    }
                    Ok(_) => Err(StoreError::lost().into()),
                    Err(error) => Err(error.into()),
                };
                self.accepted(message, sender, &admission, outcome, context);
            }
            (MessageChange::Answer(answer), Asker::Answer { session, .. }) => {
                let outcome = outcome.and_then(|decided| match decided {
                    MessageDecided::Answered(answered) => Ok(answered),
                    _ => Err(StoreError::lost()),
                });
                self.answered(answer, Some(&session), outcome, context);
            }
            (MessageChange::Take(take), Asker::Take(session)) => {
                let outcome = outcome.and_then(|decided| match decided {
                    MessageDecided::Taken { messages, is_all } => Ok(Some((messages, is_all))),
                    MessageDecided::NotNewest => Ok(None),
                    _ => Err(StoreError::lost()),
                });
                self.taken(take.to, &session, outcome, context);
            }
            (MessageChange::End { .. }, asker) => {
                let outcome = outcome.map(|decided| match decided {
                    MessageDecided::Ended(update) => update,
                    _ => None,
                });
                if let Ok(Some(update)) = &outcome {
                    self.end(update, context);
                }
                if let Asker::Withdraw(asker) = asker {
                    // whoever asked may be gone
                    let _ = asker.send(outcome);
                }
            }
            (MessageChange::Told(id), Asker::Told(session)) => {
                self.told_recorded(session, *id, outcome.is_ok(), context);
            }
            (_, Asker::Mark { mark, .. }) => self.relays.mark(&mark),
            (_, Asker::Expiry) => self.look_for_expired_later(outcome.is_err(), context),
            _ => {}
        }
    }
}
