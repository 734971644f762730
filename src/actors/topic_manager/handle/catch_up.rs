//! Subscriptions that begin in the past: the subscriber first gets what it missed of the topic's history.

use super::{TopicError, Topics};
use crate::{
    actors::topic_manager::messages::{CatchUp, CatchUpEnded, GetSession, GotHistory},
    delivery::{SessionHandle, tick},
    domain::{
        accounts::Account,
        ids::{ClientId, TopicId},
        subscriptions::{
            Subscription,
            catching_up::{Attempt, CaughtUp},
        },
        topics::history::Beginning,
    },
    metrics::errors::error_frame,
    protocol::outbound,
    store::StoreError,
};

/// Most publications that are read and sent at once.
const PART: u64 = 256;

/// Most subscribers for which a part is read, and then in memory, at once.
pub(super) const PARTS: usize = 4;

/// A subscriber that catches up with a topic.
struct Subscriber {
    client: ClientId,
    topic: TopicId,
    /// The session that gets the client's publications.
    session: SessionHandle,
    attempt: Attempt,
    /// The number of the history.
    history: i64,
}

impl Topics {
    /// Subscribes a client with a socket to a topic with a history. It gets what `subscribed` makes of the newest offset, then
    /// what it missed, then what is published from now on. This returns before it has got all of it. It must not be dropped
    /// before that.
    ///
    /// # Errors
    /// As for [`Topics::subscribe`], or the topic has no history, or not that offset.
    pub async fn subscribe_from(
        &self,
        account: &Account,
        id: &TopicId,
        beginning: Beginning,
        subscribed: impl FnOnce(i64) -> (SessionHandle, String),
    ) -> Result<(), TopicError> {
        let (subscription, history) = self.subscription(account, id).await?;
        if matches!(subscription, Subscription::Pattern(_)) {
            return Err(TopicError::FromOffsetOfPattern);
        }
        let history = history.ok_or(TopicError::NoHistory)?;
        let since = match beginning {
            Beginning::After(offset) if offset > history.last_offset => {
                return Err(TopicError::OffsetBeyond(history.last_offset));
            }
            Beginning::After(offset) => offset,
            Beginning::Last(count) => history.last_offset.saturating_sub(count).max(0),
        };
        // first, so that the client gets nothing that the history has, too
        let begun = self.manager.send(CatchUp { client: account.id, topic: id.clone() }).await?;
        let subscriber = begun.map(|(session, attempt)| Subscriber {
            client: account.id,
            topic: id.clone(),
            session,
            attempt,
            history: history.id,
        });
        if let Err(error) = self.subscribe(account, id).await {
            if let Some(subscriber) = &subscriber {
                self.end(subscriber).await;
            }
            return Err(error);
        }
        // what was published before is on its way by another thread; it must not come after the answer, and twice
        if let Some(subscriber) = &subscriber {
            self.publications_passed(subscriber.session.clone()).await;
        }
        let (asking, answer) = subscribed(history.last_offset);
        self.relays.deliver(&asking, &[answer.as_bytes()]);
        // it has no session if it has disconnected
        if let Some(mut subscriber) = subscriber {
            let (topics, is_told) = (self.clone(), matches!(beginning, Beginning::After(_)));
            // a task, since the socket that asked need not be the one that gets it
            actix::spawn(async move {
                if let Err(error) = topics.catch_up(&mut subscriber, since, is_told).await {
                    topics.give_up(&subscriber, &error).await;
                }
            });
        }
        Ok(())
    }

