//! A room: each user gets all messages, in the order of their ids.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use tokio::{task::JoinHandle, time::interval};

use super::world::World;
use crate::api::support::{Broker, chat::Person, until};

pub const PEOPLE: usize = 4;

/// The name and the password of a user.
pub fn login(index: usize) -> (String, String) {
    let name = format!("writer{index}");
    let password = format!("password of {name}");
    (name, password)
}

/// The room, and what each user has got, whatever its socket.
pub struct Room {
    id: i64,
    people: Vec<(Client, Arc<Mutex<Got>>)>,
}

#[derive(Default)]
struct Got {
    ids: Vec<i64>,
    /// the number of the last message by the socket that sent it
    last: HashMap<String, u64>,
}

impl Got {
    /// A message has come. An error if it is not in order.
    fn read(&mut self, message: &Value) -> Result<(), String> {
        let (id, content) = (message["id"].as_i64().unwrap(), message["content"].as_str().unwrap());
        let (socket, number) = content.rsplit_once('-').unwrap();
        let number = number.parse().unwrap();
        if let Some(last) = self.ids.last().filter(|last| **last >= id) {
            return Err(format!("{message} came after {last}"));
        }
        if let Some(last) = self.last.insert(socket.to_owned(), number).filter(|last| *last >= number) {
            return Err(format!("{message} came after number {last}"));
        }
        self.ids.push(id);
        Ok(())
    }
}

/// A user who is in the room at some node as long as there is one, and writes.
struct Writer {
    index: usize,
    client: Client,
    room: i64,
    got: Arc<Mutex<Got>>,
    world: Arc<World>,
    random: StdRng,
    sockets: u64,
}

impl Room {
    pub async fn create(broker: &Broker) -> Self {
        let (mut id, mut people) = (None, Vec::new());
        for index in 0..PEOPLE {
            let person = Person::user(broker, &login(index).0).await;
            let id = match id {
                Some(id) => id,
                None => *id.insert(person.room("room").await),
            };
            if index > 0 {
                person.join(id).await;
            }
            people.push((person.client, Arc::default()));
        }
        Self { id: id.unwrap(), people }
    }

    /// The users, who begin to write.
    pub fn people(&self, world: &Arc<World>, seed: u64) -> Vec<JoinHandle<()>> {
        let writers = self.people.iter().enumerate().map(|(index, (client, got))| Writer {
            index,
            client: client.clone(),
            room: self.id,
            got: got.clone(),
            world: world.clone(),
            random: StdRng::seed_from_u64(seed ^ (100 + index as u64) << 32),
            sockets: 0,
        });
        writers.map(|writer| tokio::spawn(writer.run())).collect()
    }

    /// Waits until all have got all that is stored. Returns the number of messages.
    pub async fn check(&self, node: &Client) -> usize {
        let client = node.clone().with_token(self.people[0].0.token().unwrap());
        let person = Person { client, name: String::new(), who: Value::Null };
        let mut stored = Vec::new();
        for (index, (_, got)) in self.people.iter().enumerate() {
            println!("user {index} has got {} messages", got.lock().unwrap().ids.len());
            // what was sent last may be stored still
            until(async || {
                stored = person.history(self.id).await.iter().map(|message| message["id"].as_i64().unwrap()).collect();
                got.lock().unwrap().ids == stored
            })
            .await;
        }
        stored.len()
    }
}

impl Writer {
    async fn run(mut self) {
        let who = format!("user {}", self.index);
        while !self.world.is_over() {
            if let Some((_, socket)) = self.world.connect(&who, &self.client, "/ws/auth", &mut self.random).await {
                self.serve(socket).await;
            }
        }
    }

    /// Writes and reads until the socket ends, does not answer, or the user moves.
    async fn serve(&mut self, mut socket: Connection) {
        self.sockets += 1;
        let since = self.got.lock().unwrap().ids.last().copied().unwrap_or(0);
        let join = json!({ "type": "join_room", "room_id": self.room, "since_id": since });
        if socket.send_text(join.to_string()).await.is_err() {
            return;
        }
        let mut ticks = interval(Duration::from_millis(100));
        let (mut is_joined, mut sent, mut own) = (false, 0, 0);
        let moves_after = self.random.random_range(10..100);
        while !self.world.is_over() {
            tokio::select! {
                frame = socket.next_frame() => match frame {
                    // it may not join now
                    Ok(frame) if frame["type"] == "error" && !is_joined => return,
                    Ok(frame) => {
                        is_joined |= frame["type"] == "message_history";
                        own += u64::from(self.on_frame(&frame));
                    }
                    Err(_) => return,
                },
                _ = ticks.tick() => {
                    let is_sending = self.world.is_sending();
                    if is_sending && (sent == moves_after || sent > own + 30) {
                        return;
                    }
                    if !is_joined || !is_sending {
                        continue;
                    }
                    sent += 1;
                    let content = format!("{}.{}-{sent}", self.index, self.sockets);
                    let frame = json!({ "content": content, "room_id": self.room });
                    if socket.send_text(frame.to_string()).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Returns whether it is a message of this socket.
    fn on_frame(&self, frame: &Value) -> bool {
        let messages = match frame["type"].as_str() {
            Some("message") => std::slice::from_ref(frame),
            Some("message_history") => frame["messages"].as_array().unwrap(),
            _ => return false,
        };
        for message in messages {
            if let Err(finding) = self.got.lock().unwrap().read(message) {
                self.world.finding(&format!("to user {}: {finding}", self.index));
            }
        }
        let own = format!("{}.{}-", self.index, self.sockets);
        frame["content"].as_str().is_some_and(|content| content.starts_with(&own))
    }
}
