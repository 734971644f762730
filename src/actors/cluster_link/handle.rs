//! What is known of this node and the others, and how the link begins and ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::{Duration, Instant},
};

use actix::{Addr, ArbiterHandle, Recipient};
use uuid::Uuid;

use super::{
    ClusterLink, Neighbours,
    lease::Leave,
    server::{Server, ServerStatus},
};
use crate::{
    actors::HealthCheck,
    cluster::{
        Backplane, LocalBackplane,
        elsewhere::Elsewhere,
        envelope::{self, EnvelopeVersions},
        node::Node,
        shard::{Names, Shard},
    },
    delivery::Relays,
    settings::RedisAddress,
    store::Sharing,
};

/// How long the end of the lease may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The handle of the ClusterLink.
#[derive(Clone)]
pub struct Cluster {
    pub(super) shared: Arc<Shared>,
    /// `None` without Redis
    pub(super) link: Option<Addr<ClusterLink>>,
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
    pub publications: AtomicU64,
    relays: Arc<Relays>,
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
        (sharing, patience): (Sharing, Duration),
        relays: Arc<Relays>,
    ) -> anyhow::Result<Self> {
        let server = |address| {
            let shard = Arc::new(Shard::new(address, names.clone())?);
            anyhow::Ok(Arc::new(Server::new(shard)))
        };
        let servers = addresses.into_iter().map(server).collect::<Result<Vec<_>, _>>()?;
        let is_linked = !servers.is_empty();
        let (elsewhere, backlog, publications) = (Elsewhere::default(), Arc::default(), AtomicU64::new(1));
        let is_shared = sharing == Sharing::Shared;
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

    /// The version of the envelopes that this node and one that understands these send each other.
    pub fn version_with(&self, envelopes: EnvelopeVersions) -> Option<u8> {
        self.shared.node.envelopes.in_common_with(envelopes)
    }

    /// Whether publications wait at a node on their way to its sockets, as far as this one knows.
    pub fn is_congested(&self, node: Uuid) -> bool {
        if node == self.incarnation() {
            self.shared.relays.is_congested()
        } else {
            self.shared.elsewhere.congested().contains(node)
        }
    }

    /// The state of each Redis server.
    pub fn servers(&self) -> Vec<ServerStatus> {
        self.shared.servers.iter().map(|server| server.status()).collect()
    }

    /// Whether there is Redis, and all of it works; `None` without Redis.
    pub fn is_up(&self) -> Option<bool> {
        let servers = &self.shared.servers;
        if servers.is_empty() { None } else { Some(servers.iter().all(|server| server.is_up())) }
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
        let nodes = records.filter_map(|record| Node::read(&record));
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

impl Shared {
    /// The server that this node and another one use: the same for both.
    pub fn server_with(&self, node: Uuid) -> usize {
        let pair = self.node.incarnation.as_u128() ^ node.as_u128();
        // the bits of a random number, but for a few
        (pair % self.servers.len().max(1) as u128) as usize
    }

    /// The server with the counts of all nodes, if it works.
    pub fn counting(&self) -> Option<&Server> {
        self.servers.first().map(Arc::as_ref).filter(|server| server.is_up())
    }

    /// Whether the server is up that this node and another one use.
    pub fn is_linked_with(&self, node: Uuid) -> bool {
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
