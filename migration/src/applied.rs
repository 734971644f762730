//! The table of applied migrations, with the name and columns that sea-orm-migration gives it: databases of earlier
//! versions have it.

use std::time::{SystemTime, UNIX_EPOCH};

use sea_orm::{DatabaseConnection, TransactionTrait};

use crate::schema::*;

#[derive(DeriveIden)]
enum SeaqlMigrations {
    Table,
    Version,
    AppliedAt,
}

/// The key of PostgreSQL's advisory lock under which the table is created. `IF NOT EXISTS` does not wait for another
/// transaction that creates it, but fails.
const CREATION: i64 = i64::from_be_bytes(*b"switchbm");

pub(crate) async fn create_table(connection: &DatabaseConnection) -> Result<(), DbErr> {
    let version = string(SeaqlMigrations::Version).primary_key().take();
    let mut table = Table::create();
    table.table(SeaqlMigrations::Table).if_not_exists().col(version).col(big_integer(SeaqlMigrations::AppliedAt));
    if connection.get_database_backend() != DbBackend::Postgres {
        return connection.execute(&table).await.map(drop);
    }
    let transaction = connection.begin().await?;
    transaction.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({CREATION})")).await?;
    transaction.execute(&table).await?;
    transaction.commit().await
}

/// Waits for other processes that migrate. On SQLite the transaction itself does that.
pub(crate) async fn lock(transaction: &impl ConnectionTrait) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared("LOCK TABLE seaql_migrations IN EXCLUSIVE MODE").await?;
    }
    Ok(())
}

pub(crate) async fn names(connection: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    let mut select = Query::select();
    select.column(SeaqlMigrations::Version).from(SeaqlMigrations::Table);
    let rows = connection.query_all(&select).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

pub(crate) async fn insert(transaction: &impl ConnectionTrait, name: &str) -> Result<(), DbErr> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let mut insert = Query::insert();
    insert
        .into_table(SeaqlMigrations::Table)
        .columns([SeaqlMigrations::Version, SeaqlMigrations::AppliedAt])
        .values_panic([name.into(), now.into()]);
    transaction.execute(&insert).await.map(drop)
}

pub(crate) async fn delete(transaction: &impl ConnectionTrait, name: &str) -> Result<(), DbErr> {
    let mut delete = Query::delete();
    delete.from_table(SeaqlMigrations::Table).and_where(Expr::col(SeaqlMigrations::Version).eq(name));
    transaction.execute(&delete).await.map(drop)
}
