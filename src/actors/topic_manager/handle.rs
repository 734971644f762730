//! The handle of the TopicManager: topics, subscriptions, publications.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use actix::{
    Actor, Addr, ArbiterHandle, Handler, MailboxError, Message, Recipient,
    dev::{SendError, ToEnvelope},
};
use bytes::Bytes;
use serde_json::Value;

use super::{
    Directory, TopicError, TopicManager,
    messages::{
        GetCounts, GetSubscribers, MarkPublished, Publish, PublishOverHttp, Subscribe, TopicDeleted, Unsubscribe,
    },
};
use crate::{
    auth::accounts::Accounts,
    clock::Clock,
    cluster::Backplane,
    delivery::{Mark, Relays, SessionHandle},
    domain::{
        accounts::Account,
        ids::{ClientId, TopicId},
        topics::Topic,
    },
    settings::Settings,
    store::{CreatedTopic, Store},
};

/// Why the TopicManager does not take a publication.
#[derive(Debug)]
pub enum NotPublished {
    /// Its mailbox, or a worker, is full.
    NoRoom(Publish),
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
        let Dependencies { directory, relays, backplane, store, accounts, clock } = with;
        let limits = &settings.limits;
        let manager = TopicManager::new(
            directory.clone(),
            relays.clone(),
            backplane.clone(),
            store.clone(),
            clock,
            (limits.subscriptions_per_client, limits.waiting_subscriptions),
            Duration::from_secs(settings.sessions.subscription_wait_secs),
        );
        let manager = TopicManager::start_in_arbiter(arbiter, |_| manager);
        Self { manager, directory, relays, backplane, store, accounts, per_creator: limits.topics_per_client }
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// The name is taken, or its creator has reached a limit.
    pub async fn create(&self, id: &TopicId, creator: ClientId, metadata: Value) -> Result<(), TopicError> {
        self.store.charge_stored(creator, id.as_str().len() + metadata.to_string().len())?;
        match self.store.create_topic(id, creator, metadata, self.per_creator).await? {
            CreatedTopic::New => {}
            CreatedTopic::NameTaken => return Err(TopicError::NameTaken),
            CreatedTopic::TooMany => return Err(TopicError::TooMany),
        }
        tracing::info!(topic = ?id.as_str(), %creator, "topic created");
        Ok(())
    }

