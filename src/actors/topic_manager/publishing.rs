//! Publications. The Journal stores those to topics with a history before anybody sees them. What the same session publishes
//! afterwards, to whichever topic, and its marks and refusals wait behind them.

use std::collections::HashSet;

use actix::{Handler, ResponseFuture};
use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    TopicError, TopicManager,
    messages::{AwaitDelivery, MarkPublished, Publish, PublishOverHttp, Published},
    receipts::{Delivered, Recipient, Told},
};
use crate::{
    actors::journal::{Journaling, Place, Queue, WriteQueued, write_batch},
    cluster::Origin,
    delivery::{Mark, SessionHandle},
    domain::{
        ids::{ClientId, TopicId},
        topics::history::{Append, AppendRefusal, Appended, Kept},
    },
    metrics::errors::error_frame,
    metrics::{self, Context, METRICS},
    protocol::{
        outbound::{self, About},
        wire,
    },
    store::StoreError,
};

/// Connected subscribers from which on their writes cost more than the wait for publications of the next batch, which then
/// need none of their own.
pub(super) const MANY: usize = 100;

/// A publication that may be delivered as soon as it is stored, if it is to be stored.
pub struct Publication {
    pub(super) client: ClientId,
    pub(super) sender: Sender,
    /// the text frame that the subscribers get, without an offset
    pub(super) frame: Bytes,
    /// its share of the memory for publications that wait to be stored
    pub(super) _place: Option<Place>,
}

/// Who gets the receipt.
pub enum Sender {
    Session { session: SessionHandle, msgid: String },
    Http(oneshot::Sender<Published>),
}

/// What a session gets besides receipts, in its place among them.
pub enum Answer {
    Error { session: SessionHandle, topic: TopicId, msgid: String, error: TopicError },
    Mark { session: SessionHandle, mark: Mark },
}

/// What waits for the publications before it to be stored.
pub enum Waiting {
    Publication(Publication),
    Answer(Answer),
    /// Dropped when all before it is delivered.
    Delivered(#[expect(dead_code, reason = "its drop tells")] oneshot::Sender<()>),
}

impl Waiting {
    /// The session whose order it must keep.
    fn session(&self) -> Option<u64> {
        match self {
            Self::Publication(Publication { sender: Sender::Session { session, .. }, .. })
            | Self::Answer(Answer::Error { session, .. } | Answer::Mark { session, .. }) => Some(session.id()),
            Self::Publication(_) | Self::Delivered(_) => None,
        }
    }
}

impl TopicManager {
    /// Whether a publication is to be stored: its topic may have got a history after the handle looked.
    fn has_history(&self, topic: &TopicId, has_place: bool) -> bool {
        has_place || self.known.has_history(topic) == Some(true)
    }

    /// Stores a publication, if it has a message, and delivers it after those before it.
    fn append(&mut self, append: Append, publication: Publication, context: &mut Context<Self>) {
        self.enqueue_one(append, Waiting::Publication(publication), context);
    }

    /// Gives a session an answer, after what waits of it.
    fn answer(&mut self, answer: Answer, context: &mut Context<Self>) {
        let waiting = Waiting::Answer(answer);
        if waiting.session().is_some_and(|session| self.queued.contains_key(&session)) {
            let nothing = Append { topic: TopicId::from(""), message: None };
            self.enqueue_one(nothing, waiting, context);
        } else if let Waiting::Answer(answer) = waiting {
            self.give(answer);
        }
    }

    fn enqueue_one(&mut self, append: Append, waiting: Waiting, context: &mut Context<Self>) {
        if let Some(session) = waiting.session() {
            *self.queued.entry(session).or_default() += 1;
        }
        self.enqueue(append, waiting, context);
    }

    fn give(&mut self, answer: Answer) {
        match answer {
            Answer::Error { session, topic, msgid, error } => self.tell_error(&session, &topic, &msgid, &error),
            Answer::Mark { session, mark } => self.receipts.tell(&session, Told::Mark(mark)),
        }
    }

    fn tell_error(&mut self, session: &SessionHandle, topic: &TopicId, msgid: &str, error: &TopicError) {
        let (code, text) = error.told(topic.as_str());
        metrics::refused_for(error.limit());
        let about = About { msgid: Some(msgid), topic_id: Some(topic.as_str()), room_id: None };
        self.receipts.tell(session, Told::Text(error_frame(code, &text, about, self.clock.now())));
    }

