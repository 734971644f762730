//! Settings: one struct per section of `config/default.toml`, read in layers and checked, at the start and at each reload.
//!
//! To add a setting, add a commented line to `config/default.toml`, a field here, and a check in `settings/checks.rs` if
//! some values of its type are not valid. If it is used at the start alone, add it to the list in `settings/live.rs`.

mod checks;
mod explain;
mod gateways;
mod layers;
mod live;
mod log_filter;
mod redis;
mod secret;
mod warnings;
mod webhooks;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::Deserialize;

pub use explain::{BUILT_IN, Explained, HIDDEN, explain};
#[cfg(test)]
pub(crate) use layers::built_in;
pub use layers::{DEFAULTS, Flags, SettingsError, load};
pub use live::{LiveSettings, Reloaded};
pub use log_filter::{NoFilter, log_filter};
pub use redis::RedisAddress;
pub use secret::{Secret, is_weak_secret};

use crate::domain::{
    commands::CommandLimits,
    gateways::Gateway,
    messages::QueueLimits,
    network::{MetricsReader, Network},
    passwords::PasswordRules,
    topics::access::Access,
    webhooks::Webhook,
};

/// All settings, merged from the layers and checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The HTTP server.
    pub http: Http,
    /// The data directory and the database.
    pub storage: Storage,
    /// Secrets, tokens and password rules.
    pub auth: Auth,
    /// The policy for device registration.
    pub devices: Devices,
    /// Timing of live sockets.
    pub sessions: Sessions,
    /// Who may create, publish to and subscribe to which topics.
    pub topics: Access,
    /// Limits; 0 switches a limit off.
    pub limits: Limits,
    /// The configured gateways, `[[gateways]]`.
    pub gateways: Vec<GatewayEntry>,
    /// Receivers of events, `[[webhooks]]`.
    pub webhooks: Vec<WebhookEntry>,
    /// Period, timeout and history of gateway probes.
    pub probes: Probes,
    /// Retention of commands.
    pub commands: Commands,
    /// Lifetime and retention of acknowledged messages.
    pub messages: Messages,
    /// Retention of the audit log.
    pub audit: Audit,
    /// The Redis servers that connect nodes.
    pub redis: Redis,
    pub cluster: Cluster,
    /// Level and format of the log.
    pub log: Log,
    /// Environment variables that begin with `SWITCHBOARD_` and are not settings.
    #[serde(skip)]
    pub ignored_variables: Vec<String>,
    /// Keys that were set and change nothing, each with its layer.
    #[serde(skip)]
    pub without_effect: Vec<String>,
    /// Keys whose values differ from the built-in ones, with the beginning of the value, or "…" in place of a secret.
    #[serde(skip)]
    pub changed: BTreeMap<String, String>,
}

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Http {
    pub bind: SocketAddr,
    pub workers: usize,
    pub public_reads: bool,
    pub public_sockets: bool,
    pub cors_origins: Vec<String>,
    pub trusted_proxies: Vec<Network>,
    pub metrics: Vec<MetricsReader>,
    pub shutdown_delay_secs: u64,
    pub drain_secs: u64,
    pub close_spread_secs: u64,
}

/// `[storage]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Storage {
    pub data_dir: PathBuf,
    pub database_url: Secret,
    pub max_connections: u32,
    pub timeout_ms: u64,
    pub min_free_bytes: u64,
}

/// `[auth]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Auth {
    pub secret: Secret,
    pub secret_policy: SecretPolicy,
    pub access_token_minutes: i64,
    pub refresh_token_days: i64,
    pub expire_live_sockets: bool,
    pub recheck_secs: u64,
    pub password_min_chars: usize,
    pub refuse_common_passwords: bool,
}

impl Auth {
    /// The rules for new passwords.
    pub fn password_rules(&self) -> PasswordRules {
        PasswordRules { min_chars: self.password_min_chars, refuse_common: self.refuse_common_passwords }
    }
}

/// The requirement for the secret that signs tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretPolicy {
    /// A secret is generated at the first start if none is given.
    Generate,
    /// A strong secret must be given (contract section 1, production).
    Strong,
}

/// `[devices]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Devices {
    pub registration: Registration,
}

/// Who may register a device (contract section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Anyone may register any UUID, also one that is registered already.
    Open,
    /// The first registration binds the UUID; later ones need a proof that they come from the same device.
    Claim,
    /// Only operators register devices.
    Closed,
}

/// `[sessions]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Sessions {
    pub ping_secs: u32,
    pub silence_secs: u32,
    pub heartbeat_secs: u32,
    pub subscription_wait_secs: u64,
}

