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

use actix::{Actor, Context, Handler, Message, MessageResult, Recipient};
use tokio::sync::oneshot;

pub use self::handle::{NotRequested, RoomError, Rooms};
use super::{
    command_dispatcher::SessionGone,
    journal::{Journaling, Perform, Place, Queue, WriteQueued, write_batch},
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
    place: Place,
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

/// Who asked for a change.
pub struct Asker {
    socket: Option<(SessionHandle, Attachment)>,
    answer: Option<oneshot::Sender<Decided>>,
    _place: Place,
}

pub struct RoomManager {
    occupancy: Occupancy<SessionHandle>,
    /// bounded by the semaphore of [`Rooms`]
    queue: Queue<RoomChange, Asker>,
    /// the most bytes of history that a socket gets
    history_bytes: usize,
    relays: Arc<Relays>,
    clock: Clock,
}

impl RoomManager {
    fn new(journal: Recipient<Perform<RoomChange>>, relays: Arc<Relays>, clock: Clock) -> Self {
        // at most a quarter of an outbox, so that joining makes no slow consumers
        let history_bytes = HISTORY_BYTES.min(relays.quarter_of_outbox());
        let occupancy = Occupancy::default();
        Self { occupancy, queue: Queue::new(journal), history_bytes, relays, clock }
    }
}

impl Handler<WriteQueued> for RoomManager {
    type Result = ();

    fn handle(&mut self, _: WriteQueued, context: &mut Self::Context) {
        write_batch(self, context);
    }
}

impl Journaling for RoomManager {
    type Change = RoomChange;
    type Asker = Asker;

    fn queue(&mut self) -> &mut Queue<RoomChange, Asker> {
        &mut self.queue
    }

    /// Tells the rooms and the requesting client the outcome of a change.
    fn tell(
        &mut self,
        change: &RoomChange,
        asker: Option<Asker>,
        outcome: Result<Decided, StoreError>,
        _: &mut Context<Self>,
    ) {
        let decided = outcome.unwrap_or_else(|error| Err(refusal(&error)));
        let (socket, answer) = asker.map(|asker| (asker.socket, asker.answer)).unwrap_or_default();
        match &decided {
            Ok(outcome) => self.tell_outcome(outcome, socket.as_ref()),
            Err(refusal) => self.tell_refusal(*refusal, change, socket.as_ref()),
        }
        if let Some(answer) = answer {
            // after the frames, which leave at the end of the tick; the receiver may be dropped
            tick::at_end_do(move || drop(answer.send(decided)));
        }
    }
}

fn refusal(error: &StoreError) -> RoomRefusal {
    match error {
        StoreError::Full(_) | StoreError::NearlyFull => RoomRefusal::StorageFull,
        _ => RoomRefusal::DatabaseUnavailable,
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
        let Ask { change, socket, answer, place } = ask;
        self.enqueue(change, Asker { socket, answer, _place: place }, context);
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
