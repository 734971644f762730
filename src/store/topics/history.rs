//! Histories of topics: appended to in the Journal's transaction, read a part at a time, shortened in small steps.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use entity::{topic_history, topics};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Set,
    sea_query::{Expr, LockType, Query},
};

use super::history_of;
use crate::{
    domain::topics::history::{Append, AppendRefusal, Appended, Entry, History, HistoryPart},
    store::{
        Store, StoreError,
        counters::{self, Counter},
        pieces,
    },
};

/// Publications per query, and per transaction that deletes.
const CHUNK: u64 = 100;

/// A topic's row, as far as its history goes.
struct Head {
    history: History,
    /// before this transaction
    last: i64,
}

/// Appends publications in order. The rows of their topics are locked first, so that the offsets of each become visible in
/// order. What no longer belongs to a history because of what is added leaves it at once, so that cleaning has little to do.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub(in crate::store) async fn append(
    transaction: &impl ConnectionTrait,
    appends: &[Append],
    nearly_full: bool,
    now: impl FnOnce() -> DateTime<Utc>,
) -> Result<Vec<Appended>, StoreError> {
    use topics::{Column, Entity};
    let ids: BTreeSet<_> =
        appends.iter().filter(|append| append.message.is_some()).map(|append| append.topic.as_str()).collect();
    if ids.is_empty() {
        return Ok(vec![Ok(None); appends.len()]);
    }
    // one query, so that all transactions take the locks in the order of the database
    let found = Entity::find().filter(Column::Id.is_in(ids)).order_by_asc(Column::Id).lock(LockType::NoKeyUpdate);
    let mut heads: HashMap<String, Option<Head>> = HashMap::new();
    for row in found.all(transaction).await? {
        let head = history_of(&row).map(|history| Head { history, last: history.last_offset });
        heads.insert(row.id, head);
    }
    // taken after the locks, so that times are in the order of offsets
    let now = now();
    let (mut decided, mut rows) = (Vec::with_capacity(appends.len()), Vec::new());
    for Append { topic, message } in appends {
        let Some(message) = message else {
            decided.push(Ok(None));
            continue;
        };
        decided.push(match heads.get_mut(topic.as_str()) {
            None => Err(AppendRefusal::TopicNotFound),
            Some(None) => Ok(None),
            Some(Some(_)) if nearly_full => Err(AppendRefusal::StorageFull),
            Some(Some(head)) => {
                head.history.last_offset += 1;
                let offset = head.history.last_offset;
                rows.push(topic_history::ActiveModel {
                    history_id: Set(head.history.id),
                    offset: Set(offset),
                    at: Set(now.into()),
                    message: Set(String::from_utf8_lossy(message).into_owned()),
                });
                Ok(Some(offset))
            }
        });
    }
    let sizes = pieces(rows.len());
    let mut rows = rows.into_iter();
    for size in sizes {
        let some = rows.by_ref().take(size);
        topic_history::Entity::insert_many(some).exec_without_returning(transaction).await?;
    }
    for (id, Head { history, last }) in heads.into_iter().filter_map(|(id, head)| Some((id, head?))) {
        if history.last_offset == last {
            continue;
        }
        Entity::update_many()
            .filter(Column::Id.eq(id))
            .col_expr(Column::LastOffset, Expr::value(history.last_offset))
            .exec(transaction)
            .await?;
        let (before, after) = (history.retention.after(last), history.retention.after(history.last_offset));
        if before < after {
            delete(transaction, history.id, before, after).await?;
        }
    }
    Ok(decided)
}

/// Deletes the publications of a history after one offset and up to another.
pub(super) async fn delete(
    connection: &impl ConnectionTrait,
    history: i64,
    after: i64,
    up_to: i64,
) -> Result<u64, StoreError> {
    use topic_history::{Column, Entity};
    let of_history = Entity::delete_many().filter(Column::HistoryId.eq(history));
    let range = of_history.filter(Column::Offset.gt(after)).filter(Column::Offset.lte(up_to));
    Ok(range.exec(connection).await?.rows_affected)
}

/// The offset of the oldest publication that is kept.
async fn first_offset(
    connection: &impl ConnectionTrait,
    history: &History,
    now: DateTime<Utc>,
) -> Result<Option<i64>, StoreError> {
    use topic_history::{Column, Entity};
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
        use topic_history::{Column, Entity};
        let snapshot = self.snapshot().await?;
        let row = topics::Entity::find_by_id(id).one(&snapshot).await?;
        let Some(history) = row.as_ref().and_then(history_of) else { return Ok(None) };
        let last_offset = history.last_offset;
        let first_offset = first_offset(&snapshot, &history, self.clock.now()).await?.unwrap_or(last_offset + 1);
        let mut part = HistoryPart { first_offset, last_offset, entries: Vec::new() };
        let (mut after, mut size) = (since.max(first_offset - 1), 0);
        'reading: while after < last_offset {
            let want = (limit - part.entries.len() as u64).min(CHUNK);
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
            kept.extend(rows.iter().filter_map(history_of).map(|history| (history.id, history)));
        }
        let (mut deleted, mut history) = (0, self.next_history(0).await?);
        while let Some(id) = history {
            let up_to = match kept.get(&id) {
                Some(history) => first_offset(&self.read, history, self.clock.now())
                    .await?
                    .map_or(history.last_offset, |first| first - 1),
                // one that has begun since the topics were read
                None if id > newest => 0,
                None => i64::MAX,
            };
            deleted += self.delete_in_steps(id, up_to).await?;
            history = self.next_history(id).await?;
        }
        Ok(deleted)
    }

    /// The smallest id of a history after this one, of those with publications.
    async fn next_history(&self, after: i64) -> Result<Option<i64>, StoreError> {
        use topic_history::{Column, Entity};
        let next = Entity::find().select_only().column(Column::HistoryId).filter(Column::HistoryId.gt(after));
        Ok(next.order_by_asc(Column::HistoryId).limit(1).into_tuple().one(&self.read).await?)
    }

    async fn delete_in_steps(&self, history: i64, up_to: i64) -> Result<u64, StoreError> {
        let mut query = Query::select();
        query
            .column(topic_history::Column::Offset)
            .from(topic_history::Entity)
            .and_where(topic_history::Column::HistoryId.eq(history))
            .and_where(topic_history::Column::Offset.lte(up_to))
            .order_by(topic_history::Column::Offset, sea_orm::Order::Asc)
            .limit(CHUNK);
        let mut deleted = 0;
        loop {
            let offsets = self.read.query_all(&query).await?;
            let Some(last) = offsets.last() else { return Ok(deleted) };
            let last: i64 = last.try_get_by_index(0)?;
            let transaction = self.begin_essential().await?;
            deleted += delete(&transaction, history, i64::MIN, last).await?;
            transaction.commit().await?;
        }
    }
}
