//! The nodes, and what is done to them.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use tokio::time::timeout;

use super::{NODES, world::World};
use crate::{
    api::support::{Broker, ChangeBroker, SteppedClock},
    nodes::{SECRET, Shared},
    proxy::{Proxy, Way},
    redis::Redis,
};

/// Most seconds that the clock of a node is ahead or behind.
const HOUR: i64 = 3600;

/// A node, which may be down.
struct Node {
    broker: Option<Broker>,
    setup: Option<ChangeBroker>,
    proxy: Proxy,
    clock: SteppedClock,
    is_stopped: bool,
}

pub struct Cluster {
    shared: Shared,
    /// another Redis server, which takes over
    other: Redis,
    /// whether it is the one that nodes are to use
    has_taken_over: bool,
    nodes: Vec<Node>,
}

impl Cluster {
    pub async fn start() -> Self {
        let shared = Shared::start().await;
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            let proxy = Proxy::of(shared.redis.address()).await;
            let mut setup = shared.node().env("REDIS_URL", &proxy.url()).env("SECRET_KEY", SECRET);
            // tokens outlive every step of the clocks
            for (key, value) in [
                ("CLUSTER__TIMEOUT_MS", "1000"),
                ("LIMITS__STORED_BYTES_PER_MINUTE", "0"),
                // all operators are one, whose requests a node that is stopped holds up
                ("LIMITS__READS_PER_IDENTITY", "1000"),
                ("AUTH__ACCESS_TOKEN_MINUTES", "1440"),
            ] {
                setup = setup.set(key, value);
            }
            let (clock, setup) = SteppedClock::of(setup);
            nodes.push(Node { broker: Some(setup.start().await), setup: None, proxy, clock, is_stopped: false });
        }
        Self { shared, other: Redis::start().await, has_taken_over: false, nodes }
    }

    /// The nodes that run.
    pub fn brokers(&mut self) -> impl Iterator<Item = &mut Broker> {
        self.nodes.iter_mut().filter_map(|node| node.broker.as_mut())
    }

    /// Shows clients where the nodes are.
    pub fn show(&self, world: &World) {
        for (index, node) in self.nodes.iter().enumerate() {
            world.show(index, node.broker.as_ref().map(|broker| broker.url.clone()));
        }
    }

    /// Says which nodes have ended by themselves, which none should.
    pub async fn look(&mut self, world: &World) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let Some(broker) = &mut node.broker else { continue };
            if let Ok(code) = timeout(Duration::ZERO, broker.ended()).await {
                world.finding(&format!("node {index} has ended with {code:?}"));
            }
        }
    }

    /// Copies the logs of the nodes to where they stay. Returns the folder.
    pub async fn keep_logs(&mut self, seed: u64) -> String {
        let folder = std::env::temp_dir().join(format!("switchboard-schedule-{seed}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let setup = node.broker.as_mut().map(Broker::setup).or(node.setup.as_mut());
            let log = setup.expect("one of them").dir().join("log");
            drop(std::fs::copy(log, folder.join(format!("node-{index}.log"))));
        }
        // the newest messages, as the database has them
        let rows = "SELECT string_agg(row::text, E'\\n') FROM (SELECT id, msgid, sender, recipient, state, attempts, created_at, sent_at, ended_at, xmin FROM acknowledged_messages ORDER BY id DESC LIMIT 3000) AS row";
        let devices =
            "SELECT string_agg(row::text, E'\\n') FROM (SELECT uuid, name, newest_socket FROM devices) AS row";
        for (name, query) in [("messages", rows), ("devices", devices)] {
            let text = self.shared.read(query).await;
            std::fs::write(folder.join(name), text).unwrap();
        }
        folder.display().to_string()
    }

    async fn kill(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if let Some(broker) = node.broker.take() {
            node.setup = Some(broker.kill().await);
            node.is_stopped = false;
        }
    }

    async fn start_again(&mut self, node: usize) {
        if let Some(setup) = self.nodes[node].setup.take() {
            // a start waits for fifteen seconds for the transactions of nodes that are stopped, which may wait for each other for
            // longer with the deadline of the database that tests have
            (0..NODES).for_each(|node| self.go_on(node));
            self.nodes[node].broker = Some(setup.start().await);
        }
    }

    fn stop(&mut self, node: usize) {
        if let Some(broker) = &self.nodes[node].broker {
            broker.signal("STOP");
            self.nodes[node].is_stopped = true;
        }
    }

    fn go_on(&mut self, node: usize) {
        if let Some(broker) = self.nodes[node].broker.as_ref().filter(|_| self.nodes[node].is_stopped) {
            broker.signal("CONT");
            self.nodes[node].is_stopped = false;
        }
    }

    /// The Redis server that nodes are to use.
    fn redis(&mut self) -> &mut Redis {
        if self.has_taken_over { &mut self.other } else { &mut self.shared.redis }
    }

    /// Leads a node to the Redis server that it is to use.
    fn lead(&mut self, node: usize) {
        let server = self.redis().address();
        self.nodes[node].proxy.lead_to(server);
    }

    fn step(&self, node: usize, random: &mut StdRng) -> i64 {
        let most = match random.random_range(0..3) {
            0 => 10,
            1 => HOUR / 6,
            _ => HOUR,
        };
        let seconds = random.random_range(-most..=most);
        self.nodes[node].clock.set_date(seconds);
        seconds
    }

    /// Does one thing, and prints it before.
    pub async fn disturb(&mut self, random: &mut StdRng, world: &Arc<World>) {
        let node = random.random_range(0..NODES);
        let say = |text: &str| println!("{}", world.note(text));
        match random.random_range(0..15) {
            0 | 1 => {
                say(&format!("node {node} is killed"));
                self.kill(node).await;
            }
            2 | 3 => {
                say(&format!("node {node} is stopped"));
                self.stop(node);
            }
            4 => {
                say(&format!("node {node} is cut from Redis"));
                self.nodes[node].proxy.set(Way::Cut);
            }
            5 => {
                say(&format!("nothing passes between node {node} and Redis"));
                self.nodes[node].proxy.set(Way::Held);
            }
            6 => {
                say("Redis comes back empty");
                self.redis().kill().await;
                self.redis().run().await;
            }
            7 => {
                self.has_taken_over = !self.has_taken_over;
                let led: Vec<_> = (0..NODES).filter(|_| random.random_bool(0.7)).collect();
                say(&format!("another Redis server takes over, of which the nodes {led:?} hear"));
                led.into_iter().for_each(|node| self.lead(node));
            }
            8..=10 => {
                let seconds = self.step(node, random);
                say(&format!("the clock of node {node} is {seconds} seconds ahead"));
            }
            _ => {
                say(&format!("node {node} is mended"));
                self.mend(node).await;
            }
        }
        self.show(world);
    }

    /// The node runs and can reach Redis; its clock stays as it is.
    pub async fn mend(&mut self, node: usize) {
        self.go_on(node);
        self.lead(node);
        self.nodes[node].proxy.set(Way::Open);
        self.start_again(node).await;
    }

    /// Mends all nodes.
    pub async fn mend_all(&mut self, world: &World) {
        println!("{}", world.note("all is mended"));
        for node in 0..NODES {
            self.mend(node).await;
        }
        self.show(world);
    }
}
