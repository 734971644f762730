//! What other processes changed: another node, or the command line.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Accounts, Change};
use crate::store::StoreError;

/// How far back each look at the database goes, for clocks that differ and transactions that take their time.
const OVERLAP: TimeDelta = TimeDelta::seconds(60);

/// What the last look at the database found: accounts and when they changed, revocations and until when they hold.
type Seen = HashMap<Uuid, DateTime<Utc>>;

impl Accounts {
    /// Looks for what other processes changed, for ever: every `period` calls `on_change` with each change that is
    /// news here, and now and then deletes what has expired.
    pub async fn watch(self: Arc<Self>, period: Duration, mut on_change: impl FnMut(Change)) {
        let mut since = Utc::now() - OVERLAP;
        let mut seen = Seen::new();
        let mut cleaned: Option<tokio::time::Instant> = None;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            let began = Utc::now() - OVERLAP;
            match self.changes_since(since, &mut seen).await {
                Ok(changes) => {
                    since = began;
                    changes.into_iter().for_each(&mut on_change);
                }
                Err(error) => tracing::warn!(%error, "cannot look for changed accounts"),
            }
            if cleaned.is_none_or(|cleaned| now - cleaned > Duration::from_secs(600)) {
                cleaned = Some(now);
                self.revoked.pin().retain(|_, until| *until > Utc::now());
                if let Err(error) = self.store.delete_expired_tokens().await {
                    tracing::warn!(%error, "cannot delete expired tokens");
                }
            }
        }
    }

    /// What is news since then. The cache can't tell: whoever read a changed row before has put it there, and closed no
    /// session.
    async fn changes_since(&self, since: DateTime<Utc>, seen: &mut Seen) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        let mut seen_now = Seen::new();
        for (id, until) in self.store.revocations_since(since).await? {
            self.put_revocation(id, until);
            if !seen.contains_key(&id) {
                changes.push(Change::Token(id));
            }
            seen_now.insert(id, until);
        }
        for user in self.store.users_changed_since(since).await? {
            let (id, changed_at) = (user.uuid.uuid(), user.changed_at);
            let account = self.put(user.into());
            if seen.get(&id) != Some(&changed_at) {
                changes.push(Change::Account(account));
            }
            seen_now.insert(id, changed_at);
        }
        // there may be thousands, most of them told already, or registered by this very process
        let mut unknown = Vec::new();
        for (id, changed_at) in self.store.devices_changed_since(since).await? {
            if seen.get(&id.uuid()) != Some(&changed_at) {
                match self.cache.get(&id).filter(|known| known.changed_at >= changed_at) {
                    Some(known) => changes.push(Change::Account(known)),
                    None => unknown.push(id),
                }
            }
            seen_now.insert(id.uuid(), changed_at);
        }
        let read = self.store.devices_and_deleted(&unknown).await?;
        changes.extend(read.into_iter().map(|device| Change::Account(self.put(device.into()))));
        *seen = seen_now;
        Ok(changes)
    }
}