    /// Topics by name, those after `after`, each with the number of its subscribers on all nodes: at most `limit`, of at most
    /// `bytes` bytes. Returns also whether there are more.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list(
        &self,
        after: Option<&str>,
        limit: u64,
        bytes: usize,
    ) -> Result<(Vec<(Topic, usize)>, bool), TopicError> {
        let (topics, more) = self.store.topics(after, limit, bytes).await?;
        let here = self.manager.send(GetCounts).await?;
        let elsewhere = self.backplane.member_counts().await;
        let count = |counts: &HashMap<TopicId, usize>, id: &str| counts.get(id).copied().unwrap_or_default();
        let counted = topics.into_iter().map(|topic| {
            let subscribers = count(&here, &topic.id) + count(&elsewhere, &topic.id);
            (topic, subscribers)
        });
        Ok((counted.collect(), more))
    }

    /// A topic with its subscribers.
    ///
    /// # Errors
    /// There is no such topic.
    pub async fn view(&self, id: &str) -> Result<TopicView, TopicError> {
        let topic = self.find(id).await?;
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

    /// Deletes a topic, tells its subscribers, and ends their subscriptions.
    ///
    /// # Errors
    /// There is no such topic, or the client may not delete it.
    pub async fn delete(&self, id: &str, by: &Account) -> Result<(), TopicError> {
        let topic = self.find(id).await?;
        topic.check_deletion(by)?;
        // by its creator, since another client may have created a topic of the same name in the meantime
        if !self.store.delete_topic(id, topic.creator).await? {
            return Err(TopicError::NotFound);
        }
        self.manager.send(TopicDeleted(TopicId::from(id))).await?;
        tracing::info!(topic = ?id, by = %by.id, "topic deleted");
        Ok(())
    }

    /// Subscribes a client, which need not be connected.
    ///
    /// # Errors
    /// The topic does not exist, the client may not subscribe, or a limit is reached.
    pub async fn subscribe(&self, account: &Account, topic: &TopicId) -> Result<(), TopicError> {
        let client = account.id;
        self.find(topic.as_str()).await?.check_subscriber(account)?;
        // the subscription is on the node with the client's session; a client without one is expected on this node
        let elsewhere = !self.directory.is_connected(client) && self.backplane.subscribe(client, topic).await;
        if !elsewhere {
            self.manager.send(Subscribe { client, topic: topic.clone() }).await??;
        }
        // what ends a subscription had none to end if it came between the check and the subscription: a deletion of the topic
        // or of the client, a loss of the role
        if let Err(error) = self.check_again(account, topic).await {
            self.manager.send(Unsubscribe { client, topic: topic.clone() }).await?;
            return Err(error);
        }
        Ok(())
    }

    async fn check_again(&self, account: &Account, topic: &TopicId) -> Result<(), TopicError> {
        // first, since it is cached: the next device with this UUID has no time to subscribe
        let now = self.accounts.account(account.id, account.kind()).await?;
        let now = now.filter(|now| now.incarnation() == account.incarnation()).ok_or(TopicError::ClientDeleted)?;
        Ok(self.find(topic.as_str()).await?.check_subscriber(&now)?)
    }

    /// Unsubscribes a client, if it was subscribed.
    ///
    /// # Errors
    /// The TopicManager has stopped.
    pub async fn unsubscribe(&self, client: ClientId, topic: &TopicId) -> Result<(), TopicError> {
        let elsewhere = !self.directory.is_connected(client) && self.backplane.unsubscribe(client, topic).await;
        if !elsewhere {
            self.manager.send(Unsubscribe { client, topic: topic.clone() }).await?;
        }
        Ok(())
    }

    async fn find(&self, id: &str) -> Result<Topic, TopicError> {
        if id == TopicId::STATUS {
            return Ok(Topic::status());
        }
        self.store.topic(id).await?.ok_or(TopicError::NotFound)
    }

    /// Publishes for a client over HTTP. An operator need not be subscribed. Returns the number of clients reached.
    ///
    /// # Errors
    /// The topic does not exist, or the client may not publish to it.
    pub async fn publish_over_http(
        &self,
        account: &Account,
        topic: TopicId,
        frame: Bytes,
    ) -> Result<usize, TopicError> {
        self.find(topic.as_str()).await?.check_publisher(account)?;
        self.relays.uncongested().await;
        let name = topic.as_str().to_owned();
        let must_be_subscribed = !account.is_active_operator();
        let request = PublishOverHttp { client: account.id, topic, frame, must_be_subscribed };
        self.manager.send(request).await?.ok_or(TopicError::NotSubscribed(name))
    }

    /// Passes a publication on, unless the mailbox or a worker is full. The session gets the receipt.
    ///
    /// # Errors
    /// Nothing was published.
    pub fn publish(&self, publish: Publish) -> Result<(), NotPublished> {
        if self.relays.is_congested() {
            return Err(NotPublished::NoRoom(publish));
        }
        self.manager.try_send(publish).map_err(|error| match error {
            SendError::Full(publish) => NotPublished::NoRoom(publish),
            SendError::Closed(_) => NotPublished::Stopped,
        })
    }

    /// Passes a publication on as soon as the mailbox and the workers have space.
    ///
    /// # Errors
    /// The TopicManager has stopped.
    pub async fn publish_later(&self, publish: Publish) -> Result<(), MailboxError> {
        self.relays.uncongested().await;
        self.manager.send(publish).await
    }

    /// Waits until a session's publications are in the outboxes of their recipients, and their receipts in the session's own
    /// outbox.
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
