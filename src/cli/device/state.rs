//! What a device has to keep between two runs, in a file of mode 0600.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::auth::tokens::digest;

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// The broker; its secrets go to no other.
    pub(super) url: String,
    pub(super) uuid: Uuid,
    /// As it was registered; `None`: not yet.
    pub(super) name: Option<String>,
    pub(super) device_key: Option<String>,
    /// The key of a registration whose answer has not come: it may have replaced `device_key`.
    pub(super) new_device_key: Option<String>,
    pub(super) access_token: Option<String>,
    /// Seconds since 1970 by this machine's clock.
    pub(super) access_token_expires_at: Option<i64>,
    pub(super) refresh_token: Option<String>,
    /// Digest of the refresh token that came from the command line, which is good once. A device that has one was
    /// registered by an operator and never registers itself.
    pub(super) given_token: Option<String>,
}

/// Whose an access token is, as the token says.
#[derive(Debug, Deserialize)]
pub(super) struct Owner {
    pub(super) sub: Uuid,
    pub(super) name: String,
}

impl Owner {
    /// Reads the claims without a look at the signature: the token comes from the broker itself.
    pub(super) fn of(access_token: &str) -> Option<Self> {
        let claims = URL_SAFE_NO_PAD.decode(access_token.split('.').nth(1)?).ok()?;
        serde_json::from_slice(&claims).ok()
    }
}

/// The file, which one process at a time has.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// locked for as long as it is open; the file itself is replaced at each change
    _lock: File,
}

impl StateFile {
    /// Takes the file and reads it; a new one has the UUID that is given, or a new one.
    pub(super) fn open(path: PathBuf, url: &str, uuid: Option<Uuid>) -> anyhow::Result<(Self, State)> {
        let shown = path.display().to_string();
        let dir = directory(&path);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
            format!("cannot make the directory {} for the device's state: give --state FILE", dir.display())
        })?;
        let mut lock_path = path.clone().into_os_string();
        lock_path.push(".lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.with_context(|| format!("cannot write beside {shown}: give another --state FILE"))?;
        ensure!(
            lock.try_lock().is_ok(),
            "another switchboard is connected as this device (state in {shown}): give another --name or --uuid, or another --state FILE"
        );
        let state = match fs::read(&path) {
            Ok(bytes) => {
                let state: State = serde_json::from_slice(&bytes).map_err(|_| {
                    anyhow::anyhow!("{shown} is not the state of a device: remove it, or give another --state FILE")
                })?;
                if state.url != url {
                    bail!("{shown} is the state of a device at {}, not at {url}: give another --state FILE", state.url);
                }
                if let Some(uuid) = uuid.filter(|uuid| *uuid != state.uuid) {
                    bail!(
                        "{shown} is the state of the device {}, not of {uuid}: give another --state FILE",
                        state.uuid
                    );
                }
                state
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => State {
                url: url.to_owned(),
                uuid: uuid.unwrap_or_else(Uuid::new_v4),
                name: None,
                device_key: None,
                new_device_key: None,
                access_token: None,
                access_token_expires_at: None,
                refresh_token: None,
                given_token: None,
            },
            Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
        };
        Ok((Self { path, _lock: lock }, state))
    }

    /// Replaces the file as a whole, so that a crash leaves the old one or the new one.
    pub(super) fn write(&self, state: &State) -> anyhow::Result<()> {
        let write = || {
            self.write_beside(state)?.persist(&self.path).map_err(|error| error.error)?;
            File::open(directory(&self.path))?.sync_all()
        };
        write().with_context(|| self.not_written())
    }

    /// Checks that the file could be replaced now, and leaves it as it is.
    pub(super) fn check(&self, state: &State) -> anyhow::Result<()> {
        self.write_beside(state).map(drop).with_context(|| self.not_written())
    }

    /// A temporary file with the state, in the same directory.
    fn write_beside(&self, state: &State) -> io::Result<NamedTempFile> {
        // of mode 0600
        let mut file = NamedTempFile::new_in(directory(&self.path))?;
        serde_json::to_writer_pretty(&mut file, state)?;
        writeln!(file)?;
        file.as_file().sync_all()?;
        Ok(file)
    }

    fn not_written(&self) -> String {
        format!("cannot write the device's state to {}", self.path.display())
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where the state of a device is kept if nothing else is said: a file for each broker and name or UUID.
pub(super) fn default_path(url: &str, device: &str) -> anyhow::Result<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = dir("XDG_STATE_HOME").or_else(|| dir("HOME").map(|home| home.join(".local/state")));
    let base =
        base.context("neither XDG_STATE_HOME nor HOME says where to keep the device's state: give --state FILE")?;
    Ok(base.join("switchboard").join(file_name(url, device)))
}

/// Readable, and different for different devices whatever characters their names have.
fn file_name(url: &str, device: &str) -> String {
    let digest: String = digest(&format!("{url}\n{device}")).chars().take(16).collect();
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    format!("{}-{}-{digest}.json", readable(host), readable(device))
}

fn readable(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written_by_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below/state.json");
        let (file, mut state) = StateFile::open(path.clone(), "http://a", None).unwrap();
        state.device_key = Some("key".to_owned());
        file.write(&state).unwrap();
        file.write(&state).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = |url: &str, uuid: Option<Uuid>| StateFile::open(path.clone(), url, uuid).unwrap_err().to_string();
        assert!(refused("http://a", None).contains("another switchboard"));
        drop(file);
        assert!(refused("http://b", None).contains("not at http://b"));
        assert!(refused("http://a", Some(Uuid::new_v4())).contains("is the state of the device"));
        let (file, again) = StateFile::open(path.clone(), "http://a", Some(state.uuid)).unwrap();
        assert_eq!((again.uuid, again.device_key.as_deref()), (state.uuid, Some("key")));
        drop(file);
        fs::write(&path, "{").unwrap();
        assert!(refused("http://a", None).contains("is not the state of a device"));
    }

    #[test]
    fn each_device_of_each_broker_has_a_file_of_its_own() {
        let name = file_name("http://127.0.0.1:8000", "Carol");
        assert!(name.starts_with("127.0.0.1_8000-Carol-") && name.ends_with(".json"), "{name}");
        let all = [
            name,
            file_name("https://127.0.0.1:8000", "Carol"),
            file_name("http://127.0.0.1:8000", "carol"),
            file_name("http://127.0.0.1:8000", "../Carol"),
            file_name("http://127.0.0.1:8000", &"ü".repeat(200)),
        ];
        let different: std::collections::HashSet<_> = all.iter().map(|name| name.to_lowercase()).collect();
        assert_eq!(different.len(), all.len());
        assert!(all.iter().all(|name| !name.contains('/') && name.len() < 200));
    }
}
