//! The first start: the data directory, the secret that signs tokens, the first account. Secrets are written only into
//! files of mode 0600.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use uuid::Uuid;

use crate::{
    auth::{passwords, tokens::random_text},
    domain::{audit::Actor, ids::Role, passwords::PasswordRules},
    settings::{SecretPolicy, Settings},
    store::{Location, NewUser, ServingBroker, Store},
};

/// The file with the secret that was generated.
pub const SECRET: &str = "jwt-secret";

/// The file with the password of the first account.
pub const FIRST_PASSWORD: &str = "initial-admin-password";

/// Creates the data directory (mode 0700) if it does not exist.
///
/// # Errors
/// The directory cannot be created.
pub fn create_data_dir(dir: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create the data directory {}", dir.display()))
}

/// How a broker was started. Commands such as `user` use the same database and configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start<'a> {
    /// The location of the database, if it is outside the data directory.
    pub database_elsewhere: Option<&'a Location>,
}

/// Locks the data directory for as long as the returned file is open, so that no second broker uses it. Commands such as
/// `user` take the lock only to migrate the schema. A broker (`broker` is given) writes into the file how it was started,
/// for [`database_in_use`].
///
/// # Errors
/// Another broker holds the lock, or the file cannot be read or written.
pub fn lock_data_dir(dir: &Path, broker: Option<Start<'_>>) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    let is_held = lock.try_lock().is_err();
    let mut before = String::new();
    // used for the error text, and to keep the previous start's lines; an unreadable file counts as empty
    let _ = lock.read_to_string(&mut before);
    if is_held {
        anyhow::bail!(
            "another broker{} is using {}: stop it, or give another --data-dir",
            before.lines().next().map(|process| format!(" (process {process})")).unwrap_or_default(),
            dir.display()
        );
    }
    let start = match broker {
        Some(Start { database_elsewhere }) => {
            format!("{}\n", database_elsewhere.map(ToString::to_string).unwrap_or_default())
        }
        None => before.lines().skip(1).map(|line| format!("{line}\n")).collect(),
    };
    let written =
        lock.rewind().and_then(|()| lock.set_len(0)).and_then(|()| write!(lock, "{}\n{start}", std::process::id()));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(lock)
}

/// The database of the broker that started last with this data directory, if it is outside the directory.
pub fn database_in_use(dir: &Path) -> Option<String> {
    let lock = fs::read_to_string(dir.join("lock")).ok()?;
    lock.lines().nth(1).filter(|line| !line.is_empty()).map(str::to_owned)
}

/// The process that has locked a data directory. It is read from the system's list: to try the lock could let a broker fail that
/// starts at the same moment.
pub fn lock_holder(dir: &Path) -> Option<u32> {
    let file = fs::metadata(dir.join("lock")).ok()?;
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
    // such as: 1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF
    fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let is_ours = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&place.as_str());
        if is_ours { words.get(4)?.parse().ok() } else { None }
    })
}

/// The secret that signs tokens: the configured one, else the one in the file `jwt-secret`, which is created if missing.
///
/// # Errors
/// The secret violates `auth.secret_policy`, or the file cannot be read or written.
pub fn secret(settings: &Settings) -> anyhow::Result<Vec<u8>> {
    settings.check_secret()?;
    let path = settings.storage.data_dir.join(SECRET);
    if !settings.auth.secret.is_empty() {
        return existing_secret(settings);
    }
    // written only if missing, so that a full disk does not prevent a later start
    if !path.exists() {
        match write_secret(&path, &random_text()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| cannot_write(&path)),
        }
    }
    existing_secret(settings)
}

/// The same, for commands beside a broker, which has created it.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub fn existing_secret(settings: &Settings) -> anyhow::Result<Vec<u8>> {
    if !settings.auth.secret.is_empty() {
        return Ok(settings.auth.secret.expose().as_bytes().to_vec());
    }
    let path = settings.storage.data_dir.join(SECRET);
    let secret = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let secret = secret.trim();
    anyhow::ensure!(secret.len() >= 32, "{} contains no secret: remove the file to get a new one", path.display());
    Ok(secret.as_bytes().to_vec())
}

/// This process as it is registered in the database: a second broker names it, and commands keep to its password rules.
pub fn serving_broker(address: SocketAddr, password_rules: PasswordRules) -> ServingBroker {
    ServingBroker {
        instance: Uuid::new_v4(),
        host: host_name(),
        process_id: std::process::id(),
        address: address.to_string(),
        password_rules: Some(password_rules),
    }
}

/// The name of this machine.
pub fn host_name() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    host.map_or_else(|| "unknown".to_owned(), |host| host.trim().to_owned())
}

/// Creates the account `admin` if there is no user at all and the secret policy is not `strong`. Returns the file with its
/// password.
///
/// # Errors
/// The password file cannot be written, or the account cannot be stored.
pub async fn create_first_admin(store: &Store, settings: &Settings) -> anyhow::Result<Option<PathBuf>> {
    if settings.auth.secret_policy == SecretPolicy::Strong || store.count_users().await? > 0 {
        return Ok(None);
    }
    let path = settings.storage.data_dir.join(FIRST_PASSWORD);
    let password = random_text();
    // the file first: if storing the account fails, the file is useless; the other way round, the account would be
    if path.exists() {
        fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    write_secret(&path, &password).with_context(|| cannot_write(&path))?;
    let password_hash = passwords::hash(&password)?;
    let admin = NewUser {
        username: "admin".to_owned(),
        email: None,
        full_name: None,
        job_title: None,
        password_hash,
        role: Role::Admin,
    };
    if store.by(Actor::system()).create_user(admin).await?.is_err() {
        // another process created the account first and wrote the password to its own file
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        return Ok(None);
    }
    Ok(Some(path))
}

fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write {}: make its directory writable for this user, or give another one (--data-dir)",
        path.display()
    )
}

/// Atomically writes a file of mode 0600. An existing file is an error.
fn write_secret(path: &Path, secret: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{secret}")?;
        file.sync_all()?;
        // unlike a rename, a hard link does not replace an existing file
        fs::hard_link(&temporary, path)
    })();
    let removed = fs::remove_file(&temporary);
    // if it was never created, it cannot be removed either
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_data_directory_has_one_broker_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = Location::Postgres("host/name".to_owned());
        let start = Start { database_elsewhere: Some(&elsewhere) };
        let first = lock_data_dir(dir.path(), Some(start)).unwrap();
        assert_eq!(database_in_use(dir.path()).as_deref(), Some("PostgreSQL at host/name"));
        let refused = lock_data_dir(dir.path(), None).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        // a command that is not a broker keeps the lines
        lock_data_dir(dir.path(), None).unwrap();
        assert!(database_in_use(dir.path()).is_some());
        lock_data_dir(dir.path(), Some(Start::default())).unwrap();
        assert_eq!(database_in_use(dir.path()), None);
    }

    #[test]
    fn a_secret_file_is_private_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_secret(&path, "first").unwrap();
        assert_eq!(write_secret(&path, "second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_secret_that_cannot_be_written_says_why() {
        // not even root creates files there
        let error = write_secret(Path::new("/sys/secret"), "first").unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::NotFound, "{error}");
    }
}