    /// Sends a subscriber the history after `since`, and tells it of what is no longer there if `is_told`. If another session of
    /// the client takes over, that gets the rest.
    async fn catch_up(&self, subscriber: &mut Subscriber, mut since: i64, mut is_told: bool) -> Result<(), TopicError> {
        let (client, topic) = (subscriber.client, subscriber.topic.clone());
        // read and held back at most, so that there is room for both behind a backlog of a quarter
        let bytes = self.relays.quarter_of_outbox();
        loop {
            self.relays.drained(&subscriber.session).await;
            // one that was replaced reads nothing, and few at once hold a part
            let turn = if subscriber.attempt.is_over() { return Ok(()) } else { self.parts.acquire().await };
            if subscriber.attempt.is_over() {
                return Ok(());
            }
            if subscriber.session.is_open() && !self.relays.is_drained(&subscriber.session) {
                continue;
            }
            let part = self.store.topic_history(topic.as_str(), since, PART, bytes).await?;
            let Some(part) = part.filter(|part| part.history == subscriber.history) else {
                return Err(self.without_history(subscriber).await);
            };
            if subscriber.attempt.is_over() {
                return Ok(());
            }
            if !subscriber.session.is_open() {
                match self.manager.send(GetSession(client)).await? {
                    Some(session) if session.is_open() => subscriber.session = session,
                    // it has disconnected, or will be told that it has
                    _ => {
                        self.end(subscriber).await;
                        return Ok(());
                    }
                }
                continue;
            }
            let session = &subscriber.session;
            // others have filled the outbox meanwhile; from here on nothing waits until the part is there
            if !self.relays.is_drained(session) {
                continue;
            }
            if since + 1 < part.first_offset {
                if is_told {
                    self.relays.deliver(session, &[outbound::topic_gap(topic.as_str(), part.first_offset).as_bytes()]);
                }
                since = part.first_offset - 1;
            }
            // of `last`, only what falls out while it is sent is a gap
            is_told = true;
            let mut is_taken = true;
            for entry in &part.entries {
                let (prefix, fields) = outbound::with_offset(&entry.message, entry.offset);
                is_taken = self.relays.deliver(session, &[prefix.as_bytes(), fields.as_bytes()]);
                if !is_taken {
                    break;
                }
                since = entry.offset;
            }
            if !is_taken || since < part.last_offset {
                continue;
            }
            drop(turn);
            // frames for another thread leave at the end of the tick; later publications must not overtake them
            tick::over().await;
            self.relays.drained(session).await;
            let attempt = subscriber.attempt.clone();
            match self.manager.send(GotHistory { client, topic: topic.clone(), attempt, last: since }).await? {
                CaughtUp::Behind => {}
                CaughtUp::Live(()) | CaughtUp::Over => return Ok(()),
            }
        }
    }

    /// Why a topic does not have its history any more.
    async fn without_history(&self, subscriber: &Subscriber) -> TopicError {
        match self.known.find(&subscriber.topic).await {
            Ok(topic) if topic.history.is_none() => TopicError::NoHistory,
            // another topic has got its name
            Ok(_) => TopicError::NotFound,
            Err(error) => error,
        }
    }

    /// Ends a subscription whose history cannot be read, and tells the client. If the topic was deleted, perhaps at another node, it is
    /// told that, as if the TopicManager had heard of it in time.
    async fn give_up(&self, subscriber: &Subscriber, error: &TopicError) {
        let Subscriber { topic, session, .. } = subscriber;
        if !matches!(error, TopicError::NotFound | TopicError::Store(StoreError::Unavailable(_))) {
            tracing::warn!(%error, topic = topic.as_str(), "cannot send what a subscriber missed");
        }
        if self.end(subscriber).await {
            if matches!(error, TopicError::NotFound) {
                self.relays.deliver(session, &[outbound::topic_deleted(topic.as_str()).as_bytes()]);
                return;
            }
            let (code, text) = error.told(topic.as_str());
            let about = outbound::About { topic_id: Some(topic.as_str()), ..outbound::About::default() };
            self.relays.deliver(session, &[error_frame(code, &text, about, self.clock.now()).as_bytes()]);
        }
    }

    /// Ends the subscription. Returns false if the client has unsubscribed, or begun anew, by itself.
    async fn end(&self, subscriber: &Subscriber) -> bool {
        let Subscriber { client, topic, attempt, .. } = subscriber;
        let ended = CatchUpEnded { client: *client, topic: topic.clone(), attempt: attempt.clone() };
        self.manager.send(ended).await.unwrap_or(false)
    }
}
