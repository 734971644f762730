//! Settings that change while the broker runs.
//!
//! A reload reads all layers again. Who needs a setting reads it at the moment of its use, so what is replaced is in effect at
//! once. Some keys are used at the start alone; for them a reload keeps the old values, and names those that have changed.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, Guard};

use super::{
    Settings,
    layers::{Flags, Layers, SettingsError, read},
};

/// Keys and sections that are used at the start alone.
const AT_START: [&str; 23] = [
    "http.bind",
    "http.workers",
    "storage",
    "auth.secret",
    "auth.secret_policy",
    "auth.access_token_minutes",
    "auth.refresh_token_days",
    "auth.recheck_secs",
    "auth.password_min_chars",
    "auth.refuse_common_passwords",
    "devices",
    "sessions",
    "limits.frame_bytes",
    "limits.outbound_bytes",
    "limits.send_timeout_secs",
    "limits.connections",
    "limits.unacknowledged_per_device",
    "limits.password_hashes_queued",
    "probes",
    "redis",
    "cluster",
    "log.format",
    "webhooks",
];

/// Whether a key is used at the start alone.
fn needs_restart(key: &str) -> bool {
    AT_START.iter().any(|fixed| key == *fixed || key.split_once('.').is_some_and(|(section, _)| section == *fixed))
}

/// The settings in effect; clones share them.
#[derive(Clone)]
pub struct LiveSettings {
    current: Arc<ArcSwap<Settings>>,
    /// where they come from
    source: Arc<Mutex<Source>>,
}

struct Source {
    flags: Flags,
    layers: Layers,
}

/// The keys that have other values than before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// In effect now.
    pub changed: Vec<String>,
    /// In effect at the next start.
    pub at_restart: Vec<String>,
}

impl fmt::Debug for LiveSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self.current.load(), f)
    }
}

impl LiveSettings {
    /// Reads all layers; see [`load`](super::load).
    ///
    /// # Errors
    /// The first wrong key or value, and its layer.
    pub fn read(flags: Flags) -> Result<Self, SettingsError> {
        let layers = read(&flags)?;
        let current = Arc::new(ArcSwap::from_pointee(layers.finish()?));
        Ok(Self { current, source: Arc::new(Mutex::new(Source { flags, layers })) })
    }

    /// The settings in effect now.
    pub fn load(&self) -> Guard<Arc<Settings>> {
        self.current.load()
    }

    /// Reads all layers again, and replaces the settings.
    ///
    /// # Errors
    /// The first wrong key or value, and its layer; nothing changes.
    pub fn reload(&self) -> Result<Reloaded, SettingsError> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let mut layers = read(&source.flags)?;
        // all of them are used by the next start
        layers.finish()?;
        let is_changed = |key: &String| layers.value(key) != source.layers.value(key);
        let (at_restart, changed): (Vec<_>, Vec<_>) =
            Layers::keys().into_iter().filter(is_changed).partition(|key| needs_restart(key));
        at_restart.iter().for_each(|key| layers.keep(key, &source.layers));
        self.current.store(Arc::new(layers.finish()?));
        source.layers = layers;
        Ok(Reloaded { changed, at_restart })
    }
}

#[cfg(test)]
impl From<Settings> for LiveSettings {
    fn from(settings: Settings) -> Self {
        let source = Source { flags: Flags::default(), layers: Layers::new() };
        Self { current: Arc::new(ArcSwap::from_pointee(settings)), source: Arc::new(Mutex::new(source)) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_reload_replaces_what_can_change_and_names_what_needs_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        let write = |text: &str| fs::write(&path, text).unwrap();
        write("[limits]\nbody_bytes = 1000\n");
        let live = LiveSettings::read(Flags { config: Some(path.clone()), ..Flags::default() }).unwrap();
        assert_eq!(live.load().limits.body_bytes, 1000);
        assert_eq!(live.reload().unwrap(), Reloaded::default());
        write("[limits]\nbody_bytes = 2000\n[http]\nworkers = 3\n");
        let reloaded = live.reload().unwrap();
        assert_eq!(reloaded.changed, ["limits.body_bytes"]);
        assert_eq!(reloaded.at_restart, ["http.workers"]);
        assert_eq!((live.load().limits.body_bytes, live.load().http.workers), (2000, 0));
        // as long as it is not restarted
        assert_eq!(live.reload().unwrap().at_restart, ["http.workers"]);
        // what a file does not set any more has its default again
        write("");
        assert_eq!(live.reload().unwrap().changed, ["limits.body_bytes"]);
        assert_eq!(live.load().limits.body_bytes, 1_048_576);
    }

    #[test]
    fn a_reload_of_something_wrong_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        fs::write(&path, "[limits]\nbody_bytes = 1000\n").unwrap();
        let live = LiveSettings::read(Flags { config: Some(path.clone()), ..Flags::default() }).unwrap();
        fs::write(&path, "[limits]\nbody_bytes = 2000\nnope = 1\n").unwrap();
        let error = live.reload().unwrap_err().to_string();
        assert!(error.contains("limits.nope"), "{error}");
        assert_eq!(live.load().limits.body_bytes, 1000);
    }

    #[test]
    fn each_key_that_needs_a_restart_exists() {
        let (keys, documented) = (Layers::keys(), include_str!("../../docs/configuration.md"));
        for fixed in AT_START {
            let exists = keys.iter().any(|key| key == fixed || key.starts_with(&format!("{fixed}.")));
            assert!(exists, "{fixed}");
            assert!(documented.contains(&format!("`{fixed}")), "{fixed} is not in docs/configuration.md");
        }
        assert!(needs_restart("storage.data_dir") && !needs_restart("limits.body_bytes"));
    }
}
