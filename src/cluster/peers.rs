//! What a node knows of its peers, the other nodes: the order of their envelopes, and whether it has the state of all their
//! clients.
//!
//! A peer sends the changes of its clients as they happen. When an envelope is missing, or the peer is new, a snapshot is asked
//! for, and changes count only from its beginning on. Until its end, what was known before still counts.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::elsewhere::{ClientState, Interests};
use crate::domain::{
    ids::{ClientId, RoomId},
    rooms::OccupantState,
};

/// The time after which a snapshot that has not come is asked for again.
const RETRY: Duration = Duration::from_millis(500);

/// All peers.
#[derive(Debug, Default)]
pub struct Peers(BTreeMap<Uuid, Peer>);

#[derive(Debug, Default)]
struct Peer {
    /// the version of the envelopes to it and from it; `None`: there is none that both understand, and nothing is sent
    version: Option<u8>,
    /// the number of the last envelope that was sent to it
    sent: u64,
    /// the number of the last envelope that came from it
    received: Option<u64>,
    knowledge: Knowledge,
    /// when a snapshot was asked for
    asked: Option<Instant>,
    /// those of its clients that are known
    clients: HashSet<Uuid>,
}

/// What is known of a peer's clients.
#[derive(Debug, Default)]
enum Knowledge {
    /// Something is missing.
    #[default]
    Partial,
    /// A snapshot is coming.
    Coming(Snapshot),
    /// The state of all of them.
    Complete,
}

/// All that a peer has said of itself.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Its clients.
    clients: HashMap<Uuid, ClientState>,
    /// What has subscribers there.
    pub interests: Interests,
    /// Who has sockets in rooms there.
    occupants: HashMap<(RoomId, ClientId), OccupantState>,
}

impl Snapshot {
    /// Who has sockets in rooms at the peer.
    pub fn occupants(self) -> Vec<OccupantState> {
        self.occupants.into_values().filter(|occupant| occupant.sockets > 0).collect()
    }
}

/// What an envelope is among those of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The next one.
    InOrder,
    /// Others before it are missing, or it is the first.
    AfterGap,
    /// The sender is no peer.
    FromStranger,
}

impl Peers {
    /// Whether a node is a peer.
    pub fn contains(&self, node: Uuid) -> bool {
        self.0.contains_key(&node)
    }

    /// All of them, also those to which nothing can be sent.
    pub fn all(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.0.keys().copied()
    }

    /// Those to which something can be sent.
    pub fn nodes(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.0.iter().filter(|(_, peer)| peer.version.is_some()).map(|(node, _)| *node)
    }

    /// The version of the envelopes to a node. `None` if nothing can be sent to it.
    pub fn version(&self, node: Uuid) -> Option<u8> {
        self.0.get(&node)?.version
    }

    /// A node that has a lease becomes a peer, with this version of envelopes, if there is one that both understand. Returns
    /// whether it is new.
    pub fn add(&mut self, node: Uuid, version: Option<u8>) -> bool {
        let is_new = !self.contains(node);
        self.0.entry(node).or_default().version = version;
        is_new
    }

    /// A node has no lease any more. Returns the clients that have left with it.
    pub fn remove(&mut self, node: Uuid) -> Vec<ClientState> {
        let gone = self.0.remove(&node).map(|peer| peer.clients).unwrap_or_default();
        gone.into_iter().map(ClientState::gone).collect()
    }

    /// Whether a client is connected to a peer, as far as is known.
    pub fn has_client(&self, node: Uuid, client: Uuid) -> bool {
        self.0.get(&node).is_some_and(|peer| peer.clients.contains(&client))
    }

    /// The number of the next envelope to a peer.
    pub fn next_number(&mut self, node: Uuid) -> Option<u64> {
        let peer = self.0.get_mut(&node)?;
        peer.sent += 1;
        Some(peer.sent)
    }

