//! Errors of the database, by what the caller should do.

use sea_orm::{DbErr, RuntimeErr, SqlErr, sqlx};

use crate::protocol::error_code::{ErrorCode, INTERNAL_ERROR};

/// An error of the database; clients are not told its cause, which is in the log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database is away, locked or too slow: try again later.
    #[error("database unavailable: {0}")]
    Unavailable(DbErr),
    /// There is no space left to store anything.
    #[error("storage full: {0}")]
    Full(DbErr),
    /// There is less space than `storage.min_free_bytes`: nothing was written.
    #[error("storage nearly full")]
    NearlyFull,
    /// Another broker serves the database; the text names it.
    #[error("another broker uses this database ({0}): stop it, or give this one another DATABASE_URL")]
    InUse(String),
    /// The schema has migrations that this program does not know; the text names them.
    #[error(
        "this database was migrated by a newer switchboard ({0}): run that version, or stop all brokers and revert that with its `switchboard migrate down`, or restore a backup from before"
    )]
    Newer(String),
    /// The file is not a whole database; the text says what was found.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// The statement itself failed.
    #[error("database: {0}")]
    Database(DbErr),
    /// `database_url` names no database that is supported.
    #[error("{0}")]
    Url(String),
}

impl StoreError {
    /// The connection broke before the database answered.
    pub fn lost() -> Self {
        Self::Unavailable(DbErr::Custom("the answer was lost".to_owned()))
    }

    /// The code and the text for clients.
    pub fn told(&self) -> (ErrorCode, &'static str) {
        match self {
            Self::Unavailable(_) => (ErrorCode::DatabaseUnavailable, "Database unavailable"),
            Self::Full(_) | Self::NearlyFull => (ErrorCode::StorageFull, "Storage is nearly full"),
            Self::InUse(_) | Self::Newer(_) | Self::Damaged(_) | Self::Database(_) | Self::Url(_) => {
                (ErrorCode::InternalError, INTERNAL_ERROR)
            }
        }
    }

    /// The database did not answer before the deadline.
    pub fn late() -> Self {
        Self::Unavailable(DbErr::Custom("no answer in time".to_owned()))
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match kind(&error) {
            Kind::Unavailable => Self::Unavailable(error),
            Kind::Full => Self::Full(error),
            Kind::Statement => Self::Database(error),
        }
    }
}

/// Whether a write failed because a row with this unique value exists.
pub(super) fn is_unique_violation(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}

/// Whether the database is away or full, whatever the statement.
pub(super) fn is_outage(error: &DbErr) -> bool {
    kind(error) != Kind::Statement
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Unavailable,
    Full,
    Statement,
}

fn kind(error: &DbErr) -> Kind {
    let (DbErr::Exec(cause) | DbErr::Query(cause)) = error else {
        // errors of the connection, not of the statement
        let connection = matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_));
        return if connection { Kind::Unavailable } else { Kind::Statement };
    };
    let RuntimeErr::SqlxError(cause) = cause else { return Kind::Statement };
    match &**cause {
        sqlx::Error::Database(cause) => match cause.code() {
            Some(code) if cause.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() => sqlite_kind(&code),
            Some(code) => postgres_kind(&code),
            None => Kind::Statement,
        },
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Kind::Unavailable,
        _ => Kind::Statement,
    }
}

/// By SQLite's extended result code, whose low byte is the primary one.
fn sqlite_kind(code: &str) -> Kind {
    /// The shared-memory file of the log could not grow, which is how a full disk shows there.
    const IOERR_SHMSIZE: u32 = 4874;
    match code.parse::<u32>() {
        Ok(IOERR_SHMSIZE) => Kind::Full,
        Ok(code) => match code & 0xff {
            13 => Kind::Full,
            // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, CANTOPEN, PROTOCOL
            5..=10 | 14 | 15 => Kind::Unavailable,
            _ => Kind::Statement,
        },
        Err(_) => Kind::Statement,
    }
}

/// By SQLSTATE.
fn postgres_kind(code: &str) -> Kind {
    match code {
        "53100" => Kind::Full,
        // deadlock, serialization failure, lock not available, canceled by a timeout, a standby
        "40P01" | "40001" | "55P03" | "57014" | "25006" | "25P03" => Kind::Unavailable,
        // connection, resources, operator intervention (shutdown), system (input and output)
        _ if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Kind::Unavailable,
        _ => Kind::Statement,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_sqlite_are_told_apart_by_their_primary_code() {
        assert_eq!(sqlite_kind("13"), Kind::Full);
        // SQLITE_IOERR_WRITE, SQLITE_BUSY_SNAPSHOT, SQLITE_NOMEM, SQLITE_READONLY_DBMOVED, SQLITE_CANTOPEN
        for code in ["778", "517", "7", "1032", "14"] {
            assert_eq!(sqlite_kind(code), Kind::Unavailable, "{code}");
        }
        // SQLITE_CONSTRAINT_UNIQUE, SQLITE_ERROR
        for code in ["2067", "1", "strange"] {
            assert_eq!(sqlite_kind(code), Kind::Statement, "{code}");
        }
    }

    #[test]
    fn errors_of_postgresql_are_told_apart_by_their_class() {
        assert_eq!(postgres_kind("53100"), Kind::Full);
        for code in ["57P01", "57P03", "08006", "53300", "55P03", "40P01"] {
            assert_eq!(postgres_kind(code), Kind::Unavailable, "{code}");
        }
        for code in ["23505", "42P01", "22001"] {
            assert_eq!(postgres_kind(code), Kind::Statement, "{code}");
        }
    }

    #[test]
    fn what_is_wrong_with_the_connection_is_no_fault_of_the_statement() {
        let error = DbErr::Conn(RuntimeErr::Internal("no answer".to_owned()));
        assert!(matches!(StoreError::from(error), StoreError::Unavailable(_)));
        assert!(matches!(StoreError::from(DbErr::RecordNotInserted), StoreError::Database(_)));
    }
}
