//! Secrets: how they are kept, and which are too weak.

use std::fmt;

use serde::Deserialize;

/// A value that must not appear in logs or errors. `Debug` hides it.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the value. Use it only where the secret is needed.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether no value was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"…\"" })
    }
}

/// Secrets from the example files of the systems that Switchboard replaces.
const PLACEHOLDER_SECRETS: [&str; 6] = [
    "a_very_secret_key",
    "yoursecretkey",
    "your_secret_key",
    "your-secret-key-here",
    "your-secret-key-change-in-production",
    "super_secret_key_123",
];

/// Whether a secret is shorter than 32 bytes or well known, and so refused in production (contract section 1).
pub fn is_weak_secret(secret: &str) -> bool {
    secret.len() < 32 || PLACEHOLDER_SECRETS.contains(&secret)
}
