//! Deletion of acknowledged messages that ended long ago.

use chrono::{DateTime, Utc};
use entity::acknowledged_messages::{Column, Entity};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::store::{
    Store, StoreError,
    counters::{self, Counter},
    row_locks,
};

/// Messages that are looked at, and per transaction that deletes.
const CHUNK: u64 = 200;

impl Store {
    /// Deletes messages that ended before this time, in transactions of a few rows each. Returns how many.
    ///
    /// # Errors
    /// When the database fails; what has been deleted by then stays so.
    pub async fn delete_messages_ended_before(&self, time: DateTime<Utc>) -> Result<u64, StoreError> {
        let (mut deleted, mut after) = (0, i64::MIN);
        loop {
            let rows = Entity::find().select_only().columns([Column::Id, Column::CreatedAt, Column::EndedAt]);
            let rows = rows.filter(Column::Id.gt(after)).order_by_asc(Column::Id).limit(CHUNK);
            let rows: Vec<(i64, DateTime<Utc>, Option<DateTime<Utc>>)> = rows.into_tuple().all(&self.read).await?;
            let Some((last, newest, _)) = rows.last() else { return Ok(deleted) };
            after = *last;
            // ids are in the order of time, and what was accepted later has ended later; but the clock may have been ahead
            let is_last = (time..=self.clock.now()).contains(newest);
            let old = rows.iter().filter(|(.., ended_at)| ended_at.is_some_and(|ended_at| ended_at < time));
            let old: Vec<_> = old.map(|(id, ..)| *id).collect();
            if !old.is_empty() {
                deleted += self.delete_messages(old).await?;
            }
            if is_last {
                return Ok(deleted);
            }
        }
    }

    async fn delete_messages(&self, ids: Vec<i64>) -> Result<u64, StoreError> {
        let transaction = self.begin_essential().await?;
        row_locks::ended_messages(&transaction, &ids).await?;
        let bytes: Vec<i64> = Entity::find()
            .select_only()
            .column(Column::Bytes)
            .filter(Column::Id.is_in(ids.iter().copied()))
            .into_tuple()
            .all(&transaction)
            .await?;
        let done = Entity::delete_many().filter(Column::Id.is_in(ids)).exec(&transaction).await?;
        counters::add(&transaction, Counter::StoredBytes, -bytes.iter().sum::<i64>()).await?;
        transaction.commit().await?;
        Ok(done.rows_affected)
    }
}
