//! Publications that are appended to histories of topics, in the Journal's transaction. What no longer belongs to a history
//! because of them leaves it at once, so that cleaning has little to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, Utc};
use entity::{
    topic_history::{self, ActiveModel},
    topics::{Column, Entity},
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Set,
    sea_query::{Expr, LockType},
};

use super::{
    history::{bytes_between, delete, oldest_with},
    history_of,
};
use crate::{
    clock::Clock,
    domain::topics::history::{Append, AppendRefusal, Appended, History},
    store::{
        ChangeLimits, StoreError,
        counters::{self, Counter},
        pieces,
    },
};

/// A history, with what is added to it.
struct Head {
    history: History,
    /// The history as it was before this transaction.
    before: History,
    /// What is to be inserted. Of so many that they would not all be kept only the newest are here.
    rows: VecDeque<Row>,
}

struct Row {
    offset: i64,
    message: String,
}

impl Head {
    fn new(history: History) -> Self {
        Self { history, before: history, rows: VecDeque::new() }
    }

    /// Adds a publication. Returns its offset.
    fn push(&mut self, message: &[u8]) -> i64 {
        self.history.last_offset += 1;
        self.history.bytes += message.len() as i64;
        let offset = self.history.last_offset;
        // it was made from a text
        self.rows.push_back(Row { offset, message: String::from_utf8_lossy(message).into_owned() });
        if self.rows.len() > self.history.retention.size as usize
            && let Some(oldest) = self.rows.pop_front()
        {
            self.history.bytes -= oldest.message.len() as i64;
        }
        offset
    }

    fn take_rows(&mut self, at: DateTime<Utc>) -> impl Iterator<Item = ActiveModel> {
        let history_id = self.history.id;
        std::mem::take(&mut self.rows).into_iter().map(move |Row { offset, message }| ActiveModel {
            history_id: Set(history_id),
            offset: Set(offset),
            at: Set(at.into()),
            message: Set(message),
        })
    }
}

/// The topics of publications by name; `None` for one without a history.
type Heads = BTreeMap<String, Option<Head>>;

/// Appends publications in order. The rows of their topics are locked first, so that the offsets of each become visible in
/// order. Returns what is decided of each, and by how many bytes all histories together have grown.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub(in crate::store) async fn apply(
    transaction: &impl ConnectionTrait,
    appends: &[Append],
    limits: ChangeLimits,
    nearly_full: bool,
    clock: &Clock,
) -> Result<(Vec<Appended>, i64), StoreError> {
    if appends.iter().all(|append| append.message.is_none()) {
        return Ok((vec![Ok(None); appends.len()], 0));
    }
    let mut heads = lock(transaction, appends).await?;
    let mut free = free_bytes(transaction, appends, &heads, limits.total_bytes).await?;
    // taken after the locks, so that times are in the order of offsets
    let now = clock.now();
    let mut decide = |Append { topic, message }: &Append| {
        let Some(message) = message else { return Ok(None) };
        let bytes = message.len() as i64;
        match heads.get_mut(topic.as_str()) {
            None => Err(AppendRefusal::TopicNotFound),
            Some(None) => Ok(None),
            Some(Some(_)) if nearly_full => Err(AppendRefusal::StorageFull),
            Some(Some(_)) if free < bytes => Err(AppendRefusal::TotalReached),
            Some(Some(head)) => {
                free -= bytes;
                Ok(Some(head.push(message)))
            }
        }
    };
    let decided = appends.iter().map(&mut decide).collect();
    let changed = heads.into_iter().filter_map(|(id, head)| Some((id, head?)));
    let mut changed: Vec<_> = changed.filter(|(_, head)| head.history != head.before).collect();
    let rows: Vec<_> = changed.iter_mut().flat_map(|(_, head)| head.take_rows(now)).collect();
    let sizes = pieces(rows.len());
    let mut rows = rows.into_iter();
    for size in sizes {
        let some = rows.by_ref().take(size);
        topic_history::Entity::insert_many(some).exec_without_returning(transaction).await?;
    }
    let mut growth = 0;
    for (id, Head { history, before, .. }) in changed {
        let left = shorten(transaction, &history, &before, limits.topic_history_bytes).await?;
        let bytes = history.bytes - left;
        growth += bytes - before.bytes;
        Entity::update_many()
            .filter(Column::Id.eq(id))
            .col_expr(Column::LastOffset, Expr::value(history.last_offset))
            .col_expr(Column::HistoryBytes, Expr::value(bytes))
            .exec(transaction)
            .await?;
    }
    Ok((decided, growth))
}

/// Locks and reads the topics.
async fn lock(transaction: &impl ConnectionTrait, appends: &[Append]) -> Result<Heads, StoreError> {
    let ids: BTreeSet<_> =
        appends.iter().filter(|append| append.message.is_some()).map(|append| append.topic.as_str()).collect();
    // one query, so that all transactions take the locks in the order of the database
    let rows = Entity::find().filter(Column::Id.is_in(ids)).order_by_asc(Column::Id).lock(LockType::NoKeyUpdate);
    let rows = rows.all(transaction).await?;
    Ok(rows.into_iter().map(|row| (row.id.clone(), history_of(&row).map(Head::new))).collect())
}

/// How many bytes may be added: those up to `most` (0: no limit), and what leaves its history because others are added.
async fn free_bytes(
    transaction: &impl ConnectionTrait,
    appends: &[Append],
    heads: &Heads,
    most: u64,
) -> Result<i64, StoreError> {
    if most == 0 {
        return Ok(i64::MAX);
    }
    let stored = counters::last(transaction, Counter::StoredBytes).await?;
    let mut free = i64::try_from(most).unwrap_or(i64::MAX) - stored;
    let wanted: usize = appends.iter().filter_map(|append| append.message.as_ref()).map(|message| message.len()).sum();
    if wanted as i64 <= free {
        return Ok(free);
    }
    let mut added: BTreeMap<&str, i64> = BTreeMap::new();
    for append in appends.iter().filter(|append| append.message.is_some()) {
        *added.entry(append.topic.as_str()).or_default() += 1;
    }
    for (id, head) in heads {
        if let (Some(Head { history, .. }), Some(added)) = (head, added.get(id.as_str())) {
            let (retention, last) = (history.retention, history.last_offset);
            free +=
                bytes_between(transaction, history.id, retention.after(last), retention.after(last + added)).await?;
        }
    }
    Ok(free)
}

/// Deletes what no longer belongs to a history: more publications than its size, and the oldest if there are more than
/// `most` bytes (0: no limit). Returns how many bytes.
async fn shorten(
    transaction: &impl ConnectionTrait,
    history: &History,
    before: &History,
    most: u64,
) -> Result<i64, StoreError> {
    let retention = history.retention;
    let (from, mut after) = (retention.after(before.last_offset), retention.after(history.last_offset));
    let mut left = if from < after { delete(transaction, history.id, from, after).await?.bytes } else { 0 };
    let most = if most == 0 { i64::MAX } else { i64::try_from(most).unwrap_or(i64::MAX) };
    while history.bytes - left > most {
        let Some(up_to) = oldest_with(transaction, history.id, after, history.bytes - left - most).await? else {
            break;
        };
        left += delete(transaction, history.id, after, up_to).await?.bytes;
        after = up_to;
    }
    Ok(left)
}
