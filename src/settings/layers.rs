//! Reads the layers of settings. Later layers override earlier ones. An error names the layer with the wrong key or value.
//!
//! The built-in `config/default.toml` contains every key, so it also defines which keys exist and the type of each: a value
//! from the environment is read as that type.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{GatewayEntry, Settings, WebhookEntry, explain};

/// The built-in file.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");
const PREFIX: &str = "SWITCHBOARD__";
const GATEWAYS: &str = "gateways";
const WEBHOOKS: &str = "webhooks";

/// Environment variables of the systems that Switchboard replaces, and the keys that they set.
const UNPREFIXED: [(&str, &str); 9] = [
    ("DATABASE_URL", "storage.database_url"),
    ("JWT_SECRET_KEY", "auth.secret"),
    ("SECRET_KEY", "auth.secret"),
    ("ACCESS_TOKEN_EXPIRE_MINUTES", "auth.access_token_minutes"),
    ("REDIS_HOST", "redis.host"),
    ("REDIS_PORT", "redis.port"),
    ("REDIS_DB", "redis.db"),
    ("REDIS_PASSWORD", "redis.password"),
    ("REDIS_URL", "redis.url"),
];

/// Variables of the command line and of the tests, which are not settings.
const OTHER_VARIABLES: [&str; 9] = [
    "SWITCHBOARD_CA",
    "SWITCHBOARD_DEVICE_KEY",
    "SWITCHBOARD_DEVICE_TOKEN",
    "SWITCHBOARD_PASSWORD",
    "SWITCHBOARD_TEST_POSTGRES",
    "SWITCHBOARD_TEST_REDIS",
    "SWITCHBOARD_TOKEN",
    "SWITCHBOARD_URL",
    "SWITCHBOARD_USERNAME",
];

/// The reason why the settings are not usable: one line that names the key and its layer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl SettingsError {
    pub(super) fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }
}

/// The layer of command line flags.
#[derive(Debug, Default, Clone)]
pub struct Flags {
    /// The file given with `--config`.
    pub config: Option<PathBuf>,
    /// The address given with `--bind`.
    pub bind: Option<String>,
    /// The directory given with `--data-dir`.
    pub data_dir: Option<PathBuf>,
}

/// Reads all layers: built-in defaults, `--config` file, `.env`, environment, flags.
///
/// # Errors
/// The first wrong key or value, and its layer.
pub fn load(flags: &Flags) -> Result<Settings, SettingsError> {
    read(flags)?.finish()
}

/// Reads all layers, as [`load`] does, and checks each value by itself.
pub(super) fn read(flags: &Flags) -> Result<Layers, SettingsError> {
    let dotenv = match dotenvy::from_path_iter(".env") {
        Ok(lines) => read_dotenv(lines)?,
        Err(dotenvy::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(SettingsError::new(format!("cannot read .env: {error}"))),
    };
    let environment = read_environment()?;
    let mut layers = Layers::new();
    if let Some(path) = &flags.config {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| SettingsError::new(format!("cannot read {name}: {error}")))?;
        layers.file(&name, &text)?;
    }
    layers.variables(".env", &dotenv)?;
    layers.variables("environment", &environment)?;
    if let Some(bind) = &flags.bind {
        layers.set("http.bind", Value::String(bind.clone()), "flag --bind")?;
    }
    if let Some(dir) = &flags.data_dir {
        layers.set("storage.data_dir", Value::String(dir.display().to_string()), "flag --data-dir")?;
    }
    Ok(layers)
}

/// Only the built-in defaults, for tests.
#[cfg(test)]
pub(crate) fn built_in() -> Settings {
    Layers::new().finish().unwrap()
}

/// The pairs of a `.env` file. Errors do not quote the line, since it may contain a secret.
fn read_dotenv<R: std::io::Read>(lines: dotenvy::Iter<R>) -> Result<Vec<(String, String)>, SettingsError> {
    lines
        .enumerate()
        .map(|(index, line)| {
            line.map_err(|error| match error {
                dotenvy::Error::Io(error) => SettingsError::new(format!("cannot read .env: {error}")),
                _ => SettingsError::new(format!(".env: entry {} is not of the form NAME=VALUE", index + 1)),
            })
        })
        .collect()
}

