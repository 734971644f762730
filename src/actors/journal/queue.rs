//! The queue of an actor whose changes the Journal decides and writes: batch after batch, in order. Those that come while a
//! batch is written are the next one.

use std::sync::Arc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Recipient, WrapFuture};
use tokio::sync::oneshot;

use super::{Change, Outcomes, Perform, Performed};
use crate::store::StoreError;

/// Changes of type `C`, each with whoever asked for it.
pub struct Queue<C: Change, A> {
    journal: Recipient<Perform<C>>,
    /// bounded by the handle of the actor
    waiting: Vec<(C, A)>,
    /// a batch is being written; further changes wait
    writing: bool,
    /// the commit takes so long that further changes are refused
    is_late: bool,
}

impl<C: Change, A> Queue<C, A> {
    pub fn new(journal: Recipient<Perform<C>>) -> Self {
        Self { journal, waiting: Vec::new(), writing: false, is_late: false }
    }
}

/// An actor that has its changes decided and written by the Journal.
pub trait Journaling: Actor<Context = Context<Self>> {
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
    let count = queue.waiting.len().min(A::Change::BATCH);
    let (changes, askers): (Vec<_>, Vec<_>) = queue.waiting.drain(..count).unzip();
    let changes: Arc<[A::Change]> = changes.into();
    let performed = queue.journal.send(Perform(changes.clone()));
    context.spawn(performed.into_actor(actor).map(move |performed, actor: &mut A, context| {
        match performed.unwrap_or_else(|_| Performed::Done(Err(StoreError::lost()))) {
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
