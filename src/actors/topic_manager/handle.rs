//! The handle of the TopicManager: topics, subscriptions, publications.

mod catch_up;
mod publishing;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use actix::{Actor, Addr, ArbiterHandle, Handler, MailboxError, Message, Recipient, dev::ToEnvelope};
use serde_json::Value;
use tokio::sync::Semaphore;
use uuid::Uuid;

pub use self::publishing::NotPublished;
use super::{
    Directory, TopicError, TopicManager,
    known::KnownTopics,
    messages::{AwaitDelivery, AwaitOffset, GetCounts, GetSubscribers, Subscribe, TopicDeleted, Unsubscribe},
    other_nodes::named,
};
use crate::{
    actors::journal::{Perform, Places},
    auth::accounts::Accounts,
    clock::Clock,
    cluster::{
        Backplane,
        envelope::{self, Answer, Question},
    },
    delivery::Relays,
    domain::{
        accounts::Account,
        ids::{ClientId, TopicId},
        subscriptions::{CannotSubscribe, Subscription},
        topics::{
            Topic, TopicChange, check_subscription,
            history::{Append, History, HistoryPart, Kept, Retention},
            pattern::{Pattern, has_wildcards},
        },
    },
    metrics::Context,
    settings::LiveSettings,
    store::{CreatedTopic, Store, UpdatedTopic},
};

/// Topics whose subscribers are counted in one message.
const COUNTED_AT_ONCE: usize = 200;

/// A topic and its subscribers on all nodes.
#[derive(Debug)]
pub struct TopicView {
    pub topic: Topic,
    pub subscriber_count: usize,
    /// Sorted. Empty for `$status`, so that nobody learns who the operators are.
    pub subscribers: Vec<ClientId>,
}

/// With other nodes: the age at which what is known of a topic is looked up again, in case a change was not heard of.
const LOOK: Duration = Duration::from_secs(5);

