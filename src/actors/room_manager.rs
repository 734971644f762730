//! The role of the RoomManager is to know which sockets are in which room, and to give each room's events their order.
//!
//! Sessions and handlers request changes through [`Rooms`]. The Journal decides and writes them in batches: those that came
//! while the last batch was written are the next one. The RoomManager then tells the sockets, in the same order, so that
//! whatever a client has seen is stored. The Registry tells it which sessions ended. Memberships are in the database alone.
//!
//! If several nodes share the database, it numbers the events of each room. A node tells the others its own, and each handles
//! all events of a room in the order of their numbers.
//!
//! | file | what it does |
//! | --- | --- |
//! | `handle` | what handlers and sessions ask for |
//! | `in_order` | the order of events, and events that are missing |
//! | `other_nodes` | sockets at other nodes |
//! | `tell` | the frames |

mod handle;
mod in_order;
mod other_nodes;
mod tell;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use actix::{Actor, Handler, Message, MessageResult};
use tokio::sync::oneshot;

use self::in_order::OrderedRoom;
pub use self::{
    handle::{Dependencies, NotRequested, RoomError, Rooms},
    other_nodes::{Event, RoomNews},
};
use super::{
    command_dispatcher::SessionGone,
    journal::{Journaling, Place, Queue, WriteQueued, write_batch},
};
use crate::{
    clock::Clock,
    cluster::Backplane,
    delivery::{Relays, SessionHandle, tick},
    domain::{
        ids::RoomId,
        line::HeldBytes,
        rooms::{
            Attachment, Elsewhere, HISTORY_BYTES, Occupancy, Participant, Placed, RoomChange, RoomOutcome, RoomRefusal,
        },
    },
    metrics::{self, Context, Measured},
    protocol::chat::{self, ParticipantEvent, Presence},
    store::{Decided, Store, StoreError},
};

/// The outcome of a change for whoever requested it.
type Answer = Result<RoomOutcome, RoomRefusal>;

/// A client requests a change.
#[derive(Message)]
#[rtype(result = "()")]
struct Ask {
    change: RoomChange,
    /// The socket that requests it; it gets the answer or the refusal as frames.
    socket: Option<(SessionHandle, Attachment)>,
    /// Gets the outcome.
    answer: Option<oneshot::Sender<Answer>>,
    /// Its share of the memory for waiting changes.
    place: Place,
}

/// A client has a new name.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Renamed(pub Participant);

/// The clients with sockets in a room, and how many each has.
#[derive(Message)]
#[rtype(result = "Vec<(Participant, usize)>")]
struct GetPresence(RoomId);

/// The number of sockets in each room that is not private.
#[derive(Message)]
#[rtype(result = "HashMap<RoomId, usize>")]
struct GetSocketCounts;

/// Who asked for a change.
pub struct Asker {
    socket: Option<(SessionHandle, Attachment)>,
    answer: Option<oneshot::Sender<Answer>>,
    _place: Place,
}

pub struct RoomManager {
    occupancy: Occupancy<SessionHandle>,
    /// at other nodes
    elsewhere: Elsewhere,
    /// the rooms with sockets here, if several nodes share the database
    ordered: HashMap<RoomId, OrderedRoom>,
    /// by these
    held: HeldBytes,
    /// bounded by the semaphore of [`Rooms`]
    queue: Queue<RoomChange, Asker>,
    /// the most bytes of history that a socket gets
    history_bytes: usize,
    relays: Arc<Relays>,
    backplane: Arc<dyn Backplane>,
    store: Store,
    clock: Clock,
}

impl RoomManager {
    fn new(dependencies: Dependencies) -> Self {
        let Dependencies { journal, relays, backplane, store, clock, .. } = dependencies;
        // at most a quarter of an outbox, so that joining makes no slow consumers
        let history_bytes = HISTORY_BYTES.min(relays.quarter_of_outbox());
        Self {
            occupancy: Occupancy::default(),
            elsewhere: Elsewhere::default(),
            ordered: HashMap::new(),
            held: HeldBytes::default(),
            queue: Queue::new(journal),
            history_bytes,
            relays,
            backplane,
            store,
            clock,
        }
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
        context: &mut Context<Self>,
    ) {
        let decided = outcome.unwrap_or_else(|error| Err(refusal(&error)));
        let (socket, asked) = asker.map(|asker| (asker.socket, asker.answer)).unwrap_or_default();
        let joins = joining(change, socket.as_ref());
        match decided {
            Ok(Placed { outcome, position: Some(position) }) => {
                return self.put_own(outcome, position, socket, asked, context);
            }
            Ok(Placed { outcome, position: None }) => {
                if let RoomOutcome::Typing { room, who } = &outcome {
                    self.tell_typing(*room, who);
                }
                self.tell_outcome(&outcome, socket.as_ref());
                answer(asked, Ok(outcome));
            }
            Err(refusal) => {
                self.tell_refusal(refusal, change, socket.as_ref());
                answer(asked, Err(refusal));
                // a membership may have ended at another node
                if let Some(room) = change.room().filter(|room| self.ordered.contains_key(room)) {
                    self.compare(vec![room], context);
                }
            }
        }
        if let Some(room) = joins {
            self.does_not_join(room, context);
        }
    }
}

