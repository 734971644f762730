//! Histories of topics: which of a topic's publications are kept, and what is asked of them (contract section 12).

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::ids::TopicId;

/// The most that `limits.topic_history` can be, and what it is if it is off.
pub const MAX_SIZE: u32 = 10_000;

/// Longest time for which a topic keeps a publication, in seconds: ten years.
pub const MAX_TTL_SECS: u32 = 315_360_000;

/// How much of a topic's publications is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How many of the newest, 1 to `limits.topic_history`.
    pub size: u32,
    /// For how many seconds, 1 to [`MAX_TTL_SECS`]; `None` without end.
    pub ttl_secs: Option<u32>,
}

impl Retention {
    /// The offset after which publications are kept, if `last` is the newest one.
    pub fn after(&self, last: i64) -> i64 {
        (last - i64::from(self.size)).max(0)
    }

    /// The time before which publications are no longer kept.
    pub fn since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        now.checked_sub_signed(TimeDelta::seconds(self.ttl_secs?.into()))
    }
}

/// What a history keeps, and the offset of its newest publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The id of its publications in the database.
    pub id: i64,
    /// What it keeps.
    pub retention: Retention,
    /// The offset of the newest publication; 0: there has been none.
    pub last_offset: i64,
    /// The bytes of its publications.
    pub bytes: i64,
}

/// Where in a history a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// After the publication with this offset.
    After(i64),
    /// With so many of the newest publications.
    Last(i64),
}

/// A change of a topic's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionChange {
    /// A new size. It is needed if there is no history yet.
    pub size: Option<u32>,
    /// A new time, or none any more.
    pub ttl_secs: Option<Option<u32>>,
}

impl RetentionChange {
    /// What is kept after the change; `None` if the size is missing.
    pub fn apply(self, before: Option<Retention>) -> Option<Retention> {
        let size = self.size.or(before.map(|before| before.size))?;
        let ttl_secs = self.ttl_secs.unwrap_or_else(|| before.and_then(|before| before.ttl_secs));
        Some(Retention { size, ttl_secs })
    }
}

/// A publication on its way to the subscribers of a topic.
#[derive(Debug, Clone)]
pub struct Append {
    /// The topic.
    pub topic: TopicId,
    /// What the history gets, a JSON object as text; `None` if it only has to wait for those before it.
    pub message: Option<Bytes>,
}

/// Why a publication is not appended to a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefusal {
    /// The topic was deleted.
    #[error("topic not found")]
    TopicNotFound,
    /// The limit of all bytes that are stored is reached.
    #[error("the limit of stored bytes is reached (messages.total_bytes)")]
    TotalReached,
    /// Storage is nearly full.
    #[error("storage is nearly full")]
    StorageFull,
}

/// Where a publication is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The history: a topic that is deleted and created again has one with a higher number.
    pub history: i64,
    /// Its number in the history.
    pub offset: i64,
}

/// Where a publication that was appended is kept; `None` if the topic has no history.
pub type Appended = Result<Option<Kept>, AppendRefusal>;

/// A publication in a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the topic, from 1 on without gaps.
    pub offset: i64,
    /// When it was stored.
    pub at: DateTime<Utc>,
    /// The JSON object that was published.
    pub message: String,
}

/// A part of a history, oldest first.
#[derive(Debug, Clone)]
pub struct HistoryPart {
    /// The number of the history.
    pub history: i64,
    /// The offset of the oldest publication that is kept, or of the next to come.
    pub first_offset: i64,
    /// The offset of the newest publication; 0: there has been none.
    pub last_offset: i64,
    /// Some publications, without gaps.
    pub entries: Vec<Entry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_none_for_longer_than_the_time() {
        let retention = Retention { size: 10, ttl_secs: Some(60) };
        assert_eq!((retention.after(25), retention.after(10), retention.after(3)), (15, 0, 0));
        let now = DateTime::from_timestamp(1000, 0).unwrap();
        assert_eq!(retention.since(now), DateTime::from_timestamp(940, 0));
        assert_eq!(Retention { ttl_secs: None, ..retention }.since(now), None);
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name_and_needs_a_size_for_a_new_history() {
        let before = Some(Retention { size: 10, ttl_secs: Some(60) });
        let change = |size, ttl_secs| RetentionChange { size, ttl_secs };
        assert_eq!(change(None, None).apply(before), before);
        assert_eq!(change(Some(5), None).apply(before), Some(Retention { size: 5, ttl_secs: Some(60) }));
        assert_eq!(change(None, Some(None)).apply(before), Some(Retention { size: 10, ttl_secs: None }));
        assert_eq!(change(Some(5), None).apply(None), Some(Retention { size: 5, ttl_secs: None }));
        assert_eq!(change(None, Some(Some(5))).apply(None), None);
    }
}
