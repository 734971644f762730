//! The state that handlers and sessions share: the handle of each actor, accounts, services, counters and limits. The database
//! is behind them.

mod gauges;
mod readiness;
mod supervision;

use std::{
    fmt,
    hash::Hash,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) use self::{
    gauges::Waiting,
    readiness::{NEARLY_FULL, Readiness},
    supervision::{Supervision, log_panics},
};
use crate::{
    actors::{
        cluster_link::Cluster, command_dispatcher::Commands, gateway_monitor::Gateways, journal::Journal,
        message_manager::Messages, registry::Clients, room_manager::Rooms, topic_manager::Topics,
    },
    auth::{accounts::Accounts, login::Logins, registration::Registrations},
    clock::Clock,
    delivery::Relays,
    domain::{
        budget::{Budgets, OverLimit},
        ids::ClientId,
    },
    services::{Audit, Devices, Users, Webhooks},
    settings::LiveSettings,
};

/// The state that handlers and sessions share.
pub struct Broker {
    /// The settings in effect.
    pub settings: LiveSettings,
    /// The time.
    pub clock: Clock,
    /// Accounts and revoked tokens, cached in memory.
    pub accounts: Arc<Accounts>,
    /// Registers devices and users.
    pub registrations: Registrations,
    /// Begins and ends logins, and changes passwords.
    pub logins: Logins,
    /// Reads, changes and deletes devices.
    pub devices: Devices,
    /// Lists, changes and deletes users.
    pub users: Users,
    /// The audit log.
    pub audit: Audit,
    /// Receivers of events.
    pub webhooks: Webhooks,
    /// The connected clients.
    pub clients: Clients,
    /// The topics and their subscriptions.
    pub topics: Topics,
    /// The handle of the MessageManager, which has acknowledged messages delivered.
    pub messages: Messages,
    /// The handle of the CommandDispatcher, which owns the commands that are not finished.
    pub commands: Commands,
    /// The handle of the RoomManager, which owns the sockets in rooms.
    pub rooms: Rooms,
    /// The gateways and their state.
    pub gateways: Gateways,
    /// Writes records to the database in batches.
    pub journal: Journal,
    /// Delivers frames to any session.
    pub relays: Arc<Relays>,
    /// This node's link to the others.
    pub cluster: Cluster,
    pub(crate) requests: Mutex<Budgets<ClientId>>,
    pub(crate) requests_of_addresses: Mutex<Budgets<IpAddr>>,
    pub(crate) stopping: AtomicBool,
    pub(crate) draining: AtomicBool,
    pub(crate) readiness: Readiness,
    pub(crate) waiting: Waiting,
    pub(crate) supervision: Supervision,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

impl Broker {
    /// `ok` if the database takes writes, else a word that says what is wrong with it.
    pub async fn database_readiness(&self) -> &'static str {
        self.readiness.of_database().await
    }

    /// Pings all actors. Returns the name of the first that does not answer in time.
    pub async fn unresponsive_actor(&self, patience: Duration) -> Option<&'static str> {
        self.supervision.unresponsive(patience).await
    }

    /// Charges one request that changes something to an identity's budget.
    ///
    /// # Errors
    /// The identity has used up `limits.requests_per_second`.
    pub fn charge_request(&self, client: ClientId) -> Result<(), OverLimit> {
        let rate = self.settings.load().limits.requests_per_second;
        spend(&self.requests, client, rate, "limits.requests_per_second")
    }

    /// Charges one request to an address's budget.
    ///
    /// # Errors
    /// The address has used up `limits.requests_per_second_per_address`.
    pub fn charge_address(&self, address: IpAddr) -> Result<(), OverLimit> {
        let rate = self.settings.load().limits.requests_per_second_per_address;
        spend(&self.requests_of_addresses, address, rate, "limits.requests_per_second_per_address")
    }

    /// Whether the server has been told to stop. It drains after `http.shutdown_delay_secs`.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The server has been told to stop.
    pub(crate) fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether the server refuses requests, since it stops.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// The server begins to stop: callers that wait for commands are answered.
    pub(crate) fn begin_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.commands.stop_waiting();
    }
}

/// Charges a request to a key that may make `rate` per second, twice as many at once.
fn spend<K: Eq + Hash>(budgets: &Mutex<Budgets<K>>, key: K, rate: u32, limit: &'static str) -> Result<(), OverLimit> {
    let mut budgets = budgets.lock().unwrap_or_else(PoisonError::into_inner);
    budgets.set_rate(f64::from(rate), 2.0 * f64::from(rate));
    budgets.spend(key, 1.0, Instant::now()).map_err(|wait| OverLimit::for_at_least(limit, wait))
}
