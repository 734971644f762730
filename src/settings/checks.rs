//! What the types of settings do not express.

use super::{RedisAddress, SecretPolicy, Settings, SettingsError, gateways, is_weak_secret, log_filter, webhooks};
use crate::domain::{
    messages::{MAX_TTL_SECS, MAX_UNACKNOWLEDGED},
    origin, passwords,
    topics::history::MAX_SIZE,
};

/// In seconds. Much longer periods would overflow times when they are added to the present.
const A_YEAR: u64 = 31_536_000;

impl Settings {
    /// Checks ranges and combinations of values that the types do not express.
    ///
    /// # Errors
    /// The key of the first wrong value, and the reason.
    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
        let positive = |key: &'static str, good: bool| {
            if good { Ok(()) } else { Err((key, "must be greater than 0".to_owned())) }
        };
        positive("storage.max_connections", self.storage.max_connections > 0)?;
        positive("cluster.timeout_ms", self.cluster.timeout_ms > 0)?;
        // with less, a statement that waits for a lock could not fail by itself before the timeout
        if self.storage.timeout_ms < 500 {
            return Err(("storage.timeout_ms", "must be at least 500".to_owned()));
        }
        positive("auth.access_token_minutes", self.auth.access_token_minutes > 0)?;
        positive("auth.refresh_token_days", self.auth.refresh_token_days > 0)?;
        positive("auth.recheck_secs", self.auth.recheck_secs > 0)?;
        if !(passwords::MIN_CHARS..=passwords::MAX_CHARS).contains(&self.auth.password_min_chars) {
            let why = format!("must be from {} to {}", passwords::MIN_CHARS, passwords::MAX_CHARS);
            return Err(("auth.password_min_chars", why));
        }
        positive("sessions.ping_secs", self.sessions.ping_secs > 0)?;
        positive("sessions.heartbeat_secs", self.sessions.heartbeat_secs > 0)?;
        if self.commands.retention_days > 36_500 {
            return Err(("commands.retention_days", "must be at most 36500".to_owned()));
        }
        // greater values would overflow the date when they are added to the current time
        if self.auth.access_token_minutes > 525_600_000 {
            return Err(("auth.access_token_minutes", "must be at most 525600000".to_owned()));
        }
        positive("commands.retention_days", self.commands.retention_days > 0)?;
        positive("audit.retention_days", self.audit.retention_days > 0)?;
        positive("messages.ttl_secs", self.messages.ttl_secs > 0)?;
        if self.auth.refresh_token_days > 365_000 {
            return Err(("auth.refresh_token_days", "must be at most 365000".to_owned()));
        }
        if self.sessions.silence_secs <= self.sessions.ping_secs {
            return Err((
                "sessions.silence_secs",
                "must be greater than sessions.ping_secs, or every quiet socket is closed".to_owned(),
            ));
        }
        if self.limits.frames_per_second > 0 && self.limits.frames_burst == 0 {
            return Err((
                "limits.frames_burst",
                "must be greater than 0 while limits.frames_per_second is on".to_owned(),
            ));
        }
        positive("probes.period_secs", self.probes.period_secs > 0)?;
        positive("probes.timeout_secs", self.probes.timeout_secs > 0)?;
        positive("probes.samples_hours", self.probes.samples_hours > 0)?;
        positive("probes.history_days", self.probes.history_days > 0)?;
        let (http, sessions, limits) = (&self.http, &self.sessions, &self.limits);
        for (key, value, most) in [
            // of the framework
            ("http.workers", http.workers as u64, 512),
            ("http.shutdown_delay_secs", http.shutdown_delay_secs, A_YEAR),
            ("http.drain_secs", http.drain_secs, A_YEAR),
            ("http.close_spread_secs", http.close_spread_secs, A_YEAR),
            // memory is taken for each at the start
            ("storage.max_connections", self.storage.max_connections.into(), 10_000),
            ("storage.timeout_ms", self.storage.timeout_ms, 600_000),
            ("cluster.timeout_ms", self.cluster.timeout_ms, 60_000),
            ("auth.recheck_secs", self.auth.recheck_secs, A_YEAR),
            ("sessions.ping_secs", sessions.ping_secs.into(), A_YEAR),
            ("sessions.silence_secs", sessions.silence_secs.into(), A_YEAR),
            ("sessions.heartbeat_secs", sessions.heartbeat_secs.into(), A_YEAR),
            ("sessions.subscription_wait_secs", sessions.subscription_wait_secs, A_YEAR),
            ("limits.send_timeout_secs", limits.send_timeout_secs, A_YEAR),
            ("limits.command_timeout_secs", limits.command_timeout_secs, A_YEAR),
            ("limits.unacknowledged_per_device", limits.unacknowledged_per_device as u64, MAX_UNACKNOWLEDGED as u64),
            ("limits.topic_history", limits.topic_history.into(), MAX_SIZE.into()),
            ("messages.ttl_secs", self.messages.ttl_secs.into(), MAX_TTL_SECS.into()),
            ("messages.retention_hours", self.messages.retention_hours.into(), 8_760),
            ("audit.retention_days", self.audit.retention_days.into(), 36_500),
            ("probes.period_secs", self.probes.period_secs.into(), 86_400),
            ("probes.timeout_secs", self.probes.timeout_secs.into(), 60),
            ("probes.retries", self.probes.retries.into(), 10),
            ("probes.samples_hours", self.probes.samples_hours.into(), 8_760),
            ("probes.history_days", self.probes.history_days.into(), 3_650),
        ] {
            if value > most {
                return Err((key, format!("must be at most {most}")));
            }
        }
        gateways::read(self)?;
        log_filter(&self.log.level).map_err(|error| ("log.level", error.to_string()))?;
        webhooks::read(self)?;
        RedisAddress::all(&self.redis).map_err(|(key, expected)| (key, expected.to_owned()))?;
        for origin in &self.http.cors_origins {
            if !origin::is_listable(origin) {
                return Err((
                    "http.cors_origins",
                    format!(
                        "\"{origin}\" is not an origin such as https://chat.example.org, localhost, null or file://"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Checks that a strong secret is given if the policy requires one.
    ///
    /// # Errors
    /// The secret is missing or weak; the text tells the operator what to set.
    pub fn check_secret(&self) -> Result<(), SettingsError> {
        if self.auth.secret.is_empty() && self.redis.is_given() {
            return Err(SettingsError::new(
                "Redis connects nodes, which share a secret, and none is given: set SECRET_KEY to at least 32 random bytes",
            ));
        }
        if self.auth.secret_policy == SecretPolicy::Generate {
            return Ok(());
        }
        if self.auth.secret.is_empty() {
            return Err(SettingsError::new(
                "auth.secret_policy is \"strong\" and no secret is given: set SECRET_KEY to at least 32 random bytes",
            ));
        }
        if is_weak_secret(self.auth.secret.expose()) {
            return Err(SettingsError::new(
                "the secret is weak or well known: set SECRET_KEY to at least 32 random bytes (openssl rand -base64 48)",
            ));
        }
        Ok(())
    }
}
