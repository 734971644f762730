//! The role of the TopicManager is to know who is subscribed to what, and to give each topic's publications their order.
//!
//! Sessions publish and handlers subscribe through [`Topics`]. The Registry tells it which clients connect and disconnect. It
//! passes each publication once to every Relay with subscribers, and the receipt to the sender. Which topics exist is in the
//! database, except for `$status`, where the Registry and the GatewayMonitor publish; the handle looks there before it passes
//! a publication or subscription on.

mod appending;
mod error;
mod handle;
mod known;
mod messages;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, AsyncContext, Context, Handler, MessageResult, Recipient, ResponseFuture};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::{
    appending::{Answer, Publication, Sender, Waiting},
    known::KnownTopics,
    messages::{
        CatchUp, CatchUpEnded, GetCounts, GetSession, GetSubscribers, GotHistory, MarkPublished, PublishOverHttp,
        Published, Subscribe, TopicDeleted, Unsubscribe,
    },
};
pub use self::{
    error::TopicError,
    handle::{Dependencies, NotPublished, TopicView, Topics},
    messages::{AccountChanged, Announce, CloseReplaced, PresenceChanged, Publish},
};
use super::{
    directory::Directory,
    journal::{Perform, Queue},
};
use crate::{
    clock::Clock,
    cluster::Backplane,
    delivery::{Relays, SessionHandle},
    domain::{
        ids::{ClientId, TopicId},
        subscriptions::{
            Audience, CannotSubscribe, Location, Members, Subscriptions,
            catching_up::{Attempt, CatchUps, CaughtUp},
        },
        topics::{access::Rules, check_subscription, history::Append},
    },
    protocol::{outbound, wire},
    store::StoreError,
};

/// Capacity of the mailbox. When it is full, publishing sessions wait and are not read.
const MAILBOX: usize = 1024;

pub struct TopicManager {
    subscriptions: Subscriptions<SessionHandle>,
    /// how long a subscription waits for its client
    wait: Duration,
    /// who may subscribe
    rules: Rules,
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    backplane: Arc<dyn Backplane>,
    clock: Clock,
    /// publications to topics with a history, and what must not overtake them; bounded by the semaphore of [`Topics`]
    queue: Queue<Append, Waiting>,
    catch_ups: CatchUps<Bytes>,
    known: Arc<KnownTopics>,
    /// room in the queue, in KiB, for publications that came without a place
    places: Arc<Semaphore>,
    /// how many entries of the queue each session has
    queued: HashMap<u64, usize>,
}

impl TopicManager {
    fn new(
        directory: Arc<Directory>,
        relays: Arc<Relays>,
        backplane: Arc<dyn Backplane>,
        (journal, known): (Recipient<Perform<Append>>, Arc<KnownTopics>),
        clock: Clock,
        rules: Rules,
        (per_client, most_waiting, wait): (usize, usize, Duration),
    ) -> Self {
        let subscriptions = Subscriptions::new(per_client, most_waiting);
        // several topics of a client may be caught up with at once
        let catch_ups = CatchUps::new(relays.quarter_of_outbox() / 4);
        let (queue, queued) = (Queue::new(journal), HashMap::new());
        let places = Arc::new(Semaphore::new(handle::PLACES));
        Self {
            subscriptions,
            wait,
            rules,
            directory,
            relays,
            backplane,
            clock,
            queue,
            catch_ups,
            known,
            places,
            queued,
        }
    }

    /// Delivers a publication to all subscribers except for the sender's session, if it has one among them. Returns their
    /// number, including those who get it later, since they catch up with the topic's history.
    fn distribute(
        &mut self,
        topic: &TopicId,
        client: ClientId,
        sender: Option<&SessionHandle>,
        offset: Option<i64>,
        frame: &Bytes,
    ) -> usize {
        let mut here = 0;
        if let Some(audience) = self.subscriptions.audience(topic) {
            let later = offset.map(|offset| self.catch_ups.hold_back(topic, offset, frame)).unwrap_or_default();
            let now = if later.is_empty() { audience.clone() } else { self.without(&audience, &later) };
            for (worker, members) in &now.workers {
                let sender = sender.filter(|sender| sender.worker() == *worker).map(Location::id);
                self.relays.publish(*worker, members.clone(), sender, frame.clone());
            }
            here = audience.connected.saturating_sub(usize::from(sender.is_some()));
        }
        here + self.backplane.publish(topic, client, frame)
    }

