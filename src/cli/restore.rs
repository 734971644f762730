//! `switchboard restore`: the files of a backup in a data directory. All is read, checked and migrated in a folder of its own before
//! anything is replaced.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use chrono::Utc;
use clap::Args;

use super::{ConfigArguments, archive, backup::is_stream, start_logging};
use crate::{
    app::{
        bootstrap,
        restored::{self, DATABASE, SECRETS},
    },
    settings::Storage,
    store::{Location, Store, check_copy, lock_file},
    terminal::{output::printable, say},
};

#[derive(Args)]
pub(super) struct Arguments {
    /// A file that `switchboard backup` wrote; - for stdin
    file: PathBuf,
    /// Replace a database that is there already; it is kept in a folder before-restore-… of the data directory
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) async fn run(Arguments { file, force, config }: Arguments) -> anyhow::Result<()> {
    let settings = config.load(None)?;
    start_logging(&settings.log)?;
    let storage = settings.storage;
    check_place(&storage)?;
    let backup = open(&file)?;
    let dir = &storage.data_dir;
    bootstrap::create_data_dir(dir)?;
    // for as long as this runs
    let _lock = bootstrap::lock_data_dir(dir, None)?;
    restored::finish(dir)?;
    let database = dir.join(DATABASE);
    let _database_lock = if database.exists() {
        ensure!(
            force,
            "there is a database in {} already: give another --data-dir, or --force, which keeps it aside",
            dir.display()
        );
        let lock = lock_file(&database).await?;
        Some(lock.with_context(|| format!("a broker uses {}: stop it first", database.display()))?)
    } else {
        None
    };
    let new = restored::begin(dir)?;
    let what = || format!("cannot restore {}, and nothing was changed", file.display());
    let description = archive::read(backup, new.path()).with_context(what)?;
    check_secrets(dir, new.path(), force)?;
    prepare(new.path(), &storage).await.with_context(what)?;
    let kept = restored::replace(dir, new, &Utc::now().format("%Y%m%dT%H%M%S%.3fZ").to_string())?;
    say!(
        "restored the backup of {} (switchboard {}) into {}",
        description.created_at.format("%Y-%m-%d %H:%M:%S UTC"),
        printable(&description.switchboard),
        dir.display()
    );
    if let Some(kept) = kept {
        say!("what was there is in {}: remove it when you do not need it any more", kept.display());
    }
    Ok(())
}

/// Refuses what is not a data directory.
fn check_place(storage: &Storage) -> anyhow::Result<()> {
    match Location::of(storage)? {
        Location::Postgres(place) => bail!(
            "the data is in PostgreSQL at {place}: run pg_restore with a file of pg_dump (docs/backup.md); for a backup of an embedded database, unset DATABASE_URL"
        ),
        Location::Sqlite(file) => ensure!(
            storage.database_url.is_empty(),
            "DATABASE_URL names {}, but a backup is restored into a data directory: unset DATABASE_URL",
            file.display()
        ),
    }
    if let Some(used) = bootstrap::database_in_use(&storage.data_dir) {
        bail!("the broker with the data directory {} uses {used}: give another --data-dir", storage.data_dir.display());
    }
    Ok(())
}

fn open(file: &Path) -> anyhow::Result<Box<dyn Read>> {
    if is_stream(file) {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    Ok(Box::new(opened))
}

/// Refuses another secret than the one in the data directory, which may be that of a database elsewhere.
fn check_secrets(dir: &Path, new: &Path, force: bool) -> anyhow::Result<()> {
    for name in SECRETS {
        let (old, new) = (fs::read(dir.join(name)).ok(), fs::read(new.join(name)).ok());
        ensure!(
            force || old.is_none() || old == new,
            "there is another {name} in {} already: give another --data-dir, or --force, which keeps it aside",
            dir.display()
        );
    }
    Ok(())
}

/// Makes the database of a backup what a broker can serve.
async fn prepare(folder: &Path, storage: &Storage) -> anyhow::Result<()> {
    let file = folder.join(DATABASE);
    check_copy(&file).await?;
    let store = Store::connect(&Storage { data_dir: folder.to_owned(), ..storage.clone() }).await?;
    let is_known = store.migration_status().await?.iter().any(|(_, is_applied)| *is_applied);
    ensure!(is_known, "its database is not that of a broker");
    store.migrate_up().await.context("cannot bring its schema up to date")?;
    store.skip_numbers().await?;
    store.close().await;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        // SQLite has written all of its log to the database, and removed it
        ensure!(name == DATABASE || SECRETS.iter().any(|secret| name == *secret), "{} is left", entry.path().display());
        File::open(entry.path())?.sync_all()?;
    }
    Ok(())
}
