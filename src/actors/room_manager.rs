//! The role of the RoomManager is to know which sockets are in which room, and to give each room's events their order.
//!
//! Sessions and handlers ask it for changes through [`Rooms`]. It has the [`Journal`] decide and write them, all that
//! gathered while the last ones were written at once, and only then tells sockets what has happened, in that order: what
//! anybody has seen is stored. The Registry tells it which sockets are gone. Who is a member is in the database alone.

mod entrance;

use std::{collections::HashMap, sync::Arc};

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, WrapFuture};
use chrono::{SubsecRound, Utc};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

pub use self::entrance::{Rooms, Said};
use super::{
    command_dispatcher::SessionGone,
    journal::{Journal, Perform},
    relay::Relays,
    session::handle::SessionHandle,
};
use crate::{
    domain::{
        ids::RoomId,
        rooms::{
            Attachment, Change, HISTORY_BYTES, History, Message as ChatMessage, Occupancy, Outcome, Participant,
            Refusal, Room, RoomRole,
        },
        subscriptions::{Audience, Location},
    },
    error::ApiError,
    protocol::{
        chat::{self, Event, Presence},
        close_code::CloseCode,
        outbound::{self, About},
        wire,
    },
    store::{Decided, Store},
};

/// Changes that are written at once.
const BATCH: usize = 1000;

/// Something is asked of a room.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ask {
    /// What.
    pub change: Change,
    /// The socket that asks; it gets the frames that are the answer.
    pub socket: Option<(SessionHandle, Attachment)>,
    /// Where to tell what came of it; without it, a refusal goes to the socket.
    pub answer: Option<oneshot::Sender<Decided>>,
    /// Its share of what may wait.
    pub place: OwnedSemaphorePermit,
}

/// A member is typing.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Typing {
    /// Where.
    pub room: RoomId,
    /// Who.
    pub who: Participant,
    /// From which session.
    pub session: SessionHandle,
    /// Its share of what may wait.
    pub place: OwnedSemaphorePermit,
}

/// Who has sockets in a room on this node, and how many.
#[derive(Message)]
#[rtype(result = "Vec<(Participant, usize)>")]
pub struct GetPresence(pub RoomId);

/// How many sockets are in each room on this node, private rooms left out.
#[derive(Message)]
#[rtype(result = "HashMap<RoomId, usize>")]
pub struct GetSocketCounts;

/// Are you alive?
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ping;

/// An [`Ask`] whose change is with the Journal.
struct Asked {
    room: Option<RoomId>,
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
    /// what one socket may get as history, in bytes
    history_bytes: usize,
    journal: Addr<Journal>,
    relays: Arc<Relays>,
    store: Store,
}

impl RoomManager {
    /// With nobody in any room.
    pub fn new(journal: Addr<Journal>, relays: Arc<Relays>, store: Store) -> Self {
        // at most half of what may wait for a socket, so that nobody is a slow consumer by joining
        let history_bytes = match relays.outbox_limits().bytes {
            0 => HISTORY_BYTES,
            bytes => HISTORY_BYTES.min(bytes / 2),
        };
        let occupancy = Occupancy::default();
        Self { occupancy, waiting: Vec::new(), writing: false, history_bytes, journal, relays, store }
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
            .map(|Ask { change, socket, answer, place }| {
                let asked = Asked { room: change.room(), socket, answer, _place: place };
                (change, asked)
            })
            .unzip();
        context.spawn(self.journal.send(Perform(changes)).into_actor(self).map(|decided, manager, context| {
            manager.writing = false;
            let decided = match decided {
                Ok(Ok(decided)) => decided,
                _ => asked.iter().map(|_| Err(Refusal::NotStored)).collect(),
            };
            for (asked, decided) in asked.into_iter().zip(decided) {
                manager.announce(asked, decided);
            }
            manager.write(context);
        }));
    }

