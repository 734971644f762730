//! Three nodes under a random schedule of kills, pauses, partitions and empty returns of Redis, while devices move from node
//! to node and send each other messages, and users write in a room. What was acknowledged to a client must hold.
//!
//! `SWITCHBOARD_SCHEDULE_SECS` is the time of the schedule, without which nothing is done, and `SWITCHBOARD_SCHEDULE_SEED` the
//! number that it follows from: `scripts/cluster-schedule` sets both.

mod chat;
pub mod history;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use tokio::time::{interval, sleep, timeout};
use uuid::Uuid;

use crate::{
    api::support::{Broker, ChangeBroker, post, until, within},
    nodes::{SECRET, Shared, at, knows, listed},
    proxy::{Proxy, Way},
};

const NODES: usize = 3;
const DEVICES: usize = 8;
const TOPIC: &str = "everybody";
/// A topic with a history.
const KEPT: &str = "kept";

/// What the devices know together.
struct World {
    /// the URL of each node that runs
    urls: RwLock<Vec<Option<String>>>,
    uuids: Vec<Uuid>,
    accounts: Mutex<Accounts>,
    /// whether devices send
    is_sending: AtomicBool,
    is_over: AtomicBool,
}

#[derive(Default)]
struct Accounts {
    /// acknowledged messages that the broker has accepted, with their recipients
    accepted: BTreeMap<String, usize>,
    /// those that have arrived
    arrived: BTreeSet<String>,
    /// publications that are kept, by offset
    kept: BTreeMap<i64, String>,
    /// receipts by kind
    receipts: BTreeMap<String, usize>,
    findings: Vec<String>,
}

impl World {
    fn accounts(&self) -> std::sync::MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap()
    }

    fn finding(&self, text: String) {
        self.accounts().findings.push(text);
    }

    /// Opens a socket at some node, if that answers.
    async fn connect(&self, client: &Client, path: &str, random: &mut StdRng) -> Option<Connection> {
        let urls: Vec<_> = self.urls.read().unwrap().iter().flatten().cloned().collect();
        let url = urls.get(random.random_range(0..urls.len().max(1)));
        if let Some(url) = url {
            let client = Client::new(url).unwrap().with_token(client.token().unwrap());
            if let Ok(Ok(socket)) = timeout(Duration::from_secs(3), client.connect(path)).await {
                return Some(socket);
            }
        }
        // not so fast that nothing else happens on the machine
        sleep(Duration::from_millis(50)).await;
        None
    }
}

/// What a device has seen on one socket.
#[derive(Default)]
struct Seen {
    /// the last number by sender and kind
    last: HashMap<(Uuid, char), u64>,
    /// the messages without a receipt, oldest first
    without_receipt: VecDeque<String>,
    is_subscribed: bool,
    kept: history::Socket,
}

/// A device that is connected to some node as long as there is one, and sends.
struct Device {
    index: usize,
    client: Client,
    world: Arc<World>,
    random: StdRng,
    sent: u64,
    kept: history::Reader,
}

impl Device {
    async fn run(mut self) {
        while !self.world.is_over.load(Ordering::Relaxed) {
            if let Some(socket) = self.world.connect(&self.client, "/ws", &mut self.random).await {
                self.serve(socket).await;
            }
        }
    }

    /// Sends and receives until the socket ends or the device moves.
    async fn serve(&mut self, mut socket: Connection) {
        let mut seen = Seen::default();
        let mut ticks = interval(Duration::from_millis(10));
        let mut moves_after = self.random.random_range(100..1000);
        let subscribe = json!({ "type": "subscribe", "topic_id": TOPIC }).to_string();
        let subscribe_since = self.kept.subscribe();
        for frame in [subscribe, subscribe_since] {
            if socket.send_text(frame).await.is_err() {
                return;
            }
        }
        while !self.world.is_over.load(Ordering::Relaxed) {
            tokio::select! {
                frame = socket.next_frame() => match frame {
                    Ok(frame) => if !self.on_frame(&mut socket, &mut seen, &frame).await { return },
                    Err(_) => return,
                },
                _ = ticks.tick() => {
                    if !self.world.is_sending.load(Ordering::Relaxed) {
                        continue;
                    }
                    if moves_after == 0 {
                        return;
                    }
                    moves_after -= 1;
                    // a node that does not answer is left after a while
                    if seen.without_receipt.len() > 200 || !self.send(&mut socket, &mut seen).await {
                        return;
                    }
                }
            }
        }
    }

