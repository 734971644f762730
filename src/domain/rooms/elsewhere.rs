//! Which clients have sockets in rooms at other nodes.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map::Entry};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Participant;
use crate::domain::ids::{ClientId, RoomId};

/// What a node says of the sockets of a client in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OccupantState {
    /// The room.
    pub room: RoomId,
    /// The client.
    pub who: Participant,
    /// Only members see the room.
    pub is_private: bool,
    /// The number of the client's sockets in the room at that node.
    pub sockets: u32,
}

/// What has changed of a client at other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OccupantChange {
    /// The room.
    pub room: RoomId,
    /// The client.
    pub who: Participant,
    /// Whether it has got a socket at the node. Else it has lost one.
    pub is_more: bool,
    /// It had no socket at any other node before, or has none now.
    pub is_first_or_last: bool,
}

#[derive(Debug)]
struct Known {
    who: Participant,
    is_private: bool,
    /// each has at least one socket
    by_node: BTreeMap<Uuid, u32>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Elsewhere(HashMap<RoomId, HashMap<ClientId, Known>>);

impl Elsewhere {
    /// A node says how many sockets a client has in a room there.
    pub fn put(&mut self, node: Uuid, occupant: OccupantState) -> Option<OccupantChange> {
        let OccupantState { room, who, is_private, sockets } = occupant;
        let known = self.0.entry(room).or_default();
        let mut entry = match known.entry(who.client) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                let by_node = BTreeMap::new();
                entry.insert_entry(Known { who: who.clone(), is_private, by_node })
            }
        };
        let client = entry.get_mut();
        client.who = who.clone();
        let was_absent = client.by_node.is_empty();
        let before = if sockets == 0 { client.by_node.remove(&node) } else { client.by_node.insert(node, sockets) };
        let is_absent = client.by_node.is_empty();
        if is_absent {
            entry.remove();
        }
        if known.is_empty() {
            self.0.remove(&room);
        }
        let before = before.unwrap_or(0);
        let change = OccupantChange { room, who, is_more: sockets > before, is_first_or_last: was_absent || is_absent };
        (sockets != before).then_some(change)
    }

    /// All that a node has in rooms now. Returns what has changed.
    pub fn replace(&mut self, node: Uuid, occupants: Vec<OccupantState>) -> Vec<OccupantChange> {
        let remain: HashSet<_> = occupants.iter().map(|occupant| (occupant.room, occupant.who.client)).collect();
        let clients = self.0.iter().flat_map(|(room, clients)| clients.values().map(move |known| (*room, known)));
        let at_node = clients.filter(|(_, known)| known.by_node.contains_key(&node));
        let gone = at_node.filter(|(room, known)| !remain.contains(&(*room, known.who.client)));
        let gone: Vec<_> = gone
            .map(|(room, known)| OccupantState {
                room,
                who: known.who.clone(),
                is_private: known.is_private,
                sockets: 0,
            })
            .collect();
        gone.into_iter().chain(occupants).filter_map(|occupant| self.put(node, occupant)).collect()
    }

    /// A client is no member of a room any more: its sockets there are gone at the nodes that `is_leaving` accepts, which do not
    /// say so themselves. Returns whether there were any.
    pub fn left(&mut self, room: RoomId, client: ClientId, is_leaving: impl Fn(Uuid) -> bool) -> bool {
        let Some(known) = self.0.get(&room).and_then(|clients| clients.get(&client)) else { return false };
        let gone: Vec<_> = known.by_node.keys().copied().filter(|node| is_leaving(*node)).collect();
        let occupant = OccupantState { room, who: known.who.clone(), is_private: known.is_private, sockets: 0 };
        gone.iter().for_each(|node| drop(self.put(*node, occupant.clone())));
        !gone.is_empty()
    }

    /// The nodes with sockets in a room.
    pub fn nodes(&self, room: RoomId) -> Vec<Uuid> {
        let clients = self.0.get(&room).into_iter().flat_map(HashMap::values);
        let mut nodes: Vec<_> = clients.flat_map(|client| client.by_node.keys().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Whether a client has a socket in a room at any other node.
    pub fn is_present(&self, room: RoomId, client: ClientId) -> bool {
        self.0.get(&room).is_some_and(|clients| clients.contains_key(&client))
    }

    /// The clients with sockets in a room, and how many each has.
    pub fn present(&self, room: RoomId) -> impl Iterator<Item = (&Participant, usize)> {
        let clients = self.0.get(&room).into_iter().flat_map(HashMap::values);
        clients.map(|client| (&client.who, client.sockets()))
    }

    /// The number of sockets in each room that is not private.
    pub fn public_counts(&self) -> impl Iterator<Item = (RoomId, usize)> + '_ {
        let public = self.0.iter().filter(|(_, clients)| clients.values().all(|client| !client.is_private));
        public.map(|(room, clients)| (*room, clients.values().map(Known::sockets).sum()))
    }
}

