//! Webhooks: sends stored deliveries to their receivers, until they are accepted or have been tried for long enough.
//!
//! What has happened is stored by the Journal (`Journal::tell`). Each webhook has a loop of its own, so that a receiver that
//! does not answer delays no other one.

mod sender;

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde_json::json;

use self::sender::Sender;
use crate::{
    actors::journal::Journal,
    clock::Clock,
    domain::webhooks::{EventType, GIVE_UP, Webhook, pause_after},
    metrics::METRICS,
    store::{Attempt, Store, StoreError, TakenDelivery, WebhookState},
};

/// How often it is looked for deliveries that are due.
const PERIOD: Duration = Duration::from_secs(1);

/// Most requests to one receiver at the same time.
const AT_ONCE: u64 = 16;

/// How long what became of a delivery is kept.
const KEPT: TimeDelta = TimeDelta::days(7);

/// How often older ones are deleted.
const CLEANING: Duration = Duration::from_secs(3600);

/// Sends deliveries, and tells what became of them. Clones share the connections.
#[derive(Clone)]
pub struct Webhooks {
    senders: Arc<[Sender]>,
    store: Store,
    journal: Journal,
    clock: Clock,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks").finish_non_exhaustive()
    }
}

impl Webhooks {
    /// Of these settings.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(webhooks: Vec<Webhook>, store: Store, journal: Journal, clock: Clock) -> anyhow::Result<Self> {
        let senders = webhooks.into_iter().map(Sender::new).collect::<anyhow::Result<_>>()?;
        Ok(Self { senders, store, journal, clock })
    }

    /// Each webhook with its deliveries.
    ///
    /// # Errors
    /// The database failed.
    pub async fn states(&self) -> Result<Vec<(Webhook, WebhookState)>, StoreError> {
        let mut states = Vec::new();
        for sender in &*self.senders {
            states.push((sender.webhook.clone(), self.store.webhook_state(&sender.webhook.key).await?));
        }
        Ok(states)
    }

    /// How many deliveries wait.
    ///
    /// # Errors
    /// The database failed.
    pub async fn pending(&self) -> Result<u64, StoreError> {
        if self.senders.is_empty() {
            return Ok(0);
        }
        let keys: Vec<_> = self.senders.iter().map(|sender| sender.webhook.key.clone()).collect();
        self.store.pending_deliveries(&keys).await
    }

    /// Sends what is due. Never returns.
    pub async fn run(self) {
        if self.senders.is_empty() {
            // those of webhooks that are not in the configuration any more
            return self.clean().await;
        }
        let sending = join_all(self.senders.iter().map(|sender| self.send_to(sender)));
        tokio::join!(sending, self.clean(), self.watch_disk());
    }

    async fn send_to(&self, sender: &Sender) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            loop {
                match self.send_due(sender).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, webhook = sender.webhook.shown_url, "cannot read or note deliveries");
                        break;
                    }
                }
            }
        }
    }

    /// Sends deliveries that are due, as many as may be sent at the same time. Returns how many.
    async fn send_due(&self, sender: &Sender) -> Result<usize, StoreError> {
        let taken = self.store.take_deliveries(&sender.webhook.key, AT_ONCE).await?;
        let attempts = join_all(taken.iter().map(|delivery| self.attempt(sender, delivery))).await;
        if !attempts.is_empty() {
            self.store.note_attempts(&sender.webhook.key, attempts).await?;
        }
        Ok(taken.len())
    }

    async fn attempt(&self, sender: &Sender, delivery: &TakenDelivery) -> (i64, Attempt) {
        let now = self.clock.now();
        let sent = sender.send(&delivery.event_id, now.timestamp(), &delivery.body).await;
        let (attempt, outcome) = match sent {
            Ok(()) => (Attempt::Delivered, "delivered"),
            Err(error) => {
                let pause = pause_after(delivery.attempts, rand::random());
                let (id, webhook, attempts) = (&delivery.event_id, &sender.webhook.shown_url, delivery.attempts);
                if now - delivery.created_at + TimeDelta::from_std(pause).unwrap_or_default() > GIVE_UP {
                    tracing::warn!(webhook, id, attempts, error, "a delivery is given up");
                    (Attempt::GivenUp(error), "given_up")
                } else {
                    tracing::info!(webhook, id, attempts, error, "a delivery failed, and is tried again");
                    (Attempt::Again(pause, error), "retried")
                }
            }
        };
        METRICS.webhook_deliveries_total.with_label_values(&[outcome]).inc();
        (delivery.id, attempt)
    }

    async fn clean(&self) {
        let mut ticks = tokio::time::interval(CLEANING);
        loop {
            ticks.tick().await;
            if let Err(error) = self.store.delete_deliveries_after(KEPT).await {
                tracing::warn!(%error, "cannot delete old deliveries of webhooks");
            }
        }
    }

    /// Tells of space that runs out, and of space that is there again.
    async fn watch_disk(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        let mut was_full = false;
        loop {
            ticks.tick().await;
            let is_full = self.store.is_nearly_full();
            if is_full != was_full {
                was_full = is_full;
                let event = if is_full { EventType::DiskLow } else { EventType::DiskRecovered };
                self.tell(event, self.clock.now());
            }
        }
    }

    fn tell(&self, event: EventType, at: DateTime<Utc>) {
        self.journal.tell(event, at, || json!({ "node": &*self.store.node() }));
    }
}
