//! Gauges of the state of things, which are set when the metrics are read.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::{Broker, readiness::NEARLY_FULL};
use crate::{
    domain::{gateways::Status, messages::MessageState},
    metrics::{METRICS, Metrics, labels::Label},
    store::Store,
};

/// How often acknowledged messages and deliveries are counted at most, which reads the entries of all that wait.
const COUNTED_EVERY: Duration = Duration::from_secs(10);

/// How long the counting may take. The gauges keep their values then.
const PATIENCE: Duration = Duration::from_secs(1);

/// The acknowledged messages in the database.
#[derive(Debug)]
pub(crate) struct Waiting {
    store: Store,
    counted: Mutex<Option<Instant>>,
}

impl Waiting {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, counted: Mutex::default() }
    }

    async fn count(&self, broker: &Broker) {
        let Ok(mut counted) = self.counted.try_lock() else { return };
        if counted.is_some_and(|at| at.elapsed() < COUNTED_EVERY) {
            return;
        }
        *counted = Some(Instant::now());
        let Ok(Ok((open, oldest))) = tokio::time::timeout(PATIENCE, self.store.open_messages()).await else { return };
        for state in MessageState::ALL.into_iter().filter(|state| !state.is_end()) {
            let messages = open.get(&state).copied().unwrap_or_default();
            METRICS.acknowledged_messages.with_label_values(&[state.as_str()]).set(messages);
        }
        let age = oldest.map(|oldest| broker.clock.now().signed_duration_since(oldest).to_std().unwrap_or_default());
        METRICS.acknowledged_messages_oldest_age_seconds.set(age.unwrap_or_default().as_secs_f64());
        if let Ok(Ok(pending)) = tokio::time::timeout(PATIENCE, broker.webhooks.pending()).await {
            METRICS.webhook_deliveries_pending.set(pending as i64);
        }
    }
}

impl Broker {
    /// Reads the gauges, and returns all metrics.
    pub async fn metrics(&self) -> &'static Metrics {
        let database = tokio::time::timeout(PATIENCE, self.database_readiness());
        let (database, ()) = tokio::join!(database, self.waiting.count(self));
        METRICS.database_up.set(database.is_ok_and(|word| matches!(word, "ok" | NEARLY_FULL)).into());
        let gateways = self.gateways.all();
        for status in Status::ALL {
            let number = gateways.iter().filter(|known| known.status == *status).count();
            METRICS.gateways.with_label_values(&[Label::as_str(*status)]).set(number as i64);
        }
        METRICS.cluster_nodes.set(1 + self.cluster.backplane().nodes().len() as i64);
        METRICS.cluster_complete.set(self.cluster.is_complete().into());
        for (number, server) in self.cluster.servers().into_iter().enumerate() {
            let number = number.to_string();
            METRICS.redis_up.with_label_values(&[&number]).set(server.is_up.into());
            if let Some(time) = server.round_trip {
                METRICS.redis_round_trip_seconds.with_label_values(&[&number]).set(time.as_secs_f64());
            }
        }
        METRICS.read_process();
        &METRICS
    }
}
