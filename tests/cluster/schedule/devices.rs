//! Devices send each other messages, publish, and answer commands.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use tokio::time::interval;
use uuid::Uuid;

use super::{DEVICES, KEPT, TOPIC, commands::Given, history, world::World};

/// What a device has seen on one socket.
#[derive(Default)]
struct Seen {
    node: usize,
    /// the last number by sender and kind
    last: HashMap<(Uuid, char), u64>,
    /// the messages without a receipt, oldest first
    without_receipt: VecDeque<String>,
    is_subscribed: bool,
    kept: history::Socket,
    commands: HashSet<String>,
}

/// A device that is connected to some node as long as there is one, and sends.
pub struct Device {
    pub index: usize,
    pub client: Client,
    pub world: Arc<World>,
    pub random: StdRng,
    pub sent: u64,
    pub kept: history::Reader,
    pub given: Arc<Given>,
    /// commands that are answered later, perhaps through another socket
    pub unanswered: VecDeque<String>,
}

impl Device {
    pub async fn run(mut self) {
        let who = format!("device {}", self.index);
        while !self.world.is_over() {
            let connected = self.world.connect(&who, &self.client, "/ws", &mut self.random).await;
            if let Some((node, socket)) = connected {
                self.serve(node, socket).await;
            }
        }
    }

    /// Sends and receives until the socket ends or the device moves.
    async fn serve(&mut self, node: usize, mut socket: Connection) {
        let mut seen = Seen { node, ..Seen::default() };
        let mut ticks = interval(self.world.pace);
        let mut moves_after = self.random.random_range(100..1000);
        let subscribe = json!({ "type": "subscribe", "topic_id": TOPIC }).to_string();
        let subscribe_since = self.kept.subscribe();
        for frame in [subscribe, subscribe_since] {
            if socket.send_text(frame).await.is_err() {
                return;
            }
        }
        while !self.world.is_over() {
            tokio::select! {
                frame = socket.next_frame() => match frame {
                    Ok(frame) => if !self.on_frame(&mut socket, &mut seen, &frame).await { return },
                    Err(_) => return,
                },
                _ = ticks.tick() => {
                    if !self.world.is_sending() {
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
        let kind = match self.random.random_range(0..11) {
            0..=5 => 'd',
            6 | 7 => 'a',
            8 if seen.kept.is_subscribed() => 'h',
            9 if seen.is_subscribed => 't',
            10 => return self.answer_late(socket).await,
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
        if kind == 'a' {
            self.world.trace(&msgid, &format!("sent to {to} at node {}", seen.node));
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
            (Some("sent" | "topic_sent" | "error"), Some(msgid)) => self.on_receipt(seen, frame, msgid),
            (None, Some(msgid)) if frame["topic_id"] == KEPT => {
                if let Err(finding) = self.kept.read(&seen.kept, frame) {
                    self.world.finding(&format!("{msgid} came to device {}: {finding}: {frame}", self.index));
                }
            }
            (None, Some(msgid)) => {
                self.on_message(seen, frame, msgid);
                if msgid.starts_with('a') {
                    let ack = json!({ "type": "ack", "msgid": msgid, "sender": frame["from"] });
                    return socket.send_text(ack.to_string()).await.is_ok();
                }
            }
            (None, None) if frame["method"].is_string() => return self.on_command(socket, seen, frame).await,
            // it comes back
            (Some("error"), None) if frame["topic_id"] == KEPT => return false,
            (Some("error"), None) => self.world.finding(&format!("an error without a cause: {frame}")),
            _ => {}
        }
        true
    }

    fn on_receipt(&self, seen: &mut Seen, frame: &Value, msgid: &str) {
        let (kind, first) = (frame["type"].as_str(), seen.without_receipt.pop_front());
        if first.as_deref() != Some(msgid) {
            self.world.finding(&format!("the receipt of {msgid} came instead of that of {first:?}: {frame}"));
        }
        if msgid.starts_with('a') {
            let told = frame["code"].as_str().or(frame["status"].as_str()).unwrap_or_default();
            self.world.trace(msgid, &format!("node {} says {told}", seen.node));
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

    fn on_message(&self, seen: &mut Seen, frame: &Value, msgid: &str) {
        let (Some(from), Some(number)) = (frame["from"].as_str(), frame["content"]["number"].as_u64()) else {
            return self.world.finding(&format!("not a message of a device: {frame}"));
        };
        let from: Uuid = from.parse().unwrap();
        let kind = msgid.chars().next().unwrap();
        let last = seen.last.insert((from, kind), number);
        if kind == 'a' {
            self.world.trace(msgid, &format!("came to device {} at node {}", self.index, seen.node));
        }
        if let Some(last) = last.filter(|last| *last >= number) {
            let sender = &msgid[1..].split_once('-').unwrap().0;
            let accounts = self.world.accounts();
            let between = (number..=last).map(|number| format!("a{sender}-{number}"));
            let traces: Vec<_> = between.filter_map(|id| Some(format!("{id}:{}", accounts.sent.get(&id)?))).collect();
            drop(accounts);
            let traces = traces.join("\n    ");
            self.world.finding(&format!(
                "{msgid} of {from} came to device {} after {last}: {frame}\n    {traces}",
                self.index
            ));
        }
        if kind == 'a' {
            self.world.accounts().arrived.insert(msgid.to_owned());
        }
    }

    /// Answers a command in one of several ways.
    async fn on_command(&mut self, socket: &mut Connection, seen: &mut Seen, frame: &Value) -> bool {
        let id = frame["command_id"].as_str().unwrap().to_owned();
        if !seen.commands.insert(id.clone()) {
            self.world.finding(&format!("command {id} came twice on a socket of device {}: {frame}", self.index));
        }
        let place = self.world.note(&format!("command {id} comes to device {} at node {}", self.index, seen.node));
        self.given.came(&id, self.world.uuids[self.index], place);
        match self.random.random_range(0..10) {
            0..=5 => self.answer(socket, &id).await,
            6 => {
                let progress = json!({ "type": "progress", "command_id": id, "progress": 50 });
                socket.send_text(progress.to_string()).await.is_ok() && self.answer(socket, &id).await
            }
            7 => {
                let failed = json!({ "command_id": id, "result": { "error": "as it happens" } });
                socket.send_text(failed.to_string()).await.is_ok()
            }
            8 => {
                self.unanswered.push_back(id);
                self.unanswered.truncate(20);
                true
            }
            // it times out
            _ => true,
        }
    }

    async fn answer(&self, socket: &mut Connection, id: &str) -> bool {
        let result = self.given.result(id, self.world.uuids[self.index]);
        socket.send_text(json!({ "command_id": id, "result": result }).to_string()).await.is_ok()
    }

    async fn answer_late(&mut self, socket: &mut Connection) -> bool {
        match self.unanswered.pop_front() {
            Some(id) => self.answer(socket, &id).await,
            None => true,
        }
    }
}