/// What the TopicManager and its handle use.
pub struct Dependencies {
    pub directory: Arc<Directory>,
    pub relays: Arc<Relays>,
    pub backplane: Arc<dyn Backplane>,
    pub store: Store,
    pub accounts: Arc<Accounts>,
    pub journal: Recipient<Perform<Append>>,
    pub clock: Clock,
    pub settings: LiveSettings,
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
    settings: LiveSettings,
    places: Places,
    /// for parts of histories in memory
    parts: Arc<Semaphore>,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// Starts the TopicManager.
    pub fn start(arbiter: &ArbiterHandle, with: Dependencies) -> Self {
        let Dependencies { directory, relays, backplane, store, accounts, journal, clock, settings } = with;
        let is_alone = backplane.incarnation().is_nil();
        let known = Arc::new(KnownTopics::new(store.clone(), (!is_alone).then_some(LOOK)));
        let manager = TopicManager::new(
            directory.clone(),
            relays.clone(),
            backplane.clone(),
            (journal, known.clone(), store.clone()),
            clock.clone(),
            settings.clone(),
        );
        let manager = Context::start_in_arbiter(arbiter, |_| manager);
        let (places, parts) = (Places::default(), Arc::new(Semaphore::new(catch_up::PARTS)));
        Self { manager, directory, relays, backplane, store, accounts, clock, known, settings, places, parts }
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
        if !self.settings.load().topics.create.admit(id, creator) {
            return Err(TopicError::NotAllowed(id.clone()));
        }
        let creator = creator.id;
        self.store.charge_stored(creator, id.as_str().len() + metadata.to_string().len())?;
        let per_creator = self.settings.load().limits.topics_per_client;
        match self.store.create_topic(id, creator, metadata, retention, per_creator).await? {
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
                let elsewhere = self.backplane.elsewhere().subscribers(topic.id.as_str()).into_values();
                let subscribers = here + elsewhere.sum::<usize>();
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
        let mut subscribers = self.subscribers(&id.into()).await?;
        subscribers.sort_unstable();
        let subscriber_count = subscribers.len();
        if topic.is_status() {
            subscribers.clear();
        }
        Ok(TopicView { topic, subscriber_count, subscribers })
    }

    /// The subscribers of a topic, connected or not, on all nodes that answer.
    ///
    /// # Errors
    /// The TopicManager has stopped.
    pub async fn subscribers(&self, topic: &TopicId) -> Result<Vec<ClientId>, MailboxError> {
        let mut subscribers = self.manager.send(GetSubscribers(topic.clone())).await?;
        if !self.backplane.is_shared() {
            return Ok(subscribers);
        }
        let nodes = self.backplane.elsewhere().subscribers(topic.as_str());
        for node in nodes.into_keys() {
            let question = Question::Subscribers(topic.as_str().to_owned());
            if let Some(Answer::Clients(clients)) = self.backplane.ask(node, question).await {
                subscribers.extend(clients.into_iter().map(ClientId::from));
            }
        }
        // some may have come here meanwhile, and some are subscribers at several nodes
        subscribers.extend(self.manager.send(GetSubscribers(topic.clone())).await?);
        subscribers.sort_unstable();
        subscribers.dedup();
        Ok(subscribers)
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
        self.changed(id, false);
        self.backplane.announced().await;
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
        if !self.settings.load().topics.subscribe.admit_subscription(&subscription, account) {
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
        self.changed(id, true);
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
        let (subscription, history) = self.subscription(account, id).await?;
        let answer = match self.home(client) {
            None => None,
            Some(node) => {
                let question = Question::Subscribe { client: client.uuid(), id: named(&subscription) };
                self.backplane.ask(node, question).await
            }
        };
        match answer {
            Some(Answer::Yes) => {}
            Some(Answer::TooMany) => return Err(TopicError::Limit(CannotSubscribe::TooMany)),
            Some(_) => return Err(TopicError::ClusterUnavailable),
            // the node with its session does not answer
            None if self.elsewhere(client).is_some() => return Err(TopicError::ClusterUnavailable),
            None => {
                let newest = history.map(|history| Kept { history: history.id, offset: history.last_offset });
                self.manager.send(Subscribe { client, subscription, newest }).await??;
                // so that what is published elsewhere from now on comes here
                self.backplane.announced().await;
            }
        }
        // what ends a subscription had none to end if it came between the check and the subscription: a deletion of the topic
        // or of the client, a loss of the role
        let checked = self.check_again(account, id).await;
        match checked {
            Err(_) => self.unsubscribe(client, id).await?,
            // so that none comes after the answer that is not newer than its offset
            Ok(Some(offset)) => {
                self.manager.send(AwaitDelivery).await?;
                let awaited = self.manager.send(AwaitOffset { topic: id.clone(), offset });
                // without the database there is no order
                let _ = tokio::time::timeout(LOOK, awaited).await;
            }
            Ok(None) => {}
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
        if !self.settings.load().topics.subscribe.admit_subscription(&subscription, account) {
            return Err(TopicError::NotAllowed(id.clone()));
        }
        Ok((subscription, history))
    }

    /// Unsubscribes a client, if it was subscribed.
    ///
    /// # Errors
    /// The client's node does not answer, or the TopicManager has stopped.
    pub async fn unsubscribe(&self, client: ClientId, id: &TopicId) -> Result<(), TopicError> {
        self.manager.send(Unsubscribe { client, id: id.clone() }).await?;
        if self.directory.is_connected(client) {
            return Ok(());
        }
        // one that waits for its client may be at a node that was its home before
        let nodes = self.backplane.elsewhere().subscribers(id.as_str()).into_keys();
        for node in nodes.chain(self.home(client)).collect::<BTreeSet<_>>() {
            let question = Question::Unsubscribe { client: client.uuid(), id: id.as_str().to_owned() };
            self.backplane.ask(node, question).await.ok_or(TopicError::ClusterUnavailable)?;
        }
        Ok(())
    }

    /// The other node with a client's session, if it is connected there and not here.
    fn elsewhere(&self, client: ClientId) -> Option<Uuid> {
        if self.directory.is_connected(client) { None } else { self.backplane.elsewhere().subscriber(client) }
    }

    /// The other node that is to have a client's subscriptions: that of its session, and if it has none at any node, the same one
    /// for all nodes. `None` if it is this node.
    fn home(&self, client: ClientId) -> Option<Uuid> {
        if self.directory.is_connected(client) {
            return None;
        }
        let lowest = || self.backplane.nodes().into_iter().min().filter(|node| *node < self.backplane.incarnation());
        self.elsewhere(client).or_else(lowest)
    }

    /// A topic is changed or deleted, as all nodes are to know.
    fn changed(&self, id: &TopicId, is_deleted: bool) {
        self.known.changed(id);
        self.backplane.send_to_all(envelope::Message::TopicChanged { topic: id.as_str().to_owned(), is_deleted });
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
