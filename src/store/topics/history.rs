//! Histories of topics: read a part at a time, cleaned in small steps.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use entity::{
    topic_history::{Column, Entity},
    topics,
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, Func, FunctionCall, LockType, Query},
};

use super::history_of;
use crate::{
    domain::{
        ids::TopicId,
        topics::history::{Entry, History, HistoryPart, Kept},
    },
    store::{
        Store, StoreError,
        counters::{self, Counter},
    },
};

/// Publications per query, and per transaction that cleans.
const CHUNK: u64 = 100;

/// What was deleted of a history.
#[derive(Default)]
pub(super) struct Deleted {
    pub(super) publications: u64,
    pub(super) bytes: i64,
}

/// The bytes of a publication. `LENGTH` counts characters.
fn bytes() -> FunctionCall {
    Func::cust("octet_length").arg(Expr::col(Column::Message))
}

/// Deletes the publications of a history after one offset and up to another.
pub(super) async fn delete(
    connection: &impl ConnectionTrait,
    history: i64,
    after: i64,
    up_to: i64,
) -> Result<Deleted, StoreError> {
    let mut query = Query::delete();
    query
        .from_table(Entity)
        .and_where(Column::HistoryId.eq(history))
        .and_where(Column::Offset.gt(after))
        .and_where(Column::Offset.lte(up_to))
        .returning(Query::returning().expr(bytes()));
    let mut deleted = Deleted::default();
    for row in connection.query_all(&query).await? {
        deleted.publications += 1;
        deleted.bytes += i64::from(row.try_get_by_index::<i32>(0)?);
    }
    Ok(deleted)
}

/// The oldest publications of a history, at most so many, as offsets and bytes.
pub(super) async fn oldest(
    connection: &impl ConnectionTrait,
    history: i64,
    most: u64,
) -> Result<Vec<(i64, i64)>, StoreError> {
    oldest_after(connection, history, i64::MIN, most).await
}

async fn oldest_after(
    connection: &impl ConnectionTrait,
    history: i64,
    after: i64,
    most: u64,
) -> Result<Vec<(i64, i64)>, StoreError> {
    let oldest = Entity::find()
        .select_only()
        .column(Column::Offset)
        .column_as(Expr::expr(bytes()), "bytes")
        .filter(Column::HistoryId.eq(history))
        .filter(Column::Offset.gt(after))
        .order_by_asc(Column::Offset)
        .limit(most);
    let oldest: Vec<(i64, i32)> = oldest.into_tuple().all(connection).await?;
    Ok(oldest.into_iter().map(|(offset, bytes)| (offset, bytes.into())).collect())
}

/// The offset up to which the oldest publications of a history after this offset have so many bytes; or the last one of a
/// part of them, if they are many. `None` if there are none.
pub(super) async fn oldest_with(
    connection: &impl ConnectionTrait,
    history: i64,
    after: i64,
    wanted: i64,
) -> Result<Option<i64>, StoreError> {
    let (mut last, mut sum) = (None, 0);
    for (offset, bytes) in oldest_after(connection, history, after, CHUNK).await? {
        last = Some(offset);
        sum += bytes;
        if sum >= wanted {
            break;
        }
    }
    Ok(last)
}

/// The offset of the oldest publication that is kept.
pub(super) async fn first_offset(
    connection: &impl ConnectionTrait,
    history: &History,
    now: DateTime<Utc>,
) -> Result<Option<i64>, StoreError> {
    let mut oldest = Entity::find()
        .select_only()
        .column(Column::Offset)
        .filter(Column::HistoryId.eq(history.id))
        .filter(Column::Offset.gt(history.retention.after(history.last_offset)))
        .order_by_asc(Column::Offset);
    if let Some(since) = history.retention.since(now) {
        oldest = oldest.filter(Column::At.gte(since));
    }
    Ok(oldest.limit(1).into_tuple().one(connection).await?)
}

