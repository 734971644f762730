//! Opens the database: parses its URL, sets up connections, and restricts who may read its files.

use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use sea_orm::{
    DatabaseConnection, SqlxPostgresConnector, SqlxSqliteConnector,
    sqlx::{
        self, ConnectOptions,
        pool::PoolOptions,
        postgres::PgConnectOptions,
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
    },
};

use tokio::time::timeout;

use super::{StoreError, connection::Pool, gate::space};
use crate::{domain::storage::checkpoint_pages, settings};

/// The deadline for commands at a terminal and for the start of the broker.
pub(super) const PATIENT: Duration = Duration::from_secs(10);

/// How much shorter the database's own timeouts are than the deadline, so that a statement that waits for a lock fails by
/// itself and its connection can be used again.
const MARGIN: Duration = Duration::from_millis(300);

/// The database of a `database_url`, and how to connect to it.
#[derive(Debug, Clone)]
pub(super) enum Database {
    Sqlite(PathBuf),
    Postgres(Box<PgConnectOptions>),
}

impl Database {
    pub(super) fn parse(settings: &settings::Storage) -> Result<Self, StoreError> {
        let url = settings.database_url.expose();
        if url.is_empty() {
            return Ok(Self::Sqlite(settings.data_dir.join("switchboard.db")));
        }
        // environments written for SQLAlchemy may name a driver: postgresql+asyncpg://…
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        match scheme.split_once('+').map_or(scheme, |(scheme, _driver)| scheme) {
            // the driver's error for an invalid URL contains the password
            "postgres" | "postgresql" => match PgConnectOptions::from_str(&format!("postgres://{rest}")) {
                Ok(options) => Ok(Self::Postgres(Box::new(options.disable_statement_logging()))),
                Err(_) => Err(StoreError::Url(
                    "storage.database_url: expected postgres://user:password@host:port/name".to_owned(),
                )),
            },
            "sqlite" => match rest.strip_prefix('/') {
                // the path is taken literally, without URL escapes
                Some(path) if !path.is_empty() && path != ":memory:" => Ok(Self::Sqlite(path.into())),
                _ => Err(StoreError::Url(
                    "storage.database_url: sqlite needs a file, as in sqlite:///./switchboard.db".to_owned(),
                )),
            },
            _ => Err(StoreError::Url(
                "storage.database_url: expected postgres://user:password@host/name or sqlite:///./file.db".to_owned(),
            )),
        }
    }

    /// The pools for reading and for writing, in this order. Nothing is connected yet.
    pub(super) fn pools(&self, most: u32, deadline: Duration) -> (Pool, Pool) {
        let patience = deadline.saturating_sub(MARGIN);
        match self {
            Self::Sqlite(path) => {
                let pool = |connections, options| {
                    PoolOptions::new()
                        .max_connections(connections)
                        // a connection that is kept open keeps its prepared statements
                        .min_connections(1)
                        .acquire_timeout(patience)
                        .connect_lazy_with(options)
                };
                let read = sqlite_options(path, patience);
                // a batch of messages touches pages of several indexes, and would read each of them from the file again
                let write = read.clone().pragma("cache_size", format!("-{WRITER_CACHE_KIB}"));
                (Pool::sqlite(pool(most, read), deadline, "reads"), Pool::sqlite(pool(1, write), deadline, "writes"))
            }
            Self::Postgres(options) => {
                let milliseconds = patience.as_millis().to_string();
                let options = options.as_ref().clone().options([
                    ("lock_timeout", milliseconds.as_str()),
                    // ends statements that no caller waits for
                    ("statement_timeout", milliseconds.as_str()),
                    // the transaction of a node that is gone must not block the others
                    ("idle_in_transaction_session_timeout", "10s"),
                ]);
                let pool = PoolOptions::new().max_connections(most).acquire_timeout(patience);
                let reads = Pool::postgres(pool.connect_lazy_with(options), deadline, "reads");
                let writes = reads.for_purpose("writes");
                (reads, writes)
            }
        }
    }

    /// A separate connection with a long deadline, for migrations. To be closed after use, since a failed migration leaves
    /// it in an unknown state.
    pub(super) async fn connect_patiently(&self) -> Result<DatabaseConnection, StoreError> {
        match self {
            Self::Sqlite(path) => {
                let cannot_open =
                    |error: &dyn std::fmt::Display| StoreError::Url(format!("cannot open {}: {error}", path.display()));
                keep_private(path).map_err(|error| cannot_open(&error))?;
                let pool = PoolOptions::new().max_connections(1).acquire_timeout(PATIENT);
                let pool = pool.connect_with(sqlite_options(path, PATIENT)).await;
                Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.map_err(|error| cannot_open(&error))?))
            }
            Self::Postgres(options) => {
                let pool = PoolOptions::new().max_connections(1).acquire_timeout(PATIENT);
                let mut connected = pool.connect_with(options.as_ref().clone()).await;
                // the pool has tried repeatedly, and does not say why that failed
                if let Err(sqlx::Error::PoolTimedOut) = connected
                    && let Ok(Err(cause)) = timeout(MARGIN, options.connect()).await
                {
                    connected = Err(cause);
                }
                let pool = connected.map_err(|error| {
                    StoreError::Url(format!("cannot reach PostgreSQL (storage.database_url): {error}"))
                })?;
                Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
            }
        }
    }
}

/// Memory for pages of the file that the writing connection has, in KiB; it takes what it uses.
const WRITER_CACHE_KIB: u32 = 32 * 1024;

fn sqlite_options(path: &Path, busy_timeout: Duration) -> SqliteConnectOptions {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let total = space(folder).map_or(u64::MAX, |(_, total)| total);
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(busy_timeout)
        .foreign_keys(true)
        .pragma("wal_autocheckpoint", checkpoint_pages(total).to_string())
        // keeps the statement journal in memory instead of a file
        .pragma("temp_store", "MEMORY")
        .disable_statement_logging()
}

/// Creates the file if it does not exist, and makes it and its companions (`-wal`, `-shm`) readable only by their owner.
/// SQLite gives the companions that it creates the mode of the file.
fn keep_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let file = PathBuf::from(file);
        match fs::metadata(&file) {
            Ok(found) if found.permissions().mode() & 0o077 != 0 => {
                if let Err(error) = fs::set_permissions(&file, Permissions::from_mode(0o600)) {
                    tracing::warn!(%error, "{} can be read by others: chmod 600 it", file.display());
                }
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_database_are_made_private_whoever_made_them() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let fresh = dir.path().join("fresh.db");
        keep_private(&fresh).unwrap();
        assert_eq!(mode(&fresh), 0o600);
        let (old, log) = (dir.path().join("old.db"), dir.path().join("old.db-wal"));
        for file in [&old, &log] {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        }
        keep_private(&old).unwrap();
        assert_eq!((mode(&old), mode(&log)), (0o600, 0o600));
    }
}
