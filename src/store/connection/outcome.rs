//! What became of a transaction of PostgreSQL whose COMMIT was not answered: the server is asked on another connection, again
//! and again until it knows.

use std::{sync::Arc, time::Duration};

use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{self, ConnectOptions, PgPool, postgres::PgConnectOptions},
};
use tokio::time::{sleep, timeout};

/// How long to wait before the server is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// How to find out what became of a transaction.
pub(super) struct Outcome {
    transaction: String,
    /// of a connection beside the pool, all of whose connections may wait for the same
    options: Arc<PgConnectOptions>,
    deadline: Duration,
}

impl Outcome {
    /// Of the transaction with this id.
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
    /// It was not.
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
                // a database that has never had this transaction: it lost its last ones
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
