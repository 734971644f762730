//! Which topics exist, as far as it is known without the database.

use std::sync::atomic::{AtomicU64, Ordering};

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
    topics: Cache<TopicId, ()>,
    /// how many topics have been deleted
    deletions: AtomicU64,
}

impl KnownTopics {
    pub(super) fn new(store: Store) -> Self {
        Self { store, topics: Cache::new(KNOWN), deletions: AtomicU64::new(0) }
    }

    /// Whether a topic is known to exist.
    pub(super) fn contains(&self, id: &TopicId) -> bool {
        self.topics.get(id).is_some()
    }

    /// Looks for a topic in the database. From then on it is known.
    ///
    /// # Errors
    /// There is no such topic, or the database failed.
    pub(super) async fn find(&self, id: &TopicId) -> Result<Topic, TopicError> {
        if id.as_str() == TopicId::STATUS {
            return Ok(Topic::status());
        }
        let deletions = self.deletions.load(Ordering::SeqCst);
        let topic = self.store.topic(id.as_str()).await?.ok_or(TopicError::NotFound)?;
        self.topics.insert(id.clone(), ());
        // it may have been deleted after it was read
        if self.deletions.load(Ordering::SeqCst) != deletions {
            self.topics.remove(id);
        }
        Ok(topic)
    }

    /// Forgets a topic that has been deleted.
    pub(super) fn deleted(&self, id: &TopicId) {
        self.deletions.fetch_add(1, Ordering::SeqCst);
        self.topics.remove(id);
    }
}
