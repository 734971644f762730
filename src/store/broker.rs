//! The record of the broker that serves the database, and a test of whether the database can be written.

use chrono::{DateTime, Utc};
use entity::brokers::{ActiveModel, Column, Entity};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, Set,
    sea_query::{Expr, OnConflict},
};
use uuid::Uuid;

use super::{DatabaseLock, Store, StoreError};
use crate::domain::passwords::PasswordRules;

/// The only row.
const ROW: i64 = 1;

/// A broker that serves a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingBroker {
    /// Changes with each start.
    pub instance: Uuid,
    /// Its host name.
    pub host: String,
    /// Its process id.
    pub process_id: u32,
    /// The address that it listens on.
    pub address: String,
    /// Its rules for new passwords, for commands that do not have its settings. `None`: recorded by an earlier version.
    pub password_rules: Option<PasswordRules>,
}

impl Store {
    /// Records which broker serves the database, by the clock of the database.
    ///
    /// # Errors
    /// When the database fails. A full disk is no error with SQLite, whose lock is a file; the record is informative there.
    pub async fn register_broker(&self, broker: &ServingBroker, lock: &mut DatabaseLock) -> Result<(), StoreError> {
        match self.write_broker(broker).await {
            Err(StoreError::Full(error)) if self.read.backend() == DbBackend::Sqlite => {
                tracing::error!(%error, "storage is full: nothing is stored");
            }
            written => written?,
        }
        // only once
        let _ = self.gate.instance.set(broker.instance);
        lock.open_fence().await;
        Ok(())
    }

    async fn write_broker(&self, broker: &ServingBroker) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        let now = self.clock.now();
        let rules = broker.password_rules;
        let row = ActiveModel {
            id: Set(ROW),
            instance: Set(broker.instance),
            host: Set(broker.host.clone()),
            process_id: Set(broker.process_id.into()),
            address: Set(broker.address.clone()),
            started_at: Set(now.into()),
            seen_at: Set(now.into()),
            password_min_chars: Set(rules.and_then(|rules| i64::try_from(rules.min_chars).ok())),
            refuse_common_passwords: Set(rules.map(|rules| rules.refuse_common)),
        };
        let columns = [
            Column::Instance,
            Column::Host,
            Column::ProcessId,
            Column::Address,
            Column::StartedAt,
            Column::SeenAt,
            Column::PasswordMinChars,
            Column::RefuseCommonPasswords,
        ];
        Entity::insert(row)
            .on_conflict(OnConflict::column(Column::Id).update_columns(columns).to_owned())
            .exec_without_returning(&transaction)
            .await?;
        if transaction.get_database_backend() == DbBackend::Postgres {
            // the clocks of two brokers may differ
            Entity::update_many()
                .col_expr(Column::StartedAt, Expr::current_timestamp())
                .col_expr(Column::SeenAt, Expr::current_timestamp())
                .exec(&transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The broker that serves the database or was the last to do so, and since when.
    ///
    /// # Errors
    /// When the database fails, or has never been served.
    pub async fn serving_broker(&self) -> Result<Option<(ServingBroker, DateTime<Utc>)>, StoreError> {
        let row = Entity::find_by_id(ROW).one(&self.read).await?;
        Ok(row.map(|row| {
            let process_id = u32::try_from(row.process_id).unwrap_or_default();
            let min_chars = row.password_min_chars.and_then(|chars| usize::try_from(chars).ok());
            let password_rules = min_chars
                .zip(row.refuse_common_passwords)
                .map(|(min_chars, refuse_common)| PasswordRules { min_chars, refuse_common });
            let broker = ServingBroker {
                instance: row.instance,
                host: row.host,
                process_id,
                address: row.address,
                password_rules,
            };
            (broker, row.started_at.to_utc())
        }))
    }

    /// Writes and commits a row: only that proves that the database takes writes.
    ///
    /// # Errors
    /// When the database takes no writes.
    pub async fn prove_write(&self) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        let done = Entity::update_many()
            .filter(Column::Id.eq(ROW))
            .col_expr(Column::SeenAt, Expr::value(self.clock.now()))
            .exec(&transaction)
            .await?;
        if done.rows_affected == 0 {
            return Err(DbErr::Custom("no broker is registered".to_owned()).into());
        }
        Ok(transaction.commit().await?)
    }
}
