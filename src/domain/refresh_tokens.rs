//! Refresh tokens, as the store and the tokens' maker know them (contract section 3).

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// How far a clock may step without bringing anything back that has ended: revocations are kept for so much longer.
pub const CLOCK_STEP: TimeDelta = TimeDelta::days(1);

/// A refresh token: opaque, used once. It says which family it is of, so that a used one is known for what it is although
/// only the newest is stored.
#[derive(Debug)]
pub struct RefreshToken {
    /// What the client gets.
    pub token: String,
    /// What is stored of it: SHA-256, in hex.
    pub hash: String,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
}

/// A refresh token that a client shows.
#[derive(Debug)]
pub struct ShownRefreshToken {
    /// What is stored of it, if it is the newest of its family.
    pub hash: String,
    /// The family that it is of, if this server made it and it says so: those of earlier versions do not.
    pub family: Option<Uuid>,
}
