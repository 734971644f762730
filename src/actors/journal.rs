//! The role of the Journal is to write what others record, in groups: while one transaction commits, everything that is
//! recorded gathers, and goes into the next; under load the groups grow by themselves. What nobody waits for may gather a
//! little longer: a thousand rows in one transaction cost a fraction of a thousand transactions.
//!
//! The CommandDispatcher records commands and what becomes of them; the RoomManager has changes of rooms decided and
//! written. Whoever must not go on before something is written asks for [`Flush`].

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
    store::{Decided, Record, Store},
};

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

/// Decide and write these, in order. Answers for each what came of it, when that is written.
#[derive(Message)]
#[rtype(result = "Result<Vec<Decided>, NotWritten>")]
pub struct Perform(pub Vec<Change>);

/// The database failed. Records are kept and tried again, changes of rooms are not: whoever asked for them is told.
#[derive(Debug)]
pub struct NotWritten;

/// Who waits for what comes of its changes.
type Asker = oneshot::Sender<Result<Vec<Decided>, NotWritten>>;

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
    /// `limits.rooms_per_user`; 0 is none
    rooms_per_user: usize,
    waiting: Vec<Record>,
    /// from the RoomManager, which asks anew when it has been answered
    changes: Vec<(Vec<Change>, Asker)>,
    flushes: Vec<oneshot::Sender<Result<(), NotWritten>>>,
    writing: bool,
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
            changes: Vec::new(),
            flushes: Vec::new(),
            writing: false,
            gathering: false,
            urgent: false,
        }
    }

    fn write(&mut self, context: &mut Context<Self>) {
        if self.writing || (self.waiting.is_empty() && self.changes.is_empty() && self.flushes.is_empty()) {
            return;
        }
        self.writing = true;
        self.urgent = false;
        let records = std::mem::take(&mut self.waiting);
        let (changes, askers): (Vec<_>, Vec<_>) = self
            .changes
            .drain(..)
            .map(|(changes, asker)| {
                let count = changes.len();
                (changes, (count, asker))
            })
            .unzip();
        let changes = changes.concat();
        let flushes = std::mem::take(&mut self.flushes);
        let (store, rooms_per_user) = (self.store.clone(), self.rooms_per_user);
        let commit = async move {
            let nothing = records.is_empty() && changes.is_empty();
            let result =
                if nothing { Ok(Vec::new()) } else { store.write_journal(&records, &changes, rooms_per_user).await };
            (records, askers, flushes, result)
        };
        context.spawn(commit.into_actor(self).map(|(records, askers, flushes, result), journal, context| {
            journal.writing = false;
            // whoever asked may be gone
            match result {
                Ok(decided) => {
                    let mut decided = decided.into_iter();
                    for (count, asker) in askers {
                        let _ = asker.send(Ok(decided.by_ref().take(count).collect()));
                    }
                    flushes.into_iter().for_each(|flush| drop(flush.send(Ok(()))));
                    if journal.urgent
                        || !journal.changes.is_empty()
                        || !journal.flushes.is_empty()
                        || !journal.gathering
                    {
                        journal.write(context);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, records = records.len(), "cannot write the journal, trying again");
                    askers.into_iter().for_each(|(_, asker)| drop(asker.send(Err(NotWritten))));
                    flushes.into_iter().for_each(|flush| drop(flush.send(Err(NotWritten))));
                    journal.waiting.splice(0..0, records);
                    context.run_later(RETRY, |journal, context| journal.write(context));
                }
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

impl Handler<Perform> for Journal {
    type Result = ResponseFuture<Result<Vec<Decided>, NotWritten>>;

    fn handle(&mut self, Perform(changes): Perform, context: &mut Self::Context) -> Self::Result {
        let (done, decided) = oneshot::channel();
        self.changes.push((changes, done));
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
