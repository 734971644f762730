//! The queue of an actor whose changes the Journal decides and writes: batch after batch, in order. A batch is what is in the
//! mailbox together; those that come while one is written are the next one.

use std::{sync::Arc, time::Duration};

use actix::{Actor, ActorFutureExt, AsyncContext, Handler, Message, Recipient, WrapFuture};
use tokio::sync::oneshot;

use super::{Change, Outcomes, Perform, Performed};
use crate::metrics::Context;
use crate::store::StoreError;

/// How long a batch that is written waits for the next one at most ([`Journaling::joins`]).
const JOIN: Duration = Duration::from_millis(5);

/// Changes of type `C`, each with whoever asked for it.
pub struct Queue<C: Change, A> {
    journal: Recipient<Perform<C>>,
    /// bounded by the handle of the actor
    waiting: Vec<(C, A)>,
    /// a batch is being written, or will be once the mailbox is empty; further changes wait
    writing: bool,
    /// the number of the last batch
    batch: u64,
    /// a batch that is written, and told with the next one
    held: Option<Held<C, A>>,
    /// for how long it is held at most; a test may need longer
    pub(crate) join: Duration,
    /// the commit takes so long that further changes are refused
    is_late: bool,
}

/// What was in the mailbox together with the first change of a batch is in the queue.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WriteQueued;

/// A batch that is written.
struct Held<C: Change, A> {
    changes: Arc<[C]>,
    askers: Vec<A>,
    decided: Vec<C::Decided>,
}

impl<C: Change, A> Queue<C, A> {
    /// Whether nothing waits, is being written or is held.
    pub fn is_idle(&self) -> bool {
        !self.writing && self.waiting.is_empty() && self.held.is_none()
    }

    /// The number of the last batch, unless the outcomes of all are told.
    pub fn batch_under_way(&self) -> Option<u64> {
        (self.writing || self.held.is_some()).then_some(self.batch)
    }

    pub fn new(journal: Recipient<Perform<C>>) -> Self {
        Self { journal, waiting: Vec::new(), writing: false, batch: 0, held: None, join: JOIN, is_late: false }
    }
}

/// Events that were read from the database, although this node has not been told of them: if the node has written them, their
/// outcomes may still come, and tell them.
#[derive(Debug, Default)]
pub struct Unanswered(Option<(i64, u64)>);

impl Unanswered {
    /// Events up to this number have been read. Returns up to which number outcomes cannot come any more. `batch` is that of
    /// [`Queue::batch_under_way`].
    pub fn read(&mut self, newest: i64, batch: Option<u64>) -> i64 {
        let Some(batch) = batch else { return newest };
        match self.0 {
            // the batch before may be held
            Some((up_to, since)) if batch > since + 1 => {
                self.0 = (newest > up_to).then_some((newest, batch));
                up_to
            }
            Some(_) => i64::MIN,
            None => {
                self.0 = Some((newest, batch));
                i64::MIN
            }
        }
    }
}

/// An actor that has its changes decided and written by the Journal.
pub trait Journaling: Actor<Context = Context<Self>> + Handler<WriteQueued> {
    type Change: Change;
    /// Who asked for a change.
    type Asker: 'static;

    fn queue(&mut self) -> &mut Queue<Self::Change, Self::Asker>;

    /// Tells the outcome of a change. Without an asker: its commit was late, and the asker has been told that it failed.
    fn tell(
        &mut self,
        change: &Self::Change,
        asker: Option<Self::Asker>,
        outcome: Result<<Self::Change as Change>::Decided, StoreError>,
        context: &mut Context<Self>,
    );

    /// Whether the outcomes of a batch are told together with those of the next one, which is written meanwhile. They
    /// then wait for it a few milliseconds at most.
    fn joins(&mut self, _written: &[Self::Change], _next: &[(Self::Change, Self::Asker)]) -> bool {
        false
    }

    /// Takes a change, which is written as soon as possible.
    fn enqueue(&mut self, change: Self::Change, asker: Self::Asker, context: &mut Context<Self>) {
        self.queue().waiting.push((change, asker));
        if self.queue().is_late {
            return refuse_waiting(self, &StoreError::late(), context);
        }
        write(self, context);
    }
}

fn write<A: Journaling>(actor: &mut A, context: &mut Context<A>) {
    let queue = actor.queue();
    if queue.writing || queue.waiting.is_empty() {
        return;
    }
    queue.writing = true;
    // behind what is in the mailbox: what comes at once is one batch, and what is in one batch goes to each socket in one write
    context.notify(WriteQueued);
}

