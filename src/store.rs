//! The database: every query of the program, by aggregate. The only place that names the `entity` crate.
//!
//! To add a query: a method on [`Store`] in the file of its aggregate. To add a table: a migration, then
//! `scripts/generate-entities`, then a file here.
//!
//! PostgreSQL ends one of two transactions that wait for each other's rows, and its client would see a database that fails.
//! So every transaction takes the locks that it needs in this order, and those of one line by their ids:
//!
//! 1. the turn of those who create rooms, or of those who change gateways while several nodes serve the database;
//! 2. the rows of devices, then of users: whatever changes the tokens, the key or the memberships of a client, or counts its
//!    topics, locks its row first, so that all of these wait here;
//! 3. refresh tokens and known logins, of the clients that are locked;
//! 4. commands, their targets and progress;
//! 5. gateways and their history;
//! 6. topics, then their histories;
//! 7. rooms, then their members and messages;
//! 8. acknowledged messages: those that have not ended are changed under the lock of their recipient's row alone, the others
//!    are locked by their ids;
//! 9. a counter, and the revocations, changes and messages that take its number.
//!
//! Records of the audit log are only added, so they wait for nothing.
//!
//! Hourly deletions pass over rows that are locked, or are told of an error and come again.

mod audit;
mod broker;
mod changes;
mod commands;
mod connection;
mod copy;
mod counters;
mod devices;
mod error;
mod gate;
mod gateways;
mod leases;
mod location;
mod lock;
mod messages;
mod open;
pub mod patience;
mod records;
mod rooms;
mod row_locks;
mod stored_bytes;
mod takeover;
mod tokens;
mod topics;
mod users;
mod webhooks;

use std::{sync::Arc, time::Duration};

use migration::MigrationError;
use sea_orm::{DatabaseConnection, DbBackend};
use tokio::sync::Notify;

pub use audit::{AuditFilter, AuditRecord};
pub use broker::ServingBroker;
pub use changes::{ChangeLimits, Changes, Decisions};
pub use commands::{CommandFilter, CommandPage, CommandStanding, KeyedCommand, StoredProgress};
pub use copy::check_copy;
pub use devices::{DeviceChange, DeviceFilter, DeviceRow};
pub use error::StoreError;
pub use gate::space as free_space;
pub use gateways::{
    Current,
    history::{GatewayHistory, GatewayRecord},
};
pub use leases::LEASE;
pub use location::Location;
pub use lock::{DatabaseLock, Sharing, lock_file};
pub use messages::{MessageFilter, QueueSummary};
pub use records::Record;
pub use rooms::{Page, RecordedEvent, RoomView, changes::Decided};
pub use tokens::{NewRefreshToken, Rotation};
pub use topics::{CreatedTopic, UpdatedTopic};
pub use users::{Duplicate, NewUser, User, UserChange, UserRefusal};
pub use webhooks::{Attempt, NewDelivery, TakenDelivery, WebhookState};

use audit::Author;
use connection::{Pool, Transaction};
use error::is_unique_violation;
use gate::Gate;
use open::Database;
use stored_bytes::StoredBytes;

use crate::{
    clock::Clock,
    domain::{messages::change::MessageChange, rooms::RoomChange},
    settings::{self, LiveSettings},
};

/// A database of its own for a test, in a folder that is deleted with the first of the two.
#[cfg(test)]
pub(crate) async fn test_store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let storage = settings::Storage { data_dir: folder.path().to_owned(), ..settings::built_in().storage };
    let store = Store::connect(&storage).await.unwrap();
    store.migrate_up().await.unwrap();
    (folder, store)
}

/// A handle on the database; clones share its connections. Every call has a deadline.
///
/// SQLite takes one writer at a time, so writes have a connection of their own and never meet `SQLITE_BUSY` inside the
/// process; against other processes every write transaction begins `IMMEDIATE` and waits its turn. With PostgreSQL
/// both are the same pool.
#[derive(Clone, Debug)]
pub struct Store {
    read: Pool,
    /// transactions alone: [`Store::begin`]
    write: Pool,
    database: Database,
    gate: Gate,
    stored_bytes: StoredBytes,
    history_ended: Arc<Notify>,
    clock: Clock,
    author: Author,
}

impl Store {
    /// Connects, and creates an SQLite file if there is none. Does not migrate. For commands, which may wait for a busy
    /// database.
    ///
    /// # Errors
    /// A URL of an unknown kind, or a database that cannot be opened or reached.
    pub async fn connect(settings: &settings::Storage) -> Result<Self, StoreError> {
        let database = Database::parse(settings)?;
        // connects now, so that errors are reported here; a database may need this time to start
        database.connect_patiently().await?.close().await?;
        let (read, write) = database.pools(settings.max_connections, open::PATIENT);
        let stored_bytes = StoredBytes::new(None);
        Ok(Self {
            read,
            write,
            database,
            gate: Gate::default(),
            stored_bytes,
            history_ended: Arc::default(),
            clock: Clock::default(),
            author: Author::default(),
        })
    }

