//! The role of the JournalWriter is to write what others record through the [`Journal`], in groups: while one transaction
//! commits, everything that is recorded gathers, and goes into the next; under load the groups grow by themselves. What nobody
//! waits for may gather a little longer: a thousand rows in one transaction cost a fraction of a thousand transactions.
//!
//! The CommandDispatcher records commands and what becomes of them, the GatewayMonitor what its probes found, the Registry
//! when devices were seen; the RoomManager, the TopicManager and the MessageManager have changes decided and written. Whoever must not go on before something
//! is written asks for a flush.

mod batch;
mod changes;
mod handle;
mod places;
mod queue;

use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, AsyncContext, Handler, Message, ResponseFuture, WrapFuture};
use tokio::sync::oneshot;

use self::{
    batch::{Batch, Written},
    changes::Waiting,
};
pub use self::{
    changes::{Change, Outcomes, Perform, Performed},
    handle::{Backlog, Journal},
    places::{Place, Places},
    queue::{Journaling, Queue, Unanswered, WriteQueued, write_batch},
};
use crate::metrics::{self, Context, METRICS, Measured};
use crate::settings::LiveSettings;
use crate::store::{ChangeLimits, Record, Store, StoreError, patience::Patience};

/// How long to wait before the database is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long records may wait to be written together with later ones.
const GATHERING: Duration = Duration::from_millis(50);

/// Records per transaction: a backlog is written piece by piece, so that no transaction holds the writer for long.
const BATCH: usize = 5_000;

/// Records to be written.
#[derive(Message)]
#[rtype(result = "()")]
struct Write {
    records: Vec<Record>,
    /// Whether it may wait to be written together with later records.
    may_wait: bool,
}

/// Answers when all that was recorded before is written.
#[derive(Message)]
#[rtype(result = "Result<(), StoreError>")]
struct Flush;

/// The database takes longer to commit this batch than anybody should wait.
#[derive(Message)]
#[rtype(result = "()")]
struct Late(u64);

/// Who waits until that many records are written.
type Flusher = (u64, oneshot::Sender<Result<(), StoreError>>);

/// See the module.
pub struct JournalWriter {
    store: Store,
    backlog: Backlog,
    settings: LiveSettings,
    waiting: Vec<Record>,
    changes: Waiting,
    /// how many records have been written, ever
    written: u64,
    /// how many records are being written
    under_way: usize,
    flushes: Vec<Flusher>,
    writing: bool,
    /// of the last batch
    number: u64,
    /// the batch is [`Late`]
    is_late: bool,
    /// why the records could not be written, which wait for a timer
    retrying: Option<StoreError>,
    /// a timer is set for what may wait
    gathering: bool,
    /// something of what waits is to be written at once
    urgent: bool,
}

impl JournalWriter {
    fn new(store: Store, backlog: Backlog, settings: LiveSettings) -> Self {
        Self {
            store,
            backlog,
            settings,
            waiting: Vec::new(),
            changes: Waiting::default(),
            written: 0,
            under_way: 0,
            flushes: Vec::new(),
            writing: false,
            number: 0,
            is_late: false,
            retrying: None,
            gathering: false,
            urgent: false,
        }
    }

