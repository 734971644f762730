//! The events of rooms in their order, if several nodes share the database: an event of another node that is missing is read
//! from there.

use std::{sync::Arc, time::Duration};

use actix::{ActorFutureExt, AsyncContext, WrapFuture};
use tokio::sync::oneshot;

use super::{Answer, Event, RoomManager, answer};
use crate::{
    actors::journal::{Journaling, Unanswered},
    cluster::envelope,
    delivery::SessionHandle,
    domain::{
        ids::RoomId,
        line::{HeldBytes, Line, Next, Position},
        rooms::{Attachment, Message, Participant, RoomEvent, RoomOutcome},
    },
    metrics::Context,
    protocol::{
        chat::{self, ParticipantEvent, Presence},
        close_code::CloseCode,
    },
    store::{RecordedEvent, StoreError},
};

/// How long an event may be late before it is looked for in the database.
const LATE: Duration = Duration::from_millis(50);

/// The period in which rooms with sockets here are compared with the database, since the last event may be missing.
const PERIOD: Duration = Duration::from_secs(5);

/// An outcome of a change at this node.
#[derive(Debug)]
pub(super) struct Own {
    outcome: RoomOutcome,
    socket: Option<(SessionHandle, Attachment)>,
    answer: Option<oneshot::Sender<Answer>>,
}

impl Own {
    /// Whether a socket joins with it.
    fn is_join(&self) -> bool {
        self.socket.is_some() && matches!(self.outcome, RoomOutcome::Joined { .. })
    }
}

/// A room that has sockets here, or that some are joining.
pub(super) struct OrderedRoom {
    line: Line<Own, Event>,
    /// what is missing is being read, or will be
    is_reading: bool,
    unanswered: Unanswered,
}

impl OrderedRoom {
    fn new(held: &HeldBytes) -> Self {
        Self { line: Line::new(held), is_reading: false, unanswered: Unanswered::default() }
    }
}

impl RoomManager {
    /// A socket asks to join: later events of other nodes are for it, too.
    pub(super) fn joins(&mut self, room: RoomId) {
        if self.backplane.is_shared() {
            let ordered = self.ordered.entry(room).or_insert_with(|| OrderedRoom::new(&self.held));
            ordered.line.joins();
        }
    }

    /// A socket may not join.
    pub(super) fn does_not_join(&mut self, room: RoomId, context: &mut Context<Self>) {
        self.has_joined(room);
        self.go_on(room, context);
    }

    fn has_joined(&mut self, room: RoomId) {
        if let Some(ordered) = self.ordered.get_mut(&room) {
            ordered.line.has_joined();
        }
    }

    /// Tells an outcome in its turn.
    pub(super) fn put_own(
        &mut self,
        outcome: RoomOutcome,
        position: Position,
        socket: Option<(SessionHandle, Attachment)>,
        answer: Option<oneshot::Sender<Answer>>,
        context: &mut Context<Self>,
    ) {
        self.tell_nodes(&outcome, position, socket.as_ref());
        let Some(room) = outcome.event().map(|(room, _)| room).or_else(|| outcome.rejoined()) else { return };
        let own = Own { outcome, socket, answer };
        match self.ordered.get_mut(&room) {
            Some(ordered) => {
                let is_join = own.is_join();
                ordered.line.put_own(position, own, is_join);
                self.go_on(room, context);
            }
            None => self.tell_own(room, own, context),
        }
    }

    /// Tells the nodes with sockets in the room.
    fn tell_nodes(&self, outcome: &RoomOutcome, position: Position, socket: Option<&(SessionHandle, Attachment)>) {
        let Position::Event(sequence) = position else { return };
        let Some((room, event)) = outcome.event() else { return };
        let nodes = self.elsewhere.nodes(room);
        if nodes.is_empty() && self.backplane.elsewhere().is_complete() {
            return;
        }
        let comes_online = match &event {
            RoomEvent::Joined(who) => {
                socket.is_some_and(|(session, _)| session.is_open()) && !self.is_present(room, who)
            }
            _ => false,
        };
        let message = outcome.message().map(|message| Message::clone(message));
        let event = envelope::Message::RoomEvent { room, sequence, event, message, comes_online };
        self.backplane.send_to_room(nodes, event);
    }

    /// Whether a client has a socket in a room at any node.
    pub(super) fn is_present(&self, room: RoomId, who: &Participant) -> bool {
        self.occupancy.participant(room, who.client).is_some() || self.elsewhere.is_present(room, who.client)
    }

