//! What is known of the Redis servers, the nodes and their clients, and how this node asks the others for something.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Addr, ArbiterHandle, Recipient};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    ClusterLink, Neighbours,
    direct::Forward,
    lease::Leave,
    presence::{AwaitAnnounced, ClientChanged},
    rooms::OccupantChanged,
    topics::{Ask, InterestChanged, Publish, Send, To},
};
use crate::{
    actors::HealthCheck,
    cluster::{
        Backplane, Counted, Forwarding, LocalBackplane, Origin,
        elsewhere::{Elsewhere, Place},
        envelope::{self, Answer, Question},
        node::Node,
        shard::{Names, Shard, ShardError},
    },
    delivery::Relays,
    domain::{
        ids::{ClientId, TopicId},
        rooms::OccupantState,
        topics::history::Kept,
    },
    protocol::wire,
    settings::{self, RedisAddress},
};

/// The age at which what is known of other nodes is outdated. Pings come back every second, and a link is down after three.
const OUTDATED: Duration = Duration::from_millis(2500);

/// Bytes that wait to be published above which publishers wait.
const CONGESTED: usize = 8 * 1024 * 1024;

/// How long the end of the lease may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The handle of the ClusterLink.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    /// `None` without Redis
    link: Option<Addr<ClusterLink>>,
}

/// This node, and its servers.
pub(super) struct Shared {
    pub node: Node,
    pub servers: Vec<Arc<Server>>,
    /// the nodes with a lease, as the ClusterLink knows them
    peers: Mutex<BTreeSet<Uuid>>,
    /// the clients of other nodes
    pub elsewhere: Elsewhere,
    /// whether other nodes serve the same database
    pub is_shared: bool,
    /// how long another node may take to answer
    pub patience: Duration,
    /// bytes that wait to be published
    pub backlog: Arc<AtomicUsize>,
    /// the number of the next publication for other nodes
    publications: AtomicU64,
    relays: Arc<Relays>,
}

/// A Redis server, and what is known of it.
pub(super) struct Server {
    pub shard: Arc<Shard>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// `None` until the first attempt has succeeded or failed
    is_up: Option<bool>,
    /// since the link was up last, or began
    error: Option<String>,
    round_trip: Option<Duration>,
    /// when the last ping was sent that came back: all that came before through the inbox is handled
    current_at: Option<Instant>,
    /// what came through the inbox and was no envelope
    pub refused: u64,
}

