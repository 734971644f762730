//! Who is subscribed to what, and where the subscribers' sockets are.
//!
//! A subscription belongs to a client, not to a socket. It may be made before the client connects, survives a takeover, and
//! ends when the client unsubscribes or its last socket disconnects (contract section 5). It is to a topic, or to all topics
//! that match a pattern (contract section 12); a client whose subscriptions match a topic more than once is one subscriber.

pub mod catching_up;
mod interest;
mod patterns;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    interest::Interest,
    patterns::{Matched, Patterns},
};
use super::{
    ids::{ClientId, TopicId},
    topics::pattern::Pattern,
};

/// Sessions in the audiences that are kept for topics with patterns. Beyond it all of these are dropped: a topic has an
/// audience of its own, however many topics a pattern matches.
const KEPT: usize = 1_000_000;

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

/// What a client subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subscription {
    /// The topic of this name.
    Topic(TopicId),
    /// The topics that match, also those that are created later.
    Pattern(Pattern),
}

#[derive(Debug)]
struct Topic<S> {
    /// those who are subscribed to it by name
    members: HashSet<ClientId>,
    /// None after a change of the members or their sessions, until the next publication
    audience: Option<Kept<S>>,
}

/// An audience that is kept for further publications.
#[derive(Debug)]
struct Kept<S> {
    audience: Arc<Audience<S>>,
    /// by which patterns
    matched: Matched,
    /// the version of all patterns when `matched` was right
    version: u64,
}

#[derive(Debug)]
struct Client<S> {
    subscriptions: BTreeSet<Subscription>,
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
    /// with members, or with an audience by patterns alone
    topics: HashMap<TopicId, Topic<S>>,
    patterns: Patterns,
    clients: HashMap<ClientId, Client<S>>,
    per_client: usize,
    /// subscriptions that may wait for their clients to connect; 0 is no limit
    most_waiting: usize,
    waiting: usize,
    /// sessions in the kept audiences that patterns have a part in
    kept: usize,
    /// none without other nodes
    interest: Option<Interest>,
}

impl<S: Location + Clone> Subscriptions<S> {
    /// From now on a client may have `per_client` subscriptions, and `most_waiting` of all may wait for their clients to connect;
    /// 0 is no limit. Those that exist stay.
    pub fn set_limits(&mut self, per_client: usize, most_waiting: usize) {
        (self.per_client, self.most_waiting) = (per_client, most_waiting);
    }

    /// An empty index with these limits; see [`Self::set_limits`].
    pub fn new(per_client: usize, most_waiting: usize) -> Self {
        Self {
            topics: HashMap::new(),
            patterns: Patterns::default(),
            clients: HashMap::new(),
            per_client,
            most_waiting,
            waiting: 0,
            kept: 0,
            interest: None,
        }
    }

    /// From now on [`Subscriptions::take_changed`] says what has subscribers.
    pub fn count_for_others(&mut self) {
        self.interest = Some(Interest::default());
    }

    /// The topics and patterns of which the number of subscribers has changed since the last time, with that number.
    pub fn take_changed(&mut self) -> Vec<(Subscription, usize)> {
        self.interest.as_mut().map(Interest::take_changed).unwrap_or_default()
    }

    /// The number of subscribers is to be announced: other nodes expect one who could not subscribe.
    pub fn announce(&mut self, subscription: Subscription) {
        if let Some(interest) = &mut self.interest {
            interest.is_expected(subscription);
        }
    }

    /// Ends the subscriptions of a client that has no session here, and returns them.
    pub fn take_of_absent(&mut self, client: ClientId) -> Vec<Subscription> {
        if self.clients.get(&client).is_none_or(|entry| entry.absent_since.is_none()) {
            return Vec::new();
        }
        let subscriptions = self.of_client(client).cloned().collect();
        self.disconnected(client);
        subscriptions
    }