    /// The same database for a broker, whose clients do not wait longer than `storage.timeout_ms` and have no more stored than
    /// `limits.stored_bytes_per_minute`.
    pub fn serving(&self, settings: &LiveSettings) -> Self {
        let storage = &settings.load().storage;
        let (read, write) = self.database.pools(storage.max_connections, Duration::from_millis(storage.timeout_ms));
        let stored_bytes = StoredBytes::new(Some(settings.clone()));
        Self { read, write, stored_bytes, ..self.clone() }
    }

    /// The same database, with times of another clock than the system's.
    pub fn with_clock(&self, clock: Clock) -> Self {
        Self { clock, ..self.clone() }
    }

    /// Waits for running calls and refuses new ones. Must be called before the threads that use the store end: a connection
    /// cannot return to its pool without a runtime.
    pub async fn close(&self) {
        self.write.close().await;
        self.read.close().await;
    }

    /// Applies all pending migrations.
    ///
    /// # Errors
    /// When a migration fails; it is rolled back, and those before it stay applied.
    pub async fn migrate_up(&self) -> Result<(), StoreError> {
        self.with_schema(migration::up).await
    }

    /// Reverts the last migration.
    ///
    /// # Errors
    /// When the migration fails.
    pub async fn migrate_down(&self) -> Result<(), StoreError> {
        self.with_schema(migration::down).await
    }

    /// Each migration's name and whether it is applied, in order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn migration_status(&self) -> Result<Vec<(&'static str, bool)>, StoreError> {
        self.with_schema(migration::status).await
    }

    async fn with_schema<T>(
        &self,
        work: impl AsyncFnOnce(&DatabaseConnection) -> Result<T, MigrationError>,
    ) -> Result<T, StoreError> {
        let connection = self.database.connect_patiently().await?;
        let result = work(&connection).await;
        connection.close().await?;
        result.map_err(|error| match error {
            MigrationError::Unknown(names) => StoreError::Newer(names.join(", ")),
            MigrationError::Database(error) => error.into(),
        })
    }

    /// Writes the Journal's records and changes in one transaction. Returns what is decided of each change.
    ///
    /// # Errors
    /// When the database fails; then nothing is written.
    pub async fn write_journal(
        &self,
        records: &[Record],
        changes: Changes<'_>,
        limits: ChangeLimits,
    ) -> Result<Decisions, StoreError> {
        if records.is_empty() && changes.is_empty() {
            return Ok(Decisions::none(changes));
        }
        let transaction = self.begin_essential().await?;
        let nearly_full = self.is_nearly_full();
        // else two nodes that create rooms of the same names could wait for each other in the index
        if changes.rooms.iter().any(|change| matches!(change, RoomChange::Create { .. })) {
            lock::turn_of_room_creators(&transaction).await?;
        }
        let seen = records.iter().filter_map(Record::device);
        let newcomers = changes.rooms.iter().filter_map(RoomChange::newcomer);
        let recipients = changes.messages.iter().filter_map(MessageChange::recipient);
        row_locks::devices(&transaction, seen.chain(newcomers).chain(recipients)).await?;
        records::write(&transaction, records, nearly_full, self.gate.instance.get().copied()).await?;
        let decided = self.apply(&transaction, changes, limits, nearly_full).await?;
        transaction.commit().await?;
        records::log_audited(records);
        Ok(decided)
    }

    /// A transaction for reads that must see one state of the database.
    async fn snapshot(&self) -> Result<Transaction, StoreError> {
        // every transaction of SQLite does
        let begin = match self.read.backend() {
            DbBackend::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            _ => "BEGIN",
        };
        Ok(self.read.begin(begin).await?)
    }

    /// A write transaction that is allowed while storage is nearly full: for deletions, revocations and logins, which take
    /// little space. Only this and [`Store::begin`] write. Never hold it across a message to an actor.
    async fn begin_essential(&self) -> Result<Transaction, StoreError> {
        let begin = match (self.write.backend(), self.gate.instance.get()) {
            (DbBackend::Postgres, Some(instance)) => {
                return Ok(self.begin_fenced(*instance).await?.audited(&self.author, &self.clock));
            }
            (DbBackend::Postgres, None) => "BEGIN",
            // one that reads first would fail with BUSY_SNAPSHOT, whatever the busy timeout
            _ => "BEGIN IMMEDIATE",
        };
        Ok(self.write.begin(begin).await?.audited(&self.author, &self.clock))
    }
}

/// Rows per statement. With few sizes there are few statements, which the connection keeps prepared. SQLite takes at most
/// 32,766 parameters, and writes the largest piece in a fraction of a millisecond, so that the sessions of the same core wait only for that long.
const PIECES: [usize; 4] = [64, 16, 4, 1];

/// Splits a number of rows into pieces of these sizes, the largest first.
fn pieces(mut rows: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let size = PIECES.into_iter().find(|size| *size <= rows)?;
        rows -= size;
        Some(size)
    })
}

#[cfg(test)]
pub(crate) mod tests;
