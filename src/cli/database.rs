//! The database, for sub-commands that use it directly, also while the broker runs.

use std::{fs::File, path::Path};

use anyhow::{Context, bail, ensure};

use super::{ConfigArguments, start_logging};
use crate::{
    app::{bootstrap, restored},
    domain::{audit::Actor, passwords::PasswordRules},
    settings::{Settings, Storage},
    store::{DatabaseLock, Location, Sharing, Store, StoreError},
};

/// An open database and its location.
pub(super) struct Database {
    /// connected, not migrated
    pub(super) store: Store,
    /// shown to the operator
    pub(super) location: Location,
    /// those of this command, which may have been started in another environment than the broker
    pub(super) settings: Settings,
}

impl Database {
    /// Connects. A missing database is created only if `create` is set and its place was given explicitly, since otherwise it
    /// would most likely not be the broker's.
    pub(super) async fn open(config: ConfigArguments, create: bool) -> anyhow::Result<Self> {
        let data_dir_given = config.data_dir.is_some();
        let settings = config.load(None)?;
        start_logging(&settings.log)?;
        let location = Location::of(&settings.storage)?;
        restored::finish_unlocked(&settings.storage.data_dir)?;
        check(&settings, &location, data_dir_given, create)?;
        if create && settings.storage.database_url.is_empty() {
            bootstrap::create_data_dir(&settings.storage.data_dir)?;
        }
        let store = Store::connect(&settings.storage).await?;
        let store = store.by(Actor::command_line(&system_user())).at_host(&bootstrap::host_name());
        Ok(Self { store, location, settings })
    }

    /// The rules for new passwords: those of the broker that serves the database, or served it last, together with those in
    /// the settings of this command, which may have been started in another environment.
    pub(super) async fn password_rules(&self) -> anyhow::Result<PasswordRules> {
        let broker = self.store.serving_broker().await?;
        let rules = broker.and_then(|(broker, _)| broker.password_rules);
        let own = self.settings.auth.password_rules();
        Ok(rules.map_or(own, |rules| rules.and(own)))
    }

    /// Takes the locks that a broker takes, so that no broker uses the database meanwhile.
    pub(super) async fn lock(&self) -> anyhow::Result<(DatabaseLock, Option<File>)> {
        let lock = match self.store.lock(Sharing::Alone).await {
            Err(StoreError::InUse(broker)) => bail!("a broker uses this database ({broker}): stop it first"),
            lock => lock?,
        };
        let Storage { data_dir, database_url, .. } = &self.settings.storage;
        // a database that was given by URL is none of this directory
        let data_dir = database_url.is_empty().then(|| bootstrap::lock_data_dir(data_dir, None)).transpose()?;
        Ok((lock, data_dir))
    }

    /// Applies pending migrations, if there are any, under the broker's locks.
    pub(super) async fn migrate_up(&self) -> anyhow::Result<()> {
        if self.store.migration_status().await?.iter().all(|(_, applied)| *applied) {
            return Ok(());
        }
        let _lock = self.lock().await.context("the database has the schema of an older version")?;
        self.store.migrate_up().await.context("cannot bring the database's schema up to date")
    }

    /// Connects and applies pending migrations.
    pub(super) async fn open_migrated(config: ConfigArguments, create: bool) -> anyhow::Result<Self> {
        let database = Self::open(config, create).await?;
        database.migrate_up().await?;
        Ok(database)
    }
}

/// Who runs the command, as the environment says; of `sudo` the caller.
fn system_user() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// Refuses a database that is probably not the broker's.
fn check(settings: &Settings, location: &Location, data_dir_given: bool, create: bool) -> anyhow::Result<()> {
    let Location::Sqlite(file) = location else { return Ok(()) };
    let storage = &settings.storage;
    let url_given = !storage.database_url.is_empty();
    if !url_given && let Some(used) = bootstrap::database_in_use(&storage.data_dir) {
        bail!(
            "the broker with the data directory {} uses {used}: give the same DATABASE_URL",
            storage.data_dir.display()
        );
    }
    if file.exists() {
        return Ok(());
    }
    let place_given = url_given || data_dir_given || storage.data_dir != Path::new("./data");
    ensure!(
        url_given || create || storage.data_dir.exists(),
        "there is no data directory {}: give --data-dir, or DATABASE_URL",
        storage.data_dir.display()
    );
    ensure!(create, "there is no database {}: give the broker's --data-dir or DATABASE_URL", file.display());
    ensure!(
        place_given,
        "there is no database {}: give the broker's --data-dir or DATABASE_URL; for a new broker, start it once, or give the place of its data",
        file.display()
    );
    settings.check_secret().context("a new database needs the broker's own environment")
}
