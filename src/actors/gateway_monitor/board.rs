//! What is known of the gateways, for everyone to read.

use std::sync::{Arc, Mutex, PoisonError};

use papaya::HashMap;

use crate::domain::gateways::{Known, Status};

/// The gateways as they are now. The GatewayMonitor alone writes it; everyone reads it without asking.
#[derive(Debug, Default)]
pub struct Board {
    gateways: HashMap<i64, Arc<Known>>,
    /// what keeps gateways from being probed as they should
    trouble: Mutex<Option<String>>,
}

impl Board {
    /// The gateway with this id.
    pub fn get(&self, id: i64) -> Option<Arc<Known>> {
        self.gateways.pin().get(&id).cloned()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.gateways.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.gateways.is_empty()
    }

    /// All of them by id.
    pub fn all(&self) -> Vec<Arc<Known>> {
        let mut all: Vec<_> = self.gateways.pin().values().cloned().collect();
        all.sort_unstable_by_key(|known| known.gateway.id);
        all
    }

    /// The name of this gateway, if it is down.
    pub fn is_down(&self, id: i64) -> Option<String> {
        let known = self.get(id).filter(|known| known.status == Status::Disconnected)?;
        Some(known.gateway.name.clone())
    }

    /// Whether a gateway would be behind itself with this parent.
    pub fn is_cycle(&self, id: i64, parent: i64) -> bool {
        let mut above = Some(parent);
        // changes may come meanwhile, so not for ever
        for _ in 0..=self.len() {
            match above {
                None => return false,
                Some(one) if one == id => return true,
                Some(one) => above = self.get(one).and_then(|known| known.gateway.parent_id),
            }
        }
        true
    }

    /// The two-word answer (contract section 4): `{"1":"connected"}`, with those that have been probed.
    pub fn statuses(&self) -> String {
        let words = self.all().into_iter().filter_map(|known| {
            let word = if known.status.is_up()? { "connected" } else { "disconnected" };
            Some(format!("\"{}\":\"{word}\"", known.gateway.id))
        });
        format!("{{{}}}", words.collect::<Vec<_>>().join(","))
    }

    /// What keeps gateways from being probed as they should.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a gateway on it; answers how it was before.
    pub(super) fn put(&self, known: Known) -> Option<Arc<Known>> {
        self.gateways.pin().insert(known.gateway.id, Arc::new(known)).cloned()
    }

    pub(super) fn remove(&self, id: i64) {
        self.gateways.pin().remove(&id);
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}