/// `[limits]` (contract section 10)
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Limits {
    pub frame_bytes: usize,
    pub outbound_bytes: usize,
    pub send_timeout_secs: u64,
    pub frames_per_second: u32,
    pub frames_burst: u32,
    pub bad_frames: u32,
    pub connections: usize,
    pub connections_per_identity: usize,
    pub connections_per_address: usize,
    pub reads_per_identity: usize,
    pub request_bytes: usize,
    pub request_bytes_per_identity: usize,
    pub response_bytes: usize,
    pub response_bytes_per_identity: usize,
    pub topics_per_client: usize,
    pub subscriptions_per_client: usize,
    pub waiting_subscriptions: usize,
    pub rooms_per_user: usize,
    pub topic_id_chars: usize,
    pub room_name_chars: usize,
    pub metadata_bytes: usize,
    pub message_bytes: usize,
    pub gateways: usize,
    pub pending_commands: usize,
    pub pending_commands_per_identity: usize,
    pub queued_commands: usize,
    pub queued_commands_per_identity: usize,
    pub queued_commands_per_target: usize,
    pub command_bytes: usize,
    pub command_bytes_per_identity: usize,
    pub command_timeout_secs: u64,
    pub unacknowledged_per_device: usize,
    pub queued_per_device: usize,
    pub queued_bytes_per_device: usize,
    pub topic_history: u32,
    pub topic_history_bytes: usize,
    pub registrations_per_minute: u32,
    pub login_failures_per_minute: u32,
    pub body_bytes: usize,
    pub stored_bytes_per_minute: u32,
    pub requests_per_second: u32,
    pub requests_per_second_per_address: u32,
    pub password_hashes_queued: usize,
}

impl Limits {
    /// The limits of what waits for one device.
    pub fn queue(&self) -> QueueLimits {
        QueueLimits { messages: self.queued_per_device, bytes: self.queued_bytes_per_device }
    }

    /// The limits of commands.
    pub fn commands(&self) -> CommandLimits {
        CommandLimits {
            pending: self.pending_commands,
            pending_per_identity: self.pending_commands_per_identity,
            queued: self.queued_commands,
            queued_per_identity: self.queued_commands_per_identity,
            queued_per_target: self.queued_commands_per_target,
            bytes: self.command_bytes,
            bytes_per_identity: self.command_bytes_per_identity,
        }
    }
}

/// An entry of `[[gateways]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // as in `domain::gateways::Gateway`
pub struct GatewayEntry {
    pub id: i64,
    pub name: String,
    pub address: String,
    pub parent_id: Option<i64>,
    pub max_rtt_ms: Option<f64>,
    pub max_loss_percent: Option<f64>,
}

/// An entry of `[[webhooks]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // as in `domain::webhooks::Webhook`
pub struct WebhookEntry {
    /// It may have credentials.
    pub url: Secret,
    pub events: Vec<String>,
    #[serde(default)]
    pub secret: Secret,
    /// The variable of the environment that has the secret.
    pub secret_env: Option<String>,
    #[serde(default)]
    pub allow_private: bool,
}

/// `[probes]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Probes {
    pub period_secs: u32,
    pub timeout_secs: u32,
    pub retries: u32,
    pub icmp: Icmp,
    pub samples_hours: u32,
    pub history_days: u32,
}

/// The method of ICMP probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Icmp {
    /// By socket if the system allows it, else by the `ping` program.
    Auto,
    /// By a datagram socket.
    Socket,
    /// By the system's `ping` program.
    Ping,
}

/// `[commands]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Commands {
    pub retention_days: u32,
}

/// `[messages]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Messages {
    pub ttl_secs: u32,
    pub retention_hours: u32,
    pub total_bytes: u64,
}

/// `[audit]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Audit {
    pub retention_days: u32,
}

/// `[redis]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Redis {
    pub url: Secret,
    pub host: String,
    pub port: u16,
    pub db: u8,
    pub password: Secret,
}

impl Redis {
    /// Whether a server is named.
    pub fn is_given(&self) -> bool {
        !self.url.is_empty() || !self.host.is_empty()
    }
}

/// `[cluster]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Cluster {
    pub timeout_ms: u64,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each key is documented in config/default.toml
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Plain text.
    Text,
    /// A JSON object per line.
    Json,
}

impl Settings {
    /// Whether other nodes may serve the database, too: PostgreSQL can be shared, and Redis connects them.
    pub fn is_shared(&self) -> bool {
        self.redis.is_given() && self.storage.database_url.expose().starts_with("postgres")
    }

    /// The configured webhooks.
    pub fn webhooks(&self) -> Vec<Webhook> {
        // does not fail: `validate` has checked them
        webhooks::read(self).unwrap_or_default()
    }

    /// The configured gateways.
    pub fn gateways(&self) -> Vec<Gateway> {
        // does not fail: `validate` has checked them
        gateways::read(self).unwrap_or_default()
    }
}
