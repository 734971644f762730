//! The records of the brokers that serve the database, and a test of whether the database can be written.

use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use entity::{
    brokers::{ActiveModel, Column, Entity},
    commands, counters,
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder, Set, Statement,
    sea_query::{Expr, OnConflict},
};
use uuid::Uuid;

use super::{DatabaseLock, Sharing, Store, StoreError};
use crate::domain::passwords::PasswordRules;

/// The name of the number that tells this database from others, among the counters.
const DATABASE: &str = "database";

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
    /// Records that a broker serves the database, by the clock of the database. The only one removes the records of others,
    /// and with PostgreSQL handles the commands that are not finished.
    ///
    /// # Errors
    /// When the database fails. A full disk is no error with SQLite, whose lock is a file; the record is informative there.
    pub async fn register_broker(&self, broker: &ServingBroker, lock: &mut DatabaseLock) -> Result<(), StoreError> {
        lock.take_own(broker.instance).await;
        match self.write_broker(broker, lock.is_shared()).await {
            Err(StoreError::Full(error)) if self.read.backend() == DbBackend::Sqlite => {
                tracing::error!(%error, "storage is full: nothing is stored");
            }
            written => written?,
        }
        self.gate.is_shared.store(lock.sharing() == Sharing::Shared, Ordering::Relaxed);
        // only once
        let _ = self.gate.instance.set(broker.instance);
        self.author.set_node(&format!("{} {}", broker.host, broker.address));
        lock.open_fence().await;
        Ok(())
    }

    async fn write_broker(&self, broker: &ServingBroker, is_shared: bool) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        let now = self.clock.now();
        let rules = broker.password_rules;
        if !is_shared {
            Entity::delete_many().exec(&transaction).await?;
        }
        if !is_shared && transaction.get_database_backend() == DbBackend::Postgres {
            commands::Entity::update_many()
                .filter(commands::Column::FinishedAt.is_null())
                .col_expr(commands::Column::Owner, Expr::value(broker.instance))
                .exec(&transaction)
                .await?;
        }
        let row = ActiveModel {
            instance: Set(broker.instance),
            host: Set(broker.host.clone()),
            process_id: Set(broker.process_id.into()),
            address: Set(broker.address.clone()),
            started_at: Set(now.into()),
            seen_at: Set(now.into()),
            password_min_chars: Set(rules.and_then(|rules| i64::try_from(rules.min_chars).ok())),
            refuse_common_passwords: Set(rules.map(|rules| rules.refuse_common)),
        };
        Entity::insert(row).exec_without_returning(&transaction).await?;
        if transaction.get_database_backend() == DbBackend::Postgres {
            // the clocks of two brokers may differ
            Entity::update_many()
                .filter(Column::Instance.eq(broker.instance))
                .col_expr(Column::StartedAt, Expr::current_timestamp())
                .col_expr(Column::SeenAt, Expr::current_timestamp())
                .exec(&transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Whether the record of a broker is there: another one that does not share the database removes it.
    pub(super) async fn is_registered(&self, instance: Uuid) -> Result<bool, StoreError> {
        Ok(Entity::find_by_id(instance).one(&self.read).await?.is_some())
    }

    /// The number that tells this database from others, given when it is asked for first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn database_number(&self) -> Result<i64, StoreError> {
        let row = counters::ActiveModel { name: Set(DATABASE.to_owned()), value: Set(rand::random()) };
        counters::Entity::insert(row)
            .on_conflict(OnConflict::column(counters::Column::Name).do_nothing().to_owned())
            .exec_without_returning(&self.write)
            .await?;
        let number = self.known_database_number().await?;
        number.ok_or_else(|| DbErr::RecordNotFound("the number of the database".to_owned()).into())
    }

    /// The same, without a change of the database. `None` if it has no number yet.
    ///
    /// # Errors
    /// When the database fails, or was never migrated.
    pub async fn known_database_number(&self) -> Result<Option<i64>, StoreError> {
        let row = counters::Entity::find_by_id(DATABASE.to_owned()).one(&self.write).await?;
        Ok(row.map(|row| row.value))
    }

    /// The broker that serves the database or was the last to do so, and since when; of several the one that started last.
    ///
    /// # Errors
    /// When the database fails, or has never been served.
    pub async fn serving_broker(&self) -> Result<Option<(ServingBroker, DateTime<Utc>)>, StoreError> {
        let row = Entity::find().order_by_desc(Column::StartedAt).one(&self.read).await?;
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

    /// The time by the clock of the database, which is the same for all that share it; with SQLite that of this process.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn database_time(&self) -> Result<DateTime<Utc>, StoreError> {
        if self.read.backend() != DbBackend::Postgres {
            return Ok(self.clock.now());
        }
        let ask = Statement::from_string(DbBackend::Postgres, "SELECT now() AS now");
        let row = self.read.query_one_raw(ask).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("the time of the database".to_owned()))?;
        Ok(row.try_get("", "now")?)
    }

    /// Writes and commits a row: only that proves that the database takes writes.
    ///
    /// # Errors
    /// When the database takes no writes.
    pub async fn prove_write(&self) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        let mut seen = Entity::update_many().col_expr(Column::SeenAt, Expr::value(self.clock.now()));
        // SQLite's only row may be that of an earlier start, if there was no space for this one's
        if self.read.backend() == DbBackend::Postgres
            && let Some(instance) = self.gate.instance.get()
        {
            seen = seen.filter(Column::Instance.eq(*instance));
        }
        if seen.exec(&transaction).await?.rows_affected == 0 {
            return Err(DbErr::Custom("no broker is registered".to_owned()).into());
        }
        Ok(transaction.commit().await?)
    }
}
