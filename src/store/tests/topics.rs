//! Histories of topics: which publications are kept, and how their bytes are counted.

use std::collections::HashMap;

use entity::{topic_history, topics};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sea_orm::EntityTrait;
use serde_json::json;

use super::*;
use crate::{
    domain::topics::{
        TopicChange,
        history::{Append, AppendRefusal, Retention, RetentionChange},
    },
    store::{
        ChangeLimits, Changes,
        counters::{self, Counter},
    },
};

const LIMITS: ChangeLimits = ChangeLimits {
    rooms_per_user: 0,
    queue: crate::domain::messages::QueueLimits { messages: 0, bytes: 0 },
    topic_history_bytes: 1000,
    total_bytes: 0,
};

impl Fixture {
    pub(super) async fn topic(&self, id: &str, creator: ClientId, size: u32) {
        let retention = Some(Retention { size, ttl_secs: None });
        self.store.create_topic(&id.into(), creator, json!({}), retention, 0).await.unwrap();
    }

    async fn append(&self, limits: ChangeLimits, appends: &[(&str, usize)]) -> Vec<Result<Option<i64>, AppendRefusal>> {
        let appends = appends
            .iter()
            .map(|(topic, bytes)| Append { topic: (*topic).into(), message: Some("x".repeat(*bytes).into()) });
        let appends: Vec<_> = appends.collect();
        let changes = Changes { appends: &appends, ..Changes::default() };
        let appended = self.store.write_journal(&[], changes, limits).await.unwrap().appends.unwrap();
        appended.into_iter().map(|appended| appended.map(|kept| kept.map(|kept| kept.offset))).collect()
    }

    /// The offsets and bytes of what a topic keeps.
    async fn kept(&self, topic: &str) -> Vec<(i64, usize)> {
        let part = self.store.topic_history(topic, 0, 10_000, usize::MAX).await.unwrap().unwrap();
        part.entries.iter().map(|entry| (entry.offset, entry.message.len())).collect()
    }

    async fn stored_bytes(&self) -> i64 {
        counters::last(&self.store.read, Counter::StoredBytes).await.unwrap()
    }

    /// Checks the counted bytes of each topic and of all.
    async fn check_bytes(&self) {
        let rows = topic_history::Entity::find().all(&self.store.read).await.unwrap();
        let mut bytes: HashMap<i64, i64> = HashMap::new();
        for row in &rows {
            *bytes.entry(row.history_id).or_default() += row.message.len() as i64;
        }
        for topic in topics::Entity::find().all(&self.store.read).await.unwrap() {
            let kept = topic.history_id.and_then(|id| bytes.get(&id)).copied().unwrap_or(0);
            assert_eq!(topic.history_bytes, kept, "{}", topic.id);
        }
        assert_eq!(self.stored_bytes().await, bytes.values().sum::<i64>());
    }
}

#[tokio::test]
async fn a_history_drops_its_oldest_publications_when_it_has_too_many_bytes() {
    let fixture = Fixture::new().await;
    fixture.topic("news", ClientId::random(), 10).await;
    fixture.append(LIMITS, &[("news", 400), ("news", 300), ("news", 300)]).await;
    assert_eq!(fixture.kept("news").await, [(1, 400), (2, 300), (3, 300)]);
    fixture.append(LIMITS, &[("news", 1)]).await;
    assert_eq!(fixture.kept("news").await, [(2, 300), (3, 300), (4, 1)]);
    // the last alone is as large as all may be
    fixture.append(LIMITS, &[("news", 10), ("news", 1000)]).await;
    assert_eq!(fixture.kept("news").await, [(6, 1000)]);
    fixture.check_bytes().await;
    // many small ones leave with one large one
    fixture.topic("many", ClientId::random(), 1000).await;
    for _ in 0..10 {
        fixture.append(LIMITS, &[("many", 1); 50]).await;
    }
    fixture.append(LIMITS, &[("many", 900)]).await;
    let kept = fixture.kept("many").await;
    assert_eq!((kept.len(), kept[0], kept[100]), (101, (401, 1), (501, 900)));
    fixture.check_bytes().await;
}

#[tokio::test]
async fn of_a_batch_that_is_longer_than_the_history_only_the_end_is_kept() {
    let fixture = Fixture::new().await;
    fixture.topic("last", ClientId::random(), 2).await;
    let decided = fixture.append(LIMITS, &[("last", 5), ("last", 6), ("none", 1), ("last", 7), ("last", 8)]).await;
    assert_eq!(decided, [Ok(Some(1)), Ok(Some(2)), Err(AppendRefusal::TopicNotFound), Ok(Some(3)), Ok(Some(4))]);
    assert_eq!(fixture.kept("last").await, [(3, 7), (4, 8)]);
    fixture.check_bytes().await;
}

#[tokio::test]
async fn when_all_together_have_too_many_bytes_histories_do_not_grow_but_full_ones_go_on() {
    let fixture = Fixture::new().await;
    fixture.topic("full", ClientId::random(), 2).await;
    fixture.topic("long", ClientId::random(), 100).await;
    let limits = ChangeLimits { total_bytes: 1000, ..LIMITS };
    let stored = fixture.append(limits, &[("full", 100), ("full", 100), ("long", 700), ("long", 100)]).await;
    assert_eq!(stored, [Ok(Some(1)), Ok(Some(2)), Ok(Some(1)), Ok(Some(2))]);
    assert_eq!(fixture.append(limits, &[("long", 1)]).await, [Err(AppendRefusal::TotalReached)]);
    assert_eq!(fixture.append(limits, &[("full", 100)]).await, [Ok(Some(3))]);
    assert_eq!(fixture.append(limits, &[("full", 101)]).await, [Err(AppendRefusal::TotalReached)]);
    fixture.check_bytes().await;
    let history = Some(Some(RetentionChange { size: Some(1), ttl_secs: None }));
    let creator = fixture.store.topic("long").await.unwrap().unwrap().creator;
    fixture.store.update_topic("long", creator, &TopicChange { metadata: None, history }).await.unwrap();
    assert_eq!(fixture.stored_bytes().await, 300);
    assert_eq!(fixture.append(limits, &[("full", 101)]).await, [Ok(Some(4))]);
    fixture.check_bytes().await;
}

