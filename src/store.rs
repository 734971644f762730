//! The database: every query of the program, by aggregate. The only place that names the `entity` crate.
//!
//! To add a query: a method on [`Store`] in the file of its aggregate. To add a table: a migration, then
//! `scripts/generate-entities`, then a file here.

mod commands;
mod devices;
mod gateways;
mod location;
mod rooms;
mod tokens;
mod topics;
mod users;

use std::{path::Path, str::FromStr, time::Duration};

use migration::{Migrator, MigratorTrait};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    IsolationLevel, SqlErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
    sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous},
};

pub use commands::{CommandFilter, Created, Record, StoredProgress};
pub use devices::{Claim, DeviceChange, DeviceFilter, RegisteredDevice};
pub use gateways::{GatewayHistory, GatewayRecord};
pub use location::Location;
pub use rooms::{Page, RoomView, changes::Decided};
pub use tokens::{NewRefreshToken, Rotation};
pub use topics::Topic;
pub use users::{Duplicate, NewUser, User};

use crate::{domain::rooms::Change, settings};

/// The database could not do what it was asked; the cause is in the log, not in the answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database itself failed.
    #[error("database: {0}")]
    Database(#[from] DbErr),
    /// `database_url` names no database that is supported.
    #[error("{0}")]
    Url(String),
}

/// A handle on the database; clones share its connections.
///
/// SQLite takes one writer at a time, so writes have a connection of their own and never meet `SQLITE_BUSY` inside the
/// process; against other processes every write transaction begins `IMMEDIATE` and waits its turn. With PostgreSQL
/// both are the same pool.
#[derive(Clone, Debug)]
pub struct Store {
    read: DatabaseConnection,
    write: DatabaseConnection,
}

impl Store {
    /// Connects, creating an SQLite file where there is none. Does not migrate.
    ///
    /// # Errors
    /// A URL of an unknown kind, or a database that can't be opened or reached.
    pub async fn connect(settings: &settings::Storage) -> Result<Self, StoreError> {
        match DatabaseUrl::parse(settings)? {
            DatabaseUrl::Sqlite(path) => {
                let write = Database::connect(sqlite(&path, 1)).await?;
                let read = Database::connect(sqlite(&path, settings.max_connections)).await?;
                Ok(Self { read, write })
            }
            DatabaseUrl::Postgres(url) => {
                let mut options = ConnectOptions::new(url.clone());
                options
                    .max_connections(settings.max_connections)
                    .acquire_timeout(Duration::from_secs(5))
                    .connect_timeout(Duration::from_secs(5))
                    .sqlx_logging(false)
                    // a node that vanishes in the middle of a transaction must not stop the others
                    .map_sqlx_postgres_opts(|options| {
                        options.options([("lock_timeout", "5s"), ("idle_in_transaction_session_timeout", "10s")])
                    });
                // what the driver says of a URL that it can't read holds the password
                if sea_orm::sqlx::postgres::PgConnectOptions::from_str(&url).is_err() {
                    return Err(StoreError::Url(
                        "storage.database_url: expected postgres://user:password@host:port/name".to_owned(),
                    ));
                }
                let pool = Database::connect(options).await.map_err(|error| {
                    StoreError::Url(format!("cannot reach PostgreSQL (storage.database_url): {error}"))
                })?;
                Ok(Self { read: pool.clone(), write: pool })
            }
        }
    }

    /// Brings the schema up to date.
    ///
    /// # Errors
    /// When a migration fails; what it did is rolled back where the database can.
    pub async fn migrate_up(&self) -> Result<(), StoreError> {
        Ok(Migrator::up(&self.write, None).await?)
    }

    /// Takes the last migration back.
    ///
    /// # Errors
    /// When the migration fails.
    pub async fn migrate_down(&self) -> Result<(), StoreError> {
        Ok(Migrator::down(&self.write, Some(1)).await?)
    }

