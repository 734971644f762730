//! What handlers and sessions work with: the way to each actor, the database, and what they share besides.

mod readiness;
mod supervision;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use actix::Addr;
use tokio::sync::Notify;

pub(crate) use self::{
    readiness::{NEARLY_FULL, Readiness},
    supervision::{Supervision, log_panics},
};
use crate::{
    actors::{
        command_dispatcher::{CommandDispatcher, Inlet},
        gateway_monitor::{Board, GatewayMonitor},
        journal::{Backlog, Flush, Journal},
        registry::{Apply, Directory, Registry},
        room_manager::Rooms,
        topic_manager::TopicManager,
    },
    auth::{accounts::Accounts, passwords::Passwords},
    cluster::Backplane,
    delivery::Relays,
    domain::{accounts::AccountChange, budget::Budgets, ids::ClientId, login_limit::LoginLimit, rate_limit::PerMinute},
    error::ApiError,
    settings::Settings,
    store::{Store, patience},
};

/// What handlers and sessions work with.
pub struct Broker {
    /// The settings.
    pub settings: Settings,
    /// The database.
    pub store: Store,
    /// Who exists, and which tokens count.
    pub accounts: Arc<Accounts>,
    /// Password hashes.
    pub passwords: Passwords,
    /// Who is connected: to be asked.
    pub directory: Arc<Directory>,
    /// Who is connected: to be told.
    pub registry: Addr<Registry>,
    /// Who is subscribed to what.
    pub topic_manager: Addr<TopicManager>,
    /// Commands and what becomes of them.
    pub command_dispatcher: Addr<CommandDispatcher>,
    /// The quick way to the CommandDispatcher.
    pub inlet: Inlet,
    /// The way to the RoomManager: who is in which room.
    pub rooms: Rooms,
    /// How the gateways are: to be asked.
    pub gateways: Arc<Board>,
    /// How the gateways are: to be told.
    pub gateway_monitor: Addr<GatewayMonitor>,
    /// One change of the gateways at a time: each is checked against the others, stored, and told.
    pub gateway_changes: tokio::sync::Mutex<()>,
    /// What writes in groups.
    pub journal: Addr<Journal>,
    /// How much waits to be written.
    pub backlog: Backlog,
    /// The way to any session.
    pub relays: Arc<Relays>,
    /// The way to other nodes.
    pub backplane: Arc<dyn Backplane>,
    pub(crate) registrations: Mutex<PerMinute<IpAddr>>,
    pub(crate) logins: Mutex<LoginLimit>,
    pub(crate) stored_bytes: Mutex<Budgets<ClientId>>,
    pub(crate) requests: Mutex<Budgets<ClientId>>,
    pub(crate) requests_of_addresses: Mutex<Budgets<IpAddr>>,
    pub(crate) draining: AtomicBool,
    pub(crate) readiness: Readiness,
    pub(crate) supervision: Supervision,
    pub(crate) drain_begun: Notify,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

impl Broker {
    /// Registrations by address.
    pub fn registrations(&self) -> MutexGuard<'_, PerMinute<IpAddr>> {
        self.registrations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many logins may fail.
    pub fn logins(&self) -> MutexGuard<'_, LoginLimit> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `ok` if the database takes writes, else what is wrong with it in a word.
    pub async fn database_readiness(&self) -> &'static str {
        self.readiness.of_database(&self.store).await
    }

    /// Asks all actors for a sign of life. Answers which one gives none in time.
    pub async fn unresponsive_actor(&self, patience: Duration) -> Option<&'static str> {
        self.supervision.unresponsive(patience).await
    }

    /// Waits for its turn to change gateways: until the changes before it are stored.
    ///
    /// # Errors
    /// `DatabaseUnavailable`: that takes too long.
    pub async fn gateway_turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, ApiError> {
        Ok(patience::wait(self.gateway_changes.lock()).await?)
    }

    /// Waits until all that was recorded before is written.
    ///
    /// # Errors
    /// The database does not take it, or not in time.
    pub async fn flush(&self) -> Result<(), ApiError> {
        Ok(patience::wait(self.journal.send(Flush)).await???)
    }

    /// Counts what an identity is about to have stored.
    ///
    /// # Errors
    /// It has had as much stored as it may for now.
    pub fn charge_stored(&self, client: ClientId, bytes: usize) -> Result<(), ApiError> {
        // a row of its own takes up something, too
        let amount = (bytes + 64) as f64;
        spend(&self.stored_bytes, client, amount, "limits.stored_bytes_per_minute")
    }

    /// Counts a request that changes something.
    ///
    /// # Errors
    /// The identity has made as many as it may for now.
    pub fn charge_request(&self, client: ClientId) -> Result<(), ApiError> {
        spend(&self.requests, client, 1.0, "limits.requests_per_second")
    }

    /// The same for an address.
    ///
    /// # Errors
    /// The address has made as many as it may for now.
    pub fn charge_address(&self, address: IpAddr) -> Result<(), ApiError> {
        spend(&self.requests_of_addresses, address, 1.0, "limits.requests_per_second_per_address")
    }

    /// Whether the server is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Ends when the server begins to stop.
    pub async fn drain_begun(&self) {
        // before the look, so that it can't begin in between
        let begun = self.drain_begun.notified();
        if !self.is_draining() {
            begun.await;
        }
    }

    pub(crate) fn begin_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.drain_begun.notify_waiters();
    }

    /// Closes the sessions that a change concerns, here and on other nodes.
    ///
    /// # Errors
    /// The Registry is gone.
    pub async fn apply(&self, change: AccountChange) -> Result<(), ApiError> {
        self.backplane.notify(&change);
        self.registry.send(Apply(change)).await?;
        Ok(())
    }
}

fn spend<K: Eq + std::hash::Hash>(
    budgets: &Mutex<Budgets<K>>,
    key: K,
    amount: f64,
    limit: &'static str,
) -> Result<(), ApiError> {
    let mut budgets = budgets.lock().unwrap_or_else(PoisonError::into_inner);
    budgets
        .spend(key, amount, Instant::now())
        .map_err(|wait| ApiError::TooMany { limit, retry_after: wait.as_secs() + 1 })
}