/// Has the batch written that [`WriteQueued`] announces.
pub fn write_batch<A: Journaling>(actor: &mut A, context: &mut Context<A>) {
    let queue = actor.queue();
    if queue.waiting.is_empty() {
        // they were refused meanwhile
        queue.writing = false;
        return;
    }
    queue.batch += 1;
    let count = queue.waiting.len().min(A::Change::BATCH);
    let (changes, askers): (Vec<_>, Vec<_>) = queue.waiting.drain(..count).unzip();
    let changes: Arc<[A::Change]> = changes.into();
    let performed = queue.journal.send(Perform(changes.clone()));
    context.spawn(performed.into_actor(actor).map(move |performed, actor: &mut A, context| {
        let was_held = release(actor, context);
        match performed.unwrap_or_else(|_| Performed::Done(Err(StoreError::lost()))) {
            // once, so that a batch does not wait for many
            Performed::Done(Ok(decided)) if !was_held && joins_next(actor, &changes) => {
                let queue = actor.queue();
                queue.held = Some(Held { changes, askers, decided });
                queue.writing = false;
                let join = queue.join;
                write(actor, context);
                context.run_later(join, |actor, context| {
                    release(actor, context);
                });
            }
            Performed::Done(outcomes) => {
                tell_all(actor, &changes, askers.into_iter().map(Some), outcomes, context);
                actor.queue().writing = false;
                write(actor, context);
            }
            Performed::Late(outcomes) => {
                let late = StoreError::late();
                for (change, asker) in changes.iter().zip(askers) {
                    actor.tell(change, Some(asker), Err(late.clone()), context);
                }
                actor.queue().is_late = true;
                refuse_waiting(actor, &late, context);
                await_late(actor, changes, outcomes, context);
            }
        }
    }));
}

fn joins_next<A: Journaling>(actor: &mut A, written: &[A::Change]) -> bool {
    let waiting = std::mem::take(&mut actor.queue().waiting);
    let joins = !waiting.is_empty() && actor.joins(written, &waiting);
    actor.queue().waiting = waiting;
    joins
}

/// Tells the outcomes of the batch that waits for the next one. Returns whether there is one.
fn release<A: Journaling>(actor: &mut A, context: &mut Context<A>) -> bool {
    let Some(Held { changes, askers, decided }) = actor.queue().held.take() else { return false };
    tell_all(actor, &changes, askers.into_iter().map(Some), Ok(decided), context);
    true
}

/// Tells the outcomes of a late commit, for which the askers no longer wait.
fn await_late<A: Journaling>(
    actor: &A,
    changes: Arc<[A::Change]>,
    outcomes: oneshot::Receiver<Outcomes<A::Change>>,
    context: &mut Context<A>,
) {
    context.spawn(outcomes.into_actor(actor).map(move |outcomes, actor: &mut A, context| {
        let outcomes = outcomes.unwrap_or_else(|_| Err(StoreError::lost()));
        tell_all(actor, &changes, changes.iter().map(|_| None), outcomes, context);
        (actor.queue().writing, actor.queue().is_late) = (false, false);
        write(actor, context);
    }));
}

fn tell_all<A: Journaling>(
    actor: &mut A,
    changes: &[A::Change],
    askers: impl Iterator<Item = Option<A::Asker>>,
    outcomes: Outcomes<A::Change>,
    context: &mut Context<A>,
) {
    match outcomes {
        Ok(decided) => {
            for ((change, asker), decided) in changes.iter().zip(askers).zip(decided) {
                actor.tell(change, asker, Ok(decided), context);
            }
        }
        Err(error) => {
            for (change, asker) in changes.iter().zip(askers) {
                actor.tell(change, asker, Err(error.clone()), context);
            }
            // the waiting changes would fail in the same way, after the same time
            if !matches!(error, StoreError::Full(_) | StoreError::NearlyFull) {
                refuse_waiting(actor, &error, context);
            }
        }
    }
}

fn refuse_waiting<A: Journaling>(actor: &mut A, error: &StoreError, context: &mut Context<A>) {
    for (change, asker) in std::mem::take(&mut actor.queue().waiting) {
        actor.tell(&change, Some(asker), Err(error.clone()), context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcomes_of_events_may_come_until_the_batches_are_told_that_were_under_way() {
        let mut unanswered = Unanswered::default();
        assert_eq!(unanswered.read(10, None), 10);
        assert_eq!([unanswered.read(10, Some(1)), unanswered.read(12, Some(2))], [i64::MIN; 2]);
        assert_eq!(unanswered.read(13, Some(3)), 10);
        // those that came later wait for themselves
        assert_eq!(unanswered.read(13, Some(4)), i64::MIN);
        assert_eq!(unanswered.read(13, Some(5)), 13);
    }
}
