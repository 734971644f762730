//! Which sockets are in which room. Memberships are in the database and last; a socket is in a room from the moment it joins
//! until it disconnects or its client leaves.

use std::{collections::HashMap, sync::Arc};

use super::{OccupantState, Participant, Room};
use crate::domain::{
    ids::{ClientId, RoomId},
    subscriptions::{Audience, Location},
};

/// How a socket is in a room: which frames it understands, and what happens to it when its client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// It joined with a frame and can be in several rooms: `/ws/auth`. It stays open.
    Joined,
    /// It was opened for this room: `/ws/room/{id}`. It is closed.
    Dedicated,
    /// Like `Dedicated`, but it understands only messages: `/ws?chat_id=`.
    Plain,
}

impl Attachment {
    fn is_plain(self) -> bool {
        self == Self::Plain
    }
}

/// A socket has left a room.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names of the fields say it
pub struct Detached {
    pub room: RoomId,
    pub who: Participant,
    /// It was the client's last socket in the room.
    pub last: bool,
}

#[derive(Debug)]
struct Occupant<S> {
    who: Participant,
    sessions: Vec<(S, Attachment)>,
}

#[derive(Debug)]
struct Occupied<S> {
    is_private: bool,
    /// each has at least one socket
    occupants: HashMap<ClientId, Occupant<S>>,
    /// None after a change, until the next use
    audience: Option<Arc<Audience<S>>>,
    plain_audience: Option<Arc<Audience<S>>>,
}

impl<S: Location + Clone> Occupied<S> {
    fn collect(&self, plain: bool, except: Option<ClientId>) -> Arc<Audience<S>> {
        let others = self.occupants.iter().filter(|(client, _)| Some(**client) != except);
        let sessions = others.flat_map(|(_, occupant)| &occupant.sessions);
        Arc::new(Audience::of(
            sessions.filter(|(_, attachment)| attachment.is_plain() == plain).map(|(session, _)| session.clone()),
        ))
    }

    fn changed(&mut self) {
        self.audience = None;
        self.plain_audience = None;
    }
}

/// See the module. `S` is the session handle.
#[derive(Debug)]
pub struct Occupancy<S> {
    /// each has at least one occupant
    rooms: HashMap<RoomId, Occupied<S>>,
    /// the rooms of each socket
    sessions: HashMap<u64, Vec<(RoomId, ClientId)>>,
}

impl<S: Location + Clone> Default for Occupancy<S> {
    fn default() -> Self {
        Self { rooms: HashMap::new(), sessions: HashMap::new() }
    }
}

impl<S: Location + Clone> Occupancy<S> {
    /// Puts a socket into a room. Returns whether it is the client's first socket there; None: it was in the room already.
    pub fn attach(&mut self, room: &Room, who: &Participant, session: S, attachment: Attachment) -> Option<bool> {
        let rooms = self.sessions.entry(session.id()).or_default();
        if rooms.iter().any(|(other, _)| *other == room.id) {
            return None;
        }
        rooms.push((room.id, who.client));
        let occupied = self.rooms.entry(room.id).or_insert_with(|| Occupied {
            is_private: room.is_private,
            occupants: HashMap::new(),
            audience: None,
            plain_audience: None,
        });
        occupied.changed();
        let occupant =
            occupied.occupants.entry(who.client).or_insert_with(|| Occupant { who: who.clone(), sessions: Vec::new() });
        occupant.sessions.push((session, attachment));
        Some(occupant.sessions.len() == 1)
    }

    /// Removes a socket from all rooms.
    pub fn detach_session(&mut self, session: u64) -> Vec<Detached> {
        let rooms = self.sessions.remove(&session).unwrap_or_default();
        rooms.into_iter().filter_map(|(room, client)| self.take_out(room, client, session)).collect()
    }

    fn take_out(&mut self, room: RoomId, client: ClientId, session: u64) -> Option<Detached> {
        let occupied = self.rooms.get_mut(&room)?;
        occupied.changed();
        let occupant = occupied.occupants.get_mut(&client)?;
        occupant.sessions.retain(|(other, _)| other.id() != session);
        let (who, last) = (occupant.who.clone(), occupant.sessions.is_empty());
        if last {
            self.forget(room, client);
        }
        Some(Detached { room, who, last })
    }

