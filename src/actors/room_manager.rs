//! The role of the RoomManager is to know which sockets are in which room, and to give each room's events their order.
//!
//! Sessions and handlers request changes through [`Rooms`]. The Journal decides and writes them in batches: those that came
//! while the last batch was written are the next one. The RoomManager then tells the sockets, in the same order, so that
//! whatever a client has seen is stored. The Registry tells it which sessions ended. Memberships are in the database alone.

mod handle;
mod tell;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, Recipient, WrapFuture};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

pub use self::handle::{NotRequested, RoomError, Rooms};
use super::{
    command_dispatcher::SessionGone,
    journal::{Outcomes, Perform, Performed},
};
use crate::{
    clock::Clock,
    delivery::{Relays, SessionHandle, tick},
    domain::{
        ids::RoomId,
        rooms::{Attachment, HISTORY_BYTES, Occupancy, Participant, RoomChange, RoomOutcome, RoomRefusal},
    },
    protocol::chat::{self, ParticipantEvent, Presence},
    store::{Decided, StoreError},
};

/// The most changes per batch.
const BATCH: usize = 1000;

/// A client requests a change.
#[derive(Message)]
#[rtype(result = "()")]
struct Ask {
    change: RoomChange,
    /// The socket that requests it; it gets the answer or the refusal as frames.
    socket: Option<(SessionHandle, Attachment)>,
    /// Gets the outcome.
    answer: Option<oneshot::Sender<Decided>>,
    /// Its share of the memory for waiting changes.
    place: OwnedSemaphorePermit,
}

/// A client has a new name.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Renamed(pub Participant);

/// The clients with sockets in a room on this node, and how many each has.
#[derive(Message)]
#[rtype(result = "Vec<(Participant, usize)>")]
struct GetPresence(RoomId);

/// The number of sockets on this node in each room that is not private.
#[derive(Message)]
#[rtype(result = "HashMap<RoomId, usize>")]
struct GetSocketCounts;

/// An [`Ask`] whose change is being written.
struct Asked {
    socket: Option<(SessionHandle, Attachment)>,
    answer: Option<oneshot::Sender<Decided>>,
    _place: OwnedSemaphorePermit,
}

pub struct RoomManager {
    occupancy: Occupancy<SessionHandle>,
    /// bounded by the semaphore of [`Rooms`]
    waiting: Vec<Ask>,
    /// a batch is being written; further changes wait
    writing: bool,
    /// the commit takes so long that further changes are refused
    is_late: bool,
    /// the most bytes of history that a socket gets
    history_bytes: usize,
    journal: Recipient<Perform>,
    relays: Arc<Relays>,
    clock: Clock,
}

impl RoomManager {
    fn new(journal: Recipient<Perform>, relays: Arc<Relays>, clock: Clock) -> Self {
        // at most a quarter of an outbox, so that joining makes no slow consumers
        let history_bytes = match relays.outbox_limits().bytes {
            0 => HISTORY_BYTES,
            bytes => HISTORY_BYTES.min(bytes / 4),
        };
        let occupancy = Occupancy::default();
        Self { occupancy, waiting: Vec::new(), writing: false, is_late: false, history_bytes, journal, relays, clock }
    }

    fn write(&mut self, context: &mut Context<Self>) {
        if self.writing || self.waiting.is_empty() {
            return;
        }
        self.writing = true;
        let count = self.waiting.len().min(BATCH);
        let (changes, asked): (Vec<_>, Vec<_>) = self
            .waiting
            .drain(..count)
            .map(|Ask { change, socket, answer, place }| (change, Asked { socket, answer, _place: place }))
            .unzip();
        let changes: Arc<[RoomChange]> = changes.into();
        context.spawn(self.journal.send(Perform(changes.clone())).into_actor(self).map(
            move |performed, manager, context| {
                match performed.unwrap_or_else(|_| Performed::Done(Err(StoreError::lost()))) {
                    Performed::Done(outcomes) => {
                        let decided = manager.decided(outcomes, changes.len());
                        for ((change, asked), decided) in changes.iter().zip(asked).zip(decided) {
                            manager.announce(change, asked, decided);
                        }
                        manager.writing = false;
                        manager.write(context);
                    }
                    Performed::Late(outcomes) => {
                        for (change, asked) in changes.iter().zip(asked) {
                            manager.announce(change, asked, Err(RoomRefusal::DatabaseUnavailable));
                        }
                        manager.is_late = true;
                        manager.refuse_waiting(RoomRefusal::DatabaseUnavailable);
                        manager.await_late(changes, outcomes, context);
                    }
                }
            },
        ));
    }

