//! Which database the settings mean, in words that may be shown: without user and password.

use std::{fmt, path::PathBuf};

use reqwest::Url;

use super::{DatabaseUrl, StoreError};
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
    /// What the settings mean.
    ///
    /// # Errors
    /// A URL of an unknown kind.
    pub fn of(settings: &settings::Storage) -> Result<Self, StoreError> {
        Ok(match DatabaseUrl::parse(settings)? {
            DatabaseUrl::Sqlite(path) => Self::Sqlite(path.into()),
            DatabaseUrl::Postgres(url) => Self::Postgres(host_and_name(&url)),
        })
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

fn host_and_name(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return "storage.database_url".to_owned() };
    let query = |key: &str| url.query_pairs().find(|(name, _)| name == key).map(|(_, value)| value.into_owned());
    let host = url.host_str().filter(|host| !host.is_empty()).map(str::to_owned).or_else(|| query("host"));
    let host = host.unwrap_or_else(|| "localhost".to_owned());
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let name = url.path().trim_start_matches('/').to_owned();
    format!("{host}{port}/{}", query("dbname").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_told_without_user_and_password() {
        let told = |url: &str| {
            let settings = serde_json::json!({ "data_dir": "/data", "database_url": url, "max_connections": 1 });
            Location::of(&serde_json::from_value(settings).unwrap()).unwrap().to_string()
        };
        for (url, expected) in [
            ("", "SQLite in /data/switchboard.db"),
            ("sqlite:///./app.db", "SQLite in ./app.db"),
            ("sqlite:////srv/app.db", "SQLite in /srv/app.db"),
            ("postgres://me:hush@db.example:6432/broker?sslmode=require", "PostgreSQL at db.example:6432/broker"),
            ("postgresql+asyncpg://me:hush@db/broker", "PostgreSQL at db/broker"),
            ("postgres:///broker?host=/run/postgresql&password=hush", "PostgreSQL at /run/postgresql/broker"),
            ("postgres://me:hush@db:port/broker", "PostgreSQL at storage.database_url"),
        ] {
            assert_eq!(told(url), expected);
        }
    }
}
