//! Who may serve a database: a broker alone, or with PostgreSQL several that share it. A lock is released however its holder
//! ends, and a row names each holder. With PostgreSQL the lock belongs to a separate session, with SQLite to an open file
//! beside the database. Brokers that share a database share the lock.
//!
//! A session can end while its broker runs: the server restarts, the connection breaks, an administrator ends it. Another
//! broker may get the lock before the first one notices. So with PostgreSQL there is also a fence: every write transaction
//! takes a second lock, shared, and then checks that its broker's row is still there. A starting broker holds that lock
//! exclusively from before its migrations until its row is there. It waits for open transactions. If it does not share the
//! database, it removes the rows of others, and their later transactions find that.
//!
//! The session of a broker that shares the database also has a lock of its own. While it has that, the broker lives; once it is
//! free, others may take over what the broker has left (`takeover`).

use std::{
    fmt,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, RuntimeErr,
    sqlx::{self, ConnectOptions, PgConnection, postgres::PgConnectOptions},
};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{Store, StoreError, Transaction, open::Database};

/// The key of PostgreSQL's advisory lock; locks are per database. All advisory locks of the broker have keys of this file:
/// one that follows from a client's data would let the client choose a lock to wait for.
const KEY: i64 = i64::from_be_bytes(*b"switchbd");

/// The key of the lock that write transactions share.
pub(super) const FENCE: i64 = i64::from_be_bytes(*b"switchbf");

/// The key of the turn of those who create rooms.
const ROOM_CREATORS: i64 = i64::from_be_bytes(*b"switchbr");

/// The keys of a broker's own lock: half of its instance, which is random, so that two brokers have different ones, and no client
/// has a say in it. Locks with two keys never meet those with one.
pub(super) fn own_keys(instance: Uuid) -> (i32, i32) {
    let (_, low) = instance.as_u64_pair();
    ((low >> 32) as u32 as i32, low as u32 as i32)
}

/// How long a start waits for the previous broker, or a migration, to release the lock.
const PATIENCE: Duration = Duration::from_secs(3);

/// The same if the database is shared. PostgreSQL ends the open transaction of a node that is frozen after ten seconds: a start waits
/// for that, or for another start that does.
const SHARED_PATIENCE: Duration = Duration::from_secs(20);

/// PostgreSQL's code of a lock that was not got in time.
const LOCK_TIMEOUT: &str = "55P03";

/// The period of the checks that the lock is still held, and the deadline of each check.
const PERIOD: Duration = Duration::from_secs(1);

/// The period in which a broker that shares the database writes that it is there.
const SEEN: Duration = Duration::from_secs(60);

/// The lock on a database, released when this is dropped.
pub struct DatabaseLock(Held);

enum Held {
    File(#[expect(dead_code, reason = "locked for as long as it is open")] File),
    Session { session: Box<PgConnection>, sharing: Sharing, mode: Mode },
}

/// Whether several brokers may serve the database at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Only one.
    Alone,
    /// Those that share it.
    Shared,
}

/// How the lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Exclusive,
    Shared,
}

impl fmt::Debug for DatabaseLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseLock").finish_non_exhaustive()
    }
}

impl DatabaseLock {
    /// Whether no other broker serves the database now.
    pub fn is_only_one(&self) -> bool {
        matches!(self.0, Held::File(_) | Held::Session { mode: Mode::Exclusive, .. })
    }

    /// Whether others may have it, too.
    pub(super) fn sharing(&self) -> Sharing {
        match self.0 {
            Held::File(_) => Sharing::Alone,
            Held::Session { sharing, .. } => sharing,
        }
    }

    /// Whether others have it already.
    pub(super) fn is_shared(&self) -> bool {
        !self.is_only_one()
    }

    /// Takes the broker's own lock, before anything names the broker.
    pub(super) async fn take_own(&mut self, instance: Uuid) {
        if let Held::Session { session, sharing: Sharing::Shared, .. } = &mut self.0 {
            // an error has also ended the session, and with it the lock, which is noticed
            let _ = take_own(session, instance).await;
        }
    }

    /// Allows write transactions, once this broker's row is there, and others to serve the database, if it is shared.
    pub(super) async fn open_fence(&mut self) {
        let Held::Session { session, sharing, mode } = &mut self.0 else { return };
        // an error here has also ended the session, and with it the lock
        let _ = sqlx::query("SELECT pg_advisory_unlock($1)").bind(FENCE).execute(&mut **session).await;
        if *sharing == Sharing::Shared {
            share(session, *mode).await;
        }
    }
}