#[tokio::test]
async fn near_the_limit_of_all_bytes_each_history_has_what_it_gives_up_itself_and_no_more() {
    let fixture = Fixture::new().await;
    for (topic, size) in [("full", 1), ("long", 100), ("heavy", 100)] {
        fixture.topic(topic, ClientId::random(), size).await;
    }
    let limits = ChangeLimits { total_bytes: 1200, topic_history_bytes: 1000, ..LIMITS };
    let stored = [("full", 100), ("long", 100), ("heavy", 600), ("heavy", 400)];
    assert!(fixture.append(limits, &stored).await.iter().all(Result::is_ok));
    let full = Err(AppendRefusal::TotalReached);
    // what one would give up if it grew is nothing for another
    assert_eq!(fixture.append(limits, &[("long", 100), ("full", 500)]).await, [full, full]);
    // one that replaces its only publication goes on within a batch, too
    assert_eq!(fixture.append(limits, &[("full", 100); 3]).await, [Ok(Some(2)), Ok(Some(3)), Ok(Some(4))]);
    // and so does one that is full by its bytes
    assert_eq!(fixture.append(limits, &[("heavy", 600), ("heavy", 1)]).await, [Ok(Some(3)), Ok(Some(4))]);
    assert_eq!(fixture.kept("heavy").await, [(3, 600), (4, 1)]);
    assert_eq!(fixture.append(limits, &[("long", 400)]).await, [full]);
    assert_eq!(fixture.append(limits, &[("long", 399)]).await, [Ok(Some(2))]);
    fixture.check_bytes().await;
    assert_eq!(fixture.stored_bytes().await, 1200);
}

#[tokio::test]
async fn bytes_are_counted_through_all_that_happens_to_histories() {
    let fixture = Fixture::new().await;
    let mut random = StdRng::seed_from_u64(12);
    let creator = ClientId::random();
    let topics = ["a", "b", "c", "d"];
    for round in 0..150 {
        let topic = topics[random.random_range(0..topics.len())];
        match random.random_range(0..10) {
            0 => fixture.topic(topic, creator, random.random_range(1..30)).await,
            1 => drop(fixture.store.delete_topic(topic, creator).await.unwrap()),
            2 => {
                let size = random.random_bool(0.7).then(|| random.random_range(1..30));
                let ttl_secs = random.random_bool(0.5).then_some(Some(100));
                let history = random.random_bool(0.8).then_some(RetentionChange { size, ttl_secs });
                let change = TopicChange { metadata: None, history: Some(history) };
                fixture.store.update_topic(topic, creator, &change).await.unwrap();
            }
            3 => drop(fixture.store.clean_histories().await.unwrap()),
            4 => fixture.clock.advance(std::time::Duration::from_secs(60)),
            _ => {
                let some: Vec<_> = (0..random.random_range(1..40))
                    .map(|_| (topics[random.random_range(0..topics.len())], random.random_range(1..200)))
                    .collect();
                fixture.append(LIMITS, &some).await;
            }
        }
        if round % 10 == 9 {
            fixture.check_bytes().await;
        }
    }
    for topic in topics {
        fixture.store.delete_topic(topic, creator).await.unwrap();
    }
    fixture.store.clean_histories().await.unwrap();
    fixture.check_bytes().await;
    assert_eq!(fixture.stored_bytes().await, 0);
}

#[tokio::test]
async fn the_history_of_a_deleted_topic_is_cleaned_in_small_steps_and_leaves_a_new_one_of_its_name() {
    let (fixture, creator) = (Fixture::new().await, ClientId::random());
    fixture.topic("news", creator, 1000).await;
    fixture.append(LIMITS, &[("news", 1); 250]).await;
    assert!(fixture.store.delete_topic("news", creator).await.unwrap());
    // whoever cleans is told
    fixture.store.history_ended().await;
    fixture.topic("news", creator, 1000).await;
    fixture.append(LIMITS, &[("news", 2); 3]).await;
    assert_eq!(fixture.store.clean_histories().await.unwrap(), 250);
    assert_eq!(fixture.store.clean_histories().await.unwrap(), 0);
    assert_eq!(fixture.kept("news").await, [(1, 2), (2, 2), (3, 2)]);
    fixture.check_bytes().await;
}

#[tokio::test]
async fn a_migration_counts_the_bytes_of_histories_that_are_there() {
    let fixture = Fixture::new().await;
    fixture.topic("news", ClientId::random(), 10).await;
    fixture.topic("empty", ClientId::random(), 10).await;
    fixture.append(LIMITS, &[("news", 400), ("news", 300)]).await;
    while fixture.store.migration_status().await.unwrap().contains(&("m20261122_000026_count_history_bytes", true)) {
        fixture.store.migrate_down().await.unwrap();
    }
    fixture.store.migrate_up().await.unwrap();
    fixture.check_bytes().await;
    assert_eq!(fixture.stored_bytes().await, 700);
}