    async fn send(&mut self, socket: &mut Connection, seen: &mut Seen) -> bool {
        let to = self.world.uuids[self.random.random_range(0..DEVICES)];
        let kind = match self.random.random_range(0..10) {
            0..=5 => 'd',
            6 | 7 => 'a',
            8 if seen.kept.is_subscribed() => 'h',
            9 if seen.is_subscribed => 't',
            _ => return true,
        };
        self.sent += 1;
        let msgid = format!("{kind}{}-{}", self.index, self.sent);
        let content = json!({ "number": self.sent });
        let frame = match kind {
            'd' => json!({ "to": to, "msgid": msgid, "content": content }),
            'a' => json!({ "to": to, "msgid": msgid, "content": content, "acknowledge": true }),
            'h' => json!({ "topic_id": KEPT, "msgid": msgid, "content": content }),
            _ => json!({ "topic_id": TOPIC, "msgid": msgid, "content": content }),
        };
        if kind == 'a' {
            self.world.accounts().receipts.entry("sent".to_owned()).and_modify(|count| *count += 1).or_insert(1);
        }
        seen.without_receipt.push_back(msgid);
        socket.send_text(frame.to_string()).await.is_ok()
    }

    /// Returns false if the socket cannot be used any more.
    async fn on_frame(&mut self, socket: &mut Connection, seen: &mut Seen, frame: &Value) -> bool {
        let kind = frame["type"].as_str();
        match (kind, frame["msgid"].as_str()) {
            (Some("subscribed"), _) if frame["topic_id"] == KEPT => seen.kept.subscribed(),
            (Some("subscribed"), _) => seen.is_subscribed = true,
            (Some("sent" | "topic_sent" | "error"), Some(msgid)) => {
                let first = seen.without_receipt.pop_front();
                if first.as_deref() != Some(msgid) {
                    self.world.finding(format!("the receipt of {msgid} came instead of that of {first:?}: {frame}"));
                }
                let mut accounts = self.world.accounts();
                let told = frame["code"].as_str().or(kind).unwrap_or_default().to_owned();
                *accounts.receipts.entry(format!("{} {told}", &msgid[..1])).or_default() += 1;
                if kind == Some("sent") && msgid.starts_with('a') {
                    accounts.accepted.insert(msgid.to_owned(), self.index);
                }
                if let (Some("topic_sent"), Some(offset)) = (kind, frame["offset"].as_i64()) {
                    accounts.kept.insert(offset, msgid.to_owned());
                }
            }
            (None, Some(msgid)) if frame["topic_id"] == KEPT => {
                if let Err(finding) = self.kept.read(&seen.kept, frame) {
                    self.world.finding(format!("{msgid} came to device {}: {finding}: {frame}", self.index));
                }
            }
            (None, Some(msgid)) => {
                self.on_message(seen, frame, msgid);
                if msgid.starts_with('a') {
                    let ack = json!({ "type": "ack", "msgid": msgid, "sender": frame["from"] });
                    return socket.send_text(ack.to_string()).await.is_ok();
                }
            }
            // it comes back
            (Some("error"), None) if frame["topic_id"] == KEPT => return false,
            (Some("error"), None) => self.world.finding(format!("an error without a cause: {frame}")),
            _ => {}
        }
        true
    }

    fn on_message(&self, seen: &mut Seen, frame: &Value, msgid: &str) {
        let (Some(from), Some(number)) = (frame["from"].as_str(), frame["content"]["number"].as_u64()) else {
            return self.world.finding(format!("not a message of a device: {frame}"));
        };
        let from: Uuid = from.parse().unwrap();
        let kind = msgid.chars().next().unwrap();
        let last = seen.last.insert((from, kind), number);
        if last.is_some_and(|last| last >= number) {
            self.world.finding(format!("{msgid} of {from} came to device {} after {last:?}: {frame}", self.index));
        }
        if kind == 'a' {
            self.world.accounts().arrived.insert(msgid.to_owned());
        }
    }
}

/// A node, which may be down.
struct Node {
    broker: Option<Broker>,
    setup: Option<ChangeBroker>,
    proxy: Proxy,
    is_stopped: bool,
}

struct Cluster {
    shared: Shared,
    nodes: Vec<Node>,
    world: Arc<World>,
}

impl Cluster {
    fn show(&self, node: usize) {
        let url = self.nodes[node].broker.as_ref().map(|broker| broker.url.clone());
        self.world.urls.write().unwrap()[node] = url;
    }

    async fn kill(&mut self, node: usize) {
        if let Some(broker) = self.nodes[node].broker.take() {
            self.show(node);
            self.nodes[node].setup = Some(broker.kill().await);
            self.nodes[node].is_stopped = false;
        }
    }

