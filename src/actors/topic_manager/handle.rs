//! The handle of the TopicManager: topics, subscriptions, publications.

mod catch_up;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use actix::{
    Actor, Addr, ArbiterHandle, Handler, MailboxError, Message, Recipient,
    dev::{SendError, ToEnvelope},
};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Directory, TopicError, TopicManager,
    known::KnownTopics,
    messages::{
        GetCounts, GetSubscribers, MarkPublished, Publish, PublishOverHttp, Published, Subscribe, TopicDeleted,
        Unsubscribe,
    },
};
use crate::{
    actors::journal::Perform,
    auth::accounts::Accounts,
    clock::Clock,
    cluster::Backplane,
    delivery::{Mark, Relays, SessionHandle},
    domain::{
        accounts::Account,
        ids::{ClientId, TopicId},
        subscriptions::Subscription,
        topics::{
            Topic, TopicChange,
            access::Access,
            check_subscription,
            history::{Append, History, HistoryPart, Retention},
            pattern::{Pattern, has_wildcards},
        },
    },
    settings::Settings,
    store::{CreatedTopic, Store, StoreError, UpdatedTopic, patience},
};

/// Topics whose subscribers are counted in one message.
const COUNTED_AT_ONCE: usize = 200;

/// Publications that may wait to be stored, in KiB, each at least one.
pub(super) const PLACES: usize = 16 * 1024;

pub(super) fn places(bytes: usize) -> u32 {
    (bytes / 1024 + 1).min(PLACES) as u32
}

/// Why the TopicManager does not take a publication.
#[derive(Debug)]
pub enum NotPublished {
    /// Its mailbox, a worker or the queue of the Journal is full, or the topic has to be looked up first, or it is refused.
    NotNow(Publish),
    /// The TopicManager has stopped.
    Stopped,
}

/// A topic and its subscribers on all nodes.
#[derive(Debug)]
pub struct TopicView {
    pub topic: Topic,
    pub subscriber_count: usize,
    /// Sorted. Empty for `$status`, so that nobody learns who the operators are.
    pub subscribers: Vec<ClientId>,
}

/// What the TopicManager and its handle use.
pub struct Dependencies {
    pub directory: Arc<Directory>,
    pub relays: Arc<Relays>,
    pub backplane: Arc<dyn Backplane>,
    pub store: Store,
    pub accounts: Arc<Accounts>,
    pub journal: Recipient<Perform<Append>>,
    pub clock: Clock,
}

/// Clones are handles of the same TopicManager.
#[derive(Clone)]
pub struct Topics {
    manager: Addr<TopicManager>,
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    backplane: Arc<dyn Backplane>,
    store: Store,
    accounts: Arc<Accounts>,
    clock: Clock,
    known: Arc<KnownTopics>,
    access: Arc<Access>,
    places: Arc<Semaphore>,
    /// `limits.topics_per_client`; 0 is none
    per_creator: usize,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// Starts the TopicManager.
    pub fn start(arbiter: &ArbiterHandle, with: Dependencies, settings: &Settings) -> Self {
        let Dependencies { directory, relays, backplane, store, accounts, journal, clock } = with;
        let limits = &settings.limits;
        let known = Arc::new(KnownTopics::new(store.clone()));
        let wait = Duration::from_secs(settings.sessions.subscription_wait_secs);
        let manager = TopicManager::new(
            directory.clone(),
            relays.clone(),
            backplane.clone(),
            (journal, known.clone()),
            clock.clone(),
            settings.topics.subscribe.clone(),
            (limits.subscriptions_per_client, limits.waiting_subscriptions, wait),
        );
        let manager = TopicManager::start_in_arbiter(arbiter, |_| manager);
        let places = Arc::new(Semaphore::new(PLACES));
        let (access, per_creator) = (Arc::new(settings.topics.clone()), limits.topics_per_client);
        Self { manager, directory, relays, backplane, store, accounts, clock, known, access, places, per_creator }
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// The name is taken, or its creator may not create it or has reached a limit.
    pub async fn create(
        &self,
        id: &TopicId,
        creator: &Account,
        metadata: Value,
        retention: Option<Retention>,
    ) -> Result<(), TopicError> {
        if !self.access.create.admit(id, creator) {
            return Err(TopicError::NotAllowed(id.clone()));
        }
        let creator = creator.id;
        self.store.charge_stored(creator, id.as_str().len() + metadata.to_string().len())?;
        match self.store.create_topic(id, creator, metadata, retention, self.per_creator).await? {
            CreatedTopic::New => {}
            CreatedTopic::NameTaken => return Err(TopicError::NameTaken),
            CreatedTopic::TooMany => return Err(TopicError::TooMany),
        }
        tracing::info!(topic = ?id.as_str(), %creator, "topic created");
        Ok(())
    }

    /// Topics by name, those after `after`, each with the number of its subscribers on all nodes: at most `limit`, of at most
    /// `bytes` bytes. With a pattern, only those that match; there may be more even if there are few. Returns also the name
    /// after which there are more, if there are.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list(
        &self,
        pattern: Option<&Pattern>,
        after: Option<&str>,
        limit: u64,
        bytes: usize,
    ) -> Result<(Vec<(Topic, usize)>, Option<String>), TopicError> {
        let (topics, more) = self.store.topics(pattern, after, limit, bytes).await?;
        let elsewhere = self.backplane.member_counts().await;
        let mut counted = Vec::with_capacity(topics.len());
        let mut topics = topics.into_iter();
        loop {
            // publications pass between two portions
            let some: Vec<_> = topics.by_ref().take(COUNTED_AT_ONCE).collect();
            if some.is_empty() {
                return Ok((counted, more));
            }
            let here = self.manager.send(GetCounts(some.iter().map(|topic| topic.id.clone()).collect())).await?;
            counted.extend(some.into_iter().zip(here).map(|(topic, here)| {
                let subscribers = here + elsewhere.get(topic.id.as_str()).copied().unwrap_or_default();
                (topic, subscribers)
            }));
        }
    }

