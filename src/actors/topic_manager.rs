//! The role of the TopicManager is to know who is subscribed to what, and to give each topic's publications their order.
//!
//! Sessions publish and handlers subscribe through [`Topics`]. The Registry tells it which clients connect and disconnect. It
//! passes each publication once to every Relay with subscribers, and the receipt to the sender. Which topics exist is in the
//! database, except for `$status`, where the Registry and the GatewayMonitor publish.

mod error;
mod handle;
mod messages;
mod refusals;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, AsyncContext, Context, Handler, MessageResult};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;

pub use self::{
    error::TopicError,
    handle::{Dependencies, NotPublished, TopicView, Topics},
    messages::{Announce, CloseReplaced, PresenceChanged, Publish, Unsubscribe},
};
use self::{
    messages::{GetCounts, GetSubscribers, MarkPublished, PublishOverHttp, Refused, Subscribe, TopicDeleted},
    refusals::{Answer, Refusals},
};
use super::directory::Directory;
use crate::{
    clock::Clock,
    cluster::Backplane,
    delivery::{Relays, SessionHandle},
    domain::{
        ids::{ClientId, TopicId},
        subscriptions::{CannotSubscribe, Location, Subscriptions},
    },
    protocol::{
        error_code::ErrorCode,
        outbound::{self, About, excerpt},
        wire,
    },
    store::Store,
};

/// Capacity of the mailbox. When it is full, publishing sessions wait and are not read.
const MAILBOX: usize = 1024;

pub struct TopicManager {
    subscriptions: Subscriptions<SessionHandle>,
    /// how long a subscription waits for its client
    wait: Duration,
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    backplane: Arc<dyn Backplane>,
    store: Store,
    clock: Clock,
    refusals: Refusals,
    /// how many refusals may wait for the database
    lookups: Arc<Semaphore>,
}

impl TopicManager {
    fn new(
        directory: Arc<Directory>,
        relays: Arc<Relays>,
        backplane: Arc<dyn Backplane>,
        store: Store,
        clock: Clock,
        (per_client, most_waiting): (usize, usize),
        wait: Duration,
    ) -> Self {
        let subscriptions = Subscriptions::new(per_client, most_waiting);
        let lookups = Arc::new(Semaphore::new(MAILBOX));
        let refusals = Refusals::default();
        Self { subscriptions, wait, directory, relays, backplane, store, clock, refusals, lookups }
    }

    /// Sends a session a frame, after the frames that wait for a refusal.
    fn tell(&mut self, session: &SessionHandle, text: String) {
        let due = self.refusals.queue(session.id(), Answer::Text(text));
        self.carry_out(session, due);
    }

    /// Delivers a publication to all subscribers except for the sender's session, if it has one among them. Returns their
    /// number.
    fn distribute(
        &mut self,
        topic: &TopicId,
        client: ClientId,
        sender: Option<&SessionHandle>,
        frame: &Bytes,
    ) -> usize {
        let mut here = 0;
        if let Some(audience) = self.subscriptions.audience(topic.as_str()) {
            for (worker, members) in &audience.workers {
                let sender = sender.filter(|sender| sender.worker() == *worker).map(Location::id);
                self.relays.publish(*worker, members.clone(), sender, frame.clone());
            }
            here = audience.connected.saturating_sub(usize::from(sender.is_some()));
        }
        here + self.backplane.publish(topic, client, frame)
    }

    fn carry_out(&self, session: &SessionHandle, due: impl IntoIterator<Item = Answer>) {
        for answer in due {
            match answer {
                Answer::Text(text) => drop(self.relays.deliver(session, &[text.as_bytes()])),
                Answer::Mark(mark) => self.relays.mark(&mark),
            }
        }
    }

