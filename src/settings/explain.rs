//! The settings as they are in effect, for people: each key with the layer that set it, secrets hidden.

use toml::Value;

use super::{
    layers::{Flags, Layers, SettingsError, read},
    webhooks,
};

/// The layer of keys that no other layer sets.
pub const BUILT_IN: &str = "default";

/// The keys whose values are secrets. URLs are shown without their credentials, others not at all.
const SECRETS: [&str; 4] = ["storage.database_url", "auth.secret", "redis.url", "redis.password"];

/// What stands for a secret.
pub const HIDDEN: &str = "***";

/// A key with its value and where that comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// `section.key`, or `gateways`
    pub key: String,
    /// without secrets
    pub value: Value,
    /// the file, the variable or the flag that set it, or [`BUILT_IN`]
    pub layer: String,
}

/// All settings in the order of `config/default.toml`. They are checked as at the start of a broker.
///
/// # Errors
/// The first wrong key or value, and its layer.
pub fn explain(flags: &Flags) -> Result<Vec<Explained>, SettingsError> {
    let layers = read(flags)?;
    let explained = of(&layers);
    layers.finish()?;
    Ok(explained)
}

fn of(layers: &Layers) -> Vec<Explained> {
    let keys = Layers::keys();
    let explained = keys.into_iter().filter_map(|key| {
        let value = shown(layers, &key)?;
        let layer = layers.origin(&key).unwrap_or(BUILT_IN).to_owned();
        Some(Explained { key, value, layer })
    });
    explained.collect()
}

/// The value of a key as it is shown.
pub(super) fn shown(layers: &Layers, key: &str) -> Option<Value> {
    let value = layers.value(key)?;
    Some(match key {
        "webhooks" => without_secrets(value),
        key if SECRETS.contains(&key) => hidden(key, value),
        _ => value.clone(),
    })
}

/// The webhooks as they are shown: a URL may have credentials, too.
fn without_secrets(webhooks: &Value) -> Value {
    let mut webhooks = webhooks.clone();
    for webhook in webhooks.as_array_mut().into_iter().flatten().filter_map(Value::as_table_mut) {
        if let Some(secret) = webhook.get_mut("secret") {
            *secret = hidden("secret", secret);
        }
        if let Some(url) = webhook.get_mut("url") {
            let shown = url.as_str().and_then(|url| reqwest::Url::parse(url).ok()).map(|url| webhooks::shown(&url));
            *url = Value::String(shown.unwrap_or_else(|| HIDDEN.to_owned()));
        }
    }
    webhooks
}

/// A secret as it is shown. An empty one is no secret.
fn hidden(key: &str, value: &Value) -> Value {
    let shown = match value.as_str() {
        Some("") => String::new(),
        Some(text) if key.ends_with("url") => without_credentials(text),
        _ => HIDDEN.to_owned(),
    };
    Value::String(shown)
}

/// A URL, or several, without user, password and parameters. A password may have any characters, so all before the last `@` is
/// hidden, also if that stands in another one of several URLs.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return HIDDEN.to_owned() };
    let rest = rest.rsplit_once('@').map_or_else(|| rest.to_owned(), |(_, place)| format!("{HIDDEN}@{place}"));
    match rest.split_once('?') {
        Some((place, _)) => format!("{scheme}://{place}?{HIDDEN}"),
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::layers::Layers;

    fn shown_of(key: &str, value: &str) -> String {
        let mut layers = Layers::new();
        layers.set_text(key, value, "environment").unwrap();
        let all = of(&layers);
        let found = all.into_iter().find(|explained| explained.key == key).unwrap();
        assert_eq!(found.layer, "environment");
        found.value.as_str().unwrap().to_owned()
    }

    #[test]
    fn each_key_is_shown_with_the_layer_that_set_it() {
        let mut layers = Layers::new();
        layers.set_text("limits.body_bytes", "7", "my.toml").unwrap();
        let all = of(&layers);
        assert_eq!(all[0].key, "gateways");
        let changed: Vec<_> = all.iter().filter(|explained| explained.layer != BUILT_IN).collect();
        assert_eq!(
            changed,
            [&Explained { key: "limits.body_bytes".into(), value: Value::Integer(7), layer: "my.toml".into() }]
        );
    }

    #[test]
    fn secrets_are_hidden_and_what_is_no_secret_is_not() {
        assert_eq!(shown_of("auth.secret", "0123456789"), "***");
        assert_eq!(shown_of("auth.secret", ""), "");
        assert_eq!(shown_of("redis.password", "x"), "***");
        let database = "storage.database_url";
        assert_eq!(shown_of(database, "postgres://me:p@ss/w?rd@db:5432/name"), "postgres://***@db:5432/name");
        assert_eq!(shown_of(database, "postgres://db/name?password=p@ss"), "postgres://***@ss");
        assert_eq!(shown_of(database, "postgres://db/name?password=pass"), "postgres://db/name?***");
        assert_eq!(shown_of(database, "sqlite:///./file.db"), "sqlite:///./file.db");
        assert_eq!(shown_of(database, "postgres://me:p,ss@db/name"), "postgres://***@db/name");
        assert_eq!(shown_of("redis.url", "redis://:a@one,rediss://two"), "redis://***@one,rediss://two");
        assert_eq!(shown_of("redis.url", "redis://:a@one,redis://:b@two"), "redis://***@two");
        assert_eq!(shown_of("redis.password", "a://b"), "***");
        assert_eq!(shown_of("redis.host", "cache"), "cache");
    }

    #[test]
    fn the_secrets_of_webhooks_are_hidden() {
        let text = "[[webhooks]]\nurl = \"https://me:hush@example.org/x?key=hush\"\nevents = [\"*\"]\nsecret = \"hush-hush-hush-hush\"\n";
        let mut layers = Layers::new();
        layers.file("my.toml", text).unwrap();
        let all = of(&layers);
        let webhooks = &all.iter().find(|explained| explained.key == "webhooks").unwrap().value;
        assert_eq!(webhooks[0]["url"].as_str(), Some("https://example.org/…"));
        assert_eq!(webhooks[0]["secret"].as_str(), Some("***"));
        assert!(!webhooks.to_string().contains("hush"));
    }

    #[test]
    fn the_hidden_keys_are_those_of_secrets() {
        const MARK: &str = "a-value-to-look-for";
        for key in Layers::keys() {
            let mut layers = Layers::new();
            if layers.set_text(&key, MARK, "test").is_err() {
                continue; // not a text
            }
            let Ok(settings) = layers.settings() else { continue };
            assert_eq!(!format!("{settings:?}").contains(MARK), SECRETS.contains(&key.as_str()), "{key}");
        }
    }
}