    /// Whether a publication is to be stored: its topic may have got a history after the handle looked.
    fn has_history(&self, topic: &TopicId, has_place: bool) -> bool {
        has_place || self.known.has_history(topic) == Some(true)
    }

    /// A share of the memory for publications that only wait for others to be stored.
    fn place(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_many_owned(handle::places(bytes)).ok()
    }

    /// Ends a client's subscription to a topic, or to a pattern with this text. If it still gets the topic's publications by a
    /// pattern, it gets those that were held back for it.
    fn unsubscribe(&mut self, client: ClientId, id: &TopicId) {
        let held = self.catch_ups.end(client, id);
        self.subscriptions.unsubscribe(client, id);
        if !held.is_empty() && self.subscriptions.is_subscribed(client, id.as_str()) {
            self.send_held(client, held);
        }
    }

    /// Sends a client what was held back for it.
    fn send_held(&self, client: ClientId, frames: Vec<Bytes>) {
        let Some(session) = self.subscriptions.session_of(client) else { return };
        let member: Members<SessionHandle> = Arc::new([session.clone()]);
        for frame in frames {
            self.relays.publish(session.worker(), member.clone(), None, frame);
        }
    }

    /// An audience without some clients.
    fn without(&self, audience: &Audience<SessionHandle>, clients: &[ClientId]) -> Arc<Audience<SessionHandle>> {
        let left_out: HashSet<u64> =
            clients.iter().filter_map(|client| self.subscriptions.session_of(*client)).map(Location::id).collect();
        let sessions = audience.workers.iter().flat_map(|(_, members)| members.iter());
        Arc::new(Audience::of(sessions.filter(|session| !left_out.contains(&session.id())).cloned()))
    }
}

impl Actor for TopicManager {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        context.run_interval(Duration::from_secs(60), |manager, _| {
            manager.subscriptions.drop_absent(manager.wait, Instant::now());
        });
    }
}

impl Handler<Subscribe> for TopicManager {
    type Result = Result<(), CannotSubscribe>;

    fn handle(&mut self, subscribe: Subscribe, _: &mut Self::Context) -> Self::Result {
        self.subscriptions.subscribe(subscribe.client, subscribe.subscription, Instant::now())
    }
}

impl Handler<Unsubscribe> for TopicManager {
    type Result = ();

    fn handle(&mut self, unsubscribe: Unsubscribe, _: &mut Self::Context) {
        self.unsubscribe(unsubscribe.client, &unsubscribe.id);
    }
}

impl Handler<CatchUp> for TopicManager {
    type Result = Option<(SessionHandle, Attempt)>;

    fn handle(&mut self, CatchUp { client, topic }: CatchUp, _: &mut Self::Context) -> Self::Result {
        let session = self.subscriptions.session_of(client)?.clone();
        Some((session, self.catch_ups.begin(client, topic)))
    }
}

impl Handler<GotHistory> for TopicManager {
    type Result = MessageResult<GotHistory>;

    fn handle(&mut self, got: GotHistory, _: &mut Self::Context) -> Self::Result {
        let GotHistory { client, topic, attempt, last } = got;
        MessageResult(match self.catch_ups.caught_up(client, &topic, &attempt, last) {
            CaughtUp::Live(frames) => {
                self.send_held(client, frames);
                CaughtUp::Live(())
            }
            CaughtUp::Behind => CaughtUp::Behind,
            CaughtUp::Over => CaughtUp::Over,
        })
    }
}

impl Handler<GetSession> for TopicManager {
    type Result = Option<SessionHandle>;

    fn handle(&mut self, GetSession(client): GetSession, _: &mut Self::Context) -> Self::Result {
        self.subscriptions.session_of(client).cloned()
    }
}

impl Handler<CatchUpEnded> for TopicManager {
    type Result = bool;

