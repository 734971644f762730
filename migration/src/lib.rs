//! Switchboard's database schema: one file per migration, each with `up` and `down`.
//!
//! To add a migration, add a file named after its date and content, and its name to [`MIGRATIONS`]. Then run
//! `scripts/generate-entities`, which generates the `entity` crate from the migrated schema.
//!
//! Nodes of the release before go on with the new schema while they are replaced one after the other. So a migration adds: a new
//! column has a default or may be null, and what the release before still uses is neither removed nor renamed.
//!
//! Each migration and its row in the table of applied migrations are one transaction, so that a crash leaves no half of it.
//! sea-orm-migration does that on SQLite only where a migration asks for it, and it switches on features of sea-orm that are not
//! used, which take long to build.

mod applied;
mod schema;

mod m20261120_000001_create_users;
mod m20261120_000002_create_devices;
mod m20261120_000003_create_refresh_tokens;
mod m20261120_000004_create_revocations;
mod m20261120_000005_create_topics;
mod m20261120_000006_create_commands;
mod m20261120_000007_create_rooms;
mod m20261120_000008_add_device_details;
mod m20261120_000009_create_gateways;
mod m20261121_000010_create_brokers;
mod m20261121_000013_metadata_as_text;
mod m20261121_000014_add_target_reason;
mod m20261121_000015_create_counters;
mod m20261121_000016_bind_device_keys;
mod m20261121_000017_one_refresh_token_per_login;
mod m20261121_000018_delete_users;
mod m20261121_000019_count_gateway_ids;
mod m20261121_000020_add_room_quotas;
mod m20261121_000021_create_known_logins;
mod m20261121_000022_record_password_rules;
mod m20261122_000023_add_target_incarnation;
mod m20261122_000024_add_topic_history;
mod m20261122_000025_create_acknowledged_messages;
mod m20261122_000026_count_history_bytes;
mod m20261122_000027_allow_several_brokers;
mod m20261122_000028_add_newest_socket;
mod m20261122_000029_add_room_events;
mod m20261122_000030_add_command_owner;
mod m20261122_000031_create_leases;
mod m20261123_000032_create_audit_log;
mod m20261123_000033_create_webhook_deliveries;

use std::pin::Pin;

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};

use self::schema::Schema;

type Change = for<'a> fn(&'a Schema<'a>) -> Pin<Box<dyn Future<Output = Result<(), DbErr>> + Send + 'a>>;

struct Migration {
    name: &'static str,
    up: Change,
    down: Change,
}

impl Migration {
    fn is_in(&self, names: &[String]) -> bool {
        names.iter().any(|name| name == self.name)
    }
}

macro_rules! migrations {
    ($($name:ident),* $(,)?) => {
        &[$(Migration {
            name: stringify!($name),
            up: |schema| Box::pin($name::up(schema)),
            down: |schema| Box::pin($name::down(schema)),
        }),*]
    };
}

/// The target of log lines: a level without a module is that of `switchboard`.
const LOG: &str = "switchboard::migration";

/// All migrations in the order in which they are applied.
const MIGRATIONS: &[Migration] = migrations![
    m20261120_000001_create_users,
    m20261120_000002_create_devices,
    m20261120_000003_create_refresh_tokens,
    m20261120_000004_create_revocations,
    m20261120_000005_create_topics,
    m20261120_000006_create_commands,
    m20261120_000007_create_rooms,
    m20261120_000008_add_device_details,
    m20261120_000009_create_gateways,
    m20261121_000010_create_brokers,
    m20261121_000013_metadata_as_text,
    m20261121_000014_add_target_reason,
    m20261121_000015_create_counters,
    m20261121_000016_bind_device_keys,
    m20261121_000017_one_refresh_token_per_login,
    m20261121_000018_delete_users,
    m20261121_000019_count_gateway_ids,
    m20261121_000020_add_room_quotas,
    m20261121_000021_create_known_logins,
    m20261121_000022_record_password_rules,
    m20261122_000023_add_target_incarnation,
    m20261122_000024_add_topic_history,
    m20261122_000025_create_acknowledged_messages,
    m20261122_000026_count_history_bytes,
    m20261122_000027_allow_several_brokers,
    m20261122_000028_add_newest_socket,
    m20261122_000029_add_room_events,
    m20261122_000030_add_command_owner,
    m20261122_000031_create_leases,
    m20261123_000032_create_audit_log,
    m20261123_000033_create_webhook_deliveries,
];

/// Why the schema could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Migrations were applied that this program does not have: a newer program did that.
    #[error("unknown migrations: {}", .0.join(", "))]
    Unknown(Vec<String>),
    /// The database.
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// Applies all pending migrations, each in a transaction of its own.
///
/// # Errors
/// A migration failed and has been rolled back; those before it are applied. Or the database has unknown migrations.
pub async fn up(connection: &DatabaseConnection) -> Result<(), MigrationError> {
    applied::create_table(connection).await?;
    let before = known(connection).await?;
    for migration in MIGRATIONS.iter().filter(|migration| !migration.is_in(&before)) {
        let transaction = begin(connection).await?;
        // another process can have applied it meanwhile
        if !migration.is_in(&known(&transaction).await?) {
            tracing::info!(target: LOG, migration = migration.name, "applying a migration");
            (migration.up)(&Schema(&transaction)).await?;
            applied::insert(&transaction, migration.name).await?;
        }
        transaction.commit().await?;
    }
    Ok(())
}

/// Reverts the last migration that is applied, if there is one.
///
/// # Errors
/// The migration failed and has been rolled back. Or the database has unknown migrations.
pub async fn down(connection: &DatabaseConnection) -> Result<(), MigrationError> {
    applied::create_table(connection).await?;
    let transaction = begin(connection).await?;
    let applied = known(&transaction).await?;
    let last = MIGRATIONS.iter().rev().find(|migration| migration.is_in(&applied));
    if let Some(migration) = last {
        tracing::info!(target: LOG, migration = migration.name, "reverting a migration");
        (migration.down)(&Schema(&transaction)).await?;
        applied::delete(&transaction, migration.name).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Each migration's name and whether it is applied, in order.
///
/// # Errors
/// The database failed, or has unknown migrations.
pub async fn status(connection: &DatabaseConnection) -> Result<Vec<(&'static str, bool)>, MigrationError> {
    applied::create_table(connection).await?;
    let applied = known(connection).await?;
    Ok(MIGRATIONS.iter().map(|migration| (migration.name, migration.is_in(&applied))).collect())
}

/// Begins a transaction in which no other process can migrate.
async fn begin(connection: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    // a transaction of SQLite that reads first cannot write after another has written
    let mode = Some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
    let transaction = connection.begin_with_options(options).await?;
    applied::lock(&transaction).await?;
    Ok(transaction)
}

/// The names of the applied migrations, all of which this program has.
async fn known(connection: &impl ConnectionTrait) -> Result<Vec<String>, MigrationError> {
    let applied = applied::names(connection).await?;
    let is_unknown = |name: &&String| MIGRATIONS.iter().all(|migration| migration.name != name.as_str());
    let unknown: Vec<_> = applied.iter().filter(is_unknown).cloned().collect();
    if unknown.is_empty() { Ok(applied) } else { Err(MigrationError::Unknown(unknown)) }
}
