//! How many bytes each client may have stored (`limits.stored_bytes_per_minute`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::Store;
use crate::domain::{
    budget::{Budgets, OverLimit},
    ids::ClientId,
};

/// What stands for the overhead of a row, in bytes.
const ROW: usize = 64;

/// The budgets of all clients. Clones share them.
pub(super) type StoredBytes = Arc<Mutex<Budgets<ClientId>>>;

/// Each client may have so many bytes stored per minute; 0: any number.
pub(super) fn per_minute(bytes: u32) -> StoredBytes {
    let bytes = f64::from(bytes);
    Arc::new(Mutex::new(Budgets::new(bytes / 60.0, bytes)))
}

impl Store {
    /// Charges bytes that are to be stored to a client's budget. To be called by whoever stores them, before.
    ///
    /// # Errors
    /// The client has used up `limits.stored_bytes_per_minute`.
    pub fn charge_stored(&self, client: ClientId, bytes: usize) -> Result<(), OverLimit> {
        let amount = (bytes + ROW) as f64;
        let mut budgets = self.stored_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        budgets
            .spend(client, amount, Instant::now())
            .map_err(|wait| OverLimit::for_at_least("limits.stored_bytes_per_minute", wait))
    }
}
