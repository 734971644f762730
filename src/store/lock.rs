//! One broker per database: a lock that is given back when its holder is gone, whatever happens to it, and a row that says
//! who that is. With PostgreSQL the lock belongs to a session of its own, with SQLite to an open file beside the database.

use std::{
    fmt,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    sync::atomic::Ordering,
    time::Duration,
};

use sea_orm::sqlx::{self, ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{Store, StoreError, open::Database};

/// The key of PostgreSQL's advisory lock; locks are per database.
const KEY: i64 = i64::from_be_bytes(*b"switchbd");

/// How long a start waits for the broker before it, or for a migration, to let go.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often is looked whether the lock is still held, and for how long the database may keep the answer.
const PERIOD: Duration = Duration::from_secs(1);

/// The lock on a database, for as long as it lives.
pub struct DatabaseLock(Held);

enum Held {
    File(#[expect(dead_code, reason = "locked for as long as it is open")] File),
    Session(Box<PgConnection>),
}

impl fmt::Debug for DatabaseLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseLock").finish_non_exhaustive()
    }
}

impl Store {
    /// Takes the lock on the database. Before anything is changed in it: what is there may be another broker's.
    ///
    /// # Errors
    /// Another broker has it; the text names it. Or the database fails.
    pub async fn lock(&self) -> Result<DatabaseLock, StoreError> {
        match &self.database {
            Database::Sqlite(path) => {
                let mut beside = path.as_os_str().to_owned();
                beside.push("-lock");
                let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&beside);
                let file = file
                    .map_err(|error| StoreError::Url(format!("cannot open {}: {error}", beside.to_string_lossy())))?;
                let began = Instant::now();
                while file.try_lock().is_err() {
                    if began.elapsed() > PATIENCE {
                        return Err(self.in_use().await);
                    }
                    sleep(PATIENCE / 10).await;
                }
                Ok(DatabaseLock(Held::File(file)))
            }
            Database::Postgres(options) => {
                let began = Instant::now();
                loop {
                    let session = timeout(PATIENCE, lock_session(options)).await;
                    if let Some(session) = session.map_err(|_| StoreError::lost())?? {
                        return Ok(DatabaseLock(Held::Session(Box::new(session))));
                    }
                    if began.elapsed() > PATIENCE {
                        return Err(self.in_use().await);
                    }
                    sleep(PATIENCE / 10).await;
                }
            }
        }
    }

    /// Holds the lock, and takes it again when its session is lost; in between nothing is written. Answers when that can't
    /// be, since another broker has or had it.
    pub async fn hold(&self, lock: DatabaseLock, instance: Uuid) -> String {
        let (mut session, options) = match (lock.0, &self.database) {
            (Held::Session(session), Database::Postgres(options)) => (*session, options),
            (held, _) => {
                let never = std::future::pending().await;
                drop(held);
                return never;
            }
        };
        loop {
            sleep(PERIOD).await;
            if let Ok(Ok(_)) = timeout(PERIOD, sqlx::query("SELECT 1").execute(&mut session)).await {
                continue;
            }
            self.gate.lock_lost.store(true, Ordering::Relaxed);
            tracing::error!("the lock on the database is lost: nothing is written until it is held again");
            drop(session);
            session = loop {
                sleep(PERIOD).await;
                let Ok(Ok(locked)) = timeout(PATIENCE, lock_session(options)).await else { continue };
                let Ok(serving) = self.serving_broker().await else { continue };
                match (serving.filter(|(broker, _)| broker.instance != instance), locked) {
                    (Some(_), _) => return self.in_use().await.to_string(),
                    (None, Some(session)) => break session,
                    // our own former session, which the server has not ended yet
                    (None, None) => {}
                }
            };
            self.gate.lock_lost.store(false, Ordering::Relaxed);
            tracing::info!("the lock on the database is held again");
        }
    }

    async fn in_use(&self) -> StoreError {
        let holder = match self.serving_broker().await {
            Ok(Some((broker, since))) => format!(
                "process {} on {}, listening on {}, since {}",
                broker.process_id,
                broker.host,
                broker.address,
                since.format("%Y-%m-%d %H:%M:%S UTC")
            ),
            // it has not got as far as to make the table
            _ => "one that is starting".to_owned(),
        };
        StoreError::InUse(holder)
    }
}

/// A session with the lock; none if another has it.
async fn lock_session(options: &PgConnectOptions) -> Result<Option<PgConnection>, StoreError> {
    let options = options.clone().application_name("switchboard lock").options([
        // the server notices within half a minute that this machine is gone
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ]);
    let failed =
        |error: sqlx::Error| StoreError::from(sea_orm::DbErr::Conn(sea_orm::RuntimeErr::SqlxError(error.into())));
    let mut session = options.connect().await.map_err(failed)?;
    let ask = sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)").bind(KEY);
    let locked = ask.fetch_one(&mut session).await;
    Ok(locked.map_err(failed)?.then_some(session))
}
