//! What a broker that shares the database takes over from one that has ended.

use std::time::Duration;

use entity::{
    brokers::{Column, Entity},
    commands,
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect, Statement,
    sea_query::Expr,
};
use uuid::Uuid;

use super::{
    Store, StoreError, Transaction,
    lock::{FENCE, own_keys},
};
use crate::domain::ids::CommandId;

/// How long this broker must have had its lock. A restart of the server ends the sessions of all brokers at once; a broker that
/// has its own back, or was stopped together with the server, waits until the others have had the time to take theirs again.
const SETTLED: Duration = Duration::from_secs(10);

/// How long the wait for open transactions may hold up new ones, as PostgreSQL has it.
const LOCK_TIMEOUT: &str = "1s";

impl Store {
    /// The other brokers that are recorded, living or not. None with SQLite, which is not shared.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn other_brokers(&self) -> Result<Vec<Uuid>, StoreError> {
        let Some(own) = self.gate.instance.get() else { return Ok(Vec::new()) };
        if self.read.backend() != DbBackend::Postgres {
            return Ok(Vec::new());
        }
        let others = Entity::find().select_only().column(Column::Instance).filter(Column::Instance.ne(*own));
        Ok(others.into_tuple().all(&self.read).await?)
    }

    /// Takes over the commands of another broker that are not finished, if PostgreSQL has no session of it any more. From then on
    /// the other one writes nothing, should it run nevertheless. Returns the commands.
    ///
    /// # Errors
    /// When the database fails, or open transactions take too long.
    pub async fn take_over_commands(&self, from: Uuid) -> Result<Vec<CommandId>, StoreError> {
        let Some(own) = self.gate.instance.get().copied().filter(|_| self.gate.has_held(SETTLED)) else {
            return Ok(Vec::new());
        };
        // first without holding up others
        if !self.has_ended(from).await? {
            return Ok(Vec::new());
        }
        let Some(transaction) = self.begin_alone(own, from).await? else { return Ok(Vec::new()) };
        Entity::delete_by_id(from).exec(&transaction).await?;
        // without their contents: there may be many
        let left = || commands::Column::Owner.eq(from).and(commands::Column::FinishedAt.is_null());
        let ids = commands::Entity::find().select_only().column(commands::Column::Id).filter(left());
        let ids: Vec<Uuid> = ids.order_by_asc(commands::Column::Id).into_tuple().all(&transaction).await?;
        commands::Entity::update_many()
            .filter(left())
            .col_expr(commands::Column::Owner, Expr::value(own))
            .exec(&transaction)
            .await?;
        transaction.commit().await?;
        Ok(ids.into_iter().map(CommandId::from).collect())
    }

    /// Whether PostgreSQL has no session of a broker. It has none of one, either, that is about to connect again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn has_ended(&self, broker: Uuid) -> Result<bool, StoreError> {
        let (one, two) = own_keys(broker);
        // until the end of the statement
        let ask = format!("SELECT pg_try_advisory_xact_lock({one}, {two}) AS has_ended");
        let row = self.read.query_one_raw(Statement::from_string(DbBackend::Postgres, ask)).await?;
        Ok(row.map(|row| row.try_get("", "has_ended")).transpose()?.unwrap_or(false))
    }

    /// A write transaction without any other, if the session of the broker `from` has ended. All of its own have ended then.
    async fn begin_alone(&self, own: Uuid, from: Uuid) -> Result<Option<Transaction>, StoreError> {
        let (one, two) = own_keys(from);
        let begin = format!(
            "BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SELECT pg_advisory_xact_lock({FENCE}); SELECT pg_current_xact_id()::text AS transaction, EXISTS (SELECT 1 FROM brokers WHERE instance = '{own}') AS is_registered, pg_try_advisory_xact_lock({one}, {two}) AS has_ended"
        );
        let (mut transaction, row) = self.write.begin_and_read(begin).await?;
        let Some(row) = row else { return Ok(None) };
        if !row.try_get::<bool>("", "is_registered")? || !row.try_get::<bool>("", "has_ended")? {
            return Ok(None);
        }
        transaction.identify(row.try_get("", "transaction")?);
        Ok(Some(transaction))
    }
}