    fn write(&mut self, context: &mut Context<Self>) {
        if self.writing {
            if self.is_late {
                self.refuse(&StoreError::late());
            }
            return;
        }
        let records = match &self.retrying {
            Some(error) => {
                self.flushes.drain(..).for_each(|(_, flush)| drop(flush.send(Err(error.clone()))));
                Vec::new()
            }
            None => {
                let rest = self.waiting.split_off(self.waiting.len().min(BATCH));
                std::mem::replace(&mut self.waiting, rest)
            }
        };
        if records.is_empty() && self.changes.is_empty() {
            return self.answer_flushes(&Ok(()));
        }
        self.writing = true;
        self.number += 1;
        self.under_way = records.len();
        self.urgent = false;
        let mut asked = std::mem::take(&mut self.changes);
        let (store, limits) = (self.store.clone(), ChangeLimits::of(&self.settings.load()));
        let (journal, late) = (context.address(), Late(self.number));
        let commit = async move {
            let changes = asked.changes();
            let batch = Batch { records, changes: changes.as_ref(), limits };
            let (size, began) = (batch.records.len() + batch.changes.len(), Instant::now());
            let patience = Patience::endless();
            let mut writing = std::pin::pin!(patience.clone().during(batch.write(&store)));
            let written = tokio::select! {
                biased;
                written = &mut writing => written,
                () = patience.given_up() => {
                    journal.do_send(late);
                    asked.late();
                    writing.await
                }
            };
            METRICS.journal_batch_size.observe(size as f64);
            METRICS.journal_commit_seconds.observe(began.elapsed().as_secs_f64());
            let Written { decided, left, failure, refusal } = written;
            let failed = asked.answer(decided);
            (left, failure.or(failed), refusal)
        };
        context.spawn(commit.into_actor(self).map(|(left, failure, refusal), journal, context| {
            (journal.writing, journal.is_late) = (false, false);
            journal.written += (journal.under_way - left.len()) as u64;
            journal.under_way = 0;
            // without records nothing is tried again, so it would never be known that the database is back
            journal.backlog.set_failure(failure.clone().filter(|_| !left.is_empty()));
            if let Some(refusal) = refusal {
                journal.answer_flushes(&Err(refusal));
            }
            match failure {
                None => journal.answer_flushes(&Ok(())),
                Some(error) => {
                    if !left.is_empty() {
                        journal.waiting.splice(0..0, left);
                        journal.retrying = Some(error.clone());
                        context.run_later(RETRY, |journal, context| {
                            journal.retrying = None;
                            journal.write(context);
                        });
                    }
                    // they would find the same, and wait for as long again
                    if matches!(error, StoreError::Unavailable(_)) {
                        journal.changes.refuse(&error);
                    }
                }
            }
            let more = journal.urgent || !journal.changes.is_empty() || !journal.flushes.is_empty();
            if more || !journal.gathering || journal.waiting.len() >= BATCH {
                journal.write(context);
            }
            journal.backlog.set_records(journal.waiting.len());
        }));
    }

    /// Refuses those who wait for what comes after a late batch: they would wait for as long.
    fn refuse(&mut self, error: &StoreError) {
        self.flushes.drain(..).for_each(|(_, flush)| drop(flush.send(Err(error.clone()))));
        self.changes.refuse(error);
    }

    /// Answers those whose records are written, or dropped.
    fn answer_flushes(&mut self, answer: &Result<(), StoreError>) {
        let written = self.written;
        for (_, flush) in self.flushes.extract_if(.., |(until, _)| *until <= written) {
            let _ = flush.send(answer.clone());
        }
    }
}

impl Measured for JournalWriter {
    const NAME: metrics::labels::Actor = metrics::labels::Actor::JournalWriter;
}

impl Actor for JournalWriter {
    type Context = Context<Self>;
}

impl Handler<Write> for JournalWriter {
    type Result = ();

    fn handle(&mut self, Write { records, may_wait }: Write, context: &mut Self::Context) {
        self.waiting.extend(records);
        self.backlog.set_records(self.waiting.len());
        if !may_wait {
            self.urgent = true;
            self.write(context);
        } else if !self.gathering {
            self.gathering = true;
            context.run_later(GATHERING, |journal, context| {
                journal.gathering = false;
                journal.write(context);
            });
        }
    }
}

impl<C: Change> Handler<Perform<C>> for JournalWriter {
    type Result = ResponseFuture<Performed<C>>;

    fn handle(&mut self, Perform(changes): Perform<C>, context: &mut Self::Context) -> Self::Result {
        let performed = self.changes.put(changes);
        self.write(context);
        Box::pin(async move { performed.await.unwrap_or_else(|_| Performed::Done(Err(StoreError::lost()))) })
    }
}

impl Handler<Late> for JournalWriter {
    type Result = ();

    fn handle(&mut self, Late(batch): Late, _: &mut Self::Context) {
        // it may have ended since
        if self.writing && batch == self.number {
            let error = StoreError::late();
            self.is_late = true;
            self.backlog.set_failure(Some(error.clone()));
            self.refuse(&error);
        }
    }
}

impl Handler<Flush> for JournalWriter {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, _: Flush, context: &mut Self::Context) -> Self::Result {
        let (done, written) = oneshot::channel();
        // what is being written has left those that wait, and is not counted as written yet
        let until = self.written + (self.under_way + self.waiting.len()) as u64;
        self.flushes.push((until, done));
        self.write(context);
        Box::pin(async move { written.await.unwrap_or_else(|_| Err(StoreError::lost())) })
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
