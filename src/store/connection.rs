//! Connections with a deadline around every call, and the only transaction there is.
//!
//! sqlx counts how deep a connection is in transactions, and believes its count when the database has ended one by itself
//! (SQLite does on FULL, IOERR and NOMEM): all later commits would release savepoints of a transaction that nobody commits.
//! So BEGIN, COMMIT and ROLLBACK are statements here, the database alone knows where a transaction begins and ends, and
//! a connection about which there is any doubt is closed.
//!
//! Only a COMMIT has no deadline: what was committed has consequences, so it has to be known whether it was.

mod outcome;
mod pooled;
mod transaction;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, Statement,
    sqlx::{self, PgPool, SqlitePool},
};

use self::pooled::Pooled;
pub(super) use self::transaction::Transaction;
use super::{error::is_outage, patience};

/// A pool of connections. As a [`ConnectionTrait`] it runs each statement on any of them.
#[derive(Clone)]
pub(super) struct Pool {
    connections: Connections,
    /// how long a call may take, acquiring a connection included
    deadline: Duration,
    /// the last call found no database
    away: Arc<AtomicBool>,
    /// for the log
    purpose: &'static str,
}

#[derive(Clone)]
enum Connections {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A connection that goes back to its pool if nothing is under way on it, and is closed else.
struct Connection {
    pooled: Pooled,
    /// a call was begun and has not ended: it timed out, or whoever made it is gone
    in_doubt: bool,
    pool: Pool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

/// The result, or an error if it does not come in time, or before the request that it is for has waited too long in all.
async fn in_time<T>(deadline: Duration, call: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
    let why = match patience::wait(tokio::time::timeout(deadline, call)).await {
        Ok(Ok(result)) => return result,
        Ok(Err(_)) => format!("no answer within {} ms", deadline.as_millis()),
        Err(out_of_patience) => out_of_patience.to_string(),
    };
    Err(DbErr::Conn(RuntimeErr::Internal(why)))
}

fn acquire_error(error: sqlx::Error) -> DbErr {
    match error {
        sqlx::Error::PoolTimedOut => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
        error => DbErr::Conn(RuntimeErr::SqlxError(error.into())),
    }
}

impl Pool {
    pub(super) fn sqlite(pool: SqlitePool, deadline: Duration, purpose: &'static str) -> Self {
        Self { connections: Connections::Sqlite(pool), deadline, away: Arc::default(), purpose }
    }

    pub(super) fn postgres(pool: PgPool, deadline: Duration, purpose: &'static str) -> Self {
        Self { connections: Connections::Postgres(pool), deadline, away: Arc::default(), purpose }
    }

    pub(super) fn backend(&self) -> DbBackend {
        match self.connections {
            Connections::Sqlite(_) => DbBackend::Sqlite,
            Connections::Postgres(_) => DbBackend::Postgres,
        }
    }

    /// Waits for what is under way, and takes nothing new.
    pub(super) async fn close(&self) {
        match &self.connections {
            Connections::Sqlite(pool) => pool.close().await,
            Connections::Postgres(pool) => pool.close().await,
        }
    }

    /// The same connections under another name in the log.
    pub(super) fn for_purpose(&self, purpose: &'static str) -> Self {
        Self { away: Arc::default(), purpose, ..self.clone() }
    }

    async fn acquire(&self) -> Result<Connection, DbErr> {
        let pooled = match &self.connections {
            Connections::Sqlite(pool) => pool.acquire().await.map(Pooled::Sqlite),
            Connections::Postgres(pool) => pool.acquire().await.map(Pooled::Postgres),
        };
        let pooled = pooled.map_err(acquire_error)?;
        Ok(Connection { pooled, in_doubt: false, pool: self.clone() })
    }