    /// Tells everyone concerned what has happened.
    fn announce(&mut self, asked: Asked, decided: Decided) {
        let Asked { room, socket, answer, _place } = asked;
        match &decided {
            Ok(Outcome::Created(_)) => {}
            Ok(Outcome::Joined { room, who, newly, history }) => {
                self.joined(room, who, *newly, history.as_ref(), socket.as_ref());
            }
            Ok(Outcome::Left { room, who, removed, new_owner }) => {
                self.left(*room, who, *removed, new_owner.as_ref(), socket.as_ref());
            }
            Ok(Outcome::RoleSet { room, who, role }) => {
                self.broadcast(*room, || chat::role_changed(*room, who, *role, now()));
            }
            Ok(Outcome::Posted { message, newly: true }) => self.posted(message),
            Ok(Outcome::Posted { message, newly: false }) => match &socket {
                Some((session, Attachment::Plain)) => self.tell(session, &chat::plain_message(message)),
                Some((session, _)) => self.tell(session, &chat::message(message)),
                None => {}
            },
            Ok(Outcome::Edited(message)) => self.broadcast(message.room, || chat::message_edited(message)),
            Ok(Outcome::Deleted { message, newly }) => {
                if *newly {
                    self.broadcast(message.room, || chat::message_deleted(message));
                }
            }
            Ok(Outcome::MarkedRead { room, who, message, newly }) => {
                if *newly {
                    self.broadcast(*room, || chat::user_read(*room, who, *message, now()));
                }
            }
            Err(refusal) => {
                if let (Some((session, _)), None) = (&socket, &answer) {
                    self.tell(session, &refused(*refusal, room));
                }
            }
        }
        if let Some(answer) = answer {
            // whoever asked may be gone
            let _ = answer.send(decided);
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
        if let Some(first) = self.occupancy.attach(room, who, session.clone(), *attachment) {
            let presence = first.then_some(Presence::Online);
            self.broadcast(room.id, || chat::event(Event::Joined, room.id, who, presence, now()));
        }
        if *attachment == Attachment::Joined {
            history.iter().for_each(|history| self.tell(session, history));
        }
    }

    fn left(
        &mut self,
        room: RoomId,
        who: &Participant,
        removed: bool,
        new_owner: Option<&Participant>,
        socket: Option<&(SessionHandle, Attachment)>,
    ) {
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
        if let Some(owner) = new_owner {
            self.broadcast(room, || chat::role_changed(room, owner, RoomRole::Owner, now()));
        }
    }

    fn posted(&mut self, message: &ChatMessage) {
        self.broadcast(message.room, || chat::message(message));
        if let Some(audience) = self.occupancy.plain_audience(message.room, message.author.client) {
            self.publish(&audience, || chat::plain_message(message));
        }
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

/// The error frame of a refusal.
fn refused(refusal: Refusal, room: Option<RoomId>) -> String {
    let error = ApiError::from(refusal);
    let text = match (refusal, room) {
        (Refusal::NoSuchRoom, Some(room)) => format!("Room {room} does not exist"),
        _ => error.to_string(),
    };
    outbound::error(error.code(), &text, About { room_id: room, ..About::default() })
}

impl Actor for RoomManager {
    type Context = Context<Self>;
}

impl Handler<Ask> for RoomManager {
    type Result = ();

    fn handle(&mut self, ask: Ask, context: &mut Self::Context) {
        self.waiting.push(ask);
        self.write(context);
    }
}

impl Handler<Typing> for RoomManager {
    type Result = ();

    fn handle(&mut self, Typing { room, who, session, place }: Typing, context: &mut Self::Context) {
        // whoever has a socket in the room is a member: leaving takes the sockets out
        if self.occupancy.is_present(room, who.client) {
            self.broadcast(room, || chat::event(Event::Typing, room, &who, None, now()));
            return;
        }
        let (store, client) = (self.store.clone(), who.client);
        let look = async move { (place, store.room(room, client).await) };
        context.spawn(look.into_actor(self).map(move |(_place, found), manager, _| {
            let refusal = match found {
                Ok(Some((_, Some(_)))) => {
                    return manager.broadcast(room, || chat::event(Event::Typing, room, &who, None, now()));
                }
                Ok(Some((_, None))) => Refusal::NotAMember,
                Ok(None) => Refusal::NoSuchRoom,
                Err(error) => {
                    tracing::error!(%error, "cannot look a membership up");
                    Refusal::NotStored
                }
            };
            manager.tell(&session, &refused(refusal, Some(room)));
        }));
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

impl Handler<Ping> for RoomManager {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Self::Context) {}
}
