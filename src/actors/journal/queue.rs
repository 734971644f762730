//! The queue of an actor whose changes the Journal decides and writes: batch after batch, in order. Those that come while a
//! batch is written are the next one.

use std::sync::Arc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Recipient, WrapFuture};
use tokio::sync::oneshot;

use super::{Change, Outcomes, Perform, Performed};
use crate::store::StoreError;

/// The most changes per batch.
const BATCH: usize = 1000;

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
    );

    /// Takes a change, which is written as soon as possible.
    fn enqueue(&mut self, change: Self::Change, asker: Self::Asker, context: &mut Context<Self>) {
        self.queue().waiting.push((change, asker));
        if self.queue().is_late {
            return self.refuse_waiting(&StoreError::late());
        }
        self.write(context);
    }

    #[doc(hidden)]
    fn write(&mut self, context: &mut Context<Self>) {
        let queue = self.queue();
        if queue.writing || queue.waiting.is_empty() {
            return;
        }
        queue.writing = true;
        let count = queue.waiting.len().min(BATCH);
        let (changes, askers): (Vec<_>, Vec<_>) = queue.waiting.drain(..count).unzip();
        let changes: Arc<[Self::Change]> = changes.into();
        let performed = queue.journal.send(Perform(changes.clone()));
        context.spawn(performed.into_actor(self).map(move |performed, actor, context| {
            match performed.unwrap_or_else(|_| Performed::Done(Err(StoreError::lost()))) {
                Performed::Done(outcomes) => {
                    actor.tell_all(&changes, askers.into_iter().map(Some), outcomes);
                    actor.queue().writing = false;
                    actor.write(context);
                }
                Performed::Late(outcomes) => {
                    let late = StoreError::late();
                    for (change, asker) in changes.iter().zip(askers) {
                        actor.tell(change, Some(asker), Err(late.clone()));
                    }
                    actor.queue().is_late = true;
                    actor.refuse_waiting(&late);
                    actor.await_late(changes, outcomes, context);
                }
            }
        }));
    }

    /// Tells the outcomes of a late commit, for which the askers no longer wait.
    #[doc(hidden)]
    fn await_late(
        &self,
        changes: Arc<[Self::Change]>,
        outcomes: oneshot::Receiver<Outcomes<Self::Change>>,
        context: &mut Context<Self>,
    ) {
        context.spawn(outcomes.into_actor(self).map(move |outcomes, actor, context| {
            let outcomes = outcomes.unwrap_or_else(|_| Err(StoreError::lost()));
            actor.tell_all(&changes, changes.iter().map(|_| None), outcomes);
            (actor.queue().writing, actor.queue().is_late) = (false, false);
            actor.write(context);
        }));
    }

    #[doc(hidden)]
    fn tell_all(
        &mut self,
        changes: &[Self::Change],
        askers: impl Iterator<Item = Option<Self::Asker>>,
        outcomes: Outcomes<Self::Change>,
    ) {
        match outcomes {
            Ok(decided) => {
                for ((change, asker), decided) in changes.iter().zip(askers).zip(decided) {
                    self.tell(change, asker, Ok(decided));
                }
            }
            Err(error) => {
                for (change, asker) in changes.iter().zip(askers) {
                    self.tell(change, asker, Err(error.clone()));
                }
                // the waiting changes would fail in the same way, after the same time
                if !matches!(error, StoreError::Full(_) | StoreError::NearlyFull) {
                    self.refuse_waiting(&error);
                }
            }
        }
    }

    #[doc(hidden)]
    fn refuse_waiting(&mut self, error: &StoreError) {
        for (change, asker) in std::mem::take(&mut self.queue().waiting) {
            self.tell(&change, Some(asker), Err(error.clone()));
        }
    }
}
