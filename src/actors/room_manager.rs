//! The role of the RoomManager is to know which sockets are in which room, and to give each room's events their order.
//!
//! Sessions and handlers ask it for changes through [`Rooms`]. It has the [`Journal`] decide and write them, all that
//! gathered while the last ones were written at once, and only then tells sockets what has happened, in that order: what
//! anybody has seen is stored. The Registry tells it which sockets are gone. Who is a member is in the database alone.

mod handle;

use std::{collections::HashMap, sync::Arc};

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, WrapFuture};
use chrono::{SubsecRound, Utc};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

pub use self::handle::{RoomError, Rooms};
use super::{
    command_dispatcher::SessionGone,
    journal::{Journal, Outcomes, Perform, Performed},
};
use crate::{
    delivery::{Relays, SessionHandle, tick},
    domain::{
        ids::RoomId,
        rooms::{
            Attachment, HISTORY_BYTES, History, Occupancy, Participant, Room, RoomChange, RoomOutcome, RoomRefusal,
            RoomRole,
        },
        subscriptions::{Audience, Location},
    },
    protocol::{
        chat::{self, Event, Presence},
        close_code::CloseCode,
        outbound::{self, About},
        wire,
    },
    store::{Decided, StoreError},
};

/// Changes that are written at once.
const BATCH: usize = 1000;

/// Something is asked of a room.
#[derive(Message)]
#[rtype(result = "()")]
struct Ask {
    /// What.
    change: RoomChange,
    /// The socket that asks; it gets the frames that are the answer, or say why it was refused.
    socket: Option<(SessionHandle, Attachment)>,
    /// Where to tell what came of it.
    answer: Option<oneshot::Sender<Decided>>,
    /// Its share of what may wait.
    place: OwnedSemaphorePermit,
}

/// A client with sockets here has another name from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Renamed(pub Participant);

/// Who has sockets in a room on this node, and how many.
#[derive(Message)]
#[rtype(result = "Vec<(Participant, usize)>")]
struct GetPresence(RoomId);

/// How many sockets are in each room on this node, private rooms left out.
#[derive(Message)]
#[rtype(result = "HashMap<RoomId, usize>")]
struct GetSocketCounts;

/// An [`Ask`] whose change is with the Journal.
struct Asked {
    socket: Option<(SessionHandle, Attachment)>,
    answer: Option<oneshot::Sender<Decided>>,
    _place: OwnedSemaphorePermit,
}

/// See the module.
pub struct RoomManager {
    occupancy: Occupancy<SessionHandle>,
    /// bounded by the places that [`Rooms`] gives out
    waiting: Vec<Ask>,
    /// the Journal has changes; what is asked meanwhile waits
    writing: bool,
    /// the database takes so long to commit them that whatever is asked is refused
    is_late: bool,
    /// what one socket may get as history, in bytes
    history_bytes: usize,
    journal: Addr<Journal>,
    relays: Arc<Relays>,
}