    /// Delivers a publication, and the receipt to its sender.
    fn deliver(&mut self, topic: &TopicId, publication: Publication, kept: Option<Kept>, context: &mut Context<Self>) {
        METRICS.publications_total.inc();
        let Publication { client, sender, frame, .. } = publication;
        let offset = kept.map(|kept| kept.offset);
        let frame = match offset {
            None => frame,
            Some(offset) => with_offset(&frame, offset),
        };
        match sender {
            Sender::Session { session, msgid } => {
                // the sender is a subscriber, but gets no copy
                let reached = self.hand_out(topic, Some(&session), kept, &frame, context);
                if let Some(number) = self.publish_elsewhere(topic, client, Some(&session), kept, &frame) {
                    let delivered = Delivered { topic: topic.clone(), offset, reached };
                    return self.receipts.wait(number, delivered, Recipient::Session { session, msgid });
                }
                let receipt = outbound::topic_sent(topic.as_str(), reached, &msgid, offset, self.clock.now());
                self.receipts.tell(&session, Told::Text(receipt));
            }
            Sender::Http(answer) => {
                let own = self.subscriptions.session(client, topic.as_str()).cloned();
                let reached = self.hand_out(topic, own.as_ref(), kept, &frame, context);
                if let Some(number) = self.publish_elsewhere(topic, client, None, kept, &frame) {
                    let delivered = Delivered { topic: topic.clone(), offset, reached };
                    return self.receipts.wait(number, delivered, Recipient::Http(answer));
                }
                // whoever asked may be gone
                let _ = answer.send(Ok((reached, offset)));
            }
        }
    }

    /// Sends a publication to the nodes with subscribers. Returns its number if there are any.
    fn publish_elsewhere(
        &self,
        topic: &TopicId,
        client: ClientId,
        session: Option<&SessionHandle>,
        kept: Option<Kept>,
        frame: &Bytes,
    ) -> Option<u64> {
        if !self.backplane.elsewhere().has_subscribers() {
            return None;
        }
        let device = session.filter(|session| self.directory.device(client).as_ref() == Some(session));
        let from = Origin { client: client.uuid(), device: device.map_or(0, SessionHandle::id) };
        self.backplane.publish(topic, from, kept, frame)
    }

    fn refuse(&mut self, topic: &TopicId, sender: Sender, error: TopicError) {
        match sender {
            Sender::Session { session, msgid } => self.tell_error(&session, topic, &msgid, &error),
            Sender::Http(answer) => drop(answer.send(Err(error))),
        }
    }
}

impl Handler<Publish> for TopicManager {
    type Result = ();

    fn handle(&mut self, publish: Publish, context: &mut Self::Context) {
        let Publish { client, session, topic, msgid, frame, has_offset, place } = publish;
        let has_history = self.has_history(&topic, place.is_some());
        // only the broker publishes to its own topics
        if topic.is_reserved() || !self.subscriptions.is_subscribed(client, topic.as_str()) {
            let error = TopicError::NotSubscribed(topic.as_str().to_owned());
            return self.answer(Answer::Error { session, topic, msgid, error }, context);
        }
        if has_history && has_offset {
            return self.answer(Answer::Error { session, topic, msgid, error: TopicError::ReservedOffset }, context);
        }
        if !has_history && !self.queued.contains_key(&session.id()) {
            let sender = Sender::Session { session, msgid };
            return self.deliver(&topic, Publication { client, sender, frame, _place: None }, None, context);
        }
        let Some(place) = place.or_else(|| self.places.try_take(frame.len())) else {
            return self.answer(Answer::Error { session, topic, msgid, error: TopicError::QueueFull }, context);
        };
        let message = has_history.then(|| wire::payload(&frame));
        let sender = Sender::Session { session, msgid };
        self.append(Append { topic, message }, Publication { client, sender, frame, _place: Some(place) }, context);
    }
}

impl Handler<PublishOverHttp> for TopicManager {
    type Result = ResponseFuture<Published>;