    /// A topic with its subscribers.
    ///
    /// # Errors
    /// There is no such topic.
    pub async fn view(&self, id: &str) -> Result<TopicView, TopicError> {
        let topic = self.known.find(&id.into()).await?;
        let mut subscribers = self.subscribers_here(TopicId::from(id)).await?;
        subscribers.extend(self.backplane.members(id).await);
        subscribers.sort_unstable();
        let subscriber_count = subscribers.len();
        if topic.is_status() {
            subscribers.clear();
        }
        Ok(TopicView { topic, subscriber_count, subscribers })
    }

    /// The subscribers of a topic on this node, connected or not.
    ///
    /// # Errors
    /// The TopicManager has stopped.
    pub async fn subscribers_here(&self, topic: TopicId) -> Result<Vec<ClientId>, MailboxError> {
        self.manager.send(GetSubscribers(topic)).await
    }

    /// Changes a topic. Returns it as it is then, with its subscribers.
    ///
    /// # Errors
    /// There is no such topic, the client may not change it, or a history has no size.
    pub async fn change(&self, id: &TopicId, by: &Account, change: &TopicChange) -> Result<TopicView, TopicError> {
        let topic = self.known.find(id).await?;
        topic.check_change(by)?;
        let bytes = change.metadata.as_ref().map_or(0, |metadata| metadata.to_string().len());
        self.store.charge_stored(by.id, bytes)?;
        let updated = self.store.update_topic(id.as_str(), topic.creator, change).await?;
        self.known.changed(id);
        match updated {
            UpdatedTopic::Done(_) => {}
            UpdatedTopic::NotFound => return Err(TopicError::NotFound),
            UpdatedTopic::NoSize => return Err(TopicError::NoSize),
        }
        tracing::info!(topic = ?id.as_str(), by = %by.id, "topic changed");
        self.view(id.as_str()).await
    }

    /// What a topic's history has after the offset `since`: at most `limit` publications of at most `bytes` bytes.
    ///
    /// # Errors
    /// There is no such topic, it has no history, or the client may not subscribe to it.
    pub async fn history(
        &self,
        account: &Account,
        id: &TopicId,
        since: i64,
        limit: u64,
        bytes: usize,
    ) -> Result<HistoryPart, TopicError> {
        self.known.find(id).await?;
        let subscription = Subscription::Topic(id.clone());
        check_subscription(&subscription, account)?;
        if !self.access.subscribe.admit_subscription(&subscription, account) {
            return Err(TopicError::NotAllowed(id.clone()));
        }
        self.store.topic_history(id.as_str(), since, limit, bytes).await?.ok_or(TopicError::NoHistory)
    }

