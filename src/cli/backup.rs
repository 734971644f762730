//! `switchboard backup`: one file with the embedded database and the secrets of the data directory, also while the broker runs.
//! The database is copied first, checked, and put into the archive with the secrets, which never change.

use std::{
    fs::{self, File},
    io::IsTerminal,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use clap::Args;
use tempfile::{NamedTempFile, TempDir};
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigArguments, archive, database::Database, quoted};
use crate::{
    app::{
        bootstrap,
        restored::{DATABASE, SECRETS},
    },
    store::{Location, check_copy, free_space},
    terminal::{WrongArguments, say},
};

#[derive(Args)]
pub(super) struct Arguments {
    /// The file to write, readable by its owner alone; - for stdout
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

/// Whether the file of an argument is stdin or stdout.
pub(super) fn is_stream(file: &Path) -> bool {
    file == Path::new("-")
}

pub(super) async fn run(Arguments { file, force, config }: Arguments) -> anyhow::Result<()> {
    // what is there in part is removed then, too
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        done = back_up(file, force, config) => done,
        _ = terminate.recv() => bail!("stopped: nothing was backed up"),
        _ = interrupt.recv() => bail!("stopped: nothing was backed up"),
    }
}

async fn back_up(file: PathBuf, force: bool, config: ConfigArguments) -> anyhow::Result<()> {
    check_target(&file, force)?;
    let database = Database::open(config, false).await?;
    if let Location::Postgres(_) = database.location {
        bail!(instead(&database, &file));
    }
    let schema = database.store.migration_status().await?;
    let schema = schema.iter().rev().find(|(_, is_applied)| *is_applied).map_or("", |(name, _)| *name);
    check_space(&database, &if is_stream(&file) { std::env::temp_dir() } else { parent(&file).to_owned() })?;
    let scratch = scratch(&file)?;
    let copy = scratch.path().join(DATABASE);
    let created_at = Utc::now();
    database.store.copy_to(&copy).await.context("cannot copy the database")?;
    check_copy(&copy).await.context("nothing was backed up")?;
    for name in SECRETS {
        let secret = database.settings.storage.data_dir.join(name);
        if secret.exists() {
            fs::copy(&secret, scratch.path().join(name))
                .with_context(|| format!("cannot copy {}", secret.display()))?;
        }
    }
    database.store.close().await;
    if is_stream(&file) {
        return archive::write(scratch.path(), created_at, schema, std::io::stdout().lock())
            .context("cannot write the backup to stdout");
    }
    let bytes = write_file(&file, force, scratch, created_at, schema)
        .with_context(|| format!("cannot write {}", file.display()))?;
    say!("backed up {} to {} ({bytes} bytes)", database.location, file.display());
    Ok(())
}

/// What to do with a database of PostgreSQL, which has a program for this.
fn instead(database: &Database, file: &Path) -> String {
    let mut words = vec!["pg_dump".to_owned(), "--format=custom".to_owned()];
    if !is_stream(file) {
        words.push(format!("--file={}", file.display()));
    }
    words.extend(database.store.postgres_arguments());
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    format!(
        "nothing was backed up: the data is in {}. Run {} (it asks for the password, or takes it from PGPASSWORD), and keep the secret (SECRET_KEY, or {})",
        database.location,
        words.join(" "),
        database.settings.storage.data_dir.join(bootstrap::SECRET).display()
    )
}

fn check_target(file: &Path, force: bool) -> anyhow::Result<()> {
    if is_stream(file) {
        ensure!(
            !std::io::stdout().is_terminal(),
            WrongArguments("FILE: - is for a pipe or a file, not for the terminal".to_owned())
        );
        return Ok(());
    }
    ensure!(!file.is_dir(), WrongArguments(format!("FILE: {} is a directory", file.display())));
    ensure!(force || !file.exists(), "{} exists already: give another file, or --force to replace it", file.display());
    Ok(())
}

/// Refuses a copy for which there is too little space: a broker on the same disk would store nothing more.
fn check_space(database: &Database, folder: &Path) -> anyhow::Result<()> {
    const MIB: u64 = 1024 * 1024;
    let Location::Sqlite(file) = &database.location else { return Ok(()) };
    // else the reason is told when the copy is made
    let Ok((free, total)) = free_space(folder) else { return Ok(()) };
    let log = file.with_extension("db-wal");
    let size: u64 = [file, &log].into_iter().filter_map(|file| fs::metadata(file).ok()).map(|found| found.len()).sum();
    // the copy, and the archive that is made of it
    let needed = 2 * size + database.settings.storage.min_free_bytes.min(total / 20);
    ensure!(
        free >= needed,
        "too little space in {}: {} MiB are free, and a backup needs {} MiB for a moment (twice the database, and what a broker on this disk keeps free): give a FILE on another disk",
        folder.display(),
        free / MIB,
        needed / MIB
    );
    Ok(())
}

/// A folder for the copy, on the file system of the backup.
fn scratch(file: &Path) -> anyhow::Result<TempDir> {
    let mut folder = tempfile::Builder::new();
    folder.prefix(".switchboard-backup-");
    if is_stream(file) {
        return folder.tempdir().context("cannot create a folder for the copy (TMPDIR)");
    }
    let parent = parent(file);
    folder.tempdir_in(parent).with_context(|| format!("cannot create a folder in {}", parent.display()))
}

fn parent(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes the file as a whole or not at all. Returns its size.
fn write_file(
    file: &Path,
    force: bool,
    scratch: TempDir,
    created_at: DateTime<Utc>,
    schema: &str,
) -> anyhow::Result<u64> {
    // of mode 0600
    let mut written = NamedTempFile::new_in(scratch.path())?;
    archive::write(scratch.path(), created_at, schema, &mut written)?;
    written.as_file().sync_all()?;
    let bytes = written.as_file().metadata()?.len();
    if force {
        written.persist(file)?
    } else {
        written.persist_noclobber(file)?
    };
    // so that its name survives a power failure
    File::open(parent(file))?.sync_all()?;
    Ok(bytes)
}
