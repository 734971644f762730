//! Who is subscribed to what, and where the subscribers' sockets are.
//!
//! A subscription belongs to a client, not to a socket. It may be made before the client connects, survives a takeover, and
//! ends when the client unsubscribes or its last socket disconnects (contract section 5).

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::ids::{ClientId, TopicId};

/// Where a session is. Implemented by the session handle, which is `S` below.
pub trait Location {
    /// The index of its worker.
    fn worker(&self) -> usize;

    /// A number that no other session of this process has or had.
    fn id(&self) -> u64;
}

/// The subscribers of a topic on one worker. Shared by all publications until the subscribers change.
pub type Members<S> = Arc<[S]>;

/// The sessions that a publication goes to, by worker.
#[derive(Debug, Clone)]
pub struct Audience<S> {
    /// The index and the sessions of each worker that has any.
    pub workers: Vec<(usize, Members<S>)>,
    /// The number of sessions on all workers.
    pub connected: usize,
}

impl<S: Location> Audience<S> {
    /// Groups sessions by worker.
    pub fn of(sessions: impl Iterator<Item = S>) -> Self {
        let mut by_worker: Vec<(usize, Vec<S>)> = Vec::new();
        for session in sessions {
            let worker = session.worker();
            match by_worker.iter_mut().find(|(index, _)| *index == worker) {
                Some((_, members)) => members.push(session),
                None => by_worker.push((worker, vec![session])),
            }
        }
        let connected = by_worker.iter().map(|(_, members)| members.len()).sum();
        let workers = by_worker.into_iter().map(|(worker, members)| (worker, members.into())).collect();
        Self { workers, connected }
    }
}

#[derive(Debug)]
struct Topic<S> {
    members: HashSet<ClientId>,
    /// None after a change, until the next publication
    audience: Option<Arc<Audience<S>>>,
}

#[derive(Debug)]
struct Client<S> {
    topics: BTreeSet<TopicId>,
    /// the session that gets publications
    session: Option<S>,
    /// since when the client has no session, while its subscriptions wait; None: it has one, even if that gets no
    /// publications
    absent_since: Option<Instant>,
}

/// Why a client may not subscribe.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotSubscribe {
    /// It has as many as it may (`limits.subscriptions_per_client`).
    #[error("the client has as many subscriptions as it may")]
    TooMany,
    /// As many as may wait for their clients to connect (`limits.waiting_subscriptions`).
    #[error("as many subscriptions as may wait for their clients to connect")]
    TooManyWaiting,
}

/// The subscriptions of all clients. `S` is the session handle.
#[derive(Debug)]
pub struct Subscriptions<S> {
    topics: HashMap<TopicId, Topic<S>>,
    clients: HashMap<ClientId, Client<S>>,
    per_client: usize,
    /// subscriptions that may wait for their clients to connect; 0 is no limit
    most_waiting: usize,
    waiting: usize,
}

impl<S: Location + Clone> Subscriptions<S> {
    /// An empty index in which a client has at most `per_client` subscriptions, and at most `most_waiting` of all wait for
    /// their clients to connect; 0 is no limit.
    pub fn new(per_client: usize, most_waiting: usize) -> Self {
        Self { topics: HashMap::new(), clients: HashMap::new(), per_client, most_waiting, waiting: 0 }
    }

    /// Subscribes a client. A second subscription to the same topic changes nothing.
    ///
    /// # Errors
    /// A limit is reached, of the client or of the subscriptions that wait.
    pub fn subscribe(&mut self, client: ClientId, topic: TopicId, now: Instant) -> Result<(), CannotSubscribe> {
        let known = self.clients.get(&client);
        let is_absent = known.is_none_or(|known| known.absent_since.is_some());
        let is_new = known.is_none_or(|known| !known.topics.contains(&topic));
        if is_absent && is_new && self.most_waiting > 0 && self.waiting >= self.most_waiting {
            return Err(CannotSubscribe::TooManyWaiting);
        }
        let entry = self.clients.entry(client).or_insert_with(|| Client {
            topics: BTreeSet::new(),
            session: None,
            absent_since: Some(now),
        });
        if entry.absent_since.is_some() {
            entry.absent_since = Some(now);
        }
        if entry.topics.contains(&topic) {
            return Ok(());
        }
        if self.per_client > 0 && entry.topics.len() >= self.per_client {
            return Err(CannotSubscribe::TooMany);
        }
        entry.topics.insert(topic.clone());
        self.waiting += usize::from(is_absent);
        let topic = self.topics.entry(topic).or_insert_with(|| Topic { members: HashSet::new(), audience: None });
        topic.members.insert(client);
        topic.audience = None;
        Ok(())
    }

