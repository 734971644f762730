//! The audit log: reading it, and recording what is not written in the transaction of a change.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    actors::journal::Journal,
    domain::audit::{Action, Actor, Event, Repeats, Target},
    store::{AuditFilter, AuditRecord, Store, StoreError},
};

/// How often it is looked whether the minute of a counted refusal is over.
const PERIOD: Duration = Duration::from_secs(1);

/// Reads the audit log, and adds to it. Clones share what they count.
#[derive(Clone)]
pub struct Audit {
    store: Store,
    journal: Journal,
    repeats: Arc<Mutex<Repeats>>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Audit {
    /// Of this database, written by this Journal.
    pub fn new(store: Store, journal: Journal) -> Self {
        Self { store, journal, repeats: Arc::default() }
    }

    /// Records what was done, within 50 ms.
    pub fn record(&self, by: Actor, action: Action, target: Target, details: Value) {
        self.journal.audit(self.store.audit_event(by, action, Some(target), details));
    }

    /// Records what a client can cause as often as it likes: what comes again within a minute is counted.
    pub fn record_bounded(&self, by: Actor, action: Action, target: Option<Target>, details: Value) {
        let event = self.store.audit_event(by, action, target, details);
        let first = self.repeats().note(event, Instant::now());
        if let Some(event) = first {
            self.journal.audit(event);
        }
    }

    /// Records a refused login. If there is a user with this name, they are the target; any other text is not recorded, since it
    /// may be a password in the wrong field.
    pub async fn login_refused(&self, name: &str, address: Option<IpAddr>, reason: &'static str) {
        let user = self.store.user_by_login(name).await.ok().flatten();
        let target = user.map(|user| Target::named(user.uuid, &user.username));
        self.record_bounded(Actor::unknown(address), Action::LoginRefused, target, json!({ "reason": reason }));
    }

    /// A page of the log, newest first, with all that this node has recorded.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list(&self, filter: AuditFilter) -> Result<Vec<AuditRecord>, StoreError> {
        self.journal.flush().await?;
        self.store.audit_log(filter).await
    }

    /// Records the counts of refusals whose minute is over. Never returns.
    pub async fn record_repeats(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            self.write(|repeats| repeats.take(Some(Instant::now())));
        }
    }

    /// Records the counts of all refusals, since the broker stops.
    pub fn record_the_last(&self) {
        self.write(|repeats| repeats.take(None));
    }

    fn write(&self, take: impl FnOnce(&mut Repeats) -> Vec<Event>) {
        let counted = take(&mut self.repeats());
        counted.into_iter().for_each(|event| self.journal.audit(event));
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