    async fn start(&mut self, node: usize) {
        if let Some(setup) = self.nodes[node].setup.take() {
            self.nodes[node].broker = Some(setup.start().await);
            self.show(node);
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

    /// Does one thing, and prints it before.
    async fn disturb(&mut self, random: &mut StdRng) {
        let node = random.random_range(0..NODES);
        match random.random_range(0..10) {
            0 | 1 => {
                println!("node {node} is killed");
                self.kill(node).await;
            }
            2 | 3 => {
                println!("node {node} is stopped");
                self.stop(node);
            }
            4 => {
                println!("node {node} is cut from Redis");
                self.nodes[node].proxy.set(Way::Cut);
            }
            5 => {
                println!("nothing passes between node {node} and Redis");
                self.nodes[node].proxy.set(Way::Held);
            }
            6 => {
                println!("Redis comes back empty");
                self.shared.redis.kill().await;
                self.shared.redis.run().await;
            }
            _ => {
                println!("node {node} is mended");
                self.mend(node).await;
            }
        }
    }

    async fn mend(&mut self, node: usize) {
        self.start(node).await;
        self.go_on(node);
        self.nodes[node].proxy.set(Way::Open);
    }
}

#[tokio::test]
async fn what_is_acknowledged_holds_under_a_random_schedule() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let Some(secs) = number("SWITCHBOARD_SCHEDULE_SECS") else { return };
    let seed = number("SWITCHBOARD_SCHEDULE_SEED").unwrap_or(1);
    let mut random = StdRng::seed_from_u64(seed);
    let shared = Shared::start().await;
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        let proxy = Proxy::of(shared.redis.address()).await;
        let mut setup = shared.node().env("REDIS_URL", &proxy.url()).env("SECRET_KEY", SECRET);
        for (key, value) in [("CLUSTER__TIMEOUT_MS", "1000"), ("LIMITS__STORED_BYTES_PER_MINUTE", "0")] {
            setup = setup.set(key, value);
        }
        nodes.push(Node { broker: Some(setup.start().await), setup: None, proxy, is_stopped: false });
    }
    let operator = nodes[0].broker.as_mut().unwrap().admin().await;
    let first = nodes[0].broker.as_ref().unwrap();
    let mut clients = Vec::new();
    for index in 0..DEVICES {
        clients.push(first.device(&format!("device {index}")).await);
    }
    clients[0].0.create_topic(TOPIC).await.unwrap();
    let (status, created) = post(&clients[0].0, "/topics/create", history::topic(KEPT)).await;
    assert_eq!(status, 200, "{created}");
    let chat = chat::Room::create(first).await;
    let world = Arc::new(World {
        urls: RwLock::new(vec![None; NODES]),
        uuids: clients.iter().map(|(_, device)| device.uuid).collect(),
        accounts: Mutex::default(),
        is_sending: AtomicBool::new(true),
        is_over: AtomicBool::new(false),
    });
    let mut cluster = Cluster { shared, nodes, world: world.clone() };
    (0..NODES).for_each(|node| cluster.show(node));
    let offsets: Vec<_> = clients.iter().map(|(_, device)| history::Reader::new(device.uuid)).collect();
    let readers = offsets.clone();
    let reader = clients[0].0.clone();
    let people = chat.people(&world, seed);
    let devices: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(index, (client, _))| {
            let random = StdRng::seed_from_u64(seed ^ (1 + index as u64) << 32);
            let kept = offsets[index].clone();
            tokio::spawn(Device { index, client, world: world.clone(), random, sent: 0, kept }.run())
        })
        .collect();

    let end = Instant::now() + Duration::from_secs(secs);
    while Instant::now() < end {
        cluster.disturb(&mut random).await;
        let pause = random.random_range(100..2500);
        sleep(Duration::from_millis(pause)).await;
        let findings = std::mem::take(&mut world.accounts().findings);
        assert!(findings.is_empty(), "seed {seed}: {findings:#?}");
    }

    println!("all is mended");
    for node in 0..NODES {
        cluster.mend(node).await;
    }
    for node in &cluster.nodes {
        knows(&at(&operator, node.broker.as_ref().unwrap()), NODES).await;
    }
    world.is_sending.store(false, Ordering::Relaxed);
    until(async || {
        let accounts = world.accounts();
        accounts.accepted.keys().all(|msgid| accounts.arrived.contains(msgid))
    })
    .await;
    let reader = at(&reader, cluster.nodes[0].broker.as_ref().unwrap());
    let kept = history::all(&reader, KEPT).await;
    // of a long schedule only the newest are kept
    let first = kept.first_key_value().map_or(i64::MAX, |(offset, _)| *offset);
    for (offset, msgid) in world.accounts().kept.range(first..) {
        assert_eq!(kept.get(offset).map(|kept| &kept.0), Some(msgid), "seed {seed}: offset {offset}");
    }
    for reader in &readers {
        until(async || reader.has_all(&kept)).await;
    }
    let url = cluster.nodes[0].broker.as_ref().unwrap().url.clone();
    let written = chat.check(&url).await;
    // everybody is connected, and all nodes list everybody and nobody else
    let everybody = world.uuids.clone();
    for node in &cluster.nodes {
        let client = node.broker.as_ref().unwrap().client();
        until(async || {
            let listed = listed(&client).await;
            listed.len() == DEVICES + chat::PEOPLE && everybody.iter().all(|device| listed.contains(device))
        })
        .await;
    }
    world.is_over.store(true, Ordering::Relaxed);
    for task in devices.into_iter().chain(people) {
        task.abort();
        drop(within(task).await);
    }
    let accounts = world.accounts();
    println!("{} accepted, {} arrived, {:?}", accounts.accepted.len(), accounts.arrived.len(), accounts.receipts);
    println!("{} kept in the topic, {written} in the room", kept.len());
    assert!(accounts.findings.is_empty(), "seed {seed}: {:#?}", accounts.findings);
    assert!(!accounts.accepted.is_empty());
}