/// The variables of the environment. Settings must be UTF-8; other variables that are not UTF-8 are skipped.
fn read_environment() -> Result<Vec<(String, String)>, SettingsError> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(_) if is_setting(&name) => {
                return Err(SettingsError::new(format!("bad value for `{name}` (environment): not UTF-8")));
            }
            Err(_) => {}
        }
    }
    Ok(variables)
}

fn is_setting(name: &str) -> bool {
    name.starts_with(PREFIX) || name == "ALGORITHM" || UNPREFIXED.iter().any(|(unprefixed, _)| *unprefixed == name)
}

/// The values of all layers that were read so far.
pub(super) struct Layers {
    values: Table,
    /// the layer that last set a key, for error messages
    origins: BTreeMap<String, String>,
    /// variables that begin with `SWITCHBOARD_` and are not settings
    ignored: Vec<String>,
}

impl Layers {
    #[expect(clippy::expect_used, reason = "the built-in file is part of the program and read by every test")]
    pub(super) fn new() -> Self {
        Self {
            values: DEFAULTS.parse().expect("config/default.toml is valid TOML"),
            origins: BTreeMap::new(),
            ignored: Vec::new(),
        }
    }

    /// All keys in the order of the built-in file: `gateways`, and `section.key`.
    pub(super) fn keys() -> Vec<String> {
        let (mut keys, mut section) = (Vec::new(), "");
        for line in DEFAULTS.lines().filter(|line| !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name;
            } else if let Some((key, _)) = line.split_once(" = ") {
                keys.push(if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") });
            }
        }
        keys
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        match key.split_once('.') {
            Some((section, key)) => self.values.get(section)?.get(key),
            None => self.values.get(key),
        }
    }

    /// The layer that set a key; `None` for the built-in file.
    pub(super) fn origin(&self, key: &str) -> Option<&str> {
        self.origins.get(key).map(String::as_str)
    }

