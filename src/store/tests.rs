//! The transactions, each test on a database of its own: an SQLite file, or a database of the server that
//! `SWITCHBOARD_TEST_POSTGRES` names, as for the tests of the API.

mod brokers;
mod commands;
mod gateways;
mod leases;
mod lock_order;
mod messages;
mod migrations;
mod rooms;
mod tokens;
mod topics;
mod users;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::ConnectionTrait;
use tempfile::TempDir;
use uuid::Uuid;

use super::{NewRefreshToken, NewUser, Store, User};
use crate::{
    clock::Clock,
    domain::{
        ids::{ClientId, ClientKind, Role},
        refresh_tokens::RefreshToken,
        registration::Proof,
        rooms::Participant,
    },
    settings,
};

/// A database with the present schema, and the clock that it has its times from.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    /// of SQLite
    _dir: TempDir,
}

/// When the clock begins.
pub(crate) fn start() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with_connections(2).await
    }

    async fn with_connections(most: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let mut url = String::new();
        if let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES") {
            let name = format!("test_{}", Uuid::new_v4().simple());
            let connection = sea_orm::Database::connect(&server).await.unwrap();
            connection.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
            connection.close().await.unwrap();
            url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        }
        let settings = serde_json::json!({
            "data_dir": dir.path(), "database_url": url, "max_connections": most, "timeout_ms": 60_000, "min_free_bytes": 0,
        });
        let settings: settings::Storage = serde_json::from_value(settings).unwrap();
        let clock = Clock::stopped(start());
        let store = Store::connect(&settings).await.unwrap().with_clock(clock.clone());
        store.migrate_up().await.unwrap();
        Self { store, clock, _dir: dir }
    }

    /// Registers a device.
    pub(crate) async fn device(&self, uuid: ClientId) {
        let refresh = RefreshToken {
            token: uuid.to_string(),
            hash: Uuid::new_v4().to_string(),
            expires_at: start() + TimeDelta::days(1),
        };
        let refresh = NewRefreshToken::of(&refresh, Uuid::new_v4(), uuid, ClientKind::Device);
        self.store.register_device(uuid, "device", "key", Proof::NotAsked, &refresh).await.unwrap().unwrap();
    }

    async fn user(&self, name: &str, role: Role) -> User {
        let new = NewUser {
            username: name.to_owned(),
            email: Some(format!("{name}@example.org")),
            full_name: None,
            job_title: None,
            password_hash: format!("hash of {name}"),
            role,
        };
        self.store.create_user(new).await.unwrap().unwrap()
    }
}

fn participant(name: &str) -> Participant {
    Participant { client: ClientId::random(), user_id: None, username: name.into() }
}