    /// Removes all sockets of a client from a room.
    pub fn detach_client(&mut self, room: RoomId, client: ClientId) -> Vec<(S, Attachment)> {
        let Some(occupant) = self.forget(room, client) else { return Vec::new() };
        for (session, _) in &occupant.sessions {
            if let Some(rooms) = self.sessions.get_mut(&session.id()) {
                rooms.retain(|(other, _)| *other != room);
                if rooms.is_empty() {
                    self.sessions.remove(&session.id());
                }
            }
        }
        occupant.sessions
    }

    fn forget(&mut self, room: RoomId, client: ClientId) -> Option<Occupant<S>> {
        let occupied = self.rooms.get_mut(&room)?;
        occupied.changed();
        let occupant = occupied.occupants.remove(&client);
        if occupied.occupants.is_empty() {
            self.rooms.remove(&room);
        }
        occupant
    }

    /// Updates the name of a client in all rooms. Returns those in which it has sockets.
    pub fn rename(&mut self, who: &Participant) -> Vec<RoomId> {
        let mut rooms = Vec::new();
        for (room, occupied) in &mut self.rooms {
            if let Some(occupant) = occupied.occupants.get_mut(&who.client) {
                occupant.who = who.clone();
                rooms.push(*room);
            }
        }
        rooms
    }

    /// The sockets in a room that understand all frames.
    pub fn audience(&mut self, room: RoomId) -> Option<Arc<Audience<S>>> {
        let occupied = self.rooms.get_mut(&room)?;
        if occupied.audience.is_none() {
            occupied.audience = Some(occupied.collect(false, None));
        }
        occupied.audience.clone()
    }

    /// The sockets in a room that understand only messages, without those of the author.
    pub fn plain_audience(&mut self, room: RoomId, author: ClientId) -> Option<Arc<Audience<S>>> {
        let occupied = self.rooms.get_mut(&room)?;
        let own = occupied.occupants.get(&author).map_or(&[][..], |occupant| &occupant.sessions);
        if own.iter().any(|(_, attachment)| attachment.is_plain()) {
            return Some(occupied.collect(true, Some(author)));
        }
        if occupied.plain_audience.is_none() {
            occupied.plain_audience = Some(occupied.collect(true, None));
        }
        occupied.plain_audience.clone()
    }

    /// The client, if it has a socket in the room.
    pub fn participant(&self, room: RoomId, client: ClientId) -> Option<Participant> {
        self.rooms.get(&room)?.occupants.get(&client).map(|occupant| occupant.who.clone())
    }

    /// Whether there are sockets in a room.
    pub fn is_occupied(&self, room: RoomId) -> bool {
        self.rooms.contains_key(&room)
    }

    /// What other nodes are told of a client in a room.
    pub fn occupant(&self, room: RoomId, who: &Participant) -> OccupantState {
        let occupied = self.rooms.get(&room);
        let sockets = occupied.and_then(|occupied| Some(occupied.occupants.get(&who.client)?.sessions.len()));
        OccupantState {
            room,
            who: who.clone(),
            is_private: occupied.is_some_and(|occupied| occupied.is_private),
            sockets: u32::try_from(sockets.unwrap_or(0)).unwrap_or(u32::MAX),
        }
    }

    /// Removes all sockets from a room.
    pub fn vacate(&mut self, room: RoomId) -> Vec<(Participant, Vec<(S, Attachment)>)> {
        let who = self.present(room).into_iter().map(|(who, _)| who).collect::<Vec<_>>();
        who.into_iter().map(|who| (who.clone(), self.detach_client(room, who.client))).collect()
    }

    /// The clients with sockets in a room, and how many each has.
    pub fn present(&self, room: RoomId) -> Vec<(Participant, usize)> {
        let occupants = self.rooms.get(&room).into_iter().flat_map(|occupied| occupied.occupants.values());
        occupants.map(|occupant| (occupant.who.clone(), occupant.sessions.len())).collect()
    }

