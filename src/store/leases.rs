//! Leases: nodes that serve one PostgreSQL database agree on one of them that does a task. A lease ends by the clock of the
//! database, so that the clocks of nodes do not matter.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use uuid::Uuid;

use super::{Store, StoreError};

/// How long a lease lasts after it was taken or renewed.
pub const LEASE: Duration = Duration::from_secs(10);

impl Store {
    /// Takes the lease of this name, or renews it. Returns its term, which grows whenever the holder changes, or `None` if
    /// another holder has it.
    ///
    /// The lease lasts for [`LEASE`] from a moment after this call began: a holder that counts from before the call loses it
    /// earlier than others can take it.
    ///
    /// # Errors
    /// When the database fails; then the lease may be taken nevertheless.
    pub async fn take_lease(&self, name: &str, holder: Uuid) -> Result<Option<i64>, StoreError> {
        // a read first, since the statement below locks the row, and so writes to it, even if it changes nothing
        let is_another = "SELECT 1 AS held FROM leases WHERE name = $1 AND holder <> $2 AND until > now()";
        if self.read.query_one_raw(statement(is_another, name, holder)).await?.is_some() {
            return Ok(None);
        }
        let transaction = self.begin_essential().await?;
        let secs = LEASE.as_secs();
        let take = format!(
            "INSERT INTO leases (name, holder, term, until) VALUES ($1, $2, 1, now() + interval '{secs} seconds')
            ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until,
                term = leases.term + CASE WHEN leases.holder = excluded.holder THEN 0 ELSE 1 END
            WHERE leases.holder = excluded.holder OR leases.until <= now()
            RETURNING term"
        );
        let row = transaction.query_one_raw(statement(&take, name, holder)).await?;
        let term = row.map(|row| row.try_get("", "term")).transpose()?;
        transaction.commit().await?;
        Ok(term)
    }

    /// Ends the lease of this name, if this is its holder.
    ///
    /// # Errors
    /// When the database fails; then the lease ends by itself.
    pub async fn release_lease(&self, name: &str, holder: Uuid) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        // the row stays, so that terms go on
        let end = "UPDATE leases SET until = now() WHERE name = $1 AND holder = $2";
        transaction.execute_raw(statement(end, name, holder)).await?;
        Ok(transaction.commit().await?)
    }
}

fn statement(sql: &str, name: &str, holder: Uuid) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, sql, [name.into(), holder.into()])
}
