//! Who is subscribed to what, and where the subscribers' sockets are.
//!
//! A subscription belongs to a client, not to a socket. It may be made before the client connects, survives a takeover, and
//! ends when the client unsubscribes or its last socket disconnects (contract section 5).

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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct At(usize);
    impl Location for At {
        fn worker(&self) -> usize {
            self.0
        }
        fn id(&self) -> u64 {
            0
        }
    }

    fn index() -> (Subscriptions<At>, Instant) {
        (Subscriptions::new(2, 0), Instant::now())
    }

    fn connected(index: &mut Subscriptions<At>, topic: &str) -> usize {
        index.audience(topic).map_or(0, |audience| audience.connected)
    }

    #[test]
    fn a_subscription_waits_for_its_client_to_connect() {
        let (mut index, now) = index();
        let client = ClientId::random();
        index.subscribe(client, "t".into(), now).unwrap();
        assert_eq!(connected(&mut index, "t"), 0);
        index.connected(client, Some(At(1)));
        assert_eq!(connected(&mut index, "t"), 1);
    }

    #[test]
    fn subscribing_twice_is_subscribing_once() {
        let (mut index, now) = index();
        let client = ClientId::random();
        index.subscribe(client, "t".into(), now).unwrap();
        index.subscribe(client, "t".into(), now).unwrap();
        assert_eq!(index.members("t"), [client]);
    }

    #[test]
    fn a_takeover_moves_the_member_and_keeps_its_subscriptions() {
        let (mut index, now) = index();
        let client = ClientId::random();
        index.subscribe(client, "t".into(), now).unwrap();
        index.connected(client, Some(At(0)));
        assert_eq!(index.audience("t").unwrap().workers[0].0, 0);
        index.connected(client, Some(At(3)));
        let audience = index.audience("t").unwrap();
        assert_eq!((audience.connected, audience.workers[0].0), (1, 3));
    }

    #[test]
    fn the_last_socket_takes_the_subscriptions_with_it() {
        let (mut index, now) = index();
        let client = ClientId::random();
        index.subscribe(client, "t".into(), now).unwrap();
        index.connected(client, Some(At(0)));
        index.disconnected(client);
        assert!(!index.is_subscribed(client, "t"));
        assert!(index.topics.is_empty() && index.clients.is_empty());
    }

    #[test]
    fn a_client_has_no_more_subscriptions_than_it_may() {
        let (mut index, now) = index();
        let client = ClientId::random();
        index.subscribe(client, "a".into(), now).unwrap();
        index.subscribe(client, "b".into(), now).unwrap();
        assert_eq!(index.subscribe(client, "c".into(), now), Err(CannotSubscribe::TooMany));
        assert!(index.unsubscribe(client, &"a".into()));
        assert!(!index.unsubscribe(client, &"a".into()));
        index.subscribe(client, "c".into(), now).unwrap();
    }

    #[test]
    fn only_so_many_subscriptions_wait_for_clients_that_are_absent() {
        let now = Instant::now();
        let mut index: Subscriptions<At> = Subscriptions::new(0, 2);
        let (a, b, present) = (ClientId::random(), ClientId::random(), ClientId::random());
        index.connected(present, Some(At(0)));
        index.subscribe(a, "s".into(), now).unwrap();
        index.subscribe(a, "t".into(), now).unwrap();
        index.subscribe(a, "t".into(), now).unwrap();
        assert_eq!(index.subscribe(b, "t".into(), now), Err(CannotSubscribe::TooManyWaiting));
        assert!(!index.clients.contains_key(&b), "nothing is kept of what was refused");
        index.subscribe(present, "t".into(), now).unwrap();
        index.unsubscribe(a, &"s".into());
        index.subscribe(b, "t".into(), now).unwrap();
        index.connected(a, Some(At(0)));
        index.subscribe(b, "s".into(), now).unwrap();
        index.drop_absent(Duration::ZERO, now);
        assert_eq!(index.waiting, 0);
        index.disconnected(a);
        index.disconnected(present);
        assert!(index.waiting == 0 && index.clients.is_empty());
    }

    #[test]
    fn subscriptions_of_clients_that_never_come_are_dropped() {
        let (mut index, now) = index();
        let (absent, present) = (ClientId::random(), ClientId::random());
        for client in [absent, present] {
            index.subscribe(client, "t".into(), now).unwrap();
        }
        index.connected(present, Some(At(0)));
        index.drop_absent(Duration::from_secs(10), now + Duration::from_secs(9));
        assert_eq!(index.members("t").len(), 2);
        index.drop_absent(Duration::from_secs(10), now + Duration::from_secs(10));
        assert_eq!(index.members("t"), [present]);
    }

    #[test]
    fn a_client_with_a_socket_that_gets_no_publications_keeps_its_subscriptions() {
        let (mut index, now) = index();
        let client = ClientId::random();
        index.connected(client, Some(At(0)));
        index.subscribe(client, "t".into(), now).unwrap();
        index.connected(client, None);
        assert_eq!(connected(&mut index, "t"), 0);
        index.drop_absent(Duration::ZERO, now + Duration::from_secs(1));
        assert_eq!(index.members("t"), [client]);
        index.disconnected(client);
        assert!(index.members("t").is_empty());
    }

    #[test]
    fn a_topic_that_is_deleted_takes_all_subscriptions_to_it_along() {
        let (mut index, now) = index();
        let (absent, present) = (ClientId::random(), ClientId::random());
        for client in [absent, present] {
            index.subscribe(client, "t".into(), now).unwrap();
        }
        index.subscribe(present, "other".into(), now).unwrap();
        index.connected(present, Some(At(0)));
        index.remove_topic(&"t".into());
        assert!(!index.is_subscribed(present, "t") && index.audience("t").is_none());
        assert!(index.is_subscribed(present, "other") && !index.clients.contains_key(&absent));
        assert_eq!(index.waiting, 0);
        // the limit per client counts it no more
        index.subscribe(present, "t".into(), now).unwrap();
        assert_eq!(connected(&mut index, "t"), 1);
    }

    #[test]
    fn members_are_grouped_by_worker() {
        let (mut index, now) = index();
        for worker in [0, 1, 0] {
            let client = ClientId::random();
            index.subscribe(client, "t".into(), now).unwrap();
            index.connected(client, Some(At(worker)));
        }
        let audience = index.audience("t").unwrap();
        let mut sizes: Vec<_> = audience.workers.iter().map(|(worker, members)| (*worker, members.len())).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [(0, 2), (1, 1)]);
    }
}
