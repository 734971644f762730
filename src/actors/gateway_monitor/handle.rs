//! The handle of the GatewayMonitor: reads the state of gateways and changes them.

mod changes;
mod history;
mod sharing;

use std::{collections::HashMap, fmt, sync::Arc};

use actix::{Actor, Addr, ArbiterHandle, Handler, MailboxError, Message, Recipient, dev::ToEnvelope};
use tokio::sync::{Mutex, OwnedMutexGuard};

use self::sharing::Shared;
use super::{
    GatewayMonitor, Neighbours,
    board::Board,
    messages::{AddWatcher, RemoveWatcher, WriteAllHours},
    sharing::Sharing,
};
use crate::{
    actors::{journal::Journal, topic_manager::Announce},
    auth::accounts::Accounts,
    clock::Clock,
    cluster::Backplane,
    delivery::{Relays, SessionHandle},
    domain::{
        gateways::{Address, Gateway, GatewayState, Transition},
        ids::GatewayId,
    },
    metrics::Context,
    settings::{self, LiveSettings},
    store::{
        Store, StoreError,
        patience::{self, OutOfPatience},
    },
};

/// Why a request about gateways fails.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// There is no such gateway.
    #[error("Gateway not found")]
    NotFound,
    /// The parent does not exist.
    #[error("Parent gateway not found")]
    ParentNotFound,
    /// With this parent the gateway would be behind itself.
    #[error("the gateway would be behind itself")]
    BehindItself(GatewayId),
    /// The gateway is defined in the configuration.
    #[error("Gateway is from the configuration and can be changed there alone")]
    Configured,
    /// There is a gateway with this id.
    #[error("Gateway id already exists")]
    IdTaken,
    /// All ids are used.
    #[error("The highest gateway id has been used: give an id that is free")]
    NoIdLeft,
    /// There are as many gateways as `limits.gateways` allows.
    #[error("too many gateways")]
    TooMany,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The earlier changes take too long.
    #[error(transparent)]
    Busy(#[from] OutOfPatience),
    /// The GatewayMonitor has stopped.
    #[error(transparent)]
    Stopped(#[from] MailboxError),
}

/// A gateway to be created.
#[derive(Debug, Clone)]
pub struct NewGateway {
    /// `None`: it gets one that was never used.
    pub id: Option<GatewayId>,
    /// The name to show.
    pub name: String,
    /// The address that is probed.
    pub address: Address,
    /// The gateway that this one is behind.
    pub parent_id: Option<GatewayId>,
    /// The gateway is degraded above this mean round trip.
    pub max_rtt_ms: Option<f64>,
    /// The gateway is degraded above this loss.
    pub max_loss_percent: Option<f64>,
}

/// A change of a gateway; `None` changes nothing.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // as in `NewGateway`
pub struct GatewayChange {
    pub name: Option<String>,
    pub address: Option<Address>,
    pub parent_id: Option<Option<GatewayId>>,
    pub max_rtt_ms: Option<Option<f64>>,
    pub max_loss_percent: Option<Option<f64>>,
}

/// What the GatewayMonitor and its handle use.
pub struct Dependencies {
    /// The gateways at the start.
    pub gateways: Vec<Gateway>,
    /// Their last changes of status before this start.
    pub before: HashMap<GatewayId, Transition>,
    /// `[probes]`
    pub probes: settings::Probes,
    /// For `limits.gateways`.
    pub settings: LiveSettings,
    /// Delivers frames to sessions.
    pub relays: Arc<Relays>,
    /// Records the results of probes.
    pub journal: Journal,
    /// Publishes to `$status`.
    pub announce: Recipient<Announce>,
    /// The database.
    pub store: Store,
    /// The cached accounts.
    pub accounts: Arc<Accounts>,
    /// The time of changes and probes.
    pub clock: Clock,
    /// The way to the other nodes; `None` if there are none.
    pub backplane: Option<Arc<dyn Backplane>>,
}

/// A gateway is not deleted at this node as long as this is there.
#[derive(Debug)]
pub struct Held {
    /// The version of the gateways, by which the database knows whether another node has changed them; `None` without others.
    pub version: Option<i64>,
    _turn: OwnedMutexGuard<()>,
}

/// Clones are handles of the same GatewayMonitor.
#[derive(Clone)]
pub struct Gateways {
    monitor: Addr<GatewayMonitor>,
    board: Arc<Board>,
    journal: Journal,
    store: Store,
    accounts: Arc<Accounts>,
    settings: LiveSettings,
    /// one change at a time
    changes: Arc<Mutex<()>>,
    /// None without other nodes
    shared: Option<Arc<Shared>>,
}

impl fmt::Debug for Gateways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateways").field("count", &self.board.len()).finish_non_exhaustive()
    }
}

