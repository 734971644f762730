//! The configured webhooks, `[[webhooks]]`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Url;
use sha2::{Digest, Sha256};

use super::{Settings, WebhookEntry};
use crate::domain::webhooks::{EventType, Webhook, is_public};

const KEY: &str = "webhooks";

/// Most webhooks; each has a loop of its own.
const MOST: usize = 16;

/// The least characters of a secret.
const SECRET_CHARS: usize = 16;

/// The prefix of secrets that are base64 (Standard Webhooks).
const BASE64: &str = "whsec_";

/// Reads and checks all entries.
///
/// # Errors
/// The key `webhooks`, and the entry at fault with the reason.
pub(super) fn read(settings: &Settings) -> Result<Vec<Webhook>, (&'static str, String)> {
    if settings.webhooks.len() > MOST {
        return Err((KEY, format!("there may be at most {MOST}")));
    }
    let mut webhooks: Vec<Webhook> = Vec::new();
    for (index, entry) in settings.webhooks.iter().enumerate() {
        let bad = |why: String| (KEY, format!("entry {}: {why}", index + 1));
        let webhook = read_one(entry).map_err(bad)?;
        if webhooks.iter().any(|other| other.key == webhook.key) {
            return Err(bad("url: another entry has the same".to_owned()));
        }
        webhooks.push(webhook);
    }
    Ok(webhooks)
}

fn read_one(entry: &WebhookEntry) -> Result<Webhook, String> {
    let WebhookEntry { url, events, secret, secret_env, allow_private } = entry;
    let expected = "url: expected an address such as https://receiver.example.org/switchboard";
    let parsed = Url::parse(url.expose()).map_err(|_| expected.to_owned())?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none_or(str::is_empty) {
        return Err(expected.to_owned());
    }
    let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']);
    if !allow_private && host.parse().is_ok_and(|address| !is_public(address)) {
        return Err(format!("url: {host} is not a public address: set allow_private = true if it is meant"));
    }
    if events.is_empty() {
        return Err("events: expected at least one name".to_owned());
    }
    if let Some(unknown) = events.iter().find(|pattern| EventType::matching(pattern).is_empty()) {
        let names: Vec<_> = EventType::ALL.iter().map(|event| event.as_str()).collect();
        let names = names.join(", ");
        return Err(format!("events: there is no \"{unknown}\"; expected one of {names}, or a beginning with *"));
    }
    let secret = match (secret.is_empty(), secret_env) {
        (false, None) => secret.expose().to_owned(),
        (true, Some(variable)) => {
            std::env::var(variable).map_err(|_| format!("secret_env: there is no variable {variable}"))?
        }
        _ => return Err("expected either secret or secret_env".to_owned()),
    };
    if secret.chars().count() < SECRET_CHARS {
        return Err(format!("secret: must have at least {SECRET_CHARS} characters"));
    }
    let secret = match secret.strip_prefix(BASE64) {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| format!("secret: expected base64 after {BASE64}"))?,
        None => secret.into_bytes(),
    };
    let is_wanted = |event: &EventType| events.iter().any(|pattern| EventType::matching(pattern).contains(event));
    Ok(Webhook {
        key: digest(parsed.as_str()).into(),
        shown_url: shown(&parsed),
        url: parsed.into(),
        patterns: events.clone(),
        events: EventType::ALL.iter().copied().filter(is_wanted).collect(),
        secret,
        allow_private: *allow_private,
    })
}

/// Where the URL leads. The rest is not shown: many receivers have a secret in the path.
pub(super) fn shown(url: &Url) -> String {
    let rest = if url.path() == "/" { "" } else { "/…" };
    url.origin().ascii_serialization() + rest
}

/// A name for the URL that tells nothing of it.
fn digest(url: &str) -> String {
    let digest = Sha256::digest(url);
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