    /// One statement on any connection.
    async fn run<T>(
        &self,
        call: impl for<'a> FnOnce(&'a mut Pooled) -> BoxFuture<'a, Result<T, sqlx::Error>>,
        error: fn(RuntimeErr) -> DbErr,
    ) -> Result<T, DbErr> {
        let result = in_time(self.deadline, async {
            let mut connection = self.acquire().await?;
            connection.run(call, error).await
        });
        self.noted(result.await)
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self, begin: &'static str) -> Result<Transaction, DbErr> {
        let begin = async |connection: &mut Connection| connection.execute_plain(begin).await;
        self.begin_with(begin).await.map(|(transaction, ())| transaction)
    }

    /// Begins a transaction, and reads something in it, in one round trip: with a text of several statements. Answers the
    /// last row.
    pub(super) async fn begin_and_read(
        &self,
        begin: &'static str,
    ) -> Result<(Transaction, Option<QueryResult>), DbErr> {
        let begin = async |connection: &mut Connection| {
            let rows = connection.run(move |pooled| Box::pin(pooled.query_plain(begin)), DbErr::Query).await;
            // it may have begun
            connection.in_doubt |= rows.is_err();
            Ok(rows?.pop())
        };
        self.begin_with(begin).await
    }

    async fn begin_with<T>(
        &self,
        begin: impl AsyncFnOnce(&mut Connection) -> Result<T, DbErr>,
    ) -> Result<(Transaction, T), DbErr> {
        let began = Instant::now();
        let result = in_time(self.deadline, async {
            let mut connection = self.acquire().await?;
            let found = begin(&mut connection).await?;
            Ok((connection, found))
        });
        let (connection, found) = self.noted_failure(result.await)?;
        Ok((Transaction::begun(connection, began.elapsed(), self.clone()), found))
    }

    /// Logs when the database comes back, once.
    fn noted<T>(&self, result: Result<T, DbErr>) -> Result<T, DbErr> {
        if result.is_ok() && self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the database takes {} again", self.purpose);
        }
        self.noted_failure(result)
    }

    /// Logs when the database goes away, once.
    fn noted_failure<T>(&self, result: Result<T, DbErr>) -> Result<T, DbErr> {
        if let Err(error) = &result
            && is_outage(error)
            && !self.away.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%error, "the database takes no {}", self.purpose);
        }
        result
    }
}

impl Connection {
    /// One call. If it is not awaited to its end, the connection is not used again.
    async fn run<T>(
        &mut self,
        call: impl for<'a> FnOnce(&'a mut Pooled) -> BoxFuture<'a, Result<T, sqlx::Error>>,
        error: fn(RuntimeErr) -> DbErr,
    ) -> Result<T, DbErr> {
        self.in_doubt = true;
        let result = call(&mut self.pooled).await;
        self.in_doubt = false;
        result.map_err(|cause| error(RuntimeErr::SqlxError(cause.into())))
    }

    async fn execute_plain(&mut self, sql: &'static str) -> Result<(), DbErr> {
        self.run(move |pooled| Box::pin(pooled.execute_plain(sql.to_owned())), DbErr::Exec).await.map(drop)
    }

    /// Ends what is left of a transaction, and closes the connection if that fails.
    async fn roll_back(mut self) {
        let deadline = self.pool.deadline;
        if in_time(deadline, self.execute_plain("ROLLBACK")).await.is_err() {
            // SQLite has rolled back by itself and says so, or the database is away
            self.in_doubt = true;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.in_doubt {
            match &mut self.pooled {
                Pooled::Sqlite(connection) => connection.close_on_drop(),
                Pooled::Postgres(connection) => connection.close_on_drop(),
            }
        }
    }
}

#[async_trait::async_trait]
impl ConnectionTrait for Pool {
    fn get_database_backend(&self) -> DbBackend {
        self.backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.run(move |pooled| Box::pin(pooled.execute(statement)), DbErr::Exec).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let sql = sql.to_owned();
        self.run(move |pooled| Box::pin(pooled.execute_plain(sql)), DbErr::Exec).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.run(move |pooled| Box::pin(pooled.query_one(statement)), DbErr::Query).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.run(move |pooled| Box::pin(pooled.query_all(statement)), DbErr::Query).await
    }
}