    pub(super) fn file(&mut self, name: &str, text: &str) -> Result<(), SettingsError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            // the line is not quoted, since it may contain a secret
            let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            SettingsError::new(format!("{name}: line {line}: {}", one_line(error.message())))
        })?;
        for (section, keys) in table {
            if section == GATEWAYS {
                self.set_tables::<GatewayEntry>(GATEWAYS, keys, name)?;
                continue;
            }
            if section == WEBHOOKS {
                self.set_tables::<WebhookEntry>(WEBHOOKS, keys, name)?;
                continue;
            }
            let Value::Table(keys) = keys else {
                return Err(SettingsError::new(format!("{name}: unknown key `{section}` outside of any section")));
            };
            for (key, value) in keys {
                self.set(&format!("{section}.{key}"), value, name)?;
            }
        }
        Ok(())
    }

    /// Sets a key outside of sections, which is a list of tables. The list of a later file replaces the whole list.
    fn set_tables<T: DeserializeOwned>(&mut self, key: &str, list: Value, layer: &str) -> Result<(), SettingsError> {
        let bad = |why: &str| SettingsError::new(format!("bad value for `{key}` ({layer}): {why}"));
        let Value::Array(entries) = list else {
            return Err(bad(&format!("expected a list of {key}, each as [[{key}]]")));
        };
        for (index, entry) in entries.iter().enumerate() {
            // else the error would quote it
            if entry.get("secret").is_some_and(|secret| !secret.is_str()) {
                return Err(bad(&format!("entry {}: secret: expected a text", index + 1)));
            }
            let read: Result<T, _> = entry.clone().try_into();
            read.map_err(|error| bad(&format!("entry {}: {}", index + 1, one_line(error.message()))))?;
        }
        self.values.insert(key.to_owned(), Value::Array(entries));
        self.origins.insert(key.to_owned(), layer.to_owned());
        Ok(())
    }

    fn variables(&mut self, layer: &str, variables: &[(String, String)]) -> Result<(), SettingsError> {
        let given = |name: &str| variables.iter().find(|(key, value)| key == name && !value.is_empty());
        if let Some((_, algorithm)) = given("ALGORITHM")
            && algorithm != "HS256"
        {
            return Err(SettingsError::new(format!("ALGORITHM ({layer}): only HS256 is supported")));
        }
        for (name, key) in UNPREFIXED {
            if let Some((_, text)) = given(name) {
                self.set_text(key, text, &format!("{layer}, {name}"))?;
            }
        }
        for (name, text) in variables {
            let Some(path) = name.strip_prefix(PREFIX) else {
                self.check_ignored(name, layer)?;
                continue;
            };
            let origin = format!("{layer}, {name}");
            let Some((section, key)) = path.split_once("__") else {
                return Err(SettingsError::new(format!(
                    "unknown key `{name}` ({layer}): expected {PREFIX}SECTION__KEY"
                )));
            };
            self.set_text(&format!("{section}.{key}").to_lowercase(), text, &origin)?;
        }
        Ok(())
    }

    /// Checks a `SWITCHBOARD_` variable without the second underscore. It is an error if it matches a setting. Others are
    /// only collected for a warning, since Kubernetes creates such variables for a service of this name.
    fn check_ignored(&mut self, name: &str, layer: &str) -> Result<(), SettingsError> {
        let Some(path) = name.strip_prefix("SWITCHBOARD_") else { return Ok(()) };
        if OTHER_VARIABLES.contains(&name) {
            return Ok(());
        }
        let path = path.to_lowercase().replace("__", "_");
        let meant = self.values.iter().filter_map(|(section, keys)| Some((section, keys.as_table()?))).find_map(
            |(section, keys)| {
                Some((section, keys.get_key_value(path.strip_prefix(section.as_str())?.strip_prefix('_')?)?.0))
            },
        );
        if let Some((section, key)) = meant {
            let expected = format!("{PREFIX}{section}__{key}").to_uppercase();
            return Err(SettingsError::new(format!(
                "unknown key `{name}` ({layer}): expected {expected}, with two underscores"
            )));
        }
        self.ignored.push(name.to_owned());
        Ok(())
    }

    /// Sets a key from a text, which is read as the type of the built-in value.
    pub(super) fn set_text(&mut self, key: &str, text: &str, layer: &str) -> Result<(), SettingsError> {
        let value = match self.known(key, layer)? {
            Value::Integer(_) => text.trim().parse().map(Value::Integer).map_err(|_| "a whole number"),
            Value::Boolean(_) => text.trim().parse().map(Value::Boolean).map_err(|_| "true or false"),
            Value::Array(_) => Ok(Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| Value::String(item.to_owned()))
                    .collect(),
            )),
            _ => Ok(Value::String(text.to_owned())),
        };
        let value = value
            .map_err(|expected| SettingsError::new(format!("bad value for `{key}` ({layer}): expected {expected}")))?;
        self.set(key, value, layer)
    }

    fn known(&self, key: &str, layer: &str) -> Result<&Value, SettingsError> {
        // `gateways` is no value of a section, and has its own way in
        let value = if key.contains('.') { self.value(key) } else { None };
        value.ok_or_else(|| SettingsError::new(format!("unknown key `{key}` ({layer})")))
    }

    /// Sets a key and parses all settings at once, so that an error names the layer at fault.
    fn set(&mut self, key: &str, value: Value, layer: &str) -> Result<(), SettingsError> {
        let before = self.known(key, layer)?.clone();
        if before.type_str() != value.type_str() {
            let expected = before.type_str();
            return Err(SettingsError::new(format!("bad value for `{key}` ({layer}): expected {expected}")));
        }
        if let Some((section, name)) = key.split_once('.')
            && let Some(Value::Table(section)) = self.values.get_mut(section)
        {
            section.insert(name.to_owned(), value);
        }
        self.origins.insert(key.to_owned(), layer.to_owned());
        let read: Result<Settings, _> = self.values.clone().try_into();
        read.map(|_| ()).map_err(|error| {
            let why = match (key, error.message()) {
                ("http.bind", _) => "expected an address and port such as 127.0.0.1:8000".to_owned(),
                (_, message) if message.contains("expected u") => "expected a whole number, 0 or more".to_owned(),
                (_, message) => one_line(message),
            };
            SettingsError::new(format!("bad value for `{key}` ({layer}): {why}"))
        })
    }

    /// The values as settings, not checked as a whole.
    pub(super) fn settings(&self) -> Result<Settings, SettingsError> {
        let settings = self.values.clone().try_into();
        settings.map_err(|error: toml::de::Error| SettingsError::new(one_line(error.message())))
    }

    /// Sets a key to the value that it has in other layers.
    pub(super) fn keep(&mut self, key: &str, of: &Self) {
        let Some(value) = of.value(key).cloned() else { return };
        match key.split_once('.') {
            None => _ = self.values.insert(key.to_owned(), value),
            Some((section, name)) => {
                if let Some(Value::Table(section)) = self.values.get_mut(section) {
                    section.insert(name.to_owned(), value);
                }
            }
        }
    }

    /// The values as settings, checked.
    pub(super) fn finish(&self) -> Result<Settings, SettingsError> {
        let mut settings = self.settings()?;
        self.complete_redis(&mut settings);
        settings.changed = self.changed();
        settings.ignored_variables = self.ignored.clone();
        settings.validate().map_err(|(key, why)| {
            let layer = self.origins.get(key).map_or("config/default.toml", String::as_str);
            SettingsError::new(format!("bad value for `{key}` ({layer}): {why}"))
        })?;
        Ok(settings)
    }
}