/// The link to a Redis server, as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Without credentials.
    pub address: String,
    /// Whether the node has its lease there.
    pub is_up: bool,
    /// Why not, if that is known.
    pub error: Option<String>,
    /// How long the last ping took from this node to itself.
    pub round_trip: Option<Duration>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("servers", &self.servers()).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts the link of this node to Redis servers, if there are any. They need not be there yet. It begins with [`Cluster::link`].
    ///
    /// # Errors
    /// An address cannot be used.
    pub fn start(
        arbiter: &ArbiterHandle,
        node: Node,
        addresses: Vec<RedisAddress>,
        names: &Names,
        settings: &settings::Cluster,
        relays: Arc<Relays>,
    ) -> anyhow::Result<Self> {
        let server = |address| {
            let shard = Arc::new(Shard::new(address, names.clone())?);
            anyhow::Ok(Arc::new(Server { shard, state: Mutex::default() }))
        };
        let servers = addresses.into_iter().map(server).collect::<Result<Vec<_>, _>>()?;
        let is_linked = !servers.is_empty();
        let (elsewhere, backlog, publications) = (Elsewhere::default(), Arc::default(), AtomicU64::new(1));
        let (is_shared, patience) = (settings.preview, Duration::from_millis(settings.timeout_ms));
        let shared = Shared {
            node,
            servers,
            peers: Mutex::default(),
            elsewhere,
            is_shared,
            patience,
            backlog,
            publications,
            relays,
        };
        let shared = Arc::new(shared);
        let link = is_linked.then(|| ClusterLink::start(arbiter, shared.clone()));
        Ok(Self { shared, link })
    }

    /// Links this node to the servers.
    pub fn link(&self, neighbours: Neighbours) {
        if let Some(link) = &self.link {
            link.do_send(neighbours);
        }
    }

    /// Whether there may be other nodes.
    pub fn is_shared(&self) -> bool {
        self.link.is_some() && self.shared.is_shared
    }

    /// The connection to other nodes, if there may be any.
    pub fn backplane(&self) -> Arc<dyn Backplane> {
        if self.is_shared() { Arc::new(self.clone()) } else { Arc::new(LocalBackplane) }
    }

    /// The incarnation of this node.
    pub fn incarnation(&self) -> Uuid {
        self.shared.node.incarnation
    }

    /// The state of each Redis server.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let status = |server: &Arc<Server>| {
            let state = server.state();
            let is_up = state.is_up();
            ServerStatus {
                address: server.shard.address().to_string(),
                is_up,
                error: state.error.clone().filter(|_| !is_up),
                round_trip: state.round_trip.filter(|_| is_up),
            }
        };
        self.shared.servers.iter().map(status).collect()
    }

    /// Whether there is Redis, and all of it works; `None` without Redis.
    pub fn is_up(&self) -> Option<bool> {
        let servers = &self.shared.servers;
        if servers.is_empty() { None } else { Some(servers.iter().all(|server| server.state().is_up())) }
    }

    /// Whether much may have happened at other nodes that this one has not heard of, although the link is up: it was stopped, or is
    /// overloaded. Frames from devices wait then, since the device may have gone on at another node.
    pub fn is_outdated(&self) -> bool {
        let now = Instant::now();
        self.is_shared() && self.shared.servers.iter().any(|server| server.is_outdated(now))
    }

    /// Waits until [`Cluster::is_outdated`] is false.
    pub async fn current(&self) {
        let pause = Duration::from_millis(10);
        while self.is_outdated() {
            tokio::time::sleep(pause).await;
        }
        // what has been heard is acted upon meanwhile
        tokio::time::sleep(pause).await;
    }

    /// Whether the clients of all other nodes are known.
    pub fn is_complete(&self) -> bool {
        !self.is_shared() || self.shared.elsewhere.is_complete()
    }

    /// All nodes that have a lease on a server that answers, and this one.
    pub async fn nodes(&self) -> Vec<Node> {
        let asked = self.shared.servers.iter().map(|server| server.shard.nodes());
        let records = futures_util::future::join_all(asked).await.into_iter().flatten().flatten();
        // what a node of another version cannot say is left out
        let nodes = records.filter_map(|record| serde_json::from_str::<Node>(&record).ok());
        let mut nodes: BTreeMap<_, _> = nodes.map(|node| (node.incarnation, node)).collect();
        nodes.insert(self.shared.node.incarnation, self.shared.this_node());
        let mut nodes: Vec<_> = nodes.into_values().collect();
        nodes.sort_by(|one, other| one.started_at.cmp(&other.started_at));
        nodes
    }

    /// Tells the other nodes that this one stops, so that its clients, which connect to others, are missing in no list.
    pub fn begin_to_leave(&self) {
        if self.is_shared() {
            self.send_to_all(envelope::Message::Leaving);
        }
    }

    /// Ends the lease of this node.
    pub async fn leave(&self) {
        if let Some(link) = &self.link {
            // else it ends by itself
            let _ = tokio::time::timeout(PATIENCE, link.send(Leave)).await;
        }
    }

    /// For health checks; `None` without Redis.
    pub(crate) fn recipient(&self) -> Option<Recipient<HealthCheck>> {
        self.link.clone().map(Addr::recipient)
    }
}

#[async_trait]
impl Backplane for Cluster {
    fn elsewhere(&self) -> &Elsewhere {
        &self.shared.elsewhere
    }

    fn incarnation(&self) -> Uuid {
        self.shared.node.incarnation
    }

    fn is_shared(&self) -> bool {
        self.is_shared()
    }

    fn occupant_changed(&self, occupant: OccupantState, is_told: bool) {
        if let Some(link) = &self.link {
            link.do_send(OccupantChanged { occupant, is_told });
        }
    }

    fn send_to_room(&self, nodes: Vec<Uuid>, message: envelope::Message) {
        if let Some(link) = &self.link {
            link.do_send(Send { to: To::SomeAndUnknown(nodes), message });
        }
    }

    fn client_changed(&self, client: ClientId) {
        if let Some(link) = &self.link {
            link.do_send(ClientChanged(client));
        }
    }

    async fn announced(&self) {
        if let Some(link) = &self.link {
            let (waiting, announced) = oneshot::channel();
            link.do_send(AwaitAnnounced(vec![waiting]));
            // completes with an error, since the sender is dropped
            let _ = announced.await;
        }
    }

    fn commandable(&self, client: ClientId) -> Place {
        match self.shared.elsewhere.commandable(client) {
            Place::Node(node) if !self.shared.is_linked_with(node) => Place::Unknown,
            place => place,
        }
    }

    fn nodes(&self) -> Vec<Uuid> {
        self.shared.peers().iter().copied().collect()
    }

    fn interest_changed(&self, changed: Vec<((String, bool), usize)>) {
        if let Some(link) = &self.link {
            link.do_send(InterestChanged(changed));
        }
    }