impl Store {
    /// Takes the lock on the database. Must be called before any change, since another broker may be using the database.
    /// SQLite's is never shared.
    ///
    /// # Errors
    /// Another broker has it; the text names it. Or the database fails.
    pub async fn lock(&self, sharing: Sharing) -> Result<DatabaseLock, StoreError> {
        match &self.database {
            Database::Sqlite(path) => match lock_file(path).await? {
                Some(lock) => Ok(lock),
                None => Err(self.in_use().await),
            },
            Database::Postgres(options) => {
                let patience = if sharing == Sharing::Shared { SHARED_PATIENCE } else { PATIENCE };
                let began = Instant::now();
                loop {
                    let session = timeout(PATIENCE, lock_session(options, sharing)).await;
                    if let Some((mut session, mode)) = session.map_err(|_| StoreError::lost())??
                        && close_fence(&mut session, began + patience).await
                    {
                        let session = Box::new(session);
                        return Ok(DatabaseLock(Held::Session { session, sharing, mode }));
                    }
                    if began.elapsed() > patience {
                        return Err(self.in_use().await);
                    }
                    sleep(PATIENCE / 10).await;
                }
            }
        }
    }

    /// Holds the lock, and takes it again when its session is lost. Returns when another broker has or had it.
    pub async fn hold(&self, lock: DatabaseLock, instance: Uuid) -> String {
        let (session, sharing, options) = match (lock.0, &self.database) {
            (Held::Session { session, sharing, .. }, Database::Postgres(options)) => (*session, sharing, options),
            (held, _) => {
                let never = std::future::pending().await;
                drop(held);
                return never;
            }
        };
        tokio::select! {
            () = self.gate.taken_over.notified() => {}
            () = self.keep(session, sharing, options, instance) => {}
        }
        match sharing {
            Sharing::Alone => self.in_use().await.to_string(),
            Sharing::Shared => {
                "PostgreSQL had no session of this process for some seconds, and another node took it for ended: \
                                start it again"
                    .to_owned()
            }
        }
    }

    /// Returns when another broker has or had the lock, alone.
    async fn keep(&self, mut session: PgConnection, sharing: Sharing, options: &PgConnectOptions, instance: Uuid) {
        let mut seen = Instant::now();
        self.gate.set_held(true);
        loop {
            sleep(PERIOD).await;
            let began = Instant::now();
            if let Ok(Ok(_)) = timeout(PERIOD, sqlx::query("SELECT 1").execute(&mut session)).await {
                self.gate.found_held(began.into_std());
                if sharing == Sharing::Shared && seen.elapsed() > SEEN {
                    seen = Instant::now();
                    let row = sqlx::query("UPDATE brokers SET seen_at = now() WHERE instance = $1").bind(instance);
                    // else the next time
                    let _ = timeout(PERIOD, row.execute(&mut session)).await;
                }
                continue;
            }
            tracing::error!("the lock on the database is lost: another broker can take the database over");
            self.gate.set_held(false);
            drop(session);
            session = loop {
                sleep(PERIOD).await;
                let Ok(Ok(mut locked)) = timeout(PATIENCE, lock_session(options, sharing)).await else { continue };
                // first, so that nobody can remove the row once it is seen
                if let (Some((session, _)), Sharing::Shared) = (&mut locked, sharing)
                    && !matches!(timeout(PATIENCE, take_own(session, instance)).await, Ok(Ok(true)))
                {
                    continue;
                }
                let Ok(is_registered) = self.is_registered(instance).await else { continue };
                match locked {
                    _ if !is_registered => return,
                    Some((mut session, mode)) => {
                        if sharing == Sharing::Shared {
                            share(&mut session, mode).await;
                        }
                        break session;
                    }
                    // this broker's former session, which the server has not ended yet
                    None => {}
                }
            };
            self.gate.set_held(true);
            tracing::info!("the lock on the database is held again");
        }
    }

    /// A write transaction of this broker.
    pub(super) async fn begin_fenced(&self, instance: Uuid) -> Result<Transaction, StoreError> {
        // two statements, since one would see the row as it was before the wait for the lock; an advisory lock costs no write,
        // unlike one on the row. The transaction's id is for finding out its outcome
        let begin = format!(
            "BEGIN; SELECT pg_advisory_xact_lock_shared({FENCE}); SELECT pg_current_xact_id()::text AS transaction, EXISTS (SELECT 1 FROM brokers WHERE instance = '{instance}') AS is_registered"
        );
        let (mut transaction, row) = self.write.begin_and_read(begin).await?;
        if let Some(row) = row
            && row.try_get("", "is_registered")?
        {
            transaction.identify(row.try_get("", "transaction")?);
            return Ok(transaction);
        }
        self.gate.taken_over.notify_one();
        Err(StoreError::Unavailable(DbErr::Custom("another broker has taken the database over".to_owned())))
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
            // the other broker has not created the table yet
            _ => "one that is starting".to_owned(),
        };
        StoreError::InUse(holder)
    }
}

