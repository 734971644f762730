//! The role of the Journal is to write what others record, in groups: while one transaction commits, everything that is
//! recorded gathers, and goes into the next; under load the groups grow by themselves. What nobody waits for may gather a
//! little longer: a thousand rows in one transaction cost a fraction of a thousand transactions.
//!
//! The CommandDispatcher records commands and what becomes of them, the GatewayMonitor what its probes found, the Registry
//! when devices were seen; the RoomManager has changes of rooms decided and written. Whoever must not go on before something
//! is written asks for [`Flush`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use tokio::sync::oneshot;

use crate::{
    domain::rooms::Change,
    store::{Decided, Record, Store, StoreError},
};

/// How long to wait before the database is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long patient records wait for company.
const GATHERING: Duration = Duration::from_millis(50);

/// Records of which so many wait are too many: who causes them should be told to come again.
const BEHIND: usize = 100_000;

/// Records of which so many wait are many: what can wait where it is should wait there.
const BUSY: usize = 5_000;

/// Write this.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Write {
    /// What.
    pub records: Vec<Record>,
    /// Whether it may wait a little for company.
    pub patient: bool,
}

/// Answers when all that was recorded before is written.
#[derive(Message)]
#[rtype(result = "Result<(), NotWritten>")]
pub struct Flush;

/// Decide and write these, in order. Answers for each what came of it, when that is written.
#[derive(Message)]
#[rtype(result = "Result<Vec<Decided>, NotWritten>")]
pub struct Perform(pub Arc<[Change]>);

/// The database failed. Records are kept and tried again, changes of rooms are not: whoever asked for them is told.
#[derive(Debug)]
pub struct NotWritten;

/// Who waits for what comes of its changes.
type Asker = oneshot::Sender<Result<Vec<Decided>, NotWritten>>;

/// How many records wait, to be seen from anywhere.
#[derive(Debug, Clone, Default)]
pub struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    /// Whether what can wait should.
    pub fn is_busy(&self) -> bool {
        self.0.load(Ordering::Relaxed) > BUSY
    }

    /// Whether the database does not keep up.
    pub fn is_behind(&self) -> bool {
        self.0.load(Ordering::Relaxed) > BEHIND
    }
}

/// See the module.
pub struct Journal {
    store: Store,
    backlog: Backlog,
    /// `limits.rooms_per_user`; 0 is none
    rooms_per_user: usize,
    waiting: Vec<Record>,
    /// from the RoomManager, which asks anew when it has been answered
    changes: Option<(Arc<[Change]>, Asker)>,
    flushes: Vec<oneshot::Sender<Result<(), NotWritten>>>,
    writing: bool,
    /// the records have failed, and wait for a timer
    retrying: bool,
    /// a timer is set for what is patient
    gathering: bool,
    /// something of what waits is not patient
    urgent: bool,
}

impl Journal {
    /// Writes to this store.
    pub fn new(store: Store, backlog: Backlog, rooms_per_user: usize) -> Self {
        Self {
            store,
            backlog,
            rooms_per_user,
            waiting: Vec::new(),
            changes: None,
            flushes: Vec::new(),
            writing: false,
            retrying: false,
            gathering: false,
            urgent: false,
        }
    }

    fn write(&mut self, context: &mut Context<Self>) {
        if self.writing {
            return;
        }
        let records = if self.retrying {
            self.flushes.drain(..).for_each(|flush| drop(flush.send(Err(NotWritten))));
            Vec::new()
        } else {
            std::mem::take(&mut self.waiting)
        };
        if records.is_empty() && self.changes.is_none() && self.flushes.is_empty() {
            return;
        }
        self.writing = true;
        self.urgent = false;
        let (changes, flushes) = (self.changes.take(), std::mem::take(&mut self.flushes));
        let (store, rooms_per_user) = (self.store.clone(), self.rooms_per_user);
        let commit = async move {
            let asked = changes.as_ref().map_or(&[][..], |(changes, _)| changes);
            let mut written = write(&store, &records, asked, rooms_per_user).await;
            let mut decided = None;
            if let (Err(_), false, false) = (&written, records.is_empty(), asked.is_empty()) {
                // what is wrong with the one must not stop the other
                decided = write(&store, &[], asked, rooms_per_user).await.ok();
            } else if let Ok(all) = &mut written {
                decided = Some(std::mem::take(all));
            }
            if let Some((_, asker)) = changes {
                // whoever asked may be gone
                let _ = asker.send(decided.ok_or(NotWritten));
            }
            (records, flushes, written.is_ok())
        };
        context.spawn(commit.into_actor(self).map(|(records, flushes, written), journal, context| {
            journal.writing = false;
            for flush in flushes {
                let _ = flush.send(if written { Ok(()) } else { Err(NotWritten) });
            }
            if !written && !records.is_empty() {
                journal.waiting.splice(0..0, records);
                journal.retrying = true;
                context.run_later(RETRY, |journal, context| {
                    journal.retrying = false;
                    journal.write(context);
                });
            }
            if journal.urgent || journal.changes.is_some() || !journal.flushes.is_empty() || !journal.gathering {
                journal.write(context);
            }
            journal.backlog.0.store(journal.waiting.len(), Ordering::Relaxed);
        }));
    }
}

async fn write(
    store: &Store,
    records: &[Record],
    changes: &[Change],
    rooms_per_user: usize,
) -> Result<Vec<Decided>, StoreError> {
    if records.is_empty() && changes.is_empty() {
        return Ok(Vec::new());
    }
    let result = store.write_journal(records, changes, rooms_per_user).await;
    if let Err(error) = &result {
        tracing::error!(%error, records = records.len(), changes = changes.len(), "cannot write the journal");
    }
    result
}

impl Actor for Journal {
    type Context = Context<Self>;
}

impl Handler<Write> for Journal {
    type Result = ();

    fn handle(&mut self, Write { records, patient }: Write, context: &mut Self::Context) {
        self.waiting.extend(records);
        self.backlog.0.store(self.waiting.len(), Ordering::Relaxed);
        if !patient {
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

impl Handler<Perform> for Journal {
    type Result = ResponseFuture<Result<Vec<Decided>, NotWritten>>;

    fn handle(&mut self, Perform(changes): Perform, context: &mut Self::Context) -> Self::Result {
        let (done, decided) = oneshot::channel();
        self.changes = Some((changes, done));
        self.write(context);
        Box::pin(async move { decided.await.unwrap_or(Err(NotWritten)) })
    }
}

impl Handler<Flush> for Journal {
    type Result = ResponseFuture<Result<(), NotWritten>>;

    fn handle(&mut self, _: Flush, context: &mut Self::Context) -> Self::Result {
        let (done, written) = oneshot::channel();
        self.flushes.push(done);
        self.write(context);
        Box::pin(async move { written.await.unwrap_or(Err(NotWritten)) })
    }
}