    /// Each migration's name and whether it is applied, in order.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn migration_status(&self) -> Result<Vec<(String, bool)>, StoreError> {
        let migrations = Migrator::get_migration_with_status(&self.write).await?;
        Ok(migrations
            .iter()
            .map(|migration| {
                let applied = matches!(migration.status(), sea_orm_migration::MigrationStatus::Applied);
                (migration.name().to_owned(), applied)
            })
            .collect())
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.read.execute_unprepared("SELECT 1").await.map(|_| ())?)
    }

    /// Writes what the Journal has gathered, in one transaction. Answers what came of each change of a room.
    ///
    /// # Errors
    /// When the database fails; then nothing is written.
    pub async fn write_journal(
        &self,
        records: &[Record],
        changes: &[Change],
        rooms_per_user: usize,
    ) -> Result<Vec<Decided>, StoreError> {
        let transaction = self.begin().await?;
        commands::write(&transaction, records).await?;
        // last, since it locks rooms
        let decided = rooms::changes::apply(&transaction, changes, rooms_per_user).await?;
        transaction.commit().await?;
        Ok(decided)
    }

    /// A transaction for several reads that have to fit together.
    async fn snapshot(&self) -> Result<DatabaseTransaction, StoreError> {
        // SQLite's transactions are that by themselves
        let isolation = match self.read.get_database_backend() {
            DbBackend::Postgres => Some(IsolationLevel::RepeatableRead),
            _ => None,
        };
        Ok(self.read.begin_with_config(isolation, None).await?)
    }

    /// A transaction for writing. Never hold it across a message to an actor.
    async fn begin(&self) -> Result<DatabaseTransaction, StoreError> {
        let options = TransactionOptions {
            // a DEFERRED transaction that reads first fails with BUSY_SNAPSHOT whatever the busy timeout
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        Ok(self.write.begin_with_options(options).await?)
    }
}

/// Rows per statement. Few sizes make few statements, which the connection keeps prepared. SQLite takes 32,766 parameters
/// at most; and it writes the largest piece in a fraction of a millisecond, so that sessions on the same core wait no longer.
const PIECES: [usize; 4] = [64, 16, 4, 1];

/// The sizes of the pieces that so many rows are written in, the largest first.
fn pieces(mut rows: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let size = PIECES.into_iter().find(|size| *size <= rows)?;
        rows -= size;
        Some(size)
    })
}

/// Which database a `database_url` means.
enum DatabaseUrl {
    Sqlite(String),
    Postgres(String),
}

impl DatabaseUrl {
    fn parse(settings: &settings::Storage) -> Result<Self, StoreError> {
        let url = settings.database_url.expose();
        if url.is_empty() {
            return Ok(Self::Sqlite(settings.data_dir.join("switchboard.db").display().to_string()));
        }
        // environments written for SQLAlchemy may name a driver: postgresql+asyncpg://…
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        match scheme.split_once('+').map_or(scheme, |(scheme, _driver)| scheme) {
            "postgres" | "postgresql" => Ok(Self::Postgres(format!("postgres://{rest}"))),
            "sqlite" => match rest.strip_prefix('/') {
                Some(path) if !path.is_empty() && path != ":memory:" => Ok(Self::Sqlite(path.to_owned())),
                _ => Err(StoreError::Url(
                    "storage.database_url: sqlite needs a file, as in sqlite:///./switchboard.db".to_owned(),
                )),
            },
            _ => Err(StoreError::Url(
                "storage.database_url: expected postgres://user:password@host/name or sqlite:///./file.db".to_owned(),
            )),
        }
    }
}

fn sqlite(path: &str, connections: u32) -> ConnectOptions {
    let file = Path::new(path).to_path_buf();
    // the URL selects the driver alone; the path goes in as it is, without URL escapes
    let mut options = ConnectOptions::new("sqlite://switchboard.db");
    options
        .max_connections(connections)
        // a connection that is kept open keeps its prepared statements
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(30))
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |options| {
            options
                .filename(&file)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(10))
                .foreign_keys(true)
                // 16 MB: under load the default would copy the log into the file several times a second
                .pragma("wal_autocheckpoint", "4000")
                // what a statement of many rows would have to undo is kept in memory, not in a file
                .pragma("temp_store", "MEMORY")
        });
    options
}

/// Whether a write failed because a row with this unique value is there already.
fn is_unique_violation(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}
