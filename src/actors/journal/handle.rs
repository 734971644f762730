//! The handle of the Journal, and the state of its backlog, which is read without a message.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use actix::{Actor, Addr, ArbiterHandle, Handler, Message, Recipient, dev::ToEnvelope};

use super::{Flush, JournalWriter, Write};
use crate::domain::{
    audit::Event,
    webhooks::{EventType, Webhook},
};
use crate::metrics::{Context, METRICS};
use crate::protocol::outbound::rfc3339;
use crate::settings::LiveSettings;
use crate::store::{NewDelivery, Record, Store, StoreError, patience};

/// The number of waiting records from which on requests that cause more are refused.
const BEHIND: usize = 100_000;

/// The number of waiting records from which on records that can be made again later are put off.
const BUSY: usize = 5_000;

/// The number of waiting records, and why they cannot be written. Clones share it; only the JournalWriter changes it.
#[derive(Debug, Clone, Default)]
pub struct Backlog(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    records: AtomicUsize,
    failure: Mutex<Option<StoreError>>,
}

impl Backlog {
    pub(super) fn set_records(&self, waiting: usize) {
        self.0.records.store(waiting, Ordering::Relaxed);
        METRICS.journal_waiting_records.set(waiting as i64);
    }

    pub(super) fn set_failure(&self, failure: Option<StoreError>) {
        *self.last_failure() = failure;
    }

    fn last_failure(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn records(&self) -> usize {
        self.0.records.load(Ordering::Relaxed)
    }

    /// Why the database takes no records now, if it takes none. Requests that need it should be refused.
    pub fn failure(&self) -> Option<StoreError> {
        self.last_failure().clone()
    }

    /// Whether records that can be made again later should be put off.
    pub fn is_busy(&self) -> bool {
        self.records() > BUSY
    }

    /// Whether the database has taken nothing for so long that records without a waiting caller should be dropped.
    pub fn is_stuck(&self) -> bool {
        self.is_busy() && self.last_failure().is_some()
    }

    /// Whether requests that cause more records should be refused.
    pub fn is_behind(&self) -> bool {
        self.records() > BEHIND
    }
}

#[cfg(test)]
impl Backlog {
    /// As if so many records waited.
    pub(crate) fn set_for_test(&self, waiting: Option<usize>, failure: Option<StoreError>) {
        self.set_records(waiting.unwrap_or(BEHIND + 1));
        self.set_failure(failure);
    }
}

/// Clones are handles of the same JournalWriter.
#[derive(Clone)]
pub struct Journal {
    writer: Addr<JournalWriter>,
    backlog: Backlog,
    /// who is told of events
    webhooks: Arc<[Webhook]>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("backlog", &self.backlog).finish_non_exhaustive()
    }
}

impl Journal {
    /// Starts the JournalWriter, which writes to this store and keeps the limits of these settings.
    pub fn start(arbiter: &ArbiterHandle, store: Store, settings: LiveSettings) -> Self {
        let backlog = Backlog::default();
        let writer = JournalWriter::new(store, backlog.clone(), settings);
        Self { writer: Context::start_in_arbiter(arbiter, |_| writer), backlog, webhooks: Arc::default() }
    }

    /// Has these webhooks told of events.
    pub fn telling(self, webhooks: &[Webhook]) -> Self {
        Self { webhooks: webhooks.into(), ..self }
    }

    /// Stores what the webhooks are to be told that want to know of the event, together with later records. While the database has
    /// taken nothing for long, that is dropped.
    pub fn tell(&self, event: EventType, at: DateTime<Utc>, data: impl FnOnce() -> Value) {
        let wanting: Vec<_> = self.webhooks.iter().filter(|webhook| webhook.events.contains(&event)).collect();
        if wanting.is_empty() {
            return;
        }
        if self.backlog.is_stuck() || self.backlog.is_behind() {
            METRICS.webhook_deliveries_total.with_label_values(&["dropped"]).inc_by(wanting.len() as u64);
            return;
        }
        let event_id = format!("msg_{}", Uuid::new_v4().simple());
        let body = json!({ "id": event_id, "type": event.as_str(), "time": rfc3339(at), "data": data() });
        let body: Arc<str> = body.to_string().into();
        let records = wanting.into_iter().map(|webhook| {
            let (webhook, event_id, body) = (webhook.key.clone(), event_id.clone(), body.clone());
            Record::Delivery(Arc::new(NewDelivery { webhook, event_id, event, body, at }))
        });
        self.record_soon(records.collect());
    }

    /// Writes records as soon as possible.
    pub fn record(&self, records: Vec<Record>) {
        self.writer.do_send(Write { records, may_wait: false });
    }

    /// Writes records together with later ones, within 50 ms.
    pub fn record_soon(&self, records: Vec<Record>) {
        self.writer.do_send(Write { records, may_wait: true });
    }

    /// Writes a record of the audit log together with later records, and logs it then. While the database has taken nothing for long
    /// it is only logged.
    pub fn audit(&self, event: impl Into<Arc<Event>>) {
        let event = event.into();
        if self.backlog.is_stuck() {
            event.log();
        } else {
            self.record_soon(vec![Record::Audit(event)]);
        }
    }

    /// Waits until all that was recorded before is written.
    ///
    /// # Errors
    /// The database does not take the records, or not before the deadline of the request.
    pub async fn flush(&self) -> Result<(), StoreError> {
        match patience::wait(self.writer.send(Flush)).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) => Err(StoreError::lost()),
            Err(_) => Err(StoreError::late()),
        }
    }

    /// The state of the backlog.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// For actors that send messages to the JournalWriter themselves.
    pub(crate) fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message<Result: Send> + Send + 'static,
        JournalWriter: Handler<M>,
        <JournalWriter as Actor>::Context: ToEnvelope<JournalWriter, M>,
    {
        self.writer.clone().recipient()
    }
}