    /// Deletes a topic, tells its subscribers, and ends their subscriptions.
    ///
    /// # Errors
    /// There is no such topic, or the client may not delete it.
    pub async fn delete(&self, id: &TopicId, by: &Account) -> Result<(), TopicError> {
        let topic = self.known.find(id).await?;
        topic.check_change(by)?;
        // by its creator, since another client may have created a topic of the same name in the meantime
        if !self.store.delete_topic(id.as_str(), topic.creator).await? {
            return Err(TopicError::NotFound);
        }
        self.known.changed(id);
        self.manager.send(TopicDeleted(id.clone())).await?;
        tracing::info!(topic = ?id.as_str(), by = %by.id, "topic deleted");
        Ok(())
    }

    /// Subscribes a client, which need not be connected, to a topic or, if there is none of this name, to a pattern. Returns
    /// the offset of the newest publication if the topic has a history.
    ///
    /// # Errors
    /// The topic does not exist, the pattern is not valid, the client may not subscribe, or a limit is reached.
    pub async fn subscribe(&self, account: &Account, id: &TopicId) -> Result<Option<i64>, TopicError> {
        let client = account.id;
        let (subscription, _) = self.subscription(account, id).await?;
        // the subscription is on the node with the client's session; a client without one is expected on this node
        let elsewhere = !self.directory.is_connected(client) && self.backplane.subscribe(client, id).await;
        if !elsewhere {
            self.manager.send(Subscribe { client, subscription }).await??;
        }
        // what ends a subscription had none to end if it came between the check and the subscription: a deletion of the topic
        // or of the client, a loss of the role
        let checked = self.check_again(account, id).await;
        if checked.is_err() {
            self.manager.send(Unsubscribe { client, id: id.clone() }).await?;
        }
        checked
    }

    async fn check_again(&self, account: &Account, id: &TopicId) -> Result<Option<i64>, TopicError> {
        // first, since it is cached: the next device with this UUID has no time to subscribe
        let now = self.accounts.account(account.id, account.kind()).await?;
        let now = now.filter(|now| now.incarnation() == account.incarnation()).ok_or(TopicError::ClientDeleted)?;
        let (_, history) = self.subscription(&now, id).await?;
        Ok(history.map(|history| history.last_offset))
    }

    /// What a client subscribes to by this name, and its history if it has one.
    async fn subscription(
        &self,
        account: &Account,
        id: &TopicId,
    ) -> Result<(Subscription, Option<History>), TopicError> {
        let (subscription, history) = match self.known.find(id).await {
            Ok(topic) => (Subscription::Topic(id.clone()), topic.history),
            Err(TopicError::NotFound) if has_wildcards(id.as_str()) => {
                (Subscription::Pattern(Pattern::parse(id.clone())?), None)
            }
            Err(error) => return Err(error),
        };
        check_subscription(&subscription, account)?;
        if !self.access.subscribe.admit_subscription(&subscription, account) {
            return Err(TopicError::NotAllowed(id.clone()));
        }
        Ok((subscription, history))
    }

    /// Unsubscribes a client, if it was subscribed.
    ///
    /// # Errors
    /// The TopicManager has stopped.
    pub async fn unsubscribe(&self, client: ClientId, id: &TopicId) -> Result<(), TopicError> {
        let elsewhere = !self.directory.is_connected(client) && self.backplane.unsubscribe(client, id).await;
        if !elsewhere {
            self.manager.send(Unsubscribe { client, id: id.clone() }).await?;
        }
        Ok(())
    }

    /// Publishes for a client over HTTP. An operator need not be subscribed. Returns the number of clients reached, and the
    /// offset if the topic has a history.
    ///
    /// # Errors
    /// The topic does not exist, or the client may not publish to it.
    pub async fn publish_over_http(
        &self,
        account: &Account,
        topic: TopicId,
        frame: Bytes,
        has_offset: bool,
    ) -> Published {
        let found = self.known.find(&topic).await?;
        found.check_publisher(account)?;
        if !self.access.publish.admit(&topic, account) {
            return Err(TopicError::NotAllowed(topic));
        }
        let place = match found.history {
            Some(_) => Some(self.place(account.id, frame.len(), has_offset).await?),
            None => None,
        };
        self.relays.uncongested().await;
        let must_be_subscribed = !account.is_active_operator();
        let request = PublishOverHttp { client: account.id, topic, frame, must_be_subscribed, place };
        match patience::wait(self.manager.send(request)).await {
            Ok(published) => published?,
            Err(_) => Err(TopicError::Store(StoreError::late())),
        }
    }