    /// An envelope has come.
    pub fn received(&mut self, from: Uuid, number: u64) -> Arrival {
        let Some(peer) = self.0.get_mut(&from) else { return Arrival::FromStranger };
        let last = peer.received.replace(number);
        if last.is_some_and(|last| last + 1 == number) {
            return Arrival::InOrder;
        }
        peer.forget();
        Arrival::AfterGap
    }

    /// Envelopes of a peer may have been lost.
    pub fn missed(&mut self, node: Uuid) {
        if let Some(peer) = self.0.get_mut(&node) {
            peer.received = None;
            peer.forget();
        }
    }

    /// The state of a peer's client has changed. Returns it if it counts now.
    pub fn changed(&mut self, from: Uuid, state: ClientState) -> Option<ClientState> {
        let peer = self.0.get_mut(&from)?;
        match &mut peer.knowledge {
            Knowledge::Partial => None,
            Knowledge::Coming(snapshot) => {
                snapshot.clients.insert(state.client, state);
                None
            }
            Knowledge::Complete => {
                if state.sessions == 0 {
                    peer.clients.remove(&state.client);
                } else {
                    peer.clients.insert(state.client);
                }
                Some(state)
            }
        }
    }

    /// A snapshot begins.
    pub fn snapshot_begins(&mut self, from: Uuid) {
        if let Some(peer) = self.0.get_mut(&from) {
            peer.knowledge = Knowledge::Coming(Snapshot::default());
        }
    }

    /// The number of subscribers of a topic or a pattern at a peer has changed. Returns whether that counts now.
    pub fn interest_changed(&mut self, from: Uuid, id: &str, is_pattern: bool, subscribers: u32) -> bool {
        match self.0.get_mut(&from).map(|peer| &mut peer.knowledge) {
            None | Some(Knowledge::Partial) => false,
            Some(Knowledge::Complete) => true,
            Some(Knowledge::Coming(snapshot)) => {
                snapshot.interests.insert((id.to_owned(), is_pattern), subscribers);
                false
            }
        }
    }

    /// The number of sockets that a client has in a room at a peer has changed. Returns whether that counts now.
    pub fn occupant_changed(&mut self, from: Uuid, occupant: &OccupantState) -> bool {
        match self.0.get_mut(&from).map(|peer| &mut peer.knowledge) {
            None | Some(Knowledge::Partial) => false,
            Some(Knowledge::Complete) => true,
            Some(Knowledge::Coming(snapshot)) => {
                snapshot.occupants.insert((occupant.room, occupant.who.client), occupant.clone());
                false
            }
        }
    }

    /// A snapshot has ended. Returns the clients that have changed by it, and the rest of it.
    pub fn snapshot_ends(&mut self, from: Uuid) -> Option<(Vec<ClientState>, Snapshot)> {
        let peer = self.0.get_mut(&from)?;
        let Knowledge::Coming(mut snapshot) = std::mem::take(&mut peer.knowledge) else { return None };
        let mut clients = std::mem::take(&mut snapshot.clients);
        clients.retain(|_, state| state.sessions > 0);
        let gone = peer.clients.iter().filter(|client| !clients.contains_key(*client));
        let mut changed: Vec<_> = gone.copied().map(ClientState::gone).collect();
        peer.clients = clients.keys().copied().collect();
        (peer.knowledge, peer.asked) = (Knowledge::Complete, None);
        changed.extend(clients.into_values());
        Some((changed, snapshot))
    }

    /// The peers of which a snapshot is to be asked for now.
    pub fn due(&mut self, now: Instant) -> Vec<Uuid> {
        let is_due = |peer: &Peer| {
            let is_late = peer.asked.is_none_or(|asked| now.duration_since(asked) >= RETRY);
            peer.version.is_some() && !peer.is_complete() && is_late
        };
        let late = self.0.iter_mut().filter(|(_, peer)| is_due(peer));
        late.map(|(node, peer)| {
            peer.asked = Some(now);
            *node
        })
        .collect()
    }

    /// The peers of which not everything is known.
    pub fn incomplete(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.0.iter().filter(|(_, peer)| !peer.is_complete()).map(|(node, _)| *node)
    }

