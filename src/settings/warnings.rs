//! Settings that are valid, and probably not what the operator wants.

use std::{fs, os::unix::fs::PermissionsExt};

use super::{Registration, Settings, is_weak_secret};

impl Settings {
    /// What is risky or has no effect, each as a text that says what to do.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let address = self.http.bind;
        if !address.ip().is_loopback() && self.devices.registration == Registration::Open {
            warnings.push(format!(
                "any client of {address} can register as any device: set devices.registration to \"claim\" or \"closed\""
            ));
        }
        let secret = &self.auth.secret;
        if !secret.is_empty() && is_weak_secret(secret.expose()) {
            warnings.push(
                "the secret that signs tokens is shorter than 32 bytes or well known, so tokens can be forged: set SECRET_KEY to 32 random bytes or more (openssl rand -base64 48)".to_owned(),
            );
        }
        if fs::metadata(".env").is_ok_and(|file| file.permissions().mode() & 0o004 != 0) {
            warnings.push(
                ".env can be read by every user of this machine, and it may hold secrets: chmod 600 .env".to_owned(),
            );
        }
        if !self.ignored_variables.is_empty() {
            warnings.push(format!(
                "these variables are not settings and are ignored: {}; a setting is SWITCHBOARD__SECTION__KEY, with two underscores",
                self.ignored_variables.join(", ")
            ));
        }
        if !self.without_effect.is_empty() {
            warnings.push(format!(
                "these settings have no effect: {}; the address of Redis is redis.url, or redis.host if that is empty",
                self.without_effect.join(", ")
            ));
        }
        warnings
    }
}