impl RoomManager {
    /// With nobody in any room.
    pub fn new(journal: Addr<Journal>, relays: Arc<Relays>) -> Self {
        // at most a quarter of what may wait for a socket, so that nobody is a slow consumer by joining
        let history_bytes = match relays.outbox_limits().bytes {
            0 => HISTORY_BYTES,
            bytes => HISTORY_BYTES.min(bytes / 4),
        };
        let occupancy = Occupancy::default();
        Self { occupancy, waiting: Vec::new(), writing: false, is_late: false, history_bytes, journal, relays }
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

    /// Nobody waits any longer for these changes, but what comes of them has to be told to the rooms.
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
                // what has waited meanwhile would find the same, and wait for as long again
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

    /// Tells everyone concerned what has happened.
    fn announce(&mut self, change: &RoomChange, asked: Asked, decided: Decided) {
        let Asked { socket, answer, _place } = asked;
        self.tell_decided(change, &decided, socket.as_ref());
        if let Some(answer) = answer {
            // after the frames, which leave at the end of the tick; whoever asked may be gone
            tick::at_end_do(move || drop(answer.send(decided)));
        }
    }

    fn tell_decided(&mut self, change: &RoomChange, decided: &Decided, socket: Option<&(SessionHandle, Attachment)>) {
        match decided {
            Ok(outcome) => self.tell_outcome(outcome, socket),
            Err(refusal) => self.tell_refusal(*refusal, change, socket),
        }
    }

    fn tell_outcome(&mut self, outcome: &RoomOutcome, socket: Option<&(SessionHandle, Attachment)>) {
        match outcome {
            RoomOutcome::Created(_) => {}
            RoomOutcome::Joined { room, who, newly, history } => {
                self.joined(room, who, *newly, history.as_ref(), socket)
            }
            RoomOutcome::Left { room, who, removed, new_owner } => {
                self.left(*room, who, *removed, socket);
                if let Some(owner) = new_owner {
                    self.broadcast(*room, || chat::role_changed(*room, owner, RoomRole::Owner, now()));
                }
            }
            RoomOutcome::RoleSet { room, who, role } => {
                self.broadcast(*room, || chat::role_changed(*room, who, *role, now()));
            }
            RoomOutcome::Posted { message, newly: true } => {
                self.broadcast(message.room, || chat::message(message));
                if let Some(audience) = self.occupancy.plain_audience(message.room, message.author.client) {
                    self.publish(&audience, || chat::plain_message(message));
                }
            }
            RoomOutcome::Posted { message, newly: false } => match socket {
                Some((session, Attachment::Plain)) => self.tell(session, &chat::plain_message(message)),
                Some((session, _)) => self.tell(session, &chat::message(message)),
                None => {}
            },
            RoomOutcome::Edited(message) => self.broadcast(message.room, || chat::message_edited(message)),
            RoomOutcome::Deleted { message, newly: true } => {
                self.broadcast(message.room, || chat::message_deleted(message));
            }
            RoomOutcome::MarkedRead { room, who, message, newly: true } => {
                self.broadcast(*room, || chat::user_read(*room, who, *message, now()));
            }
            RoomOutcome::Deleted { newly: false, .. } | RoomOutcome::MarkedRead { newly: false, .. } => {}
            RoomOutcome::Typing { room, who } => {
                self.broadcast(*room, || chat::event(Event::Typing, *room, who, None, now()));
            }
        }
    }

    fn tell_refusal(
        &mut self,
        refusal: RoomRefusal,
        change: &RoomChange,
        socket: Option<&(SessionHandle, Attachment)>,
    ) {
        let (by, other) = change.clients();
        // whoever is no member has no sockets in the room: a leave whose answer was lost, or one on another node
        let gone = match refusal {
            RoomRefusal::NotAMember | RoomRefusal::NoSuchRoom => Some(by),
            RoomRefusal::NoSuchMember => other,
            _ => None,
        };
        if let (Some(room), Some(gone)) = (change.room(), gone)
            && let Some(who) = self.occupancy.participant(room, gone)
        {
            self.left(room, &who, false, None);
        }
        if let Some((session, _)) = socket {
            self.tell(session, &refused(refusal, change));
        }
    }

    fn joined(
        &mut self,
        room: &Room,
        who: &Participant,
        newly: bool,
        history: Option<&History>,
        socket: Option<&(SessionHandle, Attachment)>,
    ) {
        // a socket that is closed has been forgotten already, or is about to be
        let socket = socket.filter(|(session, _)| session.is_open());
        let Some((session, attachment)) = socket else {
            if newly {
                self.broadcast(room.id, || chat::event(Event::Joined, room.id, who, None, now()));
            }
            return;
        };
        let history = history.map(|history| chat::message_history(room.id, history, self.history_bytes));
        match attachment {
            Attachment::Joined => self.tell(session, &chat::room_joined(room)),
            // the first frame of such a socket
            Attachment::Dedicated => history.iter().for_each(|history| self.tell(session, history)),
            Attachment::Plain => {}
        }
        let first = self.occupancy.attach(room, who, session.clone(), *attachment);
        let presence = (first == Some(true)).then_some(Presence::Online);
        self.broadcast(room.id, || chat::event(Event::Joined, room.id, who, presence, now()));
        if *attachment == Attachment::Joined {
            history.iter().for_each(|history| self.tell(session, history));
        }
    }

    fn left(&mut self, room: RoomId, who: &Participant, removed: bool, socket: Option<&(SessionHandle, Attachment)>) {
        let sockets = self.occupancy.detach_client(room, who.client);
        let farewell = chat::room_left(room, removed);
        for (session, attachment) in &sockets {
            match attachment {
                Attachment::Joined => self.tell(session, &farewell),
                Attachment::Dedicated | Attachment::Plain => self.relays.close(session, CloseCode::Forbidden),
            }
        }
        // a member may leave by a socket that was never in the room
        if let Some((session, _)) = socket
            && !sockets.iter().any(|(other, _)| other == session)
        {
            self.tell(session, &farewell);
        }
        let presence = (!sockets.is_empty()).then_some(Presence::Offline);
        self.broadcast(room, || chat::event(Event::Left, room, who, presence, now()));
    }

    /// Tells all sockets in a room that understand more than messages.
    fn broadcast(&mut self, room: RoomId, frame: impl FnOnce() -> String) {
        if let Some(audience) = self.occupancy.audience(room) {
            self.publish(&audience, frame);
        }
    }

    fn publish(&self, audience: &Audience<SessionHandle>, frame: impl FnOnce() -> String) {
        if audience.connected == 0 {
            return;
        }
        let frame = wire::text(&[frame().as_bytes()]);
        for (worker, members) in &audience.workers {
            self.relays.publish(*worker, members.clone(), None, frame.clone());
        }
    }

    /// Tells one socket, in order with what its rooms are told.
    fn tell(&self, session: &SessionHandle, frame: &str) {
        let members = Arc::new([session.clone()]);
        self.relays.publish(session.worker(), members, None, wire::text(&[frame.as_bytes()]));
    }
}

fn now() -> chrono::DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// What a socket is told that was refused.
fn refused(refusal: RoomRefusal, change: &RoomChange) -> String {
    let refusal = match (refusal, change) {
        // whoever is not there has left
        (RoomRefusal::NotAMember | RoomRefusal::NoSuchRoom, RoomChange::Leave { room, .. }) => {
            return chat::room_left(*room, false);
        }
        (RoomRefusal::NoSuchRoom, RoomChange::Join { .. }) => refusal,
        // nobody is a member of a room that does not exist
        (RoomRefusal::NoSuchRoom, _) => RoomRefusal::NotAMember,
        (refusal, _) => refusal,
    };
    let room = change.room();
    let text = match (refusal, room) {
        (RoomRefusal::NoSuchRoom, Some(room)) => format!("Room {room} does not exist"),
        _ => refusal.to_string(),
    };
    outbound::error(refusal.code(), &text, About { room_id: room, ..About::default() })
}

impl Actor for RoomManager {
    type Context = Context<Self>;
}

impl Handler<Ask> for RoomManager {
    type Result = ();

    fn handle(&mut self, ask: Ask, context: &mut Self::Context) {
        // whoever has a socket in the room is a member: leaving takes the sockets out
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
            let presence = detached.last.then_some(Presence::Offline);
            let (room, who) = (detached.room, &detached.who);
            self.broadcast(room, || chat::event(Event::Disconnected, room, who, presence, now()));
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
