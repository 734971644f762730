//! Puts the files of a backup in place of those of a data directory: either all of them or none, whenever the process ends.
//!
//! The new files lie in a folder of the data directory. One rename of this folder to [`COMPLETE`] decides that they count. Whoever
//! uses a data directory with that folder first [`finish`]es: each file replaces the old one, and stays in the folder until all are
//! done, so that this can be repeated from any point.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::bootstrap::{FIRST_PASSWORD, SECRET, lock_data_dir};

/// The embedded database.
pub const DATABASE: &str = "switchboard.db";

/// What else belongs to a backup: the secret that signs tokens, and the password of the first account.
pub const SECRETS: [&str; 2] = [SECRET, FIRST_PASSWORD];

/// What SQLite has beside its file while a program uses it, or after it was killed.
const BESIDE_DATABASE: [&str; 3] = ["switchboard.db-wal", "switchboard.db-shm", "switchboard.db-journal"];

/// The folder of files that replace those of the data directory.
const COMPLETE: &str = "restored";

/// The same, when all have been replaced.
const DONE: &str = "restored-done";

/// In the folder of new files: the one that is just put in its place.
const LINK: &str = "link";

/// Before the name of a folder to which files are still added.
const BEGUN: &str = "restoring-";

/// Before the name of the folder that keeps what was replaced.
const BEFORE: &str = "before-restore-";

/// A folder for the new files of a data directory that is locked.
///
/// # Errors
/// It cannot be created.
pub fn begin(dir: &Path) -> anyhow::Result<TempDir> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        // of a process that was killed
        if entry.file_name().to_string_lossy().starts_with(BEGUN) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    let created = tempfile::Builder::new().prefix(BEGUN).tempdir_in(dir);
    created.with_context(|| format!("cannot create a folder in {}", dir.display()))
}

/// Replaces the files of a data directory, which is locked, by those of the folder, which are on the disk. Returns the folder that
/// keeps what was there; `time` makes its name unique.
///
/// # Errors
/// The system refuses it: before the rename nothing is replaced, after it the next use of the data directory finishes.
pub fn replace(dir: &Path, new: TempDir, time: &str) -> anyhow::Result<Option<PathBuf>> {
    let kept = format!("{BEFORE}{time}");
    ensure!(!dir.join(&kept).exists(), "there is {} already: try again", dir.join(&kept).display());
    let before = new.path().join(&kept);
    let mut is_any = false;
    for name in [DATABASE, BESIDE_DATABASE[0]].into_iter().chain(SECRETS) {
        let old = dir.join(name);
        if old.exists() {
            if !is_any {
                fs::create_dir(&before)?;
                is_any = true;
            }
            fs::hard_link(&old, before.join(name)).with_context(|| format!("cannot keep {}", old.display()))?;
        }
    }
    if is_any {
        sync(&before)?;
    }
    // what would fail later is found now
    fs::hard_link(new.path().join(DATABASE), new.path().join(LINK)).context("the file system has no hard links")?;
    sync(new.path())?;
    fs::rename(new.path(), dir.join(COMPLETE)).with_context(|| format!("cannot rename {}", new.path().display()))?;
    // it has another name now, and is not to be removed
    let _ = new.keep();
    finish(dir)?;
    Ok(is_any.then(|| dir.join(kept)))
}

/// Finishes what [`replace`] has begun, if anything. For the holder of the lock on the data directory.
///
/// # Errors
/// The system refuses it; nothing of the data directory may be used then.
pub fn finish(dir: &Path) -> anyhow::Result<()> {
    exchange(dir).with_context(|| format!("cannot finish the restore of {}", dir.display()))
}

/// The same for commands, which do not have the lock.
///
/// # Errors
/// The system refuses it, or another process finishes it now.
pub fn finish_unlocked(dir: &Path) -> anyhow::Result<()> {
    if !dir.join(COMPLETE).exists() {
        return Ok(());
    }
    let _lock = lock_data_dir(dir, None)?;
    finish(dir)
}

fn exchange(dir: &Path) -> io::Result<()> {
    let (new, done) = (dir.join(COMPLETE), dir.join(DONE));
    if new.exists() {
        sync(dir)?;
        // they belong to the old database; the new one has none until it is opened
        for name in BESIDE_DATABASE {
            remove(&dir.join(name))?;
        }
        for name in SECRETS.into_iter().chain([DATABASE]) {
            let (from, to) = (new.join(name), dir.join(name));
            if from.exists() {
                // so that it is still in the folder when it is here, too
                let linked = new.join(LINK);
                remove(&linked)?;
                fs::hard_link(&from, &linked)?;
                fs::rename(&linked, &to)?;
            } else {
                remove(&to)?;
            }
        }
        for entry in fs::read_dir(&new)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(BEFORE) {
                fs::rename(entry.path(), dir.join(entry.file_name()))?;
            }
        }
        sync(dir)?;
        if done.exists() {
            fs::remove_dir_all(&done)?;
        }
        fs::rename(&new, &done)?;
        sync(dir)?;
    }
    if done.exists() { fs::remove_dir_all(&done) } else { Ok(()) }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the names in a folder survive a power failure.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
