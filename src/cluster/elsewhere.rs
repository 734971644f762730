//! The clients that are connected to other nodes, and what they are subscribed to. Written by the ClusterLink, and by the
//! TopicManager for subscriptions that it hands over; read from any thread without a message.

mod congested;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use papaya::HashMap;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::congested::{Congested, REPEAT};
use crate::domain::{
    ids::{ClientId, ClientKind, TopicId},
    topics::pattern::Pattern,
};

/// What a node says of a client that is connected to it. A stamp is the number of a session; the session with the highest one
/// is the newest. 0 stands for no session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientState {
    /// The client.
    pub client: Uuid,
    /// Its name.
    pub name: String,
    /// Whether it is a user; else it is a device.
    pub is_user: bool,
    /// Whether it counts as online by its sessions there.
    pub is_online: bool,
    /// The number of its sessions there; none if it has left the node.
    pub sessions: u32,
    /// The stamp of its device socket.
    pub device: u64,
    /// The stamp of its agent socket.
    pub agent: u64,
    /// The stamp of its newest chat socket.
    pub chat: u64,
}

impl ClientState {
    /// The state of a client that has no session there.
    pub fn gone(client: Uuid) -> Self {
        Self {
            client,
            name: String::new(),
            is_user: false,
            is_online: false,
            sessions: 0,
            device: 0,
            agent: 0,
            chat: 0,
        }
    }

    /// The stamp of its socket that takes commands.
    pub fn commandable(&self) -> u64 {
        if self.device > 0 { self.device } else { self.agent }
    }

    /// What kind of client it is.
    pub fn kind(&self) -> ClientKind {
        if self.is_user { ClientKind::User } else { ClientKind::Device }
    }
}

/// Where a device socket is, as far as a node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At this other node.
    Node(Uuid),
    /// At no other node.
    Nowhere,
    /// Perhaps at a node that cannot be asked.
    Unknown,
}

/// What has changed of a client at other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The client.
    pub client: ClientId,
    /// What it is.
    pub kind: ClientKind,
    /// Its name.
    pub name: String,
    /// Whether it was online at any of them before.
    pub was_online: bool,
    /// Whether it is now.
    pub is_online: bool,
    /// Whether it has a session at the node that it has changed at.
    pub is_connected: bool,
}

/// A client at a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct At {
    node: Uuid,
    state: ClientState,
}

/// What has subscribers at a node: topics, or with the flag patterns.
pub type Interests = std::collections::HashMap<(String, bool), u32>;

/// What has subscribers at other nodes.
#[derive(Debug, Default)]
struct Topics {
    by_name: std::collections::HashMap<TopicId, BTreeMap<Uuid, u32>>,
    patterns: BTreeMap<(Uuid, TopicId), (Pattern, u32)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Elsewhere {
    clients: HashMap<ClientId, Arc<[At]>>,
    topics: RwLock<Topics>,
    /// nodes that have said that they stop, for as long as clients are listed there
    leaving: RwLock<BTreeSet<Uuid>>,
    /// something has subscribers, so that without any a publication takes no lock
    has_subscribers: AtomicBool,
    /// some node may have clients that are not in here
    is_incomplete: AtomicBool,
    congested: Congested,
}

impl Elsewhere {
    /// The node with the device socket of this client.
    pub fn device(&self, client: ClientId) -> Place {
        self.place(client, |state| state.device)
    }

    /// The node with the socket of this client that takes commands.
    pub fn commandable(&self, client: ClientId) -> Place {
        self.place(client, ClientState::commandable)
    }

    /// The clients with a socket at another node that takes commands.
    pub fn all_commandable(&self) -> Vec<ClientId> {
        let is_commandable = |all: &[At]| all.iter().any(|at| at.state.commandable() > 0);
        self.clients.pin().iter().filter(|(_, all)| is_commandable(all)).map(|(id, _)| *id).collect()
    }

    /// The node with the newest socket of a client, by the stamps that `stamp` returns.
    fn place(&self, client: ClientId, stamp: impl Fn(&ClientState) -> u64) -> Place {
        let clients = self.clients.pin();
        let newest = clients.get(&client).and_then(|all| {
            let with_socket = all.iter().filter(|at| stamp(&at.state) > 0);
            with_socket.max_by_key(|at| (stamp(&at.state), at.node)).map(|at| at.node)
        });
        match newest {
            Some(node) => Place::Node(node),
            None if self.is_complete() => Place::Nowhere,
            None => Place::Unknown,
        }
    }