    /// Subscribes a client. A second subscription to the same changes nothing.
    ///
    /// # Errors
    /// A limit is reached, of the client or of the subscriptions that wait.
    pub fn subscribe(
        &mut self,
        client: ClientId,
        subscription: Subscription,
        now: Instant,
    ) -> Result<(), CannotSubscribe> {
        let known = self.clients.get(&client);
        let is_absent = known.is_none_or(|known| known.absent_since.is_some());
        let is_new = known.is_none_or(|known| !known.subscriptions.contains(&subscription));
        if is_absent && is_new && self.most_waiting > 0 && self.waiting >= self.most_waiting {
            return Err(CannotSubscribe::TooManyWaiting);
        }
        let entry = self.clients.entry(client).or_insert_with(|| Client {
            subscriptions: BTreeSet::new(),
            session: None,
            absent_since: Some(now),
        });
        if entry.absent_since.is_some() {
            entry.absent_since = Some(now);
        }
        if !is_new {
            return Ok(());
        }
        if self.per_client > 0 && entry.subscriptions.len() >= self.per_client {
            return Err(CannotSubscribe::TooMany);
        }
        entry.subscriptions.insert(subscription.clone());
        self.waiting += usize::from(is_absent);
        if let Some(interest) = &mut self.interest {
            interest.begins(&subscription);
        }
        match subscription {
            Subscription::Topic(topic) => {
                let topic = self.topics.entry(topic).or_default();
                topic.members.insert(client);
                topic.audience = None;
            }
            Subscription::Pattern(pattern) => self.patterns.insert(&pattern, client),
        }
        Ok(())
    }

    /// Ends a client's subscription to the topic of this name, and to the pattern with this text. Returns whether it had one.
    pub fn unsubscribe(&mut self, client: ClientId, id: &TopicId) -> bool {
        let Some(entry) = self.clients.get_mut(&client) else { return false };
        let ended: Vec<_> = entry.subscriptions.extract_if(.., |subscription| subscription.id() == id).collect();
        if entry.absent_since.is_some() {
            self.waiting -= ended.len();
            if entry.subscriptions.is_empty() {
                self.clients.remove(&client);
            }
        }
        ended.iter().for_each(|subscription| self.forget(client, subscription));
        !ended.is_empty()
    }

    /// Ends all subscriptions to a deleted topic by its name.
    pub fn remove_topic(&mut self, id: &TopicId) {
        let Some(topic) = self.topics.remove(id) else { return };
        let subscription = Subscription::Topic(id.clone());
        if let Some(interest) = &mut self.interest {
            interest.all_end(&subscription);
        }
        for member in topic.members {
            let Some(entry) = self.clients.get_mut(&member) else { continue };
            let was = entry.subscriptions.remove(&subscription);
            self.waiting -= usize::from(was && entry.absent_since.is_some());
            if entry.subscriptions.is_empty() && entry.absent_since.is_some() {
                self.clients.remove(&member);
            }
        }
    }

    /// Sets the session that gets the publications of a connected client, if it has one.
    pub fn connected(&mut self, client: ClientId, session: Option<S>) {
        let entry = self.clients.entry(client).or_insert_with(|| Client {
            subscriptions: BTreeSet::new(),
            session: None,
            absent_since: None,
        });
        entry.session = session;
        if entry.absent_since.take().is_some() {
            self.waiting -= entry.subscriptions.len();
        }
        for subscription in &entry.subscriptions {
            match subscription {
                Subscription::Topic(topic) => {
                    if let Some(topic) = self.topics.get_mut(topic) {
                        topic.audience = None;
                    }
                }
                Subscription::Pattern(pattern) => self.patterns.touch(pattern),
            }
        }
    }