    /// Tells the rooms the outcomes of a late commit, for which the clients no longer wait.
    fn await_late(
        &self,
        changes: Arc<[RoomChange]>,
        outcomes: oneshot::Receiver<Outcomes>,
        context: &mut Context<Self>,
    ) {
        context.spawn(outcomes.into_actor(self).map(move |outcomes, manager, context| {
            let decided = manager.decided(outcomes.unwrap_or_else(|_| Err(StoreError::lost())), changes.len());
            for (change, decided) in changes.iter().zip(decided) {
                manager.tell_decided(change, &decided, None);
            }
            (manager.writing, manager.is_late) = (false, false);
            manager.write(context);
        }));
    }

    fn decided(&mut self, outcomes: Outcomes, changes: usize) -> Vec<Decided> {
        match outcomes {
            Ok(decided) => decided,
            Err(StoreError::Full(_) | StoreError::NearlyFull) => vec![Err(RoomRefusal::StorageFull); changes],
            Err(_) => {
                // the waiting changes would fail in the same way, after the same time
                self.refuse_waiting(RoomRefusal::DatabaseUnavailable);
                vec![Err(RoomRefusal::DatabaseUnavailable); changes]
            }
        }
    }

    fn refuse_waiting(&mut self, refusal: RoomRefusal) {
        for Ask { change, socket, answer, place } in std::mem::take(&mut self.waiting) {
            self.announce(&change, Asked { socket, answer, _place: place }, Err(refusal));
        }
    }

    /// Tells the rooms and the requesting client the outcome of a change.
    fn announce(&mut self, change: &RoomChange, asked: Asked, decided: Decided) {
        let Asked { socket, answer, _place } = asked;
        self.tell_decided(change, &decided, socket.as_ref());
        if let Some(answer) = answer {
            // after the frames, which leave at the end of the tick; the receiver may be dropped
            tick::at_end_do(move || drop(answer.send(decided)));
        }
    }

    fn tell_decided(&mut self, change: &RoomChange, decided: &Decided, socket: Option<&(SessionHandle, Attachment)>) {
        match decided {
            Ok(outcome) => self.tell_outcome(outcome, socket),
            Err(refusal) => self.tell_refusal(*refusal, change, socket),
        }
    }
}

impl Actor for RoomManager {
    type Context = Context<Self>;
}

impl Handler<Ask> for RoomManager {
    type Result = ();

    fn handle(&mut self, ask: Ask, context: &mut Self::Context) {
        // a client with a socket in the room is a member, since leaving removes its sockets
        if let RoomChange::Type { room, who } = &ask.change
            && self.occupancy.participant(*room, who.client).is_some()
        {
            return self.tell_outcome(&RoomOutcome::Typing { room: *room, who: who.clone() }, None);
        }
        self.waiting.push(ask);
        if self.is_late {
            return self.refuse_waiting(RoomRefusal::DatabaseUnavailable);
        }
        self.write(context);
    }
}

impl Handler<SessionGone> for RoomManager {
    type Result = ();

    fn handle(&mut self, gone: SessionGone, _: &mut Self::Context) {
        for detached in self.occupancy.detach_session(gone.session.id()) {
            let now = self.clock.now();
            let presence = detached.last.then_some(Presence::Offline);
            let (room, who) = (detached.room, &detached.who);
            self.broadcast(room, || chat::participant_event(ParticipantEvent::Disconnected, room, who, presence, now));
        }
    }
}

impl Handler<Renamed> for RoomManager {
    type Result = ();

    fn handle(&mut self, Renamed(who): Renamed, _: &mut Self::Context) {
        self.occupancy.rename(&who);
    }
}

impl Handler<GetPresence> for RoomManager {
    type Result = MessageResult<GetPresence>;

    fn handle(&mut self, GetPresence(room): GetPresence, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.occupancy.present(room))
    }
}

impl Handler<GetSocketCounts> for RoomManager {
    type Result = MessageResult<GetSocketCounts>;

    fn handle(&mut self, _: GetSocketCounts, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.occupancy.public_counts())
    }
}