    /// Whether a client is online at another node.
    pub fn is_online(&self, client: ClientId) -> bool {
        self.clients.pin().get(&client).is_some_and(|all| all.iter().any(|at| at.state.is_online))
    }

    /// The clients that are online at other nodes, with their names.
    pub fn online(&self) -> Vec<(ClientId, String)> {
        let clients = self.clients.pin();
        let online = clients.iter().filter_map(|(id, all)| Some((*id, all.iter().find(|at| at.state.is_online)?)));
        online.map(|(id, at)| (id, at.state.name.clone())).collect()
    }

    /// The number of a client's sessions at other nodes, without those that `replaced` counts and those at nodes that stop, which
    /// tell their clients to go elsewhere.
    pub fn session_count(&self, client: ClientId, replaced: impl Fn(&ClientState) -> usize) -> usize {
        let count = |at: &At| (at.state.sessions as usize).saturating_sub(replaced(&at.state));
        let clients = self.clients.pin();
        let Some(all) = clients.get(&client) else { return 0 };
        let leaving = self.leaving.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|at| !leaving.contains(&at.node)).map(count).sum()
    }

    /// Whether a node has said that it stops. Its clients are listed until they connect to another one, or a time is over.
    pub fn is_leaving(&self, node: Uuid) -> bool {
        self.leaving.read().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }

    /// Says whether a node has said that it stops.
    pub fn set_leaving(&self, node: Uuid, is_leaving: bool) {
        let mut leaving = self.leaving.write().unwrap_or_else(PoisonError::into_inner);
        if is_leaving {
            leaving.insert(node);
        } else {
            leaving.remove(&node);
        }
    }

    /// Whether another node's session of the client takes over one here, by the stamps that `stamp` returns.
    pub fn takes_over(&self, client: ClientId, this: Uuid, own: u64, stamp: impl Fn(&ClientState) -> u64) -> bool {
        let clients = self.clients.pin();
        let takes = |at: &At| (stamp(&at.state), at.node) > (own, this);
        clients.get(&client).is_some_and(|all| all.iter().any(takes))
    }