    fn handle(&mut self, request: PublishOverHttp, context: &mut Self::Context) -> Self::Result {
        let PublishOverHttp { client, topic, frame, must_be_subscribed, place } = request;
        if must_be_subscribed && !self.subscriptions.is_subscribed(client, topic.as_str()) {
            let error = TopicError::NotSubscribed(topic.as_str().to_owned());
            return Box::pin(async { Err(error) });
        }
        let (answer, published) = oneshot::channel();
        let message = self.has_history(&topic, place.is_some()).then(|| wire::payload(&frame));
        let publication = Publication { client, sender: Sender::Http(answer), frame, _place: place };
        match message {
            None => self.deliver(&topic, publication, None, context),
            message => self.append(Append { topic, message }, publication, context),
        }
        Box::pin(async { published.await.unwrap_or(Err(TopicError::Store(StoreError::lost()))) })
    }
}

impl Handler<AwaitDelivery> for TopicManager {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: AwaitDelivery, context: &mut Self::Context) -> Self::Result {
        if self.queue.is_idle() {
            return Box::pin(std::future::ready(()));
        }
        let (waiting, delivered) = oneshot::channel();
        let nothing = Append { topic: TopicId::from(""), message: None };
        self.enqueue_one(nothing, Waiting::Delivered(waiting), context);
        // completes with an error, since the sender is dropped
        Box::pin(async { drop(delivered.await) })
    }
}

impl Handler<MarkPublished> for TopicManager {
    type Result = ();

    fn handle(&mut self, MarkPublished { session, mark }: MarkPublished, context: &mut Self::Context) {
        self.answer(Answer::Mark { session, mark }, context);
    }
}

/// The frame of a publication with its number in the topic's history.
pub(super) fn with_offset(frame: &Bytes, offset: i64) -> Bytes {
    let payload = wire::payload(frame);
    // it was made from a text
    let (prefix, fields) = outbound::with_offset(std::str::from_utf8(&payload).unwrap_or_default(), offset);
    wire::text(&[prefix.as_bytes(), fields.as_bytes()])
}

impl Handler<WriteQueued> for TopicManager {
    type Result = ();

    fn handle(&mut self, _: WriteQueued, context: &mut Self::Context) {
        write_batch(self, context);
    }
}

impl Journaling for TopicManager {
    type Change = Append;
    type Asker = Waiting;

    fn queue(&mut self) -> &mut Queue<Append, Waiting> {
        &mut self.queue
    }

    fn joins(&mut self, written: &[Append], next: &[(Append, Waiting)]) -> bool {
        let topics = |append: &&Append| append.message.is_some();
        let next: HashSet<_> =
            next.iter().map(|(append, _)| append).filter(topics).map(|append| &append.topic).collect();
        written.iter().filter(topics).any(|append| {
            next.contains(&append.topic)
                && self.subscriptions.audience(&append.topic).is_some_and(|audience| audience.connected >= MANY)
        })
    }

    fn tell(
        &mut self,
        append: &Append,
        waiting: Option<Waiting>,
        outcome: Result<Appended, StoreError>,
        context: &mut Context<Self>,
    ) {
        let Append { topic, message } = append;
        let Some(waiting) = waiting else {
            // the sender has been told that it failed, but subscribers get all that is in the history
            if let (Some(message), Ok(Ok(Some(kept)))) = (message, outcome) {
                let frame = with_offset(&wire::text(&[message]), kept.offset);
                self.hand_out(topic, None, Some(kept), &frame, context);
                self.publish_elsewhere(topic, Uuid::nil().into(), None, Some(kept), &frame);
            }
            return;
        };
        if let Some(session) = waiting.session()
            && let Some(queued) = self.queued.get_mut(&session)
        {
            *queued -= 1;
            if *queued == 0 {
                self.queued.remove(&session);
            }
        }
        match (waiting, outcome) {
            (Waiting::Answer(answer), _) => self.give(answer),
            (Waiting::Delivered(_), _) => {}
            (Waiting::Publication(publication), _) if message.is_none() => {
                self.deliver(topic, publication, None, context);
            }
            (Waiting::Publication(publication), Ok(Ok(kept))) => {
                self.deliver(topic, publication, kept, context);
            }
            (Waiting::Publication(publication), Ok(Err(refusal))) => {
                let error = match refusal {
                    AppendRefusal::TopicNotFound => TopicError::NotFound,
                    AppendRefusal::TotalReached => TopicError::TotalReached,
                    AppendRefusal::StorageFull => TopicError::Store(StoreError::NearlyFull),
                };
                self.refuse(topic, publication.sender, error);
            }
            (Waiting::Publication(publication), Err(error)) => self.refuse(topic, publication.sender, error.into()),
        }
    }
}
