//! What is known of the gateways, for everyone to read.

use std::sync::{Arc, Mutex, PoisonError};

use papaya::HashMap;
use uuid::Uuid;

use crate::{
    domain::{
        gateways::{GatewayState, Status},
        ids::GatewayId,
    },
    protocol::{frames::DeclaredFrame, outbound::frames::GatewayStates},
};

/// The gateways as they are now. The GatewayMonitor alone writes it; everyone reads it without asking.
#[derive(Debug, Default)]
pub(super) struct Board {
    gateways: HashMap<GatewayId, Arc<GatewayState>>,
    /// what keeps gateways from being probed as they should
    trouble: Mutex<Option<String>>,
    /// the node that probes them, if that is known
    prober: Mutex<Option<Uuid>>,
}

impl Board {
    /// The gateway with this id.
    pub(super) fn get(&self, id: GatewayId) -> Option<Arc<GatewayState>> {
        self.gateways.pin().get(&id).cloned()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.gateways.len()
    }

    /// All of them by id.
    pub(super) fn all(&self) -> Vec<Arc<GatewayState>> {
        let mut all: Vec<_> = self.gateways.pin().values().cloned().collect();
        all.sort_unstable_by_key(|known| known.gateway.id);
        all
    }

    /// The name of this gateway, if it is down.
    pub(super) fn name_if_down(&self, id: GatewayId) -> Option<String> {
        let known = self.get(id).filter(|known| known.status == Status::Disconnected)?;
        Some(known.gateway.name.clone())
    }

    /// The body of `GET /device_status/` (contract section 4): `{"1":"connected"}`, with those that have been probed.
    pub(super) fn statuses(&self) -> String {
        let probed = self.all().into_iter().filter_map(|known| Some((known.gateway.id, known.status.is_up()?)));
        GatewayStates(probed.collect()).text()
    }

    /// What keeps gateways from being probed as they should.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a gateway on it; answers how it was before.
    pub(super) fn put(&self, known: GatewayState) -> Option<Arc<GatewayState>> {
        self.gateways.pin().insert(known.gateway.id, Arc::new(known)).cloned()
    }

    pub(super) fn remove(&self, id: GatewayId) {
        self.gateways.pin().remove(&id);
    }

    /// The node that probes the gateways, if there are several and that is known.
    pub(super) fn prober(&self) -> Option<Uuid> {
        *self.prober.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_prober(&self, prober: Option<Uuid>) {
        *self.prober.lock().unwrap_or_else(PoisonError::into_inner) = prober;
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}