/// Takes the lock on an SQLite database, which may be damaged. `None` if a broker has it.
///
/// # Errors
/// The lock file cannot be opened.
pub async fn lock_file(database: &Path) -> Result<Option<DatabaseLock>, StoreError> {
    // SQLite resolves links, so the lock file must be the same for all names of the database
    let path = database.canonicalize().unwrap_or_else(|_| database.to_owned());
    let mut beside = path.into_os_string();
    beside.push("-lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&beside);
    let file = file.map_err(|error| StoreError::Url(format!("cannot open {}: {error}", beside.to_string_lossy())))?;
    let began = Instant::now();
    while file.try_lock().is_err() {
        if began.elapsed() > PATIENCE {
            return Ok(None);
        }
        sleep(PATIENCE / 10).await;
    }
    Ok(Some(DatabaseLock(Held::File(file))))
}

/// Lets those who create rooms take turns until the end of the transaction.
pub(super) async fn turn_of_room_creators(transaction: &Transaction) -> Result<(), StoreError> {
    // SQLite has only one writer at a time
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({ROOM_CREATORS})")).await?;
    }
    Ok(())
}

/// Takes a broker's own lock. Returns false if another session has it: a former one that the server has not ended yet, or one
/// that looks whether this broker has ended.
async fn take_own(session: &mut PgConnection, instance: Uuid) -> Result<bool, sqlx::Error> {
    let (one, two) = own_keys(instance);
    let taken = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, $2)").bind(one).bind(two);
    taken.fetch_one(session).await
}

/// Waits for open transactions: of a broker that has lost its lock, or of those that share the database. Returns whether they
/// have ended in time.
async fn close_fence(session: &mut PgConnection, until: Instant) -> bool {
    // others that begin a transaction wait behind, so this gives up soon, and comes again
    if sqlx::query("SET lock_timeout = '1s'").execute(&mut *session).await.is_err() {
        return false;
    }
    loop {
        match sqlx::query("SELECT pg_advisory_lock($1)").bind(FENCE).execute(&mut *session).await {
            Ok(_) => return sqlx::query("RESET lock_timeout").execute(&mut *session).await.is_ok(),
            Err(error) => {
                let code = error.as_database_error().and_then(|error| error.code());
                if code.as_deref() != Some(LOCK_TIMEOUT) || Instant::now() > until {
                    return false;
                }
                sleep(PATIENCE / 10).await;
            }
        }
    }
}

/// Lets others have the lock, too.
async fn share(session: &mut PgConnection, mode: Mode) {
    if mode == Mode::Exclusive {
        for step in ["SELECT pg_advisory_lock_shared($1)", "SELECT pg_advisory_unlock($1)"] {
            // an error has also ended the session, and with it the lock
            let _ = sqlx::query(step).bind(KEY).execute(&mut *session).await;
        }
    }
}

/// A session with the lock; `None` if another session has it, and does not share it.
async fn lock_session(
    options: &PgConnectOptions,
    sharing: Sharing,
) -> Result<Option<(PgConnection, Mode)>, StoreError> {
    let options = options.clone().application_name("switchboard lock").options([
        // so that the server notices within half a minute that this machine is gone
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ]);
    let failed = |error: sqlx::Error| StoreError::from(DbErr::Conn(RuntimeErr::SqlxError(error.into())));
    let mut session = options.connect().await.map_err(failed)?;
    // the first of those that share it has it alone until it serves
    let exclusive = ("SELECT pg_try_advisory_lock($1)", Mode::Exclusive);
    let shared = ("SELECT pg_try_advisory_lock_shared($1)", Mode::Shared);
    for (ask, mode) in std::iter::once(exclusive).chain((sharing == Sharing::Shared).then_some(shared)) {
        let locked = sqlx::query_scalar::<_, bool>(ask).bind(KEY).fetch_one(&mut session).await;
        if locked.map_err(failed)? {
            return Ok(Some((session, mode)));
        }
    }
    Ok(None)
}