impl Gateways {
    /// Starts the GatewayMonitor.
    pub fn start(arbiter: &ArbiterHandle, with: Dependencies) -> Self {
        let Dependencies {
            gateways,
            before,
            probes,
            settings,
            relays,
            journal,
            announce,
            store,
            accounts,
            clock,
            backplane,
        } = with;
        let board = Arc::<Board>::default();
        let shared = backplane.clone().map(|backplane| Shared::new(backplane, clock.clone()));
        let neighbours = Neighbours { relays, journal: journal.clone(), announce, clock };
        let sharing = backplane.map(Sharing::new);
        let monitor = GatewayMonitor::new(gateways, before, probes, board.clone(), neighbours, sharing);
        let monitor = Context::start_in_arbiter(arbiter, |_| monitor);
        Self { monitor, board, journal, store, accounts, settings, changes: Arc::default(), shared }
    }

    /// The gateway with this id.
    ///
    /// # Errors
    /// There is no such gateway.
    pub fn get(&self, id: GatewayId) -> Result<Arc<GatewayState>, GatewayError> {
        self.board.get(id).ok_or(GatewayError::NotFound)
    }

    /// All gateways by id.
    pub fn all(&self) -> Vec<Arc<GatewayState>> {
        self.board.all()
    }

    /// Whether there are no gateways.
    pub fn is_empty(&self) -> bool {
        self.board.len() == 0
    }

    /// The name of a gateway, if it is down.
    pub fn name_if_down(&self, id: GatewayId) -> Option<String> {
        self.board.name_if_down(id)
    }

    /// The body of `GET /device_status/` (contract section 4): `{"1":"connected"}`, with the gateways that have been probed.
    pub fn statuses(&self) -> String {
        self.board.statuses()
    }

    /// Why gateways cannot be probed, if they cannot.
    pub fn trouble(&self) -> Option<String> {
        self.board.trouble()
    }

    /// Keeps a gateway from being deleted at this node until the result is dropped.
    ///
    /// # Errors
    /// There is no gateway with this id.
    pub async fn hold(&self, id: GatewayId) -> Result<Held, GatewayError> {
        let turn = self.turn().await?;
        self.catch_up().await?;
        self.get(id)?;
        Ok(Held { version: self.version(), _turn: turn })
    }

    /// Records everything that is only in memory, before the process ends. All earlier messages have been handled by then.
    ///
    /// # Errors
    /// The GatewayMonitor has stopped.
    pub async fn record_all(&self) -> Result<(), MailboxError> {
        self.monitor.send(WriteAllHours).await
    }

    /// Sends a socket the body of `GET /device_status/` now, every five seconds, and at each change.
    pub fn watch(&self, session: SessionHandle) {
        self.monitor.do_send(AddWatcher(session));
    }

    /// Ends that for a socket.
    pub fn unwatch(&self, session: SessionHandle) {
        self.monitor.do_send(RemoveWatcher(session));
    }

    /// For actors that send messages to the GatewayMonitor themselves.
    pub(crate) fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message<Result: Send> + Send + 'static,
        GatewayMonitor: Handler<M>,
        <GatewayMonitor as Actor>::Context: ToEnvelope<GatewayMonitor, M>,
    {
        self.monitor.clone().recipient()
    }

    /// The version of the gateways that this node knows; `None` without other nodes.
    fn version(&self) -> Option<i64> {
        self.shared.as_ref().map(|shared| shared.version())
    }

    async fn turn(&self) -> Result<OwnedMutexGuard<()>, GatewayError> {
        Ok(patience::wait(self.changes.clone().lock_owned()).await?)
    }
}
