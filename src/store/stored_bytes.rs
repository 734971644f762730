//! How many bytes each client may have stored (`limits.stored_bytes_per_minute`).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::Store;
use crate::domain::{
    budget::{Budgets, OverLimit},
    ids::ClientId,
};
use crate::settings::LiveSettings;

/// What stands for the overhead of a row, in bytes.
const ROW: usize = 64;

/// The budgets of all clients. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct StoredBytes {
    budgets: Arc<Mutex<Budgets<ClientId>>>,
    /// `None`: any number
    settings: Option<LiveSettings>,
}

impl StoredBytes {
    /// By `limits.stored_bytes_per_minute`; any number without settings.
    pub(super) fn new(settings: Option<LiveSettings>) -> Self {
        Self { budgets: Arc::new(Mutex::new(Budgets::new(0.0, 0.0))), settings }
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets<ClientId>> {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(settings) = &self.settings {
            let bytes = f64::from(settings.load().limits.stored_bytes_per_minute);
            budgets.set_rate(bytes / 60.0, bytes);
        }
        budgets
    }
}

impl Store {
    /// Charges bytes that are to be stored to a client's budget. To be called by whoever stores them, before.
    ///
    /// # Errors
    /// The client has used up `limits.stored_bytes_per_minute`.
    pub fn charge_stored(&self, client: ClientId, bytes: usize) -> Result<(), OverLimit> {
        let amount = (bytes + ROW) as f64;
        self.stored_bytes
            .budgets()
            .spend(client, amount, Instant::now())
            .map_err(|wait| OverLimit::for_at_least("limits.stored_bytes_per_minute", wait))
    }
}
