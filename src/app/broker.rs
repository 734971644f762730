//! What handlers and sessions work with.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use tokio::sync::Notify;

use super::{readiness::Readiness, supervision::Supervision};
use crate::{
    actors::{
        command_dispatcher::{CommandDispatcher, Inlet},
        gateway_monitor::{Board, GatewayMonitor},
        journal::{Backlog, Journal},
        registry::{Apply, Directory, Registry},
        relay::Relays,
        room_manager::Rooms,
        topic_manager::TopicManager,
    },
    auth::{
        accounts::{Accounts, Change},
        passwords::Passwords,
    },
    cluster::Backplane,
    domain::{login_limit::LoginLimit, rate_limit::PerMinute},
    error::ApiError,
    settings::Settings,
    store::Store,
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
    pub(super) registrations: Mutex<PerMinute<IpAddr>>,
    pub(super) logins: Mutex<LoginLimit>,
    pub(super) draining: AtomicBool,
    pub(super) readiness: Readiness,
    pub(super) supervision: Supervision,
    pub(super) drain_begun: Notify,
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

    pub(super) fn begin_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.drain_begun.notify_waiters();
    }

    /// Closes the sessions that a change concerns, here and on other nodes.
    ///
    /// # Errors
    /// The Registry is gone.
    pub async fn apply(&self, change: Change) -> Result<(), ApiError> {
        self.backplane.notify(&change);
        self.registry.send(Apply(change)).await?;
        Ok(())
    }
}
