//! The outcome of a PostgreSQL transaction whose COMMIT was not answered: asks the server repeatedly on another connection.

use std::{sync::Arc, time::Duration};

use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{self, ConnectOptions, PgPool, postgres::PgConnectOptions},
};
use tokio::time::{sleep, timeout};

/// The pause between two queries.
const AGAIN: Duration = Duration::from_millis(100);

/// Finds out the outcome of a transaction.
pub(super) struct Outcome {
    transaction: String,
    /// for a connection outside the pool, whose connections may all be waiting for an outcome
    options: Arc<PgConnectOptions>,
    deadline: Duration,
}

impl Outcome {
    /// For the transaction with this id.
    pub(super) fn new(transaction: String, pool: &PgPool, deadline: Duration) -> Self {
        Self { transaction, options: pool.connect_options(), deadline }
    }

    /// Waits until it is known whether the transaction was committed, once its COMMIT has taken longer than it should.
    pub(super) async fn known_late(&self) -> Result<(), DbErr> {
        sleep(self.deadline).await;
        self.known().await
    }

    /// Waits until it is known whether the transaction was committed.
    ///
    /// # Errors
    /// The transaction was rolled back.
    pub(super) async fn known(&self) -> Result<(), DbErr> {
        loop {
            match timeout(self.deadline, self.ask()).await.ok().transpose() {
                Ok(Some(Some(status))) if status == "committed" => return Ok(()),
                Ok(Some(Some(status))) if status == "in progress" => {}
                Ok(Some(status)) => {
                    let what = status.unwrap_or_else(|| "unknown".to_owned());
                    let why = format!("the connection broke during COMMIT; the transaction is {what}");
                    return Err(DbErr::Conn(RuntimeErr::Internal(why)));
                }
                // the database does not know this transaction: it has lost its latest ones
                Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "22023") => {
                    return Err(DbErr::Conn(RuntimeErr::SqlxError(sqlx::Error::Database(error).into())));
                }
                Ok(None) | Err(_) => {}
            }
            sleep(AGAIN).await;
        }
    }

    async fn ask(&self) -> Result<Option<String>, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        let ask = sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)").bind(&self.transaction);
        ask.fetch_one(&mut connection).await
    }
}