impl Known {
    fn sockets(&self) -> usize {
        self.by_node.values().map(|sockets| *sockets as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];

    fn occupant(client: u128, sockets: u32) -> OccupantState {
        let client = Uuid::from_u128(client).into();
        let who = Participant { client, user_id: None, username: "alice".into() };
        OccupantState { room: RoomId(7), who, is_private: false, sockets }
    }

    fn put(elsewhere: &mut Elsewhere, node: Uuid, sockets: u32) -> Option<(bool, bool)> {
        elsewhere.put(node, occupant(3, sockets)).map(|change| (change.is_more, change.is_first_or_last))
    }

    #[test]
    fn a_client_is_present_while_any_node_has_a_socket_of_it() {
        let mut elsewhere = Elsewhere::default();
        assert_eq!(put(&mut elsewhere, NODES[0], 0), None);
        assert_eq!(put(&mut elsewhere, NODES[0], 1), Some((true, true)));
        assert_eq!(put(&mut elsewhere, NODES[0], 2), Some((true, false)));
        assert_eq!(put(&mut elsewhere, NODES[0], 2), None);
        assert_eq!(put(&mut elsewhere, NODES[1], 1), Some((true, false)));
        assert_eq!(elsewhere.nodes(RoomId(7)), NODES);
        assert_eq!(elsewhere.present(RoomId(7)).map(|(_, sockets)| sockets).collect::<Vec<_>>(), [3]);
        assert_eq!(elsewhere.public_counts().collect::<Vec<_>>(), [(RoomId(7), 3)]);
        assert_eq!(put(&mut elsewhere, NODES[0], 0), Some((false, false)));
        assert_eq!(put(&mut elsewhere, NODES[1], 0), Some((false, true)));
        assert!(elsewhere.0.is_empty());
    }

    #[test]
    fn a_snapshot_replaces_what_was_known_of_a_node() {
        let mut elsewhere = Elsewhere::default();
        elsewhere.put(NODES[0], occupant(3, 1));
        elsewhere.put(NODES[0], occupant(4, 1));
        elsewhere.put(NODES[1], occupant(4, 1));
        let changes = elsewhere.replace(NODES[0], vec![occupant(3, 1), occupant(5, 2)]);
        let changes = changes.into_iter().map(|change| (change.who.client, change.is_more, change.is_first_or_last));
        let changes: Vec<_> = changes.collect();
        assert_eq!(changes, [(Uuid::from_u128(4).into(), false, false), (Uuid::from_u128(5).into(), true, true),]);
        assert!(!elsewhere.left(RoomId(7), Uuid::from_u128(5).into(), |node| node == NODES[1]));
        assert!(elsewhere.left(RoomId(7), Uuid::from_u128(5).into(), |node| node == NODES[0]));
        assert_eq!(elsewhere.replace(NODES[0], Vec::new()).len(), 1);
        assert_eq!(elsewhere.nodes(RoomId(7)), [NODES[1]]);
    }
}
