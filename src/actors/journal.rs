//! The role of the Journal is to write what others record, in groups: while one transaction commits, everything that is
//! recorded gathers, and goes into the next; under load the groups grow by themselves. What nobody waits for may gather a
//! little longer: a thousand rows in one transaction cost a fraction of a thousand transactions.
//!
//! The CommandDispatcher records commands and what becomes of them. Whoever must not go on before something is written
//! asks for [`Flush`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use tokio::sync::oneshot;

use crate::store::{Record, Store};

/// How long to wait before the database is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long patient records wait for company.
const GATHERING: Duration = Duration::from_millis(200);

/// Records of which so many wait are too many: who causes them should be told to come again.
const BEHIND: usize = 100_000;

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

/// The database failed; the record is kept and tried again.
#[derive(Debug)]
pub struct NotWritten;

/// How many records wait, to be seen from anywhere.
#[derive(Debug, Clone, Default)]
pub struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    /// Whether the database does not keep up.
    pub fn is_behind(&self) -> bool {
        self.0.load(Ordering::Relaxed) > BEHIND
    }
}

/// See the module.
pub struct Journal {
    store: Store,
    backlog: Backlog,
    waiting: Vec<Record>,
    flushes: Vec<oneshot::Sender<Result<(), NotWritten>>>,
    writing: bool,
    /// a timer is set for what is patient
    gathering: bool,
    /// something of what waits is not patient
    urgent: bool,
}

impl Journal {
    /// Writes to this store.
    pub fn new(store: Store, backlog: Backlog) -> Self {
        Self {
            store,
            backlog,
            waiting: Vec::new(),
            flushes: Vec::new(),
            writing: false,
            gathering: false,
            urgent: false,
        }
    }

    fn write(&mut self, context: &mut Context<Self>) {
        if self.writing || (self.waiting.is_empty() && self.flushes.is_empty()) {
            return;
        }
        self.writing = true;
        self.urgent = false;
        let (records, flushes) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.flushes));
        let store = self.store.clone();
        let commit = async move {
            let result = if records.is_empty() { Ok(()) } else { store.write_records(&records).await };
            (records, flushes, result)
        };
        context.spawn(commit.into_actor(self).map(|(records, flushes, result), journal, context| {
            journal.writing = false;
            let failed = result.is_err();
            if let Err(error) = result {
                tracing::error!(%error, records = records.len(), "cannot write the journal, trying again");
                journal.waiting.splice(0..0, records);
                context.run_later(RETRY, |journal, context| journal.write(context));
            } else if journal.urgent || !journal.flushes.is_empty() || !journal.gathering {
                journal.write(context);
            }
            for flush in flushes {
                // whoever asked may be gone
                let _ = flush.send(if failed { Err(NotWritten) } else { Ok(()) });
            }
            journal.backlog.0.store(journal.waiting.len(), Ordering::Relaxed);
        }));
    }
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

impl Handler<Flush> for Journal {
    type Result = ResponseFuture<Result<(), NotWritten>>;

    fn handle(&mut self, _: Flush, context: &mut Self::Context) -> Self::Result {
        let (done, written) = oneshot::channel();
        self.flushes.push(done);
        self.write(context);
        Box::pin(async move { written.await.unwrap_or(Err(NotWritten)) })
    }
}
