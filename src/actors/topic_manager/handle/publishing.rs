//! Publications from sockets and over HTTP.

use std::time::Duration;

use actix::dev::SendError;
use bytes::Bytes;

use super::{TopicError, Topics};
use crate::{
    actors::{
        journal::Place,
        topic_manager::messages::{MarkPublished, Publish, PublishOverHttp, Published},
    },
    cluster::envelope::{Answer, Question},
    delivery::{Mark, SessionHandle},
    domain::{
        accounts::Account,
        ids::{ClientId, TopicId},
    },
    store::{StoreError, patience},
};

/// Why the TopicManager does not take a publication.
#[derive(Debug)]
pub enum NotPublished {
    /// Its mailbox, a worker or the queue of the Journal is full, or the topic has to be looked up first, or it is refused.
    NotNow(Publish),
    /// The TopicManager has stopped.
    Stopped,
}

impl Topics {
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
        if !self.settings.load().topics.publish.admit(&topic, account) {
            return Err(TopicError::NotAllowed(topic));
        }
        let place = match found.history {
            Some(_) => Some(self.place(account.id, frame.len(), has_offset).await?),
            None => None,
        };
        self.uncongested(&topic).await;
        let must_be_subscribed =
            !account.is_active_operator() && !self.is_subscribed_elsewhere(account.id, &topic).await?;
        let request = PublishOverHttp { client: account.id, topic, frame, must_be_subscribed, place };
        match patience::wait(self.manager.send(request)).await {
            Ok(published) => published?,
            Err(_) => Err(TopicError::Store(StoreError::late())),
        }
    }

    /// Whether a client that is connected to another node alone is subscribed there.
    async fn is_subscribed_elsewhere(&self, client: ClientId, topic: &TopicId) -> Result<bool, TopicError> {
        let Some(node) = self.home(client) else { return Ok(false) };
        let question = Question::IsSubscribed { client: client.uuid(), topic: topic.as_str().to_owned() };
        let answer = self.backplane.ask(node, question).await.ok_or(TopicError::ClusterUnavailable)?;
        Ok(answer == Answer::Yes)
    }

    /// Waits until the workers, and the other nodes with subscribers, have room for publications to a topic.
    async fn uncongested(&self, topic: &TopicId) {
        self.relays.uncongested().await;
        while self.is_congested_elsewhere(topic) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn is_congested_elsewhere(&self, topic: &TopicId) -> bool {
        let elsewhere = self.backplane.elsewhere();
        let is_full = self.backplane.is_congested() && elsewhere.is_subscribed(topic.as_str());
        is_full || elsewhere.is_congested(topic.as_str())
    }

    /// A place among the publications that wait to be stored, as soon as there is one.
    async fn place(&self, client: ClientId, bytes: usize, has_offset: bool) -> Result<Place, TopicError> {
        if has_offset {
            return Err(TopicError::ReservedOffset);
        }
        self.store.charge_stored(client, bytes)?;
        Ok(self.places.take(bytes).await?)
    }

    /// Passes a publication on, unless it has to wait. The session gets the receipt.
    ///
    /// # Errors
    /// Nothing was published.
    pub fn publish(&self, mut publish: Publish) -> Result<(), NotPublished> {
        if self.relays.is_congested() || self.is_congested_elsewhere(&publish.topic) || !self.admits(&publish) {
            return Err(NotPublished::NotNow(publish));
        }
        match self.known.has_history(&publish.topic) {
            Some(false) => {}
            Some(true) if publish.has_offset => return Err(NotPublished::NotNow(publish)),
            Some(true) => {
                let Some(place) = self.places.try_take(publish.frame.len()) else {
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
        self.uncongested(&publish.topic).await;
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
        let settings = self.settings.load();
        let rules = &settings.topics.publish;
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
}