/// The room that a socket wants to join with a change.
fn joining(change: &RoomChange, socket: Option<&(SessionHandle, Attachment)>) -> Option<RoomId> {
    match change {
        RoomChange::Join { room, .. } => socket.map(|_| *room),
        _ => None,
    }
}

fn answer(asked: Option<oneshot::Sender<Answer>>, decided: Answer) {
    if let Some(asked) = asked {
        // after the frames, which leave at the end of the tick; the receiver may be dropped
        tick::at_end_do(move || drop(asked.send(decided)));
    }
}

fn refusal(error: &StoreError) -> RoomRefusal {
    match error {
        StoreError::Full(_) | StoreError::NearlyFull => RoomRefusal::StorageFull,
        _ => RoomRefusal::DatabaseUnavailable,
    }
}

impl Measured for RoomManager {
    const NAME: metrics::labels::Actor = metrics::labels::Actor::RoomManager;
}

impl Actor for RoomManager {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.look_for_missed_regularly(context);
    }
}

impl Handler<Ask> for RoomManager {
    type Result = ();

    fn handle(&mut self, ask: Ask, context: &mut Self::Context) {
        // a client with a socket in the room is a member, since leaving removes its sockets
        if let RoomChange::Type { room, who } = &ask.change
            && self.occupancy.participant(*room, who.client).is_some()
        {
            self.tell_typing(*room, who);
            return self.tell_outcome(&RoomOutcome::Typing { room: *room, who: who.clone() }, None);
        }
        let Ask { change, socket, answer, place } = ask;
        if let Some(room) = joining(&change, socket.as_ref()) {
            self.joins(room);
        }
        self.enqueue(change, Asker { socket, answer, _place: place }, context);
    }
}

impl Handler<SessionGone> for RoomManager {
    type Result = ();

    fn handle(&mut self, gone: SessionGone, context: &mut Self::Context) {
        for detached in self.occupancy.detach_session(gone.session.id()) {
            let now = self.clock.now();
            let (room, who) = (detached.room, &detached.who);
            self.announce(room, who, false);
            let is_last = detached.last && !self.elsewhere.is_present(room, who.client);
            let presence = is_last.then_some(Presence::Offline);
            self.broadcast(room, || chat::participant_event(ParticipantEvent::Disconnected, room, who, presence, now));
            self.go_on(room, context);
        }
    }
}

impl Handler<Renamed> for RoomManager {
    type Result = ();

    fn handle(&mut self, Renamed(who): Renamed, _: &mut Self::Context) {
        for room in self.occupancy.rename(&who) {
            self.announce(room, &who, false);
        }
    }
}

impl Handler<GetPresence> for RoomManager {
    type Result = MessageResult<GetPresence>;

    fn handle(&mut self, GetPresence(room): GetPresence, _: &mut Self::Context) -> Self::Result {
        let mut present = self.occupancy.present(room);
        for (who, sockets) in self.elsewhere.present(room) {
            match present.iter_mut().find(|(here, _)| here.client == who.client) {
                Some((_, total)) => *total += sockets,
                None => present.push((who.clone(), sockets)),
            }
        }
        MessageResult(present)
    }
}

impl Handler<GetSocketCounts> for RoomManager {
    type Result = MessageResult<GetSocketCounts>;

    fn handle(&mut self, _: GetSocketCounts, _: &mut Self::Context) -> Self::Result {
        let mut counts = self.occupancy.public_counts();
        self.elsewhere.public_counts().for_each(|(room, sockets)| *counts.entry(room).or_default() += sockets);
        MessageResult(counts)
    }
}
