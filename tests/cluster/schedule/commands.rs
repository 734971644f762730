//! Operators give commands to the devices at some node, and read, repeat and cancel them at others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use switchboard::client::Client;
use tokio::time::sleep;
use uuid::Uuid;

use super::{logins::answer, world::World};
use crate::{
    api::support::{get, until},
    commands::PATH,
};

/// For so many seconds some commands wait: longer than clocks can differ.
const DAY: u32 = 24 * 3600;

/// Commands that are read, repeated or cancelled again.
const RECENT: usize = 50;

/// All commands that were accepted.
#[derive(Default)]
pub struct Given(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    commands: BTreeMap<String, Command>,
    /// in the order in which they were accepted
    order: Vec<String>,
    /// when and where a command came to a device
    came: HashMap<(String, Uuid), Vec<String>>,
    /// the results that devices have sent
    results: HashMap<(String, Uuid), BTreeSet<u64>>,
    last_result: u64,
}

#[derive(Clone)]
struct Command {
    targets: BTreeSet<Uuid>,
    deliver_within: u32,
    /// how targets have ended
    ends: BTreeMap<Uuid, Value>,
}

/// A request with a key.
#[derive(Clone)]
struct Keyed {
    key: String,
    body: Value,
    deliver_within: u32,
    /// the command, if it is known
    id: Option<String>,
}

impl Given {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Whether no command was accepted.
    pub fn is_empty(&self) -> bool {
        self.inner().commands.is_empty()
    }

    /// A command came to a device. The places where it came before are printed.
    pub fn came(&self, id: &str, device: Uuid, place: String) {
        let mut inner = self.inner();
        let places = inner.came.entry((id.to_owned(), device)).or_default();
        places.push(place);
        if places.len() > 1 {
            println!("it comes again: {places:#?}");
        }
    }

    /// A new result that a device sends.
    pub fn result(&self, id: &str, device: Uuid) -> u64 {
        let mut inner = self.inner();
        inner.last_result += 1;
        let result = inner.last_result;
        inner.results.entry((id.to_owned(), device)).or_default().insert(result);
        result
    }

    fn accepted(&self, id: &str, body: &Value, deliver_within: u32) {
        let mut inner = self.inner();
        if !inner.commands.contains_key(id) {
            let targets =
                body["targets"].as_array().unwrap().iter().map(|uuid| uuid.as_str().unwrap().parse().unwrap());
            let command = Command { targets: targets.collect(), deliver_within, ends: BTreeMap::new() };
            inner.commands.insert(id.to_owned(), command);
            inner.order.push(id.to_owned());
        }
    }

    /// How targets of a command have ended, as far as it is known.
    fn ends(&self, id: &str) -> BTreeMap<Uuid, Value> {
        self.inner().commands.get(id).map(|command| command.ends.clone()).unwrap_or_default()
    }

