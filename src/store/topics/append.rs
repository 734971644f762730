//! Publications that are appended to histories of topics, in the Journal's transaction. What a history has no more room for
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
    history::{delete, oldest, oldest_with},
    history_of,
};
use crate::{
    clock::Clock,
    domain::topics::history::{Append, AppendRefusal, Appended, History, Kept},
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
    /// While the total is nearly reached: what leaves the history next.
    oldest: Oldest,
}

struct Row {
    offset: i64,
    message: String,
}

/// The oldest publications of a history, as offsets and bytes, and the bytes of all.
#[derive(Default)]
struct Oldest {
    rows: VecDeque<(i64, i64)>,
    /// they are all that there are
    is_all: bool,
    bytes: i64,
}

impl Oldest {
    /// Adds a publication, unless the history would grow by more than `free` bytes because of it. Returns by how many it grows.
    /// Of what leaves it, only what is known counts.
    fn push(&mut self, (offset, after): (i64, i64), bytes: i64, most: i64, free: i64) -> Option<i64> {
        let (mut leaving, mut left) = (0, 0);
        while let Some((oldest, size)) = self.rows.get(leaving)
            && (*oldest <= after || self.bytes + bytes - left > most)
        {
            leaving += 1;
            left += size;
        }
        if bytes - left > free {
            return None;
        }
        self.rows.drain(..leaving);
        if self.is_all {
            self.rows.push_back((offset, bytes));
        }
        self.bytes += bytes - left;
        Some(bytes - left)
    }
}

impl Head {
    fn new(history: History) -> Self {
        Self { history, before: history, rows: VecDeque::new(), oldest: Oldest::default() }
    }

    /// Adds a publication, unless that needs more than `free` bytes. Returns its offset.
    fn push(&mut self, message: &[u8], most: i64, free: &mut i64) -> Option<i64> {
        let (offset, bytes) = (self.history.last_offset + 1, message.len() as i64);
        *free -= self.oldest.push((offset, self.history.retention.after(offset)), bytes, most, *free)?;
        self.history.last_offset = offset;
        self.history.bytes += bytes;
        // it was made from a text
        self.rows.push_back(Row { offset, message: String::from_utf8_lossy(message).into_owned() });
        if self.rows.len() > self.history.retention.size as usize
            && let Some(oldest) = self.rows.pop_front()
        {
            self.history.bytes -= oldest.message.len() as i64;
        }
        Some(offset)
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
    let most = if limits.topic_history_bytes == 0 { i64::MAX } else { limits.topic_history_bytes.cast_signed() };
    let mut free = free_bytes(transaction, appends, &mut heads, limits.total_bytes).await?;
    // taken after the locks, so that times are in the order of offsets
    let now = clock.now();
    let mut decide = |Append { topic, message }: &Append| {
        let Some(message) = message else { return Ok(None) };
        match heads.get_mut(topic.as_str()) {
            None => Err(AppendRefusal::TopicNotFound),
            Some(None) => Ok(None),
            Some(Some(_)) if nearly_full => Err(AppendRefusal::StorageFull),
            Some(Some(head)) => match head.push(message, most, &mut free) {
                None => Err(AppendRefusal::TotalReached),
                Some(offset) => Ok(Some(Kept { history: head.history.id, offset })),
            },
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
        let left = shorten(transaction, &history, &before, most).await?;
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

/// How many bytes may be added, up to `most` (0: no limit). If they may be too few, reads what leaves the histories as others
/// are added: a full history goes on, since it does not grow.
async fn free_bytes(
    transaction: &impl ConnectionTrait,
    appends: &[Append],
    heads: &mut Heads,
    most: u64,
) -> Result<i64, StoreError> {
    if most == 0 {
        return Ok(i64::MAX);
    }
    let free = most.cast_signed() - counters::last(transaction, Counter::StoredBytes).await?;
    let wanted: usize = appends.iter().filter_map(|append| append.message.as_ref()).map(|message| message.len()).sum();
    if wanted as i64 <= free {
        return Ok(free);
    }
    let mut added: BTreeMap<&str, u64> = BTreeMap::new();
    for append in appends.iter().filter(|append| append.message.is_some()) {
        *added.entry(append.topic.as_str()).or_default() += 1;
    }
    for (id, head) in heads {
        if let (Some(head), Some(added)) = (head, added.get(id.as_str())) {
            // a few more than usually leave because of so many
            let count = 2 * added + 16;
            let rows = oldest(transaction, head.history.id, count).await?;
            head.oldest = Oldest { is_all: (rows.len() as u64) < count, rows: rows.into(), bytes: head.history.bytes };
        }
    }
    Ok(free)
}

/// Deletes what no longer belongs to a history: more publications than its size, and the oldest if there are more than
/// `most` bytes. Returns how many bytes.
async fn shorten(
    transaction: &impl ConnectionTrait,
    history: &History,
    before: &History,
    most: i64,
) -> Result<i64, StoreError> {
    let retention = history.retention;
    let (from, mut after) = (retention.after(before.last_offset), retention.after(history.last_offset));
    let mut left = if from < after { delete(transaction, history.id, from, after).await?.bytes } else { 0 };
    while history.bytes - left > most {
        let Some(up_to) = oldest_with(transaction, history.id, after, history.bytes - left - most).await? else {
            break;
        };
        left += delete(transaction, history.id, after, up_to).await?.bytes;
        after = up_to;
    }
    Ok(left)
}
