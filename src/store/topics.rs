//! Topics.

pub(in crate::store) mod append;
mod history;

use entity::topics::{ActiveModel, Column, Entity as Topics, Model};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    Set, TryIntoModel,
    sea_query::{LikeExpr, LockType, OnConflict},
};
use serde_json::Value;

use super::{
    Store, StoreError,
    counters::{self, Counter},
    row_locks,
};
use crate::{
    domain::{
        ids::{ClientId, TopicId},
        topics::{
            Topic, TopicChange,
            history::{History, Retention},
            pattern::Pattern,
        },
    },
    protocol::json,
};

/// Topics per query.
const CHUNK: u64 = 500;

/// Topics that are compared with a pattern for one page.
const EXAMINED: usize = 20_000;

/// The outcome of a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreatedTopic {
    /// The topic is created.
    New,
    /// Another topic has that name.
    NameTaken,
    /// The creator has reached its limit.
    TooMany,
}

/// The outcome of a change.
#[derive(Debug, Clone)]
pub enum UpdatedTopic {
    /// The topic is changed.
    Done(Topic),
    /// There is no such topic.
    NotFound,
    /// A history needs a size.
    NoSize,
}

impl From<Model> for Topic {
    fn from(row: Model) -> Self {
        let history = history_of(&row);
        Self { id: row.id, creator: row.creator.into(), metadata: json::stored_object(&row.metadata), history }
    }
}

fn history_of(row: &Model) -> Option<History> {
    // the columns have no other values
    let size = row.history_size.and_then(|size| u32::try_from(size).ok())?;
    let ttl_secs = row.history_ttl_secs.and_then(|secs| u32::try_from(secs).ok());
    let retention = Retention { size, ttl_secs };
    Some(History { id: row.history_id?, retention, last_offset: row.last_offset, bytes: row.history_bytes })
}

/// The columns of what a topic keeps.
fn set_retention(row: &mut ActiveModel, retention: Option<Retention>) {
    row.history_size = Set(retention.map(|retention| retention.size.into()));
    row.history_ttl_secs = Set(retention.and_then(|retention| retention.ttl_secs).map(Into::into));
}