    /// An event of another node has come.
    pub(super) fn put_elsewhere(&mut self, room: RoomId, sequence: i64, event: Event, context: &mut Context<Self>) {
        if let Some(ordered) = self.ordered.get_mut(&room) {
            let bytes = event.bytes();
            ordered.line.put_elsewhere(sequence, event, bytes);
            self.go_on(room, context);
        }
    }

    /// Tells everything whose turn it is.
    pub(super) fn go_on(&mut self, room: RoomId, context: &mut Context<Self>) {
        while let Some(ordered) = self.ordered.get_mut(&room) {
            match ordered.line.take_next() {
                Some(Next::Own { outcome, is_new: true }) => self.tell_own(room, outcome, context),
                Some(Next::Own { outcome, is_new: false }) => self.answer_late(room, outcome),
                Some(Next::Elsewhere(event)) => self.tell_event(room, event),
                None => {
                    let (has_gap, last) = (ordered.line.has_gap(), ordered.line.last());
                    if !ordered.line.is_awaited() && !self.occupancy.is_occupied(room) {
                        // nobody here is told any more
                        self.end_line(room, context);
                    } else if let Some(last) = last.filter(|_| has_gap) {
                        self.read_later(room, last + 1, LATE, context);
                    }
                    return;
                }
            }
        }
    }

    /// Answers the request for a change of which the room knows already, or of which the events before are not recorded any more.
    fn answer_late(&mut self, room: RoomId, own: Own) {
        if own.is_join() {
            self.has_joined(room);
            if let Some((session, _)) = &own.socket {
                self.relays.close(session, CloseCode::TryAgainLater);
            }
        }
        answer(own.answer, Ok(own.outcome));
    }

    fn tell_own(&mut self, room: RoomId, own: Own, context: &mut Context<Self>) {
        let was_occupied = self.occupancy.is_occupied(room);
        if own.is_join() {
            self.has_joined(room);
        }
        self.tell_outcome(&own.outcome, own.socket.as_ref());
        answer(own.answer, Ok(own.outcome));
        if !was_occupied && self.occupancy.is_occupied(room) {
            self.look_after_announcement(room, context);
        }
    }

    fn tell_event(&mut self, room: RoomId, event: Event) {
        let Event { event, message, comes_online } = event;
        let message = message.map(Arc::new);
        let outcome = match event {
            RoomEvent::Joined(who) => {
                let (presence, now) = (comes_online.then_some(Presence::Online), self.clock.now());
                let joined = || chat::participant_event(ParticipantEvent::Joined, room, &who, presence, now);
                return self.broadcast(room, joined);
            }
            RoomEvent::Left { who, removed, new_owner } => RoomOutcome::Left { room, who, removed, new_owner },
            RoomEvent::RoleSet { who, role } => RoomOutcome::RoleSet { room, who, role },
            RoomEvent::MarkedRead { who, message } => RoomOutcome::MarkedRead { room, who, message, newly: true },
            RoomEvent::Posted(_) | RoomEvent::Edited(_) | RoomEvent::Deleted(_) => {
                // else it was deleted with its room
                let Some(message) = message else { return };
                match event {
                    RoomEvent::Posted(_) => RoomOutcome::Posted { message, newly: true },
                    RoomEvent::Edited(_) => RoomOutcome::Edited(message),
                    _ => RoomOutcome::Deleted { message, newly: true },
                }
            }
        };
        self.tell_outcome(&outcome, None);
    }

    /// A socket is the first in a room here: reads what has happened before the other nodes knew of it.
    fn look_after_announcement(&self, room: RoomId, context: &mut Context<Self>) {
        let backplane = self.backplane.clone();
        let announced = async move { backplane.announced().await };
        context.spawn(announced.into_actor(self).map(move |(), rooms, context| {
            rooms.compare(vec![room], context);
        }));
    }

    /// Compares all rooms with sockets here with the database, now and in a period.
    pub(super) fn look_for_missed_regularly(&self, context: &mut Context<Self>) {
        if self.backplane.is_shared() {
            context.run_interval(PERIOD, Self::look_for_missed);
        }
    }

    /// Compares all rooms with sockets here with the database.
    pub(super) fn look_for_missed(&mut self, context: &mut Context<Self>) {
        let rooms: Vec<_> = self.ordered.keys().copied().collect();
        rooms.iter().for_each(|room| self.go_on(*room, context));
        self.compare(rooms, context);
    }

