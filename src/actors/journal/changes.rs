//! Changes that actors have decided and written in the Journal's transaction: each waits for the outcomes of its changes
//! before it asks for more. There is one kind of changes per actor.

use std::{fmt, sync::Arc};

use actix::Message;
use tokio::sync::oneshot;

use crate::{
    domain::{
        messages::change::{MessageChange, MessageDecided},
        rooms::RoomChange,
        topics::history::{Append, Appended},
    },
    store::{Changes, Decided, Decisions, StoreError},
};

/// A kind of changes, which one actor asks for.
pub trait Change: fmt::Debug + Send + Sync + Sized + 'static {
    /// What is decided of one.
    type Decided: fmt::Debug + Send + 'static;

    /// The most that are decided in one transaction, which lasts longer with each.
    const BATCH: usize;

    /// Where the changes of this kind wait.
    fn slot(waiting: &mut Waiting) -> &mut Slot<Self>;
}

impl Change for RoomChange {
    type Decided = Decided;

    const BATCH: usize = 1000;

    fn slot(waiting: &mut Waiting) -> &mut Slot<Self> {
        &mut waiting.rooms
    }
}

impl Change for Append {
    type Decided = Appended;

    const BATCH: usize = 1000;

    fn slot(waiting: &mut Waiting) -> &mut Slot<Self> {
        &mut waiting.appends
    }
}

impl Change for MessageChange {
    type Decided = MessageDecided;

    // one statement is for many of them, and the fewer transactions, the less often the same pages are written
    const BATCH: usize = 4000;

    fn slot(waiting: &mut Waiting) -> &mut Slot<Self> {
        &mut waiting.messages
    }
}

/// Decide and write these, in order. If the database fails they are not tried again, unlike records: whoever asked for them
/// is told.
#[derive(Message)]
#[rtype(result = "Performed<C>")]
pub struct Perform<C: Change>(pub Arc<[C]>);

/// What came of each change.
pub type Outcomes<C> = Result<Vec<<C as Change>::Decided>, StoreError>;

/// What becomes of changes.
#[derive(Debug)]
pub enum Performed<C: Change> {
    /// It is written.
    Done(Outcomes<C>),
    /// The database takes longer to commit them than anybody should wait. This tells when it has.
    Late(oneshot::Receiver<Outcomes<C>>),
}

/// Who waits for the outcomes.
enum Asker<C: Change> {
    Waits(oneshot::Sender<Performed<C>>),
    /// has been told that it takes long
    Later(oneshot::Sender<Outcomes<C>>),
}

/// The changes of one kind that wait or are being written.
pub struct Slot<C: Change>(Option<(Arc<[C]>, Asker<C>)>);

impl<C: Change> Default for Slot<C> {
    fn default() -> Self {
        Self(None)
    }
}

impl<C: Change> Slot<C> {
    fn changes(&self) -> Option<Arc<[C]>> {
        self.0.as_ref().map(|(changes, _)| changes.clone())
    }

    fn late(&mut self) {
        if let Some((changes, Asker::Waits(asker))) = self.0.take() {
            let (tell, outcomes) = oneshot::channel();
            // whoever asked may be gone, here as below
            let _ = asker.send(Performed::Late(outcomes));
            self.0 = Some((changes, Asker::Later(tell)));
        }
    }

    fn answer(&mut self, outcomes: Outcomes<C>) -> Option<StoreError> {
        let (_, asker) = self.0.take()?;
        let failed = outcomes.as_ref().err().cloned();
        match asker {
            Asker::Waits(asker) => drop(asker.send(Performed::Done(outcomes))),
            Asker::Later(asker) => drop(asker.send(outcomes)),
        }
        failed
    }
}

/// The changes of all kinds that wait or are being written.
#[derive(Default)]
pub struct Waiting {
    appends: Slot<Append>,
    messages: Slot<MessageChange>,
    rooms: Slot<RoomChange>,
}

/// What [`Waiting::changes`] lends to the store.
pub(super) struct Lent {
    appends: Option<Arc<[Append]>>,
    messages: Option<Arc<[MessageChange]>>,
    rooms: Option<Arc<[RoomChange]>>,
}

impl Lent {
    pub(super) fn as_ref(&self) -> Changes<'_> {
        Changes {
            appends: self.appends.as_deref().unwrap_or_default(),
            messages: self.messages.as_deref().unwrap_or_default(),
            rooms: self.rooms.as_deref().unwrap_or_default(),
        }
    }
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.appends.0.is_none() && self.messages.0.is_none() && self.rooms.0.is_none()
    }

    /// Takes changes of a kind of which none wait. Returns what tells their outcomes.
    pub(super) fn put<C: Change>(&mut self, changes: Arc<[C]>) -> oneshot::Receiver<Performed<C>> {
        let (asker, performed) = oneshot::channel();
        C::slot(self).0 = Some((changes, Asker::Waits(asker)));
        performed
    }

    pub(super) fn changes(&self) -> Lent {
        Lent { appends: self.appends.changes(), messages: self.messages.changes(), rooms: self.rooms.changes() }
    }

    /// Tells the actors that the commit takes long.
    pub(super) fn late(&mut self) {
        self.appends.late();
        self.messages.late();
        self.rooms.late();
    }

    /// Tells the actors the outcomes. Returns why the database failed, if it did.
    pub(super) fn answer(&mut self, decided: Decisions) -> Option<StoreError> {
        let Decisions { appends, messages, rooms } = decided;
        let failures = [self.appends.answer(appends), self.messages.answer(messages), self.rooms.answer(rooms)];
        failures.into_iter().flatten().next()
    }

    /// Tells the actors that nothing is written.
    pub(super) fn refuse(&mut self, error: &StoreError) {
        self.answer(Decisions::failed(error));
    }
}