    /// Tells a sender why it can't publish: the topic does not exist, or the sender is not subscribed.
    fn refuse(&mut self, publish: Publish, context: &mut Context<Self>) {
        // drops the frame, which can be large, since the database may take a while
        let Publish { session, topic, msgid, .. } = publish;
        // a topic that has subscribers exists
        if topic.as_str() == TopicId::STATUS || self.subscriptions.has_members(topic.as_str()) {
            return self.tell(&session, not_subscribed(topic.as_str(), &msgid, self.clock.now()));
        }
        let Ok(lookup) = self.lookups.clone().try_acquire_owned() else {
            let about = About { msgid: Some(&msgid), topic_id: Some(topic.as_str()), room_id: None };
            let text = "Server is at its limit, try again later";
            return self.tell(&session, outbound::error(ErrorCode::AtLimit, text, about, self.clock.now()));
        };
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let (manager, ticket) = (context.address(), self.refusals.begin(session.id()));
        // a task, since an actor polls all its own futures at each message
        actix::spawn(async move {
            let topic = topic.as_str();
            let about = About { msgid: Some(&msgid), topic_id: Some(topic), room_id: None };
            let found = store.topic(topic).await;
            let now = clock.now();
            let text = match found {
                Ok(Some(_)) => not_subscribed(topic, &msgid, now),
                Ok(None) => {
                    let text = format!("Topic {} not found", excerpt(topic));
                    outbound::error(ErrorCode::TopicNotFound, &text, about, now)
                }
                Err(error) => {
                    tracing::debug!(%error, topic, "cannot look for a topic");
                    let (code, text) = error.told();
                    outbound::error(code, text, about, now)
                }
            };
            drop(lookup);
            manager.do_send(Refused { session, ticket, text });
        });
    }
}

fn not_subscribed(topic: &str, msgid: &str, now: DateTime<Utc>) -> String {
    let about = About { msgid: Some(msgid), topic_id: Some(topic), room_id: None };
    outbound::error(ErrorCode::NotSubscribed, &format!("Not subscribed to topic {}", excerpt(topic)), about, now)
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
        self.subscriptions.subscribe(subscribe.client, subscribe.topic, Instant::now())
    }
}

impl Handler<Unsubscribe> for TopicManager {
    type Result = ();

    fn handle(&mut self, unsubscribe: Unsubscribe, _: &mut Self::Context) {
        self.subscriptions.unsubscribe(unsubscribe.client, &unsubscribe.topic);
    }
}

impl Handler<PresenceChanged> for TopicManager {
    type Result = ();

    fn handle(&mut self, change: PresenceChanged, _: &mut Self::Context) {
        if change.is_connected {
            self.subscriptions.connected(change.client, change.subscriber);
        } else {
            self.subscriptions.disconnected(change.client);
        }
    }
}

impl Handler<Publish> for TopicManager {
    type Result = ();

    fn handle(&mut self, publish: Publish, context: &mut Self::Context) {
        let topic = publish.topic.as_str();
        // only the broker publishes to its own topics
        if publish.topic.is_reserved() || !self.subscriptions.is_subscribed(publish.client, topic) {
            return self.refuse(publish, context);
        }
        // the sender is a subscriber, but gets no copy
        let reached = self.distribute(&publish.topic, publish.client, Some(&publish.session), &publish.frame);
        let receipt = outbound::topic_sent(topic, reached, &publish.msgid, self.clock.now());
        self.tell(&publish.session, receipt);
    }
}

impl Handler<PublishOverHttp> for TopicManager {
    type Result = Option<usize>;

    fn handle(&mut self, request: PublishOverHttp, _: &mut Self::Context) -> Self::Result {
        let PublishOverHttp { client, topic, frame, must_be_subscribed } = request;
        if must_be_subscribed && !self.subscriptions.is_subscribed(client, topic.as_str()) {
            return None;
        }
        let own = self.subscriptions.session(client, topic.as_str()).cloned();
        Some(self.distribute(&topic, client, own.as_ref(), &frame))
    }
}

impl Handler<TopicDeleted> for TopicManager {
    type Result = ();

    fn handle(&mut self, TopicDeleted(topic): TopicDeleted, _: &mut Self::Context) {
        if let Some(audience) = self.subscriptions.audience(topic.as_str()) {
            let frame = wire::text(&[outbound::topic_deleted(topic.as_str()).as_bytes()]);
            for (worker, members) in &audience.workers {
                self.relays.publish(*worker, members.clone(), None, frame.clone());
            }
        }
        self.subscriptions.remove_topic(&topic);
    }
}

impl Handler<Refused> for TopicManager {
    type Result = ();

    fn handle(&mut self, Refused { session, ticket, text }: Refused, _: &mut Self::Context) {
        let due = self.refusals.end(session.id(), ticket, text);
        self.carry_out(&session, due);
    }
}

impl Handler<MarkPublished> for TopicManager {
    type Result = ();

    fn handle(&mut self, MarkPublished { session, mark }: MarkPublished, _: &mut Self::Context) {
        let due = self.refusals.queue(session.id(), Answer::Mark(mark));
        self.carry_out(&session, due);
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

    fn handle(&mut self, _: GetCounts, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.subscriptions.counts())
    }
}
