//! Connections with a deadline for every call, and the only type of transaction.
//!
//! sqlx counts the nested transactions of a connection. The count becomes wrong when the database ends a transaction by
//! itself (SQLite does on FULL, IOERR and NOMEM): all later commits would only release savepoints. So BEGIN, COMMIT and
//! ROLLBACK are plain statements here, and a connection whose state is in doubt is closed.
//!
//! Only a COMMIT has no deadline: a commit has consequences, so its outcome must be known.

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
use prometheus::{Histogram, IntCounter};
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, Statement,
    sqlx::{self, PgPool, SqlitePool},
};

use self::pooled::Pooled;
pub(super) use self::transaction::Transaction;
use super::{error::is_outage, patience};
use crate::metrics::METRICS;

/// A pool of connections. As a [`ConnectionTrait`] it runs each statement on any connection.
#[derive(Clone)]
pub(super) struct Pool {
    connections: Connections,
    /// how long a call may take, acquiring a connection included
    deadline: Duration,
    /// the last call found no database
    away: Arc<AtomicBool>,
    /// for the log
    purpose: &'static str,
    calls: Calls,
}

/// The measures of a pool.
#[derive(Clone)]
struct Calls {
    seconds: Histogram,
    errors: IntCounter,
}

impl Calls {
    fn of(purpose: &'static str) -> Self {
        Self {
            seconds: METRICS.database_call_seconds.with_label_values(&[purpose]),
            errors: METRICS.database_errors_total.with_label_values(&[purpose]),
        }
    }

    /// Measures one call.
    async fn measured<T>(&self, call: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        let began = Instant::now();
        let result = call.await;
        self.seconds.observe(began.elapsed().as_secs_f64());
        if result.is_err() {
            self.errors.inc();
        }
        result
    }
}

#[derive(Clone)]
enum Connections {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A connection that returns to its pool if no call is running on it, and is closed otherwise.
struct Connection {
    pooled: Pooled,
    /// a call has not ended: it timed out, or its caller was dropped
    in_doubt: bool,
    pool: Pool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

/// The result, or an error if it takes longer than the deadline of the call or of the request that it belongs to.
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
        Self {
            connections: Connections::Sqlite(pool),
            deadline,
            away: Arc::default(),
            purpose,
            calls: Calls::of(purpose),
        }
    }

    pub(super) fn postgres(pool: PgPool, deadline: Duration, purpose: &'static str) -> Self {
        Self {
            connections: Connections::Postgres(pool),
            deadline,
            away: Arc::default(),
            purpose,
            calls: Calls::of(purpose),
        }
    }

    pub(super) fn backend(&self) -> DbBackend {
        match self.connections {
            Connections::Sqlite(_) => DbBackend::Sqlite,
            Connections::Postgres(_) => DbBackend::Postgres,
        }
    }

    /// Waits for running calls and refuses new ones.
    pub(super) async fn close(&self) {
        match &self.connections {
            Connections::Sqlite(pool) => pool.close().await,
            Connections::Postgres(pool) => pool.close().await,
        }
    }

    /// The same connections under another name in the log.
    pub(super) fn for_purpose(&self, purpose: &'static str) -> Self {
        Self { away: Arc::default(), purpose, calls: Calls::of(purpose), ..self.clone() }
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
        self.noted(self.calls.measured(result).await)
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self, begin: &'static str) -> Result<Transaction, DbErr> {
        let begin = async |connection: &mut Connection| connection.execute_plain(begin).await;
        self.begin_with(begin).await.map(|(transaction, ())| transaction)
    }

    /// Begins a transaction and reads in it, in one round trip: `text` has several statements. Returns the last row.
    pub(super) async fn begin_and_read(&self, begin: String) -> Result<(Transaction, Option<QueryResult>), DbErr> {
        let begin = async move |connection: &mut Connection| {
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
        let (connection, found) = self.noted_failure(self.calls.measured(result).await)?;
        Ok((Transaction::begun(connection, began.elapsed(), self.clone()), found))
    }

    /// Logs once that the database is back.
    fn noted<T>(&self, result: Result<T, DbErr>) -> Result<T, DbErr> {
        if result.is_ok() && self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the database takes {} again", self.purpose);
        }
        self.noted_failure(result)
    }

    /// Logs once that the database is away.
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
    /// One call. If it is dropped before its end, the connection is not used again.
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

    /// Rolls an open transaction back, and closes the connection if that fails.
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