    /// Whether the state of all clients of all peers is known.
    pub fn is_complete(&self) -> bool {
        self.0.values().all(Peer::is_complete)
    }
}

impl Peer {
    fn is_complete(&self) -> bool {
        matches!(self.knowledge, Knowledge::Complete)
    }

    /// Changes do not count any more.
    fn forget(&mut self) {
        (self.knowledge, self.asked) = (Knowledge::Partial, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u128) -> ClientState {
        ClientState { sessions: 1, ..ClientState::gone(Uuid::from_u128(number)) }
    }

    fn numbers(states: &[ClientState]) -> Vec<(u128, u32)> {
        let mut numbers: Vec<_> = states.iter().map(|state| (state.client.as_u128(), state.sessions)).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn changes_count_from_a_snapshot_on_and_a_gap_asks_for_another() {
        let (mut peers, node, now) = (Peers::default(), Uuid::from_u128(100), Instant::now());
        assert_eq!((peers.received(node, 1), peers.is_complete()), (Arrival::FromStranger, true));
        let is_new = [peers.add(node, Some(1)), peers.add(node, Some(1))];
        assert_eq!((is_new, peers.is_complete()), ([true, false], false));
        assert_eq!(peers.due(now), [node]);
        assert!(peers.due(now).is_empty());
        assert_eq!(peers.due(now + RETRY), [node]);
        assert_eq!(peers.received(node, 41), Arrival::AfterGap);
        assert_eq!(peers.changed(node, client(9)), None);
        peers.snapshot_begins(node);
        assert!(!peers.interest_changed(node, "t", false, 2));
        for state in [client(1), client(2), ClientState::gone(Uuid::from_u128(2)), client(3)] {
            assert_eq!(peers.changed(node, state), None);
        }
        assert_eq!(peers.received(node, 42), Arrival::InOrder);
        assert_eq!(numbers(&peers.snapshot_ends(node).unwrap().0), [(1, 1), (3, 1)]);
        assert!(peers.is_complete());
        assert_eq!(peers.changed(node, client(4)), Some(client(4)));
        // the next one is missing
        assert_eq!(peers.received(node, 44), Arrival::AfterGap);
        assert!(!peers.is_complete());
        assert_eq!(peers.due(now), [node]);
        assert_eq!(peers.changed(node, client(5)), None);
        peers.snapshot_begins(node);
        assert_eq!(peers.changed(node, client(4)), None);
        assert_eq!(numbers(&peers.snapshot_ends(node).unwrap().0), [(1, 0), (3, 0), (4, 1)]);
        assert_eq!(numbers(&peers.remove(node)), [(4, 0)]);
    }

    #[test]
    fn nothing_is_sent_to_a_node_without_a_version_in_common_and_nothing_is_known_of_it() {
        let (mut peers, [one, other]) = (Peers::default(), [100, 101].map(Uuid::from_u128));
        peers.add(one, Some(2));
        peers.add(other, None);
        assert_eq!((peers.version(one), peers.version(other)), (Some(2), None));
        assert!(peers.nodes().eq([one]) && peers.all().eq([one, other]));
        assert_eq!(peers.due(Instant::now()), [one]);
        peers.snapshot_begins(one);
        peers.snapshot_ends(one);
        assert!(!peers.is_complete());
        peers.remove(other);
        assert!(peers.is_complete());
    }

    #[test]
    fn a_snapshot_with_a_gap_in_it_does_not_count() {
        let (mut peers, node) = (Peers::default(), Uuid::from_u128(100));
        peers.add(node, Some(1));
        peers.received(node, 1);
        peers.snapshot_begins(node);
        assert_eq!(peers.received(node, 3), Arrival::AfterGap);
        assert_eq!(peers.changed(node, client(1)), None);
        assert!(peers.snapshot_ends(node).is_none() && !peers.is_complete());
        peers.snapshot_begins(node);
        peers.missed(node);
        assert!(peers.snapshot_ends(node).is_none() && !peers.is_complete());
    }
}
