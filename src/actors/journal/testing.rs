//! The Journal in the hands of a test.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc};

use actix::{Actor, Context, Handler, Recipient, ResponseFuture};
use tokio::sync::{Notify, oneshot};

use super::{Change, Perform, Performed};

/// A batch of changes, and how to say what becomes of it.
pub(crate) type Batch<C> = (Arc<[C]>, oneshot::Sender<Performed<C>>);

pub(crate) struct TestJournal<C: Change> {
    batches: Rc<RefCell<VecDeque<Batch<C>>>>,
    came: Rc<Notify>,
}

impl<C: Change> Clone for TestJournal<C> {
    fn clone(&self) -> Self {
        Self { batches: self.batches.clone(), came: self.came.clone() }
    }
}

impl<C: Change> Actor for TestJournal<C> {
    type Context = Context<Self>;
}

impl<C: Change> Handler<Perform<C>> for TestJournal<C> {
    type Result = ResponseFuture<Performed<C>>;

    fn handle(&mut self, Perform(changes): Perform<C>, _: &mut Self::Context) -> Self::Result {
        let (done, performed) = oneshot::channel();
        self.batches.borrow_mut().push_back((changes, done));
        self.came.notify_one();
        Box::pin(async { performed.await.unwrap() })
    }
}

impl<C: Change> TestJournal<C> {
    /// Starts one. Returns it, and where changes are sent to.
    pub(crate) fn start() -> (Self, Recipient<Perform<C>>) {
        let journal = Self { batches: Rc::default(), came: Rc::default() };
        (journal.clone(), Actor::start(journal).recipient())
    }

    /// The next batch that is to be written.
    pub(crate) async fn batch(&self) -> Batch<C> {
        loop {
            if let Some(batch) = self.batches.borrow_mut().pop_front() {
                return batch;
            }
            self.came.notified().await;
        }
    }

    /// Writes the next batch, which leads to these outcomes.
    pub(crate) async fn write(&self, decided: Vec<C::Decided>) {
        let (changes, done) = self.batch().await;
        assert_eq!(changes.len(), decided.len());
        done.send(Performed::Done(Ok(decided))).unwrap();
    }

    /// Whether no batch waits to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.batches.borrow().is_empty()
    }
}