    /// The number of sockets in each room that is not private.
    pub fn public_counts(&self) -> HashMap<RoomId, usize> {
        let count = |occupied: &Occupied<S>| occupied.occupants.values().map(|occupant| occupant.sessions.len()).sum();
        let public = self.rooms.iter().filter(|(_, occupied)| !occupied.is_private);
        public.map(|(room, occupied)| (*room, count(occupied))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct At(u64);
    impl Location for At {
        fn worker(&self) -> usize {
            (self.0 % 2) as usize
        }
        fn id(&self) -> u64 {
            self.0
        }
    }

    fn room(id: i64) -> Room {
        let created_at = chrono::DateTime::UNIX_EPOCH;
        Room { id: RoomId(id), name: format!("room {id}"), description: None, is_private: id == 9, created_at }
    }

    fn participant(name: &str) -> Participant {
        Participant { client: ClientId::random(), user_id: Some(1), username: name.into() }
    }

    fn size(audience: Option<Arc<Audience<At>>>) -> usize {
        audience.map_or(0, |audience| audience.connected)
    }

    #[test]
    fn a_clients_first_and_last_sockets_in_a_room_are_told_apart_from_the_others() {
        let mut occupancy = Occupancy::default();
        let (here, alice) = (room(1), participant("alice"));
        assert_eq!(occupancy.attach(&here, &alice, At(1), Attachment::Joined), Some(true));
        assert_eq!(occupancy.attach(&here, &alice, At(2), Attachment::Dedicated), Some(false));
        assert_eq!(occupancy.attach(&here, &alice, At(2), Attachment::Dedicated), None);
        assert_eq!(occupancy.detach_session(1), [Detached { room: here.id, who: alice.clone(), last: false }]);
        assert_eq!(occupancy.detach_session(1), []);
        assert_eq!(occupancy.detach_session(2), [Detached { room: here.id, who: alice, last: true }]);
        assert!(occupancy.rooms.is_empty() && occupancy.sessions.is_empty());
    }

    #[test]
    fn a_client_that_leaves_takes_its_sockets_out_of_that_room_alone() {
        let mut occupancy = Occupancy::default();
        let (here, there, alice) = (room(1), room(2), participant("alice"));
        occupancy.attach(&here, &alice, At(1), Attachment::Joined);
        occupancy.attach(&there, &alice, At(1), Attachment::Joined);
        occupancy.attach(&here, &alice, At(2), Attachment::Plain);
        let gone = occupancy.detach_client(here.id, alice.client);
        assert_eq!(gone, [(At(1), Attachment::Joined), (At(2), Attachment::Plain)]);
        assert_eq!(occupancy.participant(here.id, alice.client), None);
        assert_eq!(occupancy.participant(there.id, alice.client), Some(alice.clone()));
        assert_eq!(occupancy.detach_session(2), []);
        assert_eq!(occupancy.detach_session(1).len(), 1);
        assert!(occupancy.rooms.is_empty() && occupancy.sessions.is_empty());
    }

    #[test]
    fn a_client_that_is_renamed_has_its_new_name_in_all_rooms() {
        let mut occupancy = Occupancy::default();
        let (alice, bob) = (participant("alice"), participant("bob"));
        for id in [1, 2] {
            occupancy.attach(&room(id), &alice, At(1), Attachment::Joined);
            occupancy.attach(&room(id), &bob, At(2), Attachment::Joined);
        }
        let renamed = Participant { username: "alicia".into(), ..alice };
        occupancy.rename(&renamed);
        for id in [RoomId(1), RoomId(2)] {
            assert_eq!(occupancy.participant(id, renamed.client), Some(renamed.clone()));
            assert_eq!(occupancy.participant(id, bob.client), Some(bob.clone()));
        }
        assert_eq!(occupancy.detach_session(1)[0].who, renamed);
    }

    #[test]
    fn sockets_that_understand_messages_alone_get_those_of_others() {
        let mut occupancy = Occupancy::default();
        let (here, alice, bob) = (room(1), participant("alice"), participant("bob"));
        occupancy.attach(&here, &alice, At(1), Attachment::Plain);
        occupancy.attach(&here, &alice, At(2), Attachment::Joined);
        occupancy.attach(&here, &bob, At(3), Attachment::Plain);
        assert_eq!(size(occupancy.audience(here.id)), 1);
        assert_eq!(size(occupancy.plain_audience(here.id, alice.client)), 1);
        assert_eq!(size(occupancy.plain_audience(here.id, ClientId::random())), 2);
        occupancy.detach_session(3);
        assert_eq!(size(occupancy.plain_audience(here.id, ClientId::random())), 1);
        assert_eq!(size(occupancy.plain_audience(here.id, alice.client)), 0);
    }

    #[test]
    fn private_rooms_are_not_counted_for_all_to_see() {
        let mut occupancy = Occupancy::default();
        let alice = participant("alice");
        occupancy.attach(&room(1), &alice, At(1), Attachment::Joined);
        occupancy.attach(&room(9), &alice, At(1), Attachment::Joined);
        assert_eq!(occupancy.public_counts(), HashMap::from([(RoomId(1), 1)]));
        assert_eq!(occupancy.present(RoomId(9)), [(alice, 1)]);
    }
}
