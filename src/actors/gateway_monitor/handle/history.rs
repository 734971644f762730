//! The history of a gateway.

use chrono::{DateTime, Utc};

use super::{super::messages::WriteHour, GatewayError, Gateways};
use crate::{
    domain::ids::GatewayId,
    store::{GatewayHistory, Store, StoreError},
};

/// A gateway's history as it is stored. Its reader may wait for its turn before it reads.
#[derive(Debug)]
pub struct WrittenHistory<'a> {
    store: &'a Store,
    id: GatewayId,
}

impl WrittenHistory<'_> {
    /// The part from one time to another, with the newest `transitions`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn between(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        transitions: u64,
    ) -> Result<GatewayHistory, StoreError> {
        self.store.gateway_history(self.id, from, to, transitions).await
    }
}

impl Gateways {
    /// The history of a gateway, once all probes so far are in the database.
    ///
    /// # Errors
    /// There is no such gateway, or the database does not take the writes, or not in time.
    pub async fn written_history(&self, id: GatewayId) -> Result<WrittenHistory<'_>, GatewayError> {
        self.get(id)?;
        self.monitor.send(WriteHour(id)).await?;
        self.journal.flush().await?;
        Ok(WrittenHistory { store: &self.store, id })
    }
}