    /// Waits for a share of the memory for publications that wait to be stored.
    async fn place(
        &self,
        client: ClientId,
        bytes: usize,
        has_offset: bool,
    ) -> Result<OwnedSemaphorePermit, TopicError> {
        if has_offset {
            return Err(TopicError::ReservedOffset);
        }
        self.store.charge_stored(client, bytes)?;
        match patience::wait(self.places.clone().acquire_many_owned(places(bytes))).await {
            Ok(Ok(place)) => Ok(place),
            // out of patience; the semaphore is never closed
            _ => Err(TopicError::Store(StoreError::late())),
        }
    }

    /// Passes a publication on, unless it has to wait. The session gets the receipt.
    ///
    /// # Errors
    /// Nothing was published.
    pub fn publish(&self, mut publish: Publish) -> Result<(), NotPublished> {
        if self.relays.is_congested() || !self.admits(&publish) {
            return Err(NotPublished::NotNow(publish));
        }
        match self.known.has_history(&publish.topic) {
            Some(false) => {}
            Some(true) if publish.has_offset => return Err(NotPublished::NotNow(publish)),
            Some(true) => {
                let places = places(publish.frame.len());
                let Ok(place) = self.places.clone().try_acquire_many_owned(places) else {
                    return Err(NotPublished::NotNow(publish));
                };
                if self.store.charge_stored(publish.client, publish.frame.len()).is_err() {
                    return Err(NotPublished::NotNow(publish));
                }
                publish.place = Some(place);
            }
            None => return Err(NotPublished::NotNow(publish)),
        }
        self.manager.try_send(publish).map_err(|error| match error {
            SendError::Full(publish) => NotPublished::NotNow(publish),
            SendError::Closed(_) => NotPublished::Stopped,
        })
    }

    /// Passes a publication on as soon as its topic is found and the mailbox, the workers and the queue of the Journal have
    /// space.
    ///
    /// # Errors
    /// There is no such topic, the client may not publish there, the database failed, or the TopicManager has stopped. The
    /// session has the receipts of its earlier publications by then.
    pub async fn publish_later(&self, mut publish: Publish) -> Result<(), TopicError> {
        if let Err(error) = self.prepare(&mut publish).await {
            self.publications_passed(publish.session).await;
            return Err(error);
        }
        self.relays.uncongested().await;
        Ok(self.manager.send(publish).await?)
    }

    async fn prepare(&self, publish: &mut Publish) -> Result<(), TopicError> {
        let has_history = match self.known.has_history(&publish.topic) {
            Some(has_history) => has_history,
            None => self.known.find(&publish.topic).await?.history.is_some(),
        };
        if !self.admits(publish) {
            return Err(TopicError::NotAllowed(publish.topic.clone()));
        }
        // it may have one already, if only the mailbox was full
        if has_history && publish.place.is_none() {
            publish.place = Some(self.place(publish.client, publish.frame.len(), publish.has_offset).await?);
        }
        Ok(())
    }

    /// Whether the rules of the configuration let the session's client publish.
    fn admits(&self, publish: &Publish) -> bool {
        let rules = &self.access.publish;
        rules.are_none() || publish.session.account().is_some_and(|account| rules.admit(&publish.topic, &account))
    }

    /// Waits until a session's earlier publications are in the outboxes of their recipients, and their receipts in its own.
    pub async fn publications_passed(&self, session: SessionHandle) {
        let (mark, passed) = Mark::new();
        if self.manager.send(MarkPublished { session, mark }).await.is_ok() {
            // completes with an error, since the sender is dropped
            let _ = passed.await;
        }
    }

    /// For actors that send the TopicManager this message themselves.
    pub(crate) fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message<Result: Send> + Send + 'static,
        TopicManager: Handler<M>,
        <TopicManager as Actor>::Context: ToEnvelope<TopicManager, M>,
    {
        self.manager.clone().recipient()
    }
}