    fn publish(&self, topic: &TopicId, from: Origin, kept: Option<Kept>, frame: &Bytes) -> Option<u64> {
        let link = self.link.as_ref().filter(|_| !self.shared.elsewhere.subscribers(topic.as_str()).is_empty())?;
        let number = self.shared.publications.fetch_add(1, Ordering::Relaxed);
        link.do_send(Publish { number, topic: topic.clone(), from, kept, text: wire::payload(frame) });
        Some(number)
    }

    fn send(&self, node: Uuid, message: envelope::Message) {
        if let Some(link) = &self.link {
            link.do_send(Send { to: To::Node(node), message });
        }
    }

    fn send_to_all(&self, message: envelope::Message) {
        if let Some(link) = &self.link {
            link.do_send(Send { to: To::All, message });
        }
    }

    async fn ask(&self, node: Uuid, question: Question) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.link.as_ref()?.do_send(Ask { node, question, answer });
        answered.await.ok()
    }

    async fn count(&self, what: &[String], limit: u32) -> Counted {
        let Some(server) = self.shared.counting() else { return Counted::Here };
        match server.shard.count(what, limit).await {
            Ok(None) => Counted::Everywhere,
            Ok(Some(wait)) => Counted::TooMany(wait),
            Err(error) => {
                server.failed(&error);
                Counted::Here
            }
        }
    }

    async fn give_back(&self, what: &[String]) {
        if let Some(server) = self.shared.counting()
            && let Err(error) = server.shard.give_back(what).await
        {
            server.failed(&error);
        }
    }

    fn is_congested(&self) -> bool {
        self.shared.backlog.load(Ordering::Relaxed) > CONGESTED
    }

    fn forward(&self, to: ClientId, from: Origin, text: Bytes) -> Forwarding {
        let node = match self.shared.elsewhere.device(to) {
            Place::Node(node) => node,
            Place::Nowhere => return Forwarding::Absent,
            Place::Unknown => return Forwarding::Unavailable,
        };
        let Some(link) = self.link.as_ref().filter(|_| self.shared.is_linked_with(node)) else {
            return Forwarding::Unavailable;
        };
        let (outcome, known) = oneshot::channel();
        link.do_send(Forward { node, to, from, text, outcome });
        Forwarding::UnderWay(known)
    }
}

impl Shared {
    /// The server that this node and another one use: the same for both.
    pub fn server_with(&self, node: Uuid) -> usize {
        let pair = self.node.incarnation.as_u128() ^ node.as_u128();
        // the bits of a random number, but for a few
        (pair % self.servers.len().max(1) as u128) as usize
    }

    /// The server with the counts of all nodes, if it works.
    fn counting(&self) -> Option<&Server> {
        self.servers.first().map(Arc::as_ref).filter(|server| server.is_up())
    }

    /// Whether the server is up that this node and another one use.
    fn is_linked_with(&self, node: Uuid) -> bool {
        self.servers.get(self.server_with(node)).is_some_and(|server| server.is_up())
    }

    /// The nodes with a lease.
    pub fn peers(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn this_node(&self) -> Node {
        Node { sockets: self.relays.session_count(), ..self.node.clone() }
    }

    /// The record of this node.
    pub fn record(&self) -> String {
        // it has texts and numbers alone
        serde_json::to_string(&self.this_node()).unwrap_or_default()
    }
}

impl State {
    fn is_up(&self) -> bool {
        self.is_up == Some(true)
    }
}

impl Server {
    /// Whether the node has its lease there.
    pub fn is_up(&self) -> bool {
        self.state().is_up()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something went wrong. Whether the link is down is shown later, since the lease may last longer.
    pub fn failed(&self, error: &ShardError) {
        self.state().error = Some(error.to_string());
    }

    /// A ping has come back that was sent at this time.
    pub fn heard(&self, sent: Instant) {
        self.state().current_at = Some(sent);
    }

    /// Whether the link is up, and nothing has come through the inbox for so long that much may have happened.
    fn is_outdated(&self, now: Instant) -> bool {
        let state = self.state();
        state.is_up() && state.current_at.is_some_and(|at| now.saturating_duration_since(at) > OUTDATED)
    }

    /// The lease was renewed by a ping that took so long.
    pub fn renewed(&self, round_trip: Duration) {
        self.state().round_trip = Some(round_trip);
    }

    /// Shows whether the node has its lease, and logs when that changes, or when the first attempt has failed.
    pub fn show(&self, is_up: bool) {
        let mut state = self.state();
        let address = self.shard.address();
        if state.is_up.replace(is_up) == Some(is_up) {
            return;
        }
        if is_up {
            state.error = None;
            tracing::info!(%address, "linked to Redis");
        } else {
            let error = state.error.as_deref().unwrap_or("no ping came back");
            tracing::error!(%address, error, "Redis is away");
        }
    }
}
