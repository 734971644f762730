//! The place of the database that the settings name, without user and password, so that it can be shown.

use std::{borrow::Cow, fmt, path::PathBuf};

use sea_orm::sqlx::postgres::PgConnectOptions;

use super::{Database, Store, StoreError};
use crate::settings;

/// Where the data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file.
    Sqlite(PathBuf),
    /// A database of a server, as `host/name`.
    Postgres(String),
}

impl Location {
    /// The place that the settings name.
    ///
    /// # Errors
    /// A URL of an unknown kind.
    pub fn of(settings: &settings::Storage) -> Result<Self, StoreError> {
        Ok(match Database::parse(settings)? {
            Database::Sqlite(path) => Self::Sqlite(path),
            Database::Postgres(options) => Self::Postgres(host_and_name(&options)),
        })
    }
}

impl Store {
    /// The arguments with which PostgreSQL's programs find this database, without the password; the last one is its name. None with SQLite.
    pub fn postgres_arguments(&self) -> Vec<String> {
        let Database::Postgres(options) = &self.database else { return Vec::new() };
        vec![
            format!("--host={}", host(options)),
            format!("--port={}", options.get_port()),
            format!("--username={}", options.get_username()),
            options.get_database().unwrap_or_default().to_owned(),
        ]
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "SQLite in {}", path.display()),
            Self::Postgres(place) => write!(f, "PostgreSQL at {place}"),
        }
    }
}

/// The host, or the folder of the socket.
fn host(options: &PgConnectOptions) -> Cow<'_, str> {
    options.get_socket().map_or_else(|| options.get_host().into(), |socket| socket.to_string_lossy())
}

fn host_and_name(options: &PgConnectOptions) -> String {
    let host = host(options);
    let port = if options.get_port() == 5432 { String::new() } else { format!(":{}", options.get_port()) };
    format!("{host}{port}/{}", options.get_database().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_told_without_user_and_password() {
        let told = |url: &str| {
            let settings = serde_json::json!({ "data_dir": "/data", "database_url": url, "max_connections": 1, "timeout_ms": 0, "min_free_bytes": 0 });
            Location::of(&serde_json::from_value(settings).unwrap()).unwrap().to_string()
        };
        for (url, expected) in [
            ("", "SQLite in /data/switchboard.db"),
            ("sqlite:///./app.db", "SQLite in ./app.db"),
            ("sqlite:////srv/app.db", "SQLite in /srv/app.db"),
            ("postgres://me:hush@db.example:6432/broker?sslmode=require", "PostgreSQL at db.example:6432/broker"),
            ("postgresql+asyncpg://me:hush@db/broker", "PostgreSQL at db/broker"),
            ("postgres:///broker?host=/run/postgresql&password=hush", "PostgreSQL at /run/postgresql/broker"),
        ] {
            assert_eq!(told(url), expected);
        }
    }
}