/// Characters of a value in the audit log.
const SHOWN: usize = 100;

impl Layers {
    /// The keys whose values differ from the built-in ones, with the values.
    fn changed(&self) -> BTreeMap<String, String> {
        let built_in = Self::new();
        let changed = self.origins.keys().filter_map(|key| {
            self.value(key).filter(|value| Some(*value) != built_in.value(key))?;
            let shown = match explain::shown(self, key)? {
                // of tables
                Value::Array(list) if list.iter().any(Value::is_table) => format!("{} entries", list.len()),
                value => value.to_string().chars().take(SHOWN).collect(),
            };
            Some((key.clone(), shown))
        });
        changed.collect()
    }

    /// Redis is on the same machine if only other keys than its address are given, as in the systems that Switchboard replaces. Notes
    /// keys that change nothing.
    fn complete_redis(&self, settings: &mut Settings) {
        let is_empty = |key: &str| {
            let value = key.split_once('.').and_then(|(section, key)| self.values.get(section)?.get(key)?.as_str());
            value.is_some_and(str::is_empty)
        };
        let given = |key: &&str| self.origins.contains_key(*key) && !is_empty(key);
        let others: Vec<_> = ["redis.port", "redis.db", "redis.password"].into_iter().filter(given).collect();
        let redis = &mut settings.redis;
        if redis.url.is_empty() && !self.origins.contains_key("redis.host") && !others.is_empty() {
            redis.host = "localhost".to_owned();
        }
        let in_vain: Vec<_> = match (redis.url.is_empty(), redis.host.is_empty()) {
            (false, _) => ["redis.host"].into_iter().filter(given).chain(others).collect(),
            (true, true) => others,
            (true, false) => Vec::new(),
        };
        let named = |key: &str| format!("{key} ({})", self.origins.get(key).map_or("", String::as_str));
        let defaults = Self::new();
        // a complete file sets all keys, most of them as they are
        let is_meant = |key: &&str| self.value(key) != defaults.value(key);
        settings.without_effect = in_vain.into_iter().filter(is_meant).map(named).collect();
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
