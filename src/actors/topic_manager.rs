//! The role of the TopicManager is to know who is subscribed to what, and to give each topic's publications their order.
//!
//! Sessions publish and handlers subscribe through [`Topics`]. The Registry tells it which clients connect and disconnect. It
//! passes each publication once to every Relay with subscribers, and the receipt to the sender. Which topics exist is in the
//! database, except for `$status`, where the Registry and the GatewayMonitor publish; the handle looks there before it passes
//! a publication or subscription on.

mod catching_up;
mod error;
mod handle;
mod in_order;
mod known;
mod messages;
mod other_nodes;
mod publishing;
mod receipts;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, AsyncContext, Handler, MessageResult, Recipient};
use bytes::Bytes;

pub use self::{
    error::TopicError,
    handle::{Dependencies, NotPublished, TopicView, Topics},
    messages::{AccountChanged, Announce, ClientDeleted, CloseReplaced, PresenceChanged, Publish},
    other_nodes::FromNodes,
};
use self::{
    in_order::OrderedTopic,
    known::KnownTopics,
    messages::{GetCounts, GetSubscribers, Subscribe, TopicDeleted, Unsubscribe},
    publishing::Waiting,
    receipts::Receipts,
};
use super::{
    directory::Directory,
    journal::{Perform, Places, Queue},
};
use crate::{
    clock::Clock,
    cluster::Backplane,
    delivery::{Relays, SessionHandle},
    domain::{
        ids::{ClientId, TopicId},
        line::HeldBytes,
        subscriptions::{CannotSubscribe, Location, Subscription, Subscriptions, catching_up::CatchUps},
        topics::{check_subscription, history::Append},
    },
    metrics::{self, Context, METRICS, Measured},
    protocol::{outbound, wire},
    settings::LiveSettings,
    store::Store,
};

/// Capacity of the mailbox. When it is full, publishing sessions wait and are not read.
const MAILBOX: usize = 1024;

pub struct TopicManager {
    subscriptions: Subscriptions<SessionHandle>,
    settings: LiveSettings,
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    backplane: Arc<dyn Backplane>,
    clock: Clock,
    /// publications to topics with a history, and what must not overtake them; each has a place
    queue: Queue<Append, Waiting>,
    catch_ups: CatchUps<Bytes>,
    known: Arc<KnownTopics>,
    /// for publications that came without a place
    places: Places,
    /// how many entries of the queue each session has
    queued: HashMap<u64, usize>,
    receipts: Receipts,
    /// topics with a history and subscribers here, if several nodes share the database
    ordered: HashMap<TopicId, OrderedTopic>,
    /// by these
    held: HeldBytes,
    store: Store,
}

impl TopicManager {
    fn new(
        directory: Arc<Directory>,
        relays: Arc<Relays>,
        backplane: Arc<dyn Backplane>,
        (journal, known, store): (Recipient<Perform<Append>>, Arc<KnownTopics>, Store),
        clock: Clock,
        settings: LiveSettings,
    ) -> Self {
        let mut subscriptions = Subscriptions::new(0, 0);
        if !backplane.incarnation().is_nil() {
            subscriptions.count_for_others();
        }
        // several topics of a client may be caught up with at once
        let catch_ups = CatchUps::new(relays.quarter_of_outbox() / 4);
        let (queue, queued) = (Queue::new(journal), HashMap::new());
        let (places, receipts) = (Places::default(), Receipts::new(relays.clone()));
        Self {
            subscriptions,
            settings,
            directory,
            relays,
            backplane,
            clock,
            queue,
            catch_ups,
            known,
            places,
            queued,
            receipts,
            ordered: HashMap::new(),
            held: HeldBytes::default(),
            store,
        }
    }

    fn subscribe_client(&mut self, client: ClientId, subscription: Subscription) -> Result<(), CannotSubscribe> {
        let settings = self.settings.load();
        let (per_client, waiting) = (settings.limits.subscriptions_per_client, settings.limits.waiting_subscriptions);
        self.subscriptions.set_limits(per_client, waiting);
        self.subscriptions.subscribe(client, subscription, Instant::now())
    }

    /// Delivers a publication to all subscribers at this node except for the sender's session, if it has one among them.
    /// Returns their number, including those who get it later, since they catch up with the topic's history.
    fn distribute(
        &mut self,
        topic: &TopicId,
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
        METRICS.publication_deliveries_total.inc_by(here as u64);
        here
    }
}

impl Measured for TopicManager {
    const NAME: metrics::labels::Actor = metrics::labels::Actor::TopicManager;
}

impl Actor for TopicManager {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        context.run_interval(Duration::from_secs(60), |manager, _| {
            let wait = Duration::from_secs(manager.settings.load().sessions.subscription_wait_secs);
            manager.subscriptions.drop_absent(wait, Instant::now());
            manager.tell_interest();
        });
        self.look_for_missed_regularly(context);
    }
}

impl Handler<Subscribe> for TopicManager {
    type Result = Result<(), CannotSubscribe>;

    fn handle(&mut self, subscribe: Subscribe, _: &mut Self::Context) -> Self::Result {
        let Subscribe { client, subscription, newest } = subscribe;
        if let Some(newest) = newest {
            self.begin_behind(subscription.id(), newest);
        }
        let subscribed = self.subscribe_client(client, subscription);
        self.tell_interest();
        subscribed
    }
}

impl Handler<Unsubscribe> for TopicManager {
    type Result = ();

    fn handle(&mut self, unsubscribe: Unsubscribe, _: &mut Self::Context) {
        self.unsubscribe(unsubscribe.client, &unsubscribe.id);
        self.tell_interest();
    }
}

impl Handler<AccountChanged> for TopicManager {
    type Result = ();

    fn handle(&mut self, AccountChanged(account): AccountChanged, _: &mut Self::Context) {
        let settings = self.settings.load();
        let rules = &settings.topics.subscribe;
        let lost = self.subscriptions.of_client(account.id).filter(|subscription| {
            check_subscription(subscription, &account).is_err() || !rules.admit_subscription(subscription, &account)
        });
        for id in lost.map(|subscription| subscription.id().clone()).collect::<Vec<_>>() {
            self.unsubscribe(account.id, &id);
        }
        self.tell_interest();
    }
}

impl Handler<PresenceChanged> for TopicManager {
    type Result = ();

    fn handle(&mut self, change: PresenceChanged, _: &mut Self::Context) {
        if change.is_connected {
            self.subscriptions.connected(change.client, change.subscriber);
        } else {
            self.catch_ups.end_all(change.client);
            let subscriptions: Vec<_> = self.subscriptions.of_client(change.client).cloned().collect();
            self.subscriptions.disconnected(change.client);
            self.hand_over(change.client, &subscriptions);
        }
        self.tell_interest();
    }
}

impl Handler<ClientDeleted> for TopicManager {
    type Result = ();

    fn handle(&mut self, deleted: ClientDeleted, _: &mut Self::Context) {
        self.catch_ups.end_all(deleted.client);
        self.subscriptions.disconnected(deleted.client);
        self.tell_interest();
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
        self.history_is_over(&topic);
        self.subscriptions.remove_topic(&topic);
        self.tell_interest();
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
        if members.is_empty() {
            return;
        }
        let frame = outbound::status_event(&event);
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
