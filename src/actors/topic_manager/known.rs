//! Which topics exist, and which of them have a history, as far as it is known without the database.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;

use super::TopicError;
use crate::{
    domain::{ids::TopicId, topics::Topic},
    store::Store,
};

/// Topics that are known; the name of each and a few bytes.
const KNOWN: usize = 100_000;

/// See the module.
pub(super) struct KnownTopics {
    store: Store,
    /// with whether they have a history, and when that was looked up
    topics: Cache<TopicId, (bool, Instant)>,
    /// how long that counts; without end if no other process changes topics
    max_age: Option<Duration>,
    /// how often topics have been changed or deleted
    changes: AtomicU64,
}

impl KnownTopics {
    pub(super) fn new(store: Store, max_age: Option<Duration>) -> Self {
        Self { store, topics: Cache::new(KNOWN), max_age, changes: AtomicU64::new(0) }
    }

    /// Whether a topic has a history; `None` if it is not known to exist.
    pub(super) fn has_history(&self, id: &TopicId) -> Option<bool> {
        let (has_history, since) = self.topics.get(id)?;
        let is_old = self.max_age.is_some_and(|max_age| since.elapsed() > max_age);
        (!is_old).then_some(has_history)
    }

    /// Looks for a topic in the database. From then on it is known.
    ///
    /// # Errors
    /// There is no such topic, or the database failed.
    pub(super) async fn find(&self, id: &TopicId) -> Result<Topic, TopicError> {
        if id.as_str() == TopicId::STATUS {
            return Ok(Topic::status());
        }
        let changes = self.changes.load(Ordering::SeqCst);
        let topic = self.store.topic(id.as_str()).await?.ok_or(TopicError::NotFound)?;
        self.topics.insert(id.clone(), (topic.history.is_some(), Instant::now()));
        // it may have been changed or deleted after it was read
        if self.changes.load(Ordering::SeqCst) != changes {
            self.topics.remove(id);
        }
        Ok(topic)
    }

    /// Forgets a topic that has been changed or deleted.
    pub(super) fn changed(&self, id: &TopicId) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.topics.remove(id);
    }
}
