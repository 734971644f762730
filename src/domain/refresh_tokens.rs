//! Refresh tokens (contract section 3).

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// How much longer than tokens their revocations are kept: a clock that is set back by less makes no revoked token valid.
pub const CLOCK_STEP: TimeDelta = TimeDelta::days(1);

/// A new refresh token: opaque, used once. It names its family, so that a used one is recognised although only the newest is
/// stored.
#[derive(Debug)]
pub struct RefreshToken {
    /// The token itself, for the client.
    pub token: String,
    /// Its SHA-256 in hex, which is stored.
    pub hash: String,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
}

/// A refresh token that a client has sent.
#[derive(Debug)]
pub struct ShownRefreshToken {
    /// Its SHA-256 in hex, which is stored if it is the newest of its family.
    pub hash: String,
    /// Its family, if the token is authentic. Those of earlier versions do not name it.
    pub family: Option<Uuid>,
}