    pub(super) fn compare(&mut self, rooms: Vec<RoomId>, context: &mut Context<Self>) {
        if rooms.is_empty() {
            return;
        }
        let store = self.store.clone();
        let last = async move {
            let last = store.last_room_events(&rooms).await;
            (rooms, last)
        };
        context.spawn(last.into_actor(self).map(|(asked, last), rooms, context| {
            // else it is tried again after the period
            let Ok(last) = last else { return };
            for room in asked {
                let known = rooms.ordered.get(&room).and_then(|ordered| ordered.line.last());
                // a deleted room has none
                let last = last.get(&room).copied().unwrap_or(i64::MAX);
                if known.is_some_and(|known| last > known) {
                    rooms.read_later(room, last, LATE, context);
                }
            }
        }));
    }

    /// Reads what is missing in a room, if the events up to this one have not come after a time.
    fn read_later(&mut self, room: RoomId, up_to: i64, wait: Duration, context: &mut Context<Self>) {
        let is_behind = |ordered: &&mut OrderedRoom| ordered.line.last().is_some_and(|last| last < up_to);
        let ordered = self.ordered.get_mut(&room).filter(|ordered| !ordered.is_reading).filter(is_behind);
        let Some(ordered) = ordered else { return };
        ordered.is_reading = true;
        context.run_later(wait, move |rooms, context| {
            let Some(ordered) = rooms.ordered.get_mut(&room) else { return };
            let Some(last) = ordered.line.last().filter(|last| *last < up_to) else {
                ordered.is_reading = false;
                return rooms.go_on(room, context);
            };
            ordered.line.reads();
            let store = rooms.store.clone();
            let events = async move { store.room_events(room, last).await };
            context.spawn(events.into_actor(rooms).map(move |events, rooms, context| {
                rooms.has_read(room, (last, up_to), events, context);
            }));
        });
    }

    fn has_read(
        &mut self,
        room: RoomId,
        (asked, up_to): (i64, i64),
        events: Result<Vec<RecordedEvent>, StoreError>,
        context: &mut Context<Self>,
    ) {
        let batch = self.queue().batch_under_way();
        let Some(ordered) = self.ordered.get_mut(&room) else { return };
        ordered.is_reading = false;
        let Some(last) = ordered.line.last() else { return };
        let Ok(events) = events else {
            return self.read_later(room, up_to, PERIOD, context);
        };
        let newest = events.last().map_or(asked, |newest| newest.sequence);
        // nothing is left of a room that is deleted
        let first = events.first().map_or(if up_to < i64::MAX { up_to + 1 } else { last }, |first| first.sequence);
        if first > last + 1 {
            return self.give_up(room, first - 1, context);
        }
        let this_node = self.backplane.incarnation();
        let answered = ordered.unanswered.read(newest, batch);
        for RecordedEvent { sequence, broker, event, message } in events {
            if sequence <= last || ordered.line.holds(sequence) {
                continue;
            }
            if broker == this_node && sequence > answered {
                self.go_on(room, context);
                return self.read_later(room, up_to, LATE, context);
            }
            let Some(event) = event else { return self.give_up(room, sequence, context) };
            let event = Event { event, message, comes_online: false };
            let bytes = event.bytes();
            ordered.line.put_elsewhere(sequence, event, bytes);
        }
        self.go_on(room, context);
        if newest > asked {
            // at once, unless they wait for a socket that joins
            let last_now = self.ordered.get(&room).and_then(|ordered| ordered.line.last());
            let wait = if last_now > Some(last) { Duration::ZERO } else { LATE };
            self.read_later(room, up_to, wait, context);
        }
    }

    /// Sockets in a room whose events up to this one cannot be told completely are closed: they get what they miss when they join
    /// again.
    fn give_up(&mut self, room: RoomId, up_to: i64, context: &mut Context<Self>) {
        tracing::warn!(%room, "events of a room are not recorded any more: its sockets are closed");
        for (who, sessions) in self.occupancy.vacate(room) {
            sessions.iter().for_each(|(session, _)| self.relays.close(session, CloseCode::TryAgainLater));
            self.announce(room, &who, false);
        }
        if let Some(ordered) = self.ordered.get_mut(&room) {
            ordered.line.begin_behind(up_to);
        }
        self.go_on(room, context);
    }

    fn end_line(&mut self, room: RoomId, context: &mut Context<Self>) {
        if let Some(ordered) = self.ordered.remove(&room) {
            ordered.line.end().for_each(|own| self.tell_own(room, own, context));
        }
    }
}
