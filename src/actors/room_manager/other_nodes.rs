//! Rooms with sockets at several nodes: who has sockets there, and what happens there without being stored.

use actix::{Handler, Message};
use uuid::Uuid;

use super::RoomManager;
use crate::{
    cluster::envelope,
    domain::{
        ids::RoomId,
        rooms::{Message as ChatMessage, OccupantChange, OccupantState, Participant, RoomEvent, RoomOutcome},
    },
    metrics::Context,
    protocol::chat::{self, ParticipantEvent, Presence},
};

/// An event of another node.
#[derive(Debug)]
pub struct Event {
    /// What has happened.
    pub event: RoomEvent,
    /// The message that it is about.
    pub message: Option<ChatMessage>,
    /// The client that has joined had no socket in the room before, and has one now.
    pub comes_online: bool,
}

impl Event {
    /// The bytes of it in memory, without those of all events.
    pub(super) fn bytes(&self) -> usize {
        let texts =
            |message: &ChatMessage| message.content.len() + message.client_msg_id.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.message.as_ref().map_or(0, texts)
    }
}

/// What other nodes have for the RoomManager.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum RoomNews {
    /// An event of a room, with its number.
    Event {
        /// The room.
        room: RoomId,
        /// Its number.
        sequence: i64,
        /// What has happened.
        event: Event,
    },
    /// The number of sockets that a client has in a room there has changed.
    Occupant {
        /// The node.
        node: Uuid,
        /// The client.
        occupant: OccupantState,
        /// An event of the room tells it.
        is_told: bool,
    },
    /// These are all that have sockets in rooms there. Events from there may be lost.
    Snapshot {
        /// The node.
        node: Uuid,
        /// The clients.
        occupants: Vec<OccupantState>,
        /// The node has stopped a while ago: of clients that have come to another one nothing is told.
        has_moved: bool,
    },
    /// A client is typing there.
    Typing {
        /// The room.
        room: RoomId,
        /// The client.
        who: Participant,
    },
}

impl RoomManager {
    /// Tells the other nodes how many sockets a client has in a room here. `is_told`: an event of the room tells that it
    /// has come or gone.
    pub(super) fn announce(&self, room: RoomId, who: &Participant, is_told: bool) {
        self.backplane.occupant_changed(self.occupancy.occupant(room, who), is_told);
    }

    /// A client has left a room: nodes that have stopped with sockets of it there do not say so. Returns whether there are any.
    pub(super) fn left_nodes_that_stop(&mut self, room: RoomId, who: &Participant) -> bool {
        let others = self.backplane.elsewhere();
        self.elsewhere.left(room, who.client, |node| others.is_leaving(node))
    }

    /// Tells the other nodes that a client is typing.
    pub(super) fn tell_typing(&self, room: RoomId, who: &Participant) {
        let nodes = self.elsewhere.nodes(room);
        if !nodes.is_empty() {
            self.backplane.send_to_room(nodes, envelope::Message::Typing { room, who: who.clone() });
        }
    }

    /// Tells the sockets in a room here that a client has got or lost a socket at another node.
    fn occupant_changed(&mut self, change: OccupantChange) {
        let OccupantChange { room, who, is_more, is_first_or_last } = change;
        let is_change = is_first_or_last && self.occupancy.participant(room, who.client).is_none();
        let (event, presence) = if is_more {
            (ParticipantEvent::Joined, Presence::Online)
        } else {
            (ParticipantEvent::Disconnected, Presence::Offline)
        };
        let (presence, now) = (is_change.then_some(presence), self.clock.now());
        self.broadcast(room, || chat::participant_event(event, room, &who, presence, now));
    }
}

impl Handler<RoomNews> for RoomManager {
    type Result = ();

    fn handle(&mut self, news: RoomNews, context: &mut Context<Self>) {
        match news {
            RoomNews::Event { room, sequence, event } => self.put_elsewhere(room, sequence, event, context),
            RoomNews::Occupant { node, occupant, is_told } => {
                // where sockets are in the room, the event does that
                if is_told && occupant.sockets == 0 && !self.ordered.contains_key(&occupant.room) {
                    self.left_nodes_that_stop(occupant.room, &occupant.who);
                }
                let change = self.elsewhere.put(node, occupant);
                change.filter(|_| !is_told).into_iter().for_each(|change| self.occupant_changed(change));
            }
            RoomNews::Snapshot { node, occupants, has_moved } => {
                let changes = self.elsewhere.replace(node, occupants);
                for change in changes {
                    if !has_moved || !self.is_present(change.room, &change.who) {
                        self.occupant_changed(change);
                    }
                }
                self.look_for_missed(context);
            }
            RoomNews::Typing { room, who } => self.tell_outcome(&RoomOutcome::Typing { room, who }, None),
        }
    }
}