    /// Unsubscribes a client. Returns whether it was subscribed.
    pub fn unsubscribe(&mut self, client: ClientId, topic: &TopicId) -> bool {
        let Some(entry) = self.clients.get_mut(&client) else { return false };
        let was = entry.topics.remove(topic);
        self.waiting -= usize::from(was && entry.absent_since.is_some());
        if entry.topics.is_empty() && entry.absent_since.is_some() {
            self.clients.remove(&client);
        }
        if was {
            self.forget_member(client, topic);
        }
        was
    }

    /// Ends all subscriptions to a deleted topic.
    pub fn remove_topic(&mut self, id: &TopicId) {
        let Some(topic) = self.topics.remove(id) else { return };
        for member in topic.members {
            let Some(entry) = self.clients.get_mut(&member) else { continue };
            let was = entry.topics.remove(id);
            self.waiting -= usize::from(was && entry.absent_since.is_some());
            if entry.topics.is_empty() && entry.absent_since.is_some() {
                self.clients.remove(&member);
            }
        }
    }

    /// Sets the session that gets the publications of a connected client, if it has one.
    pub fn connected(&mut self, client: ClientId, session: Option<S>) {
        let entry = self.clients.entry(client).or_insert_with(|| Client {
            topics: BTreeSet::new(),
            session: None,
            absent_since: None,
        });
        entry.session = session;
        if entry.absent_since.take().is_some() {
            self.waiting -= entry.topics.len();
        }
        for topic in &entry.topics {
            if let Some(topic) = self.topics.get_mut(topic) {
                topic.audience = None;
            }
        }
    }

    /// Ends all subscriptions of a client, whose last session has ended.
    pub fn disconnected(&mut self, client: ClientId) {
        if let Some(entry) = self.clients.remove(&client) {
            if entry.absent_since.is_some() {
                self.waiting -= entry.topics.len();
            }
            for topic in &entry.topics {
                self.forget_member(client, topic);
            }
        }
    }

    /// Ends the subscriptions of clients that have not connected for `wait`.
    pub fn drop_absent(&mut self, wait: Duration, now: Instant) {
        let absent: Vec<_> = self
            .clients
            .iter()
            .filter(|(_, entry)| entry.absent_since.is_some_and(|since| now.saturating_duration_since(since) >= wait))
            .map(|(client, _)| *client)
            .collect();
        absent.into_iter().for_each(|client| self.disconnected(client));
    }

    /// Whether a client is subscribed to a topic.
    pub fn is_subscribed(&self, client: ClientId, topic: &str) -> bool {
        self.topics.get(topic).is_some_and(|topic| topic.members.contains(&client))
    }

    /// The session in which a client gets a topic's publications, if it is subscribed and has one.
    pub fn session(&self, client: ClientId, topic: &str) -> Option<&S> {
        if self.is_subscribed(client, topic) { self.clients.get(&client)?.session.as_ref() } else { None }
    }

    /// Whether a topic has subscribers, connected or not.
    pub fn has_members(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// The connected subscribers of a topic.
    pub fn audience(&mut self, topic: &str) -> Option<Arc<Audience<S>>> {
        let topic = self.topics.get_mut(topic)?;
        if topic.audience.is_none() {
            let sessions = topic.members.iter().filter_map(|member| self.clients.get(member)?.session.clone());
            topic.audience = Some(Arc::new(Audience::of(sessions)));
        }
        topic.audience.clone()
    }

    /// All subscribers of a topic, connected or not.
    pub fn members(&self, topic: &str) -> Vec<ClientId> {
        self.topics.get(topic).map(|topic| topic.members.iter().copied().collect()).unwrap_or_default()
    }

    /// The number of subscribers of each topic that has any.
    pub fn counts(&self) -> HashMap<TopicId, usize> {
        self.topics.iter().map(|(id, topic)| (id.clone(), topic.members.len())).collect()
    }

    fn forget_member(&mut self, client: ClientId, id: &TopicId) {
        if let Some(topic) = self.topics.get_mut(id) {
            topic.members.remove(&client);
            topic.audience = None;
            if topic.members.is_empty() {
                self.topics.remove(id);
            }
        }
    }
}