impl Store {
    /// Creates a topic, unless the name is taken or its creator has `most` topics (0: no limit).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_topic(
        &self,
        id: &TopicId,
        creator: ClientId,
        metadata: Value,
        retention: Option<Retention>,
        most: usize,
    ) -> Result<CreatedTopic, StoreError> {
        let mut row = ActiveModel {
            id: Set(id.as_str().to_owned()),
            creator: Set(creator.into()),
            metadata: Set(metadata.to_string()),
            created_at: Set(self.clock.now().into()),
            ..Default::default()
        };
        set_retention(&mut row, retention);
        let transaction = self.begin().await?;
        // checked first, since a taken name is the clearer answer
        if Topics::find_by_id(id.as_str()).one(&transaction).await?.is_some() {
            return Ok(CreatedTopic::NameTaken);
        }
        if most > 0 {
            // so that a client's creations count each other
            row_locks::client(&transaction, creator).await?;
            let created = Topics::find().filter(Column::Creator.eq(creator.uuid())).count(&transaction).await?;
            if created >= most as u64 {
                return Ok(CreatedTopic::TooMany);
            }
        }
        if retention.is_some() {
            row.history_id = Set(Some(counters::next(&transaction, Counter::TopicHistory).await?));
        }
        let inserted = Topics::insert(row)
            .on_conflict(OnConflict::column(Column::Id).do_nothing().to_owned())
            .exec_without_returning(&transaction)
            .await?;
        transaction.commit().await?;
        Ok(if inserted > 0 { CreatedTopic::New } else { CreatedTopic::NameTaken })
    }

    /// Changes a topic of this creator. Returns it as it is then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn update_topic(
        &self,
        id: &str,
        creator: ClientId,
        change: &TopicChange,
    ) -> Result<UpdatedTopic, StoreError> {
        // a shorter history makes room
        let transaction = if change.metadata.is_some() { self.begin().await? } else { self.begin_essential().await? };
        let of_creator = Topics::find_by_id(id).filter(Column::Creator.eq(creator.uuid()));
        let Some(row) = of_creator.lock(LockType::NoKeyUpdate).one(&transaction).await? else {
            return Ok(UpdatedTopic::NotFound);
        };
        let history = history_of(&row);
        let before = history.map(|history| history.retention);
        let mut deleted = 0;
        let mut row: ActiveModel = row.into_active_model();
        if let Some(metadata) = &change.metadata {
            row.metadata = Set(metadata.to_string());
        }
        if let Some(change) = change.history {
            let after = match change.map(|change| change.apply(before)) {
                None => None,
                Some(None) => return Ok(UpdatedTopic::NoSize),
                Some(after) => after,
            };
            set_retention(&mut row, after);
            // else they would be there again, with a gap behind them, once the history becomes longer
            if let (Some(history), Some(after)) = (history, after) {
                let mut up_to = after.after(history.last_offset);
                // what was too old, too
                if history.retention.ttl_secs.is_some() {
                    let first = history::first_offset(&transaction, &history, self.clock.now()).await?;
                    up_to = up_to.max(first.unwrap_or(history.last_offset + 1) - 1);
                }
                deleted = history::delete(&transaction, history.id, i64::MIN, up_to).await?.bytes;
                row.history_bytes = Set(history.bytes - deleted);
            }
            if after.is_none() {
                row.history_id = Set(None);
                row.history_bytes = Set(0);
            } else if before.is_none() {
                row.history_id = Set(Some(counters::next(&transaction, Counter::TopicHistory).await?));
            }
        }
        let row = if row.is_changed() { Topics::update(row).exec(&transaction).await? } else { row.try_into_model()? };
        if deleted > 0 {
            counters::add(&transaction, Counter::StoredBytes, -deleted).await?;
        }
        transaction.commit().await?;
        if history.is_some() && row.history_id.is_none() {
            self.history_ended.notify_one();
        }
        Ok(UpdatedTopic::Done(row.into()))
    }

    /// Deletes a topic of this creator. Its history is deleted later ([`Store::clean_histories`]). Returns whether it existed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_topic(&self, id: &str, creator: ClientId) -> Result<bool, StoreError> {
        let transaction = self.begin_essential().await?;
        let of_creator = Topics::delete_many().filter(Column::Id.eq(id)).filter(Column::Creator.eq(creator.uuid()));
        let deleted = of_creator.exec(&transaction).await?;
        transaction.commit().await?;
        self.history_ended.notify_one();
        Ok(deleted.rows_affected > 0)
    }

    /// Topics by name, those after `after`: at most `limit`, of at most `bytes` bytes, but at least one. With a pattern, only
    /// those that match, among the next [`EXAMINED`]. Returns also the name after which there are more, if there are.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn topics(
        &self,
        pattern: Option<&Pattern>,
        after: Option<&str>,
        limit: u64,
        bytes: usize,
    ) -> Result<(Vec<Topic>, Option<String>), StoreError> {
        let (mut topics, mut size, mut examined) = (Vec::<Topic>::new(), 0, 0);
        let mut last = after.map(str::to_owned);
        loop {
            let want = if pattern.is_some() { CHUNK } else { (limit - topics.len() as u64).min(CHUNK) };
            let mut query = Topics::find().order_by_asc(Column::Id);
            if let Some(last) = &last {
                query = query.filter(Column::Id.gt(last));
            }
            if let Some(pattern) = pattern {
                // narrows the search; both databases may find more
                query = query.filter(Column::Id.like(LikeExpr::new(like_prefix(pattern)).escape('\\')));
            }
            let rows = query.limit(want + 1).all(&self.read).await?;
            let more = rows.len() as u64 > want;
            for row in rows.into_iter().take(want as usize) {
                examined += 1;
                if pattern.is_none_or(|pattern| pattern.matches(&row.id)) {
                    size += row.id.len() + row.metadata.len();
                    if topics.len() as u64 >= limit || size > bytes && !topics.is_empty() {
                        return Ok((topics, last));
                    }
                    last = Some(row.id.clone());
                    topics.push(row.into());
                } else {
                    last = Some(row.id);
                }
            }
            if !more {
                return Ok((topics, None));
            }
            if topics.len() as u64 >= limit || examined >= EXAMINED {
                return Ok((topics, last));
            }
        }
    }

    /// The topic with this name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn topic(&self, id: &str) -> Result<Option<Topic>, StoreError> {
        // no name contains NUL, and PostgreSQL refuses the query
        if id.contains('\0') {
            return Ok(None);
        }
        Ok(Topics::find_by_id(id).one(&self.read).await?.map(Topic::from))
    }
}

/// For LIKE: the names that begin as the pattern does.
fn like_prefix(pattern: &Pattern) -> String {
    let mut prefix = String::new();
    for char in pattern.prefix().chars() {
        if matches!(char, '\\' | '%' | '_') {
            prefix.push('\\');
        }
        prefix.push(char);
    }
    prefix + "%"
}
