//! The only transaction there is: see [`super`].

use std::{
    sync::{
        PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, Statement, sqlx};
use serde_json::Value;
use tokio::sync::Mutex;

use super::{Connection, Connections, Pool, in_time, outcome::Outcome, pooled::Pooled};
use crate::{
    clock::Clock,
    domain::audit::{Action, Actor, Event, Target},
    store::{
        StoreError,
        audit::{self, Author},
        error::is_outage,
        patience,
    },
};

/// A transaction, rolled back if it is dropped without a commit. After a failed statement it cannot be committed: SQLite may
/// have ended it, and PostgreSQL would answer a COMMIT by rolling back.
pub(in crate::store) struct Transaction {
    /// None: it has ended
    connection: Mutex<Option<Connection>>,
    /// Time spent on BEGIN, which counts towards the deadline of the first statement: waiting for a connection and then for
    /// a lock must not take two deadlines.
    waited: Mutex<Option<Duration>>,
    failed: AtomicBool,
    /// how to find out its outcome when the connection breaks
    outcome: Option<Outcome>,
    /// who makes the changes
    author: (Author, Clock),
    /// records of the audit log, which are logged once they are committed
    audited: std::sync::Mutex<Vec<Event>>,
    pool: Pool,
}

impl Transaction {
    /// One that took so long to begin.
    pub(super) fn begun(connection: Connection, waited: Duration, pool: Pool) -> Self {
        Self {
            connection: Mutex::new(Some(connection)),
            waited: Mutex::new(Some(waited)),
            failed: AtomicBool::new(false),
            outcome: None,
            author: Default::default(),
            audited: std::sync::Mutex::default(),
            pool,
        }
    }

    /// Its changes are audited as those of this author.
    pub(in crate::store) fn audited(mut self, author: &Author, clock: &Clock) -> Self {
        self.author = (author.clone(), clock.clone());
        self
    }

    /// Who makes the changes.
    pub(in crate::store) fn actor(&self) -> &Actor {
        self.author.0.actor()
    }

    /// Adds a record to the audit log.
    pub(in crate::store) async fn audit(
        &self,
        action: Action,
        target: Option<Target>,
        details: Value,
    ) -> Result<(), StoreError> {
        self.audit_by(self.actor().clone(), action, target, details).await
    }

    /// Adds a record of what another did.
    pub(in crate::store) async fn audit_by(
        &self,
        actor: Actor,
        action: Action,
        target: Option<Target>,
        details: Value,
    ) -> Result<(), StoreError> {
        let (author, clock) = &self.author;
        let event = Event { at: clock.now(), node: author.node(), actor, action, target, details };
        audit::insert(self, &[&event]).await?;
        self.audited.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        Ok(())
    }

    async fn run<T>(
        &self,
        call: impl for<'a> FnOnce(&'a mut Pooled) -> BoxFuture<'a, Result<T, sqlx::Error>>,
        error: fn(RuntimeErr) -> DbErr,
    ) -> Result<T, DbErr> {
        let mut connection = self.connection.lock().await;
        let connection = connection.as_mut().ok_or_else(ended)?;
        let waited = self.waited.lock().await.take().unwrap_or_default();
        let call = in_time(self.pool.deadline.saturating_sub(waited), connection.run(call, error));
        let result = self.pool.calls.measured(call).await;
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        self.pool.noted_failure(result)
    }

    /// Stores the transaction's id, so that its outcome can be found out even if its connection breaks.
    pub(in crate::store) fn identify(&mut self, id: String) {
        self.outcome = match &self.pool.connections {
            Connections::Sqlite(_) => None,
            Connections::Postgres(pool) => Some(Outcome::new(id, pool, self.pool.deadline)),
        };
    }

    /// Ends a transaction that has only read.
    pub(in crate::store) async fn end(self) -> Result<(), DbErr> {
        let pool = self.pool.clone();
        let (mut connection, _) = self.finish().await?;
        let result = in_time(pool.deadline, connection.execute_plain("COMMIT")).await;
        connection.in_doubt |= result.is_err();
        pool.noted(result)
    }

    /// Commits, without a deadline; after an error nothing is stored. Do what follows from the commit in the same task, and
    /// let nothing end that task: callers stop waiting for it by [`patience::give_up`].
    pub(in crate::store) async fn commit(mut self) -> Result<(), DbErr> {
        let pool = self.pool.clone();
        let audited = std::mem::take(self.audited.get_mut().unwrap_or_else(PoisonError::into_inner));
        let (connection, outcome) = self.finish().await?;
        let mut committed = std::pin::pin!(pool.calls.measured(commit(connection, outcome)));
        let result = match in_time(pool.deadline, async { Ok(committed.as_mut().await) }).await {
            Ok(result) => result,
            Err(late) => {
                // for the log
                let _ = pool.noted_failure::<()>(Err(late));
                patience::give_up();
                committed.await
            }
        };
        if result.is_ok() {
            audited.iter().for_each(Event::log);
        }
        pool.noted(result)
    }

    async fn finish(mut self) -> Result<(Connection, Option<Outcome>), DbErr> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(DbErr::Custom(
                "a transaction was to be committed after one of its statements failed".to_owned(),
            ));
        }
        let connection = self.connection.get_mut().take().ok_or_else(ended)?;
        Ok((connection, self.outcome.take()))
    }
}

async fn commit(mut connection: Connection, outcome: Option<Outcome>) -> Result<(), DbErr> {
    let result = match &outcome {
        None => connection.execute_plain("COMMIT").await,
        Some(outcome) => tokio::select! {
            result = connection.execute_plain("COMMIT") => result,
            // the loss of the connection may go unnoticed, so the server is asked on another one, too
            known = outcome.known_late() => return known,
        },
    };
    // whether a transaction is open is unknown, so the connection is closed
    connection.in_doubt |= result.is_err();
    drop(connection);
    match (result, outcome) {
        (Err(error), Some(outcome)) if is_outage(&error) => outcome.known().await,
        (result, _) => result,
    }
}

fn ended() -> DbErr {
    DbErr::Custom("the transaction has ended".to_owned())
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.get_mut().take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !connection.in_doubt => drop(runtime.spawn(connection.roll_back())),
            _ => connection.in_doubt = true,
        }
    }
}

#[async_trait::async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        self.pool.backend()
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