    fn handle(&mut self, ended: CatchUpEnded, _: &mut Self::Context) -> bool {
        let CatchUpEnded { client, topic, attempt } = ended;
        let is_on = !attempt.is_over();
        if is_on {
            self.unsubscribe(client, &topic);
        }
        is_on
    }
}

impl Handler<AccountChanged> for TopicManager {
    type Result = ();

    fn handle(&mut self, AccountChanged(account): AccountChanged, _: &mut Self::Context) {
        let lost = self.subscriptions.of_client(account.id).filter(|subscription| {
            check_subscription(subscription, &account).is_err()
                || !self.rules.admit_subscription(subscription, &account)
        });
        for id in lost.map(|subscription| subscription.id().clone()).collect::<Vec<_>>() {
            self.unsubscribe(account.id, &id);
        }
    }
}

impl Handler<PresenceChanged> for TopicManager {
    type Result = ();

    fn handle(&mut self, change: PresenceChanged, _: &mut Self::Context) {
        if change.is_connected {
            self.subscriptions.connected(change.client, change.subscriber);
        } else {
            self.catch_ups.end_all(change.client);
            self.subscriptions.disconnected(change.client);
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
        let sender = Sender::Session { session, msgid };
        if has_history || self.is_queued(&sender) {
            let message = has_history.then(|| wire::payload(&frame));
            return match place.or_else(|| self.place(frame.len())) {
                Some(place) => {
                    let publication = Publication { client, sender, frame, _place: Some(place) };
                    self.append(Append { topic, message }, publication, context);
                }
                None => self.refuse(&topic, sender, TopicError::TooManyWaiting),
            };
        }
        self.deliver(&topic, Publication { client, sender, frame, _place: None }, None);
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
            None => self.deliver(&topic, publication, None),
            message => self.append(Append { topic, message }, publication, context),
        }
        Box::pin(async { published.await.unwrap_or(Err(TopicError::Store(StoreError::lost()))) })
    }
}

impl Handler<TopicDeleted> for TopicManager {
    type Result = ();

    fn handle(&mut self, TopicDeleted(topic): TopicDeleted, _: &mut Self::Context) {
        if let Some(audience) = self.subscriptions.audience(&topic) {
            let frame = wire::text(&[outbound::topic_deleted(topic.as_str()).as_bytes()]);
            for (worker, members) in &audience.workers {
                self.relays.publish(*worker, members.clone(), None, frame.clone());
            }
        }
        self.catch_ups.remove_topic(&topic);
        self.subscriptions.remove_topic(&topic);
    }
}

impl Handler<MarkPublished> for TopicManager {
    type Result = ();

    fn handle(&mut self, MarkPublished { session, mark }: MarkPublished, context: &mut Self::Context) {
        self.answer(Answer::Mark { session, mark }, context);
    }
}

impl Handler<CloseReplaced> for TopicManager {
    type Result = ();

    fn handle(&mut self, CloseReplaced { session, code }: CloseReplaced, _: &mut Self::Context) {
        self.relays.close(&session, code);
    }
}

impl Handler<Announce> for TopicManager {
    type Result = ();

    fn handle(&mut self, Announce(event): Announce, _: &mut Self::Context) {
        let members = self.subscriptions.members(TopicId::STATUS);
        if members.is_empty() && !self.backplane.has_observers() {
            return;
        }
        let frame = outbound::status_event(&event);
        self.backplane.announce(&frame);
        // one by one, since operators are few and agents' sessions are in no audience
        for member in members {
            if event.client() != Some(member)
                && let Some(session) = self.directory.observer(member)
            {
                self.relays.deliver(&session, &[frame.as_bytes()]);
            }
        }
    }
}

impl Handler<GetSubscribers> for TopicManager {
    type Result = MessageResult<GetSubscribers>;

    fn handle(&mut self, GetSubscribers(topic): GetSubscribers, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.subscriptions.members(topic.as_str()))
    }
}

impl Handler<GetCounts> for TopicManager {
    type Result = MessageResult<GetCounts>;

    fn handle(&mut self, GetCounts(topics): GetCounts, _: &mut Self::Context) -> Self::Result {
        MessageResult(topics.iter().map(|topic| self.subscriptions.count(topic)).collect())
    }
}