impl Store {
    /// A part of a topic's history: what came after the offset `since`, oldest first, at most `limit` publications of at most
    /// `bytes` bytes, but at least one. `None` if there is no such topic, or it has no history.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn topic_history(
        &self,
        id: &str,
        since: i64,
        limit: u64,
        bytes: usize,
    ) -> Result<Option<HistoryPart>, StoreError> {
        let snapshot = self.snapshot().await?;
        let row = topics::Entity::find_by_id(id).one(&snapshot).await?;
        let Some(history) = row.as_ref().and_then(history_of) else { return Ok(None) };
        let last_offset = history.last_offset;
        let first_offset = first_offset(&snapshot, &history, self.clock.now()).await?.unwrap_or(last_offset + 1);
        let mut part = HistoryPart { history: history.id, first_offset, last_offset, entries: Vec::new() };
        let (mut after, mut size) = (Ord::max(since, first_offset - 1), 0);
        'reading: while after < last_offset {
            let want = Ord::min(limit - part.entries.len() as u64, CHUNK);
            let query = Entity::find().filter(Column::HistoryId.eq(history.id)).filter(Column::Offset.gt(after));
            let rows = query.order_by_asc(Column::Offset).limit(want).all(&snapshot).await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                size += row.message.len();
                if size > bytes && !part.entries.is_empty() {
                    break 'reading;
                }
                after = row.offset;
                part.entries.push(Entry { offset: row.offset, at: row.at.to_utc(), message: row.message });
            }
            if part.entries.len() as u64 >= limit {
                break;
            }
        }
        snapshot.end().await?;
        Ok(Some(part))
    }

    /// The newest publication of each of these topics; `None`: it has no history. Deleted topics are left out.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest_kept(&self, names: &[TopicId]) -> Result<HashMap<TopicId, Option<Kept>>, StoreError> {
        use topics::Column as Topic;
        let mut newest = HashMap::new();
        for some in names.chunks(1000) {
            let found = topics::Entity::find().select_only().columns([Topic::Id, Topic::HistoryId, Topic::LastOffset]);
            let found = found.filter(Topic::Id.is_in(some.iter().map(TopicId::as_str)));
            let found = found.into_tuple::<(String, Option<i64>, i64)>().all(&self.read).await?;
            newest.extend(
                found.into_iter().map(|(name, history, offset)| {
                    (TopicId::from(name), history.map(|history| Kept { history, offset }))
                }),
            );
        }
        Ok(newest)
    }

    /// Completes after a topic has lost its history, or may have, so that its bytes are free soon.
    pub async fn history_ended(&self) {
        self.history_ended.notified().await;
    }

    /// Deletes what no history keeps any more, in transactions of a few rows each. Returns how many publications.
    ///
    /// # Errors
    /// When the database fails; what has been deleted by then stays so.
    pub async fn clean_histories(&self) -> Result<u64, StoreError> {
        // before the topics are read, so that those of which none is found are of no topic
        let newest = counters::last(&self.read, Counter::TopicHistory).await?;
        let (mut kept, mut last) = (HashMap::new(), None::<String>);
        loop {
            let mut query = topics::Entity::find().filter(topics::Column::HistoryId.is_not_null());
            if let Some(last) = &last {
                query = query.filter(topics::Column::Id.gt(last));
            }
            let rows = query.order_by_asc(topics::Column::Id).limit(CHUNK).all(&self.read).await?;
            let Some(row) = rows.last() else { break };
            last = Some(row.id.clone());
            kept.extend(
                rows.into_iter().filter_map(|row| Some((row.history_id?, (row.id.clone(), history_of(&row)?)))),
            );
        }
        let (mut deleted, mut history) = (0, self.next_history(0).await?);
        while let Some(id) = history {
            let (topic, up_to) = match kept.get(&id) {
                Some((topic, history)) => {
                    let first = first_offset(&self.read, history, self.clock.now()).await?;
                    (Some(topic.as_str()), first.map_or(history.last_offset, |first| first - 1))
                }
                // one that has begun since the topics were read
                None if id > newest => (None, 0),
                None => (None, i64::MAX),
            };
            deleted += self.delete_in_steps(topic, id, up_to).await?;
            history = self.next_history(id).await?;
        }
        Ok(deleted)
    }

    /// The smallest id of a history after this one, of those with publications.
    async fn next_history(&self, after: i64) -> Result<Option<i64>, StoreError> {
        let next = Entity::find().select_only().column(Column::HistoryId).filter(Column::HistoryId.gt(after));
        Ok(next.order_by_asc(Column::HistoryId).limit(1).into_tuple().one(&self.read).await?)
    }

    /// Deletes the publications of a history up to an offset. Returns how many.
    async fn delete_in_steps(&self, topic: Option<&str>, history: i64, up_to: i64) -> Result<u64, StoreError> {
        let mut query = Query::select();
        query
            .column(Column::Offset)
            .from(Entity)
            .and_where(Column::HistoryId.eq(history))
            .and_where(Column::Offset.lte(up_to))
            .order_by(Column::Offset, sea_orm::Order::Asc)
            .limit(CHUNK);
        let mut deleted = 0;
        loop {
            let offsets = self.read.query_all(&query).await?;
            let Some(last) = offsets.last() else { return Ok(deleted) };
            let last: i64 = last.try_get_by_index(0)?;
            let transaction = self.begin_essential().await?;
            if let Some(topic) = topic {
                // what is appended meanwhile counts the same bytes
                let row = topics::Entity::find_by_id(topic).select_only().column(topics::Column::HistoryId);
                row.lock(LockType::NoKeyUpdate).into_tuple::<Option<i64>>().one(&transaction).await?;
            }
            let Deleted { publications, bytes } = delete(&transaction, history, i64::MIN, last).await?;
            deleted += publications;
            if let Some(topic) = topic {
                let of_history = topics::Entity::update_many().filter(topics::Column::Id.eq(topic));
                let of_history = of_history.filter(topics::Column::HistoryId.eq(history));
                let less = Expr::col(topics::Column::HistoryBytes).sub(bytes);
                of_history.col_expr(topics::Column::HistoryBytes, less).exec(&transaction).await?;
            }
            counters::add(&transaction, Counter::StoredBytes, -bytes).await?;
            transaction.commit().await?;
        }
    }
}