    /// Ends all subscriptions of a client, whose last session has ended.
    pub fn disconnected(&mut self, client: ClientId) {
        if let Some(entry) = self.clients.remove(&client) {
            if entry.absent_since.is_some() {
                self.waiting -= entry.subscriptions.len();
            }
            entry.subscriptions.iter().for_each(|subscription| self.forget(client, subscription));
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

    /// A client's subscriptions, in any order.
    pub fn of_client(&self, client: ClientId) -> impl Iterator<Item = &Subscription> {
        self.clients.get(&client).into_iter().flat_map(|entry| &entry.subscriptions)
    }

    /// Whether a client is subscribed to a topic, by its name or by a pattern.
    pub fn is_subscribed(&self, client: ClientId, topic: &str) -> bool {
        if self.topics.get(topic).is_some_and(|topic| topic.members.contains(&client)) {
            return true;
        }
        let mut found = false;
        self.patterns.visit(topic, |subscribers| found = found || subscribers.clients.contains(&client));
        found
    }

    /// The session in which a client gets publications, if it has one.
    pub fn session_of(&self, client: ClientId) -> Option<&S> {
        self.clients.get(&client)?.session.as_ref()
    }

    /// The session in which a client gets a topic's publications, if it is subscribed and has one.
    pub fn session(&self, client: ClientId, topic: &str) -> Option<&S> {
        if self.is_subscribed(client, topic) { self.session_of(client) } else { None }
    }

    /// The connected subscribers of a topic; `None` if it has no subscribers.
    pub fn audience(&mut self, topic: &TopicId) -> Option<Arc<Audience<S>>> {
        let version = self.patterns.version();
        if let Some(Topic { audience: Some(kept), .. }) = self.topics.get_mut(topic) {
            if kept.version == version {
                return Some(kept.audience.clone());
            }
            if self.patterns.matched(topic.as_str()) == kept.matched {
                kept.version = version;
                return Some(kept.audience.clone());
            }
        }
        let matched = self.patterns.matched(topic.as_str());
        let members = self.members(topic.as_str());
        if members.is_empty() {
            self.topics.remove(topic);
            return None;
        }
        let sessions = members.iter().filter_map(|member| self.clients.get(member)?.session.clone());
        let audience = Arc::new(Audience::of(sessions));
        if matched.patterns > 0 {
            self.make_room(audience.connected);
        }
        let entry = self.topics.entry(topic.clone()).or_default();
        entry.audience = Some(Kept { audience: audience.clone(), matched, version });
        Some(audience)
    }

    /// Counts the sessions of another audience that is kept. Drops the others if they are too many.
    fn make_room(&mut self, sessions: usize) {
        self.kept += sessions + 1;
        if self.kept <= KEPT {
            return;
        }
        self.kept = sessions + 1;
        self.topics.retain(|_, topic| {
            topic.audience.take_if(|kept| kept.matched.patterns > 0);
            !topic.members.is_empty()
        });
    }

    /// All subscribers of a topic, connected or not, in any order.
    pub fn members(&self, topic: &str) -> Vec<ClientId> {
        let by_name = self.topics.get(topic).map(|topic| &topic.members);
        let mut members: Vec<ClientId> = by_name.into_iter().flatten().copied().collect();
        let mut sets = usize::from(!members.is_empty());
        self.patterns.visit(topic, |subscribers| {
            members.extend(&subscribers.clients);
            sets += 1;
        });
        if sets > 1 {
            members.sort_unstable();
            members.dedup();
        }
        members
    }

    /// The number of subscribers of a topic.
    pub fn count(&self, topic: &str) -> usize {
        let by_name = self.topics.get(topic).map_or(0, |topic| topic.members.len());
        if self.patterns.matched(topic).patterns == 0 { by_name } else { self.members(topic).len() }
    }

    /// Ends a client's part in what a subscription leads to.
    fn forget(&mut self, client: ClientId, subscription: &Subscription) {
        if let Some(interest) = &mut self.interest {
            interest.ends(subscription);
        }
        match subscription {
            Subscription::Topic(id) => {
                let Some(topic) = self.topics.get_mut(id) else { return };
                topic.members.remove(&client);
                topic.audience = None;
                if topic.members.is_empty() {
                    self.topics.remove(id);
                }
            }
            Subscription::Pattern(pattern) => self.patterns.remove(pattern, client),
        }
    }
}

impl<S> Default for Topic<S> {
    fn default() -> Self {
        Self { members: HashSet::new(), audience: None }
    }
}

impl Subscription {
    /// The topic's name, or the text of the pattern.
    pub fn id(&self) -> &TopicId {
        match self {
            Self::Topic(topic) => topic,
            Self::Pattern(pattern) => pattern.id(),
        }
    }

    /// Whether publications to a topic belong to it.
    pub fn includes(&self, topic: &str) -> bool {
        match self {
            Self::Topic(id) => id.as_str() == topic,
            Self::Pattern(pattern) => pattern.matches(topic),
        }
    }
}