    /// Replaces what is known of a client at a node.
    pub fn put(&self, node: Uuid, state: ClientState) -> Change {
        let (client, clients) = (ClientId::from(state.client), self.clients.pin());
        let before = clients.get(&client).map(|all| all.iter().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let was_online = before.iter().any(|at| at.state.is_online);
        let was = before.iter().find(|at| at.node == node).map(|at| &at.state);
        let named = if state.sessions > 0 { &state } else { was.unwrap_or(&state) };
        let (kind, name) = (named.kind(), named.name.clone());
        let is_there = state.sessions > 0;
        let others = before.into_iter().filter(|at| at.node != node);
        let all: Arc<[At]> = others.chain(is_there.then_some(At { node, state })).collect();
        let is_online = all.iter().any(|at| at.state.is_online);
        if all.is_empty() {
            clients.remove(&client);
        } else {
            clients.insert(client, all);
        }
        Change { client, kind, name, was_online, is_online, is_connected: is_there }
    }

    /// The state of a client that is online at a node which stops: it is listed there until it connects to another one, but
    /// nothing can be sent to it.
    pub fn moving(&self, node: Uuid, client: ClientId) -> Option<ClientState> {
        let clients = self.clients.pin();
        let at = clients.get(&client)?.iter().find(|at| at.node == node && at.state.is_online)?;
        Some(ClientState { sessions: 1, device: 0, agent: 0, chat: 0, ..at.state.clone() })
    }

    /// Whether another node has a newer device socket of the client than one with this stamp.
    pub fn has_newer_device(&self, client: ClientId, stamp: u64) -> bool {
        self.clients.pin().get(&client).is_some_and(|all| all.iter().any(|at| at.state.device > stamp))
    }

    /// Whether anything has subscribers at other nodes. Takes no lock.
    pub fn has_subscribers(&self) -> bool {
        self.has_subscribers.load(Ordering::Acquire)
    }

    /// The nodes with subscribers of a topic, and their numbers. A client with several subscriptions counts for each.
    pub fn subscribers(&self, topic: &str) -> BTreeMap<Uuid, usize> {
        let mut nodes = BTreeMap::new();
        if !self.has_subscribers() {
            return nodes;
        }
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let by_name = topics.by_name.get(topic).into_iter().flatten().map(|(node, count)| (*node, *count));
        let matching = topics.patterns.iter().filter(|(_, (pattern, _))| pattern.matches(topic));
        for (node, count) in by_name.chain(matching.map(|((node, _), (_, count))| (*node, *count))) {
            *nodes.entry(node).or_default() += count as usize;
        }
        nodes
    }

    /// Whether some node has subscribers of a topic.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        self.has_subscribers() && {
            let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
            topics.by_name.contains_key(topic) || topics.patterns.values().any(|(pattern, _)| pattern.matches(topic))
        }
    }

    /// The nodes where publications wait.
    pub fn congested(&self) -> &Congested {
        &self.congested
    }

    /// Whether publishers to a topic should wait for a node with subscribers of it.
    pub fn is_congested(&self, topic: &str) -> bool {
        self.congested.are_some() && self.subscribers(topic).into_keys().any(|node| self.congested.contains(node))
    }

    /// Replaces the number of subscribers of a topic or a pattern at a node.
    pub fn put_interest(&self, node: Uuid, id: &str, is_pattern: bool, subscribers: u32) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.put(node, id, is_pattern, subscribers);
        self.has_subscribers.store(!topics.is_empty(), Ordering::Release);
    }

    /// A node is about to have subscribers of these topics and, with the flag, patterns; it announces their numbers later.
    pub fn expect_interests(&self, node: Uuid, ids: &[(String, bool)]) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        for (id, is_pattern) in ids {
            let of_topic = topics.by_name.get(id.as_str()).is_some_and(|nodes| nodes.contains_key(&node));
            if !of_topic && !topics.patterns.contains_key(&(node, TopicId::from(id.as_str()))) {
                topics.put(node, id, *is_pattern, 1);
            }
        }
        self.has_subscribers.store(!topics.is_empty(), Ordering::Release);
    }

    /// Replaces all that has subscribers at a node.
    pub fn put_interests(&self, node: Uuid, interests: &Interests) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.forget(node);
        for ((id, is_pattern), subscribers) in interests {
            topics.put(node, id, *is_pattern, *subscribers);
        }
        self.has_subscribers.store(!topics.is_empty(), Ordering::Release);
    }

    /// The node whose session gets a client's publications, or would if it were not for commands alone.
    pub fn subscriber(&self, client: ClientId) -> Option<Uuid> {
        let (clients, ranked) = (self.clients.pin(), |at: &At| (at.state.device, at.state.chat, at.state.agent));
        let with_session = clients.get(&client)?.iter().filter(|at| ranked(at) > (0, 0, 0));
        with_session.max_by_key(|at| (ranked(at), at.node)).map(|at| at.node)
    }

    /// Whether no node has clients that are not in here.
    pub fn is_complete(&self) -> bool {
        !self.is_incomplete.load(Ordering::Relaxed)
    }

    /// Says whether some node may have clients that are not in here.
    pub fn set_complete(&self, is_complete: bool) {
        self.is_incomplete.store(!is_complete, Ordering::Relaxed);
    }
}

impl Topics {
    fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.patterns.is_empty()
    }

    fn put(&mut self, node: Uuid, id: &str, is_pattern: bool, subscribers: u32) {
        let id = TopicId::from(id);
        if is_pattern {
            // another version may know other patterns
            match Pattern::parse(id.clone()) {
                Ok(pattern) if subscribers > 0 => drop(self.patterns.insert((node, id), (pattern, subscribers))),
                _ => drop(self.patterns.remove(&(node, id))),
            }
        } else if subscribers > 0 {
            self.by_name.entry(id).or_default().insert(node, subscribers);
        } else if let Some(nodes) = self.by_name.get_mut(&id) {
            nodes.remove(&node);
            if nodes.is_empty() {
                self.by_name.remove(&id);
            }
        }
    }

    fn forget(&mut self, node: Uuid) {
        self.by_name.retain(|_, nodes| {
            nodes.remove(&node);
            !nodes.is_empty()
        });
        self.patterns.retain(|(of, _), _| *of != node);
    }
}
