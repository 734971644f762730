//! The database, for sub-commands that work on it themselves, whether or not the broker runs.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};

use super::{ConfigArguments, start_logging};
use crate::{
    app::bootstrap,
    domain::passwords::PasswordRules,
    settings::{Settings, Storage},
    store::{DatabaseLock, Location, Store, StoreError},
};

/// A database and where it is.
pub(super) struct Database {
    /// Connected, not migrated.
    pub(super) store: Store,
    /// To be shown.
    pub(super) location: Location,
    /// What new passwords must be by the settings of this command.
    password_rules: PasswordRules,
    /// The `--config` file of the broker, where this command was given none.
    missing_config: Option<String>,
    /// Where the database is, unless it was named by its URL.
    data_dir: Option<PathBuf>,
}

impl Database {
    /// Connects. A database that is not there is only created for who asks for that, and only where it was named: else it
    /// would be one that no broker reads.
    pub(super) async fn open(config: ConfigArguments, create: bool) -> anyhow::Result<Self> {
        let data_dir_given = config.data_dir.is_some();
        let settings = config.load(None)?;
        start_logging(&settings.log)?;
        let location = Location::of(&settings.storage)?;
        check(&settings, &location, data_dir_given, create)?;
        if create && settings.storage.database_url.is_empty() {
            bootstrap::create_data_dir(&settings.storage.data_dir)?;
        }
        let store = Store::connect(&settings.storage).await?;
        let password_rules = settings.auth.password_rules();
        let in_use = bootstrap::config_in_use(&settings.storage.data_dir);
        let missing_config = in_use.filter(|_| settings.config_file.is_none());
        let Storage { data_dir, database_url, .. } = settings.storage;
        let data_dir = database_url.is_empty().then_some(data_dir);
        Ok(Self { store, location, password_rules, missing_config, data_dir })
    }

    /// What new passwords must be.
    ///
    /// # Errors
    /// The broker has other settings, and other rules with them.
    pub(super) fn password_rules(&self) -> anyhow::Result<PasswordRules> {
        match &self.missing_config {
            Some(file) => {
                bail!("the broker was started with --config {file}, which may set rules for passwords: give the same")
            }
            None => Ok(self.password_rules),
        }
    }

    /// Takes the locks of a broker, for what no broker may work with meanwhile.
    pub(super) async fn lock(&self) -> anyhow::Result<(DatabaseLock, Option<File>)> {
        let lock = match self.store.lock().await {
            Err(StoreError::InUse(broker)) => bail!("a broker uses this database ({broker}): stop it first"),
            lock => lock?,
        };
        let data_dir = self.data_dir.as_deref().map(|dir| bootstrap::lock_data_dir(dir, None)).transpose()?;
        Ok((lock, data_dir))
    }

    /// Brings the schema up to date, if it is not. A broker must not work with it meanwhile.
    pub(super) async fn migrate_up(&self) -> anyhow::Result<()> {
        if self.store.migration_status().await?.iter().all(|(_, applied)| *applied) {
            return Ok(());
        }
        let _lock = self.lock().await.context("the database has the schema of an older version")?;
        self.store.migrate_up().await.context("cannot bring the database's schema up to date")
    }

    /// Connects, and brings the schema up to date.
    pub(super) async fn open_migrated(config: ConfigArguments, create: bool) -> anyhow::Result<Self> {
        let database = Self::open(config, create).await?;
        database.migrate_up().await?;
        Ok(database)
    }
}

/// Refuses a database that is most likely not the broker's.
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
        "there is no database {}: give the broker's --data-dir or DATABASE_URL; for a new broker, start it once, or say where its data is to be",
        file.display()
    );
    settings.check_secret().context("a new database needs the broker's own environment")
}
