//! Copies of an SQLite database: made for a backup while a broker serves it, checked, and prepared for being served again.

use std::path::Path;

use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, RuntimeErr, Statement,
    sqlx::{
        self, ConnectOptions, Connection,
        sqlite::{SqliteConnectOptions, SqliteConnection},
    },
};

use super::{Store, StoreError, counters::Counter};

/// How many numbers are skipped when a backup is restored. More than a broker gives between a backup and its end, and few enough for
/// millions of backups to be restored before a number is too large for a JSON reader (2^53).
const SKIPPED: i64 = 1_000_000_000;

impl Store {
    /// Writes a copy of the database, as it is at one moment, into a new file. Others read and write meanwhile; what they write stays
    /// in the write-ahead log until the copy is done.
    ///
    /// # Errors
    /// When the database cannot be read, or the file cannot be written. Then the file may be there in part.
    pub async fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        let path = file.to_str().ok_or_else(|| StoreError::Url(format!("{} is not UTF-8", file.display())))?;
        let connection = self.database.connect_patiently().await?;
        let copied = Statement::from_sql_and_values(DbBackend::Sqlite, "VACUUM INTO ?", [path.into()]);
        let copied = connection.execute_raw(copied).await;
        connection.close().await?;
        Ok(copied.map(drop)?)
    }

    /// Skips numbers that the broker may have given after this copy of the database was made, so that what clients and operators know
    /// by such a number is not taken for something else: ids of users, rooms, messages and gateways. The publications that topics keep
    /// get higher offsets, so that who has read beyond them gets all of them again.
    ///
    /// # Errors
    /// When the database fails; then nothing is changed.
    pub async fn skip_numbers(&self) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        let counters =
            [Counter::GatewayId, Counter::AcknowledgedMessageId].map(|counter| format!("'{}'", counter.name()));
        for statement in [
            // a table that never had a row has no number yet
            "INSERT INTO sqlite_sequence (name, seq) SELECT name, 0 FROM sqlite_master WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%' AND name NOT IN (SELECT name FROM sqlite_sequence)".to_owned(),
            format!("UPDATE sqlite_sequence SET seq = seq + {SKIPPED}"),
            format!("UPDATE counters SET value = value + {SKIPPED} WHERE name IN ({})", counters.join(", ")),
            format!("UPDATE topic_history SET \"offset\" = \"offset\" + {SKIPPED}"),
            format!("UPDATE topics SET last_offset = last_offset + {SKIPPED} WHERE history_id IS NOT NULL"),
        ] {
            transaction.execute_unprepared(&statement).await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// Checks that a file that no program uses is a whole SQLite database.
///
/// # Errors
/// [`StoreError::Damaged`] if it is not, or the file cannot be read.
pub async fn check_copy(file: &Path) -> Result<(), StoreError> {
    let options = SqliteConnectOptions::new().filename(file).read_only(true).immutable(true);
    let failed = |error: sqlx::Error| match error {
        // such as a file that is none
        sqlx::Error::Database(error) => StoreError::Damaged(error.message().to_owned()),
        error => DbErr::Conn(RuntimeErr::SqlxError(error.into())).into(),
    };
    let mut connection: SqliteConnection = options.disable_statement_logging().connect().await.map_err(failed)?;
    let found = sqlx::query_scalar("PRAGMA integrity_check(3)").fetch_all(&mut connection).await;
    let _ = connection.close().await;
    let found: Vec<String> = found.map_err(failed)?;
    if found == ["ok"] { Ok(()) } else { Err(StoreError::Damaged(found.join("; "))) }
}
