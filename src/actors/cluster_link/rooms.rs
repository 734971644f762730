//! Rooms with sockets at several nodes.

use std::collections::HashMap;

use actix::{Handler, Message};
use uuid::Uuid;

use super::ClusterLink;
use crate::{
    actors::room_manager::RoomNews,
    cluster::envelope,
    domain::{
        ids::{ClientId, RoomId},
        rooms::OccupantState,
    },
    metrics::Context,
};

/// The number of sockets that a client has in a room at this node has changed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct OccupantChanged {
    pub occupant: OccupantState,
    pub is_told: bool,
}

/// Who has sockets in rooms here.
#[derive(Default)]
pub(super) struct Rooms(HashMap<(RoomId, ClientId), OccupantState>);

impl ClusterLink {
    pub(super) fn tell_rooms(&self, news: RoomNews) {
        if let Some(neighbours) = &self.neighbours {
            neighbours.rooms.do_send(news);
        }
    }

    /// Sends a peer who has sockets in rooms here.
    pub(super) fn send_occupants(&mut self, node: Uuid, context: &mut Context<Self>) {
        let occupants: Vec<_> = self.rooms.0.values().cloned().collect();
        for occupant in occupants {
            self.push(node, &envelope::Message::Occupant { occupant, is_told: false }, context);
        }
    }

    /// The number of sockets that a client has in a room at another node has changed.
    pub(super) fn occupant_changed(&mut self, node: Uuid, occupant: OccupantState, is_told: bool) {
        // at the new node of the client it would seem to come back
        let is_moving = occupant.sockets == 0 && !is_told && self.cluster.elsewhere.is_leaving(node);
        if !is_moving && self.peers.occupant_changed(node, &occupant) {
            self.tell_rooms(RoomNews::Occupant { node, occupant, is_told });
        }
    }
}

impl Handler<OccupantChanged> for ClusterLink {
    type Result = ();

    fn handle(&mut self, OccupantChanged { occupant, is_told }: OccupantChanged, context: &mut Self::Context) {
        let id = (occupant.room, occupant.who.client);
        if occupant.sockets == 0 {
            self.rooms.0.remove(&id);
        } else {
            self.rooms.0.insert(id, occupant.clone());
        }
        let message = envelope::Message::Occupant { occupant, is_told };
        let nodes: Vec<_> = self.peers.nodes().collect();
        nodes.into_iter().for_each(|node| self.push(node, &message, context));
    }
}