    /// A command was read, after these targets had ended. An error says what does not fit to what is known of it.
    fn read(&self, id: &str, ended: &BTreeMap<Uuid, Value>, shown: &Value) -> Result<(), String> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let command = inner.commands.get_mut(id).unwrap();
        let targets = shown["targets"].as_array().ok_or("without targets")?;
        let uuids: BTreeSet<Uuid> =
            targets.iter().map(|target| target["uuid"].as_str().unwrap().parse().unwrap()).collect();
        if uuids != command.targets || targets.len() != uuids.len() {
            return Err(format!("its targets should be {:?}", command.targets));
        }
        for target in targets {
            let (uuid, state) = (target["uuid"].as_str().unwrap().parse().unwrap(), target["state"].as_str().unwrap());
            let is_final = !["queued", "sent", "in_progress"].contains(&state);
            let end = json!([state, target["reason"], target["result"], target["ended_at"]]);
            if let Some(before) = ended.get(&uuid).or(command.ends.get(&uuid).filter(|_| is_final))
                && *before != end
            {
                return Err(format!("{uuid} had ended as {before}"));
            }
            if is_final {
                command.ends.insert(uuid, end);
            } else if shown["state"] == "finished" {
                return Err(format!("{uuid} has not ended"));
            }
            if state == "expired" && command.deliver_within == DAY {
                return Err(format!("{uuid} should wait for a day"));
            }
            let sent = inner.results.get(&(id.to_owned(), uuid));
            let is_result =
                |value: &Value| value.as_u64().is_some_and(|result| sent.is_some_and(|sent| sent.contains(&result)));
            if state == "succeeded" && !is_result(&target["result"]) {
                return Err(format!("{uuid} has not sent this result: {sent:?}"));
            }
        }
        Ok(())
    }

    /// Some of the last commands.
    fn recent(&self, random: &mut StdRng) -> Option<String> {
        let inner = self.inner();
        let first = inner.order.len().saturating_sub(RECENT);
        let recent = &inner.order[first..];
        recent.get(random.random_range(0..recent.len().max(1))).cloned()
    }

    /// Waits until each command is finished and can be read: one at this node, the next at another.
    pub async fn check(&self, nodes: &[Client], world: &World) {
        let order = self.inner().order.clone();
        for (index, id) in order.iter().enumerate() {
            let (client, path) = (&nodes[index % nodes.len()], format!("{PATH}/{id}"));
            until(async || {
                let ended = self.ends(id);
                let (status, shown) = get(client, &path).await;
                match (status, self.read(id, &ended, &shown)) {
                    (200, Ok(())) => {}
                    (200, Err(error)) => world.finding(&format!("command {id}: {error}: {shown}")),
                    _ => world.finding(&format!("command {id} cannot be read: {status} {shown}")),
                }
                shown["state"] == "finished" || status != 200
            })
            .await;
        }
        let inner = self.inner();
        let mut ends = BTreeMap::<_, usize>::new();
        for end in inner.commands.values().flat_map(|command| command.ends.values()) {
            *ends.entry(end[0].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let again = inner.came.values().filter(|places| places.len() > 1).count();
        println!("{} commands, targets have ended as {ends:?}; {again} came again on another socket", order.len());
    }
}

/// Somebody who gives commands.
pub struct Operator {
    pub index: usize,
    pub client: Client,
    pub world: Arc<World>,
    pub random: StdRng,
    pub given: Arc<Given>,
}

impl Operator {
    pub async fn run(mut self) {
        let (mut keyed, mut number) = (Vec::<Keyed>::new(), 0);
        while self.world.is_sending() {
            let pause = self.world.pace * self.random.random_range(5..15);
            sleep(pause).await;
            match self.random.random_range(0..8) {
                0..=2 => {
                    number += 1;
                    let one = self.order(number);
                    let has_key = self.random.random_bool(0.5);
                    if let Some(one) = self.give(one, has_key).await {
                        keyed.push(one);
                        if keyed.len() > RECENT {
                            keyed.remove(0);
                        }
                    }
                }
                3 if !keyed.is_empty() => {
                    let index = self.random.random_range(0..keyed.len());
                    if let Some(one) = self.give(keyed[index].clone(), true).await {
                        keyed[index] = one;
                    }
                }
                4 => self.look(Method::DELETE).await,
                _ => self.look(Method::GET).await,
            }
        }
    }

    fn order(&mut self, number: u64) -> Keyed {
        let count = self.random.random_range(1..=3);
        let targets: BTreeSet<_> =
            (0..count).map(|_| self.world.uuids[self.random.random_range(0..self.world.uuids.len())]).collect();
        let deliver_within = [0, 0, 3, DAY, DAY][self.random.random_range(0..5)];
        let body = json!({
            "targets": targets,
            "method": "GET",
            "url": "/status",
            "data": { "number": number },
            "timeout_secs": self.random.random_range(1..10),
            "deliver_within_secs": deliver_within,
        });
        Keyed { key: format!("{}-{number}", self.index), body, deliver_within, id: None }
    }

    /// A request at some node, and that.
    fn request(&mut self, method: Method, path: &str) -> Option<(usize, RequestBuilder)> {
        let (node, url) = self.world.node(&mut self.random)?;
        let client = Client::new(&url).unwrap().with_token(self.client.token().unwrap());
        // one who hangs up ends nothing
        let patience = Duration::from_millis(self.random.random_range(100..1000));
        Some((node, client.request(method, path).timeout(patience)))
    }

    /// Gives a command, or repeats that. Returns it if it may be repeated.
    async fn give(&mut self, mut one: Keyed, has_key: bool) -> Option<Keyed> {
        let (node, mut request) = self.request(Method::POST, PATH)?;
        if self.random.random_bool(0.7) {
            request = request.header("Prefer", "respond-async");
        }
        if has_key {
            request = request.header("Idempotency-Key", &one.key);
        }
        let ended = one.id.as_deref().map(|id| self.given.ends(id)).unwrap_or_default();
        if let Some((status, shown)) = answer(request.json(&one.body)).await {
            match (status, shown["id"].as_str()) {
                (200 | 202, Some(id)) => {
                    self.given.accepted(id, &one.body, one.deliver_within);
                    self.check(id, node, &ended, &shown);
                    let before = one.id.replace(id.to_owned());
                    if before.as_deref().is_some_and(|before| before != id) {
                        self.world
                            .finding(&format!("the key {} of {before:?} is that of {id} at node {node}", one.key));
                    }
                }
                (429 | 503 | 504, _) => {}
                _ => self.world.finding(&format!("a command was answered with {status} at node {node}: {shown}")),
            }
        }
        has_key.then_some(one)
    }

    /// Reads or cancels one of the last commands.
    async fn look(&mut self, method: Method) {
        let Some(id) = self.given.recent(&mut self.random) else { return };
        let Some((node, request)) = self.request(method.clone(), &format!("{PATH}/{id}")) else { return };
        let ended = self.given.ends(&id);
        match answer(request).await {
            Some((200, shown)) => self.check(&id, node, &ended, &shown),
            Some((429 | 503 | 504, _)) | None => {}
            Some((status, shown)) => {
                self.world
                    .finding(&format!("{method} of command {id} is answered with {status} at node {node}: {shown}"));
            }
        }
    }

    fn check(&self, id: &str, node: usize, ended: &BTreeMap<Uuid, Value>, shown: &Value) {
        if let Err(error) = self.given.read(id, ended, shown) {
            self.world.finding(&format!("command {id} at node {node}: {error}: {shown}"));
        }
    }
}
