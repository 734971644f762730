//! The database's part in sharing the gateways with other nodes: the lease of the prober, and the gateways that others have
//! created, changed or deleted.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use actix::MailboxError;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{
    super::sharing::{Heard, LeaseAnswered, NeedsStored, StopProbing, Stored, TellAll},
    GatewayError, Gateways,
};
use crate::{
    clock::Clock,
    cluster::{Backplane, envelope::Message, findings::Findings, look_requests::LookRequests},
};

/// The name of the prober's lease.
const LEASE_NAME: &str = "gateways";

/// The period of the looks into the database.
const LOOK: Duration = Duration::from_secs(1);

/// The period in which the prober renews its lease.
const RENEWAL: Duration = Duration::from_secs(3);

/// Between two looks when much changes.
const GATHERING: Duration = Duration::from_millis(100);

/// How much older than the last look changes of status may be that are read while the prober is not heard. The clocks of nodes
/// may differ by less than that.
const RECENT: TimeDelta = TimeDelta::minutes(10);

/// The version of the gateways before the first look.
const NOT_READ: i64 = -1;

/// What the handle knows of other nodes.
pub(super) struct Shared {
    backplane: Arc<dyn Backplane>,
    clock: Clock,
    /// the version of the gateways that the GatewayMonitor has
    version: AtomicI64,
    /// for what other nodes have changed
    looks: LookRequests,
    /// held while the lease is asked for; whether this node has given it up for good
    has_left: Mutex<bool>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(backplane: Arc<dyn Backplane>, clock: Clock) -> Arc<Self> {
        let version = AtomicI64::new(NOT_READ);
        Arc::new(Self { backplane, clock, version, looks: LookRequests::default(), has_left: Mutex::default() })
    }

    /// The version of the gateways that this node knows.
    pub(super) fn version(&self) -> i64 {
        self.version.load(Ordering::Acquire)
    }
}

impl Gateways {
    /// Shares the gateways with other nodes, without end: keeps the lease, and looks for what they have changed.
    pub async fn share(self) {
        let Some(shared) = &self.shared else { return std::future::pending().await };
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut renewed, mut looked) = (None, shared.clock.now());
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shared.looks.wanted() => {}
            }
            if let Err(error) = self.keep_lease(shared, &mut renewed).await {
                tracing::debug!(%error, "cannot ask for the lease of the prober");
            }
            let (now, began) = (shared.clock.now(), shared.looks.begins());
            match self.look(shared, looked).await {
                Ok(()) => {
                    looked = now;
                    shared.looks.ends(began);
                }
                Err(error) => tracing::debug!(%error, "cannot look for changed gateways"),
            }
            tokio::time::sleep(GATHERING).await;
        }
    }

    /// Takes the lease of the prober if nobody has it, or renews it in time.
    async fn keep_lease(&self, shared: &Shared, renewed: &mut Option<Instant>) -> Result<(), GatewayError> {
        let has_left = shared.has_left.lock().await;
        let asked = shared.clock.instant();
        if *has_left || renewed.is_some_and(|renewed| asked.saturating_duration_since(renewed) < RENEWAL) {
            return Ok(());
        }
        let term = self.store.take_lease(LEASE_NAME, shared.backplane.incarnation()).await?;
        *renewed = term.map(|_| asked);
        Ok(self.monitor.send(LeaseAnswered { term, asked }).await?)
    }

    /// Looks for what other nodes have changed, and what the prober has stored since the last look.
    async fn look(&self, shared: &Shared, looked: DateTime<Utc>) -> Result<(), GatewayError> {
        if self.store.gateway_version().await? != shared.version() {
            let _turn = self.turn().await?;
            // this node may have made the change itself
            self.catch_up().await?;
        }
        if self.monitor.send(NeedsStored).await? {
            let transitions = self.store.gateway_transitions_since(looked - RECENT).await?;
            self.monitor.send(Stored { gateways: None, transitions }).await?;
        }
        Ok(())
    }

    /// Has the GatewayMonitor know the gateways of the database.
    async fn read_stored(&self, shared: &Shared) -> Result<(), GatewayError> {
        let version = self.store.gateway_version().await?;
        let gateways = Some(self.store.gateways().await?);
        self.monitor.send(Stored { gateways, transitions: BTreeMap::new() }).await?;
        shared.version.store(version, Ordering::Release);
        Ok(())
    }

    /// Has the GatewayMonitor know what other nodes have changed. Nothing else may change gateways at this node meanwhile.
    pub(super) async fn catch_up(&self) -> Result<(), GatewayError> {
        match &self.shared {
            Some(shared) if self.store.gateway_version().await? != shared.version() => self.read_stored(shared).await,
            _ => Ok(()),
        }
    }

    /// This node has changed gateways, and knows what they are now.
    pub(super) fn changed(&self) {
        if let Some(shared) = &self.shared {
            shared.version.fetch_add(1, Ordering::AcqRel);
            shared.backplane.send_to_all(Message::GatewaysChanged);
        }
    }

    /// Tells other nodes that devices are behind no gateway now.
    pub(super) fn devices_changed(&self) {
        if let Some(shared) = &self.shared {
            shared.backplane.send_to_all(Message::AccountsChanged);
        }
    }

    /// Another node has changed gateways.
    pub fn look_now(&self) {
        if let Some(shared) = &self.shared {
            shared.looks.look_now();
        }
    }

    /// Waits until everything is known here of which [`Gateways::look_now`] told before.
    pub async fn looked(&self) {
        if let Some(shared) = &self.shared {
            shared.looks.settled().await;
        }
    }

    /// Waits until the other nodes know what this one has changed, or do not answer.
    pub(super) async fn known_everywhere(&self, turn: impl Sized) {
        // they may be changing gateways, too, and wait for this one
        drop(turn);
        if let Some(shared) = &self.shared {
            shared.backplane.announced().await;
        }
    }

    /// The node that probes gateways has sent this.
    pub fn heard(&self, from: Uuid, findings: Findings) {
        self.monitor.do_send(Heard { from, findings });
    }

    /// Tells a node all that is known, if this one probes the gateways.
    pub fn tell_all(&self, node: Uuid) {
        self.monitor.do_send(TellAll(node));
    }

    /// Whether a node probes the gateways. Without other nodes this one does.
    pub fn is_prober(&self, node: Uuid) -> bool {
        self.shared.is_none() || self.board.prober() == Some(node)
    }

    /// Records everything that is only in memory, before the process ends, and leaves the probes to other nodes. All earlier
    /// messages have been handled by then.
    ///
    /// # Errors
    /// The GatewayMonitor has stopped.
    pub async fn stop_probing(&self) -> Result<(), MailboxError> {
        self.monitor.send(StopProbing).await
    }

    /// Lets another node probe at once, after [`Gateways::stop_probing`].
    pub async fn leave(&self) {
        let Some(shared) = &self.shared else { return };
        let mut has_left = shared.has_left.lock().await;
        *has_left = true;
        if let Err(error) = self.store.release_lease(LEASE_NAME, shared.backplane.incarnation()).await {
            tracing::warn!(%error, "the lease of the prober is not released: it ends by itself");
        }
    }
}
