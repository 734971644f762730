//! The frames by which the RoomManager tells sockets the outcomes of changes.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::RoomManager;
use crate::{
    delivery::SessionHandle,
    domain::{
        ids::RoomId,
        rooms::{Attachment, History, Participant, Room, RoomChange, RoomOutcome, RoomRefusal, RoomRole},
        subscriptions::{Audience, Location},
    },
    metrics::METRICS,
    metrics::errors::error_frame,
    protocol::{
        chat::{self, ParticipantEvent, Presence},
        close_code::CloseCode,
        outbound::About,
        wire,
    },
};

impl RoomManager {
    pub(super) fn tell_outcome(&mut self, outcome: &RoomOutcome, socket: Option<&(SessionHandle, Attachment)>) {
        let now = self.clock.now();
        match outcome {
            RoomOutcome::Created(_) => {}
            RoomOutcome::Joined { room, who, newly, history } => {
                self.joined(room, who, *newly, history.as_ref(), socket);
            }
            RoomOutcome::Left { room, who, removed, new_owner } => {
                self.left(*room, who, *removed, socket);
                if let Some(owner) = new_owner {
                    self.broadcast(*room, || chat::role_changed(*room, owner, RoomRole::Owner, now));
                }
            }
            RoomOutcome::RoleSet { room, who, role } => {
                self.broadcast(*room, || chat::role_changed(*room, who, *role, now));
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
                self.broadcast(*room, || chat::user_read(*room, who, *message, now));
            }
            RoomOutcome::Deleted { newly: false, .. } | RoomOutcome::MarkedRead { newly: false, .. } => {}
            RoomOutcome::Typing { room, who } => {
                self.broadcast(*room, || chat::participant_event(ParticipantEvent::Typing, *room, who, None, now));
            }
        }
    }

    pub(super) fn tell_refusal(
        &mut self,
        refusal: RoomRefusal,
        change: &RoomChange,
        socket: Option<&(SessionHandle, Attachment)>,
    ) {
        let (by, other) = change.clients();
        // the membership ended on another node, or its answer was lost: the sockets leave now
        let gone = match refusal {
            RoomRefusal::NotAMember | RoomRefusal::NoSuchRoom => Some(by),
            RoomRefusal::NoSuchMember => other,
            _ => None,
        };
        if let (Some(room), Some(gone)) = (change.room(), gone)
            // else the event tells it
            && !self.ordered.contains_key(&room)
            && let Some(who) = self.occupancy.participant(room, gone)
        {
            self.left(room, &who, false, None);
        }
        if let Some((session, _)) = socket {
            self.tell(session, &refused(refusal, change, self.clock.now()));
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
        // a closed socket is removed by the Registry's message, which may have come before
        let socket = socket.filter(|(session, _)| session.is_open());
        let Some((session, attachment)) = socket else {
            if newly {
                let now = self.clock.now();
                self.broadcast(room.id, || chat::participant_event(ParticipantEvent::Joined, room.id, who, None, now));
            }
            return;
        };
        let history = history.map(|history| chat::message_history(room.id, history, self.history_bytes));
        match attachment {
            Attachment::Joined => self.tell(session, &chat::room_joined(room)),
            // must be the first frame of such a socket
            Attachment::Dedicated => history.iter().for_each(|history| self.tell(session, history)),
            Attachment::Plain => {}
        }
        let first = self.occupancy.attach(room, who, session.clone(), *attachment);
        let now = self.clock.now();
        let is_first = first == Some(true) && !self.elsewhere.is_present(room.id, who.client);
        let presence = is_first.then_some(Presence::Online);
        if first.is_some() {
            self.announce(room.id, who, newly);
        }
        self.broadcast(room.id, || chat::participant_event(ParticipantEvent::Joined, room.id, who, presence, now));
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
        // a member may leave with a socket that is not in the room
        if let Some((session, _)) = socket
            && !sockets.iter().any(|(other, _)| other == session)
        {
            self.tell(session, &farewell);
        }
        let now = self.clock.now();
        let was_present = !sockets.is_empty() || self.elsewhere.is_present(room, who.client);
        if self.left_nodes_that_stop(room, who) || !sockets.is_empty() {
            self.announce(room, who, true);
        }
        let presence = was_present.then_some(Presence::Offline);
        self.broadcast(room, || chat::participant_event(ParticipantEvent::Left, room, who, presence, now));
    }

    /// Sends a frame to all sockets in a room that understand more than messages.
    pub(super) fn broadcast(&mut self, room: RoomId, frame: impl FnOnce() -> String) {
        if let Some(audience) = self.occupancy.audience(room) {
            self.publish(&audience, frame);
        }
    }

    fn publish(&self, audience: &Audience<SessionHandle>, frame: impl FnOnce() -> String) {
        if audience.connected == 0 {
            return;
        }
        METRICS.room_events_total.inc();
        METRICS.room_event_deliveries_total.inc_by(audience.connected as u64);
        let frame = wire::text(&[frame().as_bytes()]);
        for (worker, members) in &audience.workers {
            self.relays.publish(*worker, members.clone(), None, frame.clone());
        }
    }

    /// Sends a frame to one socket, in order with the frames of its rooms.
    fn tell(&self, session: &SessionHandle, frame: &str) {
        let members = Arc::new([session.clone()]);
        self.relays.publish(session.worker(), members, None, wire::text(&[frame.as_bytes()]));
    }
}

/// The frame by which a socket is told of a refusal.
fn refused(refusal: RoomRefusal, change: &RoomChange, now: DateTime<Utc>) -> String {
    let refusal = match (refusal, change) {
        // a client that is not a member has left already
        (RoomRefusal::NotAMember | RoomRefusal::NoSuchRoom, RoomChange::Leave { room, .. }) => {
            return chat::room_left(*room, false);
        }
        (RoomRefusal::NoSuchRoom, RoomChange::Join { .. }) => refusal,
        // a room that does not exist has no members
        (RoomRefusal::NoSuchRoom, _) => RoomRefusal::NotAMember,
        (refusal, _) => refusal,
    };
    let room = change.room();
    let text = match (refusal, room) {
        (RoomRefusal::NoSuchRoom, Some(room)) => format!("Room {room} does not exist"),
        _ => refusal.to_string(),
    };
    error_frame(refusal.into(), &text, About { room_id: room, ..About::default() }, now)
}
