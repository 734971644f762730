//! What a client has seen of a room outlives the broker (contract section 7).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::Connection;
use tokio::task::JoinHandle;

use crate::support::{
    Broker,
    chat::{Person, ids, join, next_event, send},
    next_of_type, until, within,
};

/// What one client knows of a room's messages, in the order in which it learned it.
#[derive(Default)]
struct Knowledge {
    seen: Vec<Known>,
    /// names of its own messages that it has had no word of
    unanswered: Vec<String>,
}

/// A message, as far as every dialect tells of it.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    id: i64,
    content: String,
    username: String,
    client_msg_id: Option<String>,
    time: String,
}

impl Known {
    /// From a frame of any dialect, or from REST. None: it is not about a message.
    fn read(frame: &Value) -> Option<Self> {
        let text = |field: &str| frame[field].as_str().map(str::to_owned);
        Some(Self {
            content: text("content").or_else(|| text("message"))?,
            username: text("username")?,
            client_msg_id: text("client_msg_id"),
            time: text("timestamp").or_else(|| text("created_at"))?,
            id: frame["id"].as_i64()?,
        })
    }
}

/// Counts what anybody learns, so that the broker can be killed in the midst of it.
type Counter = Arc<AtomicUsize>;

/// Reads until the broker is gone.
fn watching(mut socket: Connection, counter: &Counter) -> JoinHandle<Knowledge> {
    let counter = counter.clone();
    tokio::spawn(async move {
        let mut knowledge = Knowledge::default();
        while let Ok(frame) = socket.next_frame().await {
            if let Some(known) = Known::read(&frame) {
                knowledge.seen.push(known);
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
        knowledge
    })
}

/// Writes on a socket that has joined, some messages ahead of what it sees, until the broker is gone.
fn writing(mut socket: Connection, room: i64, name: String, counter: &Counter) -> JoinHandle<Knowledge> {
    const AHEAD: usize = 8;
    let counter = counter.clone();
    tokio::spawn(async move {
        let mut knowledge = Knowledge::default();
        for n in 0.. {
            let client_msg_id = format!("{name} {n}");
            let frame =
                json!({ "content": format!("by {client_msg_id}"), "room_id": room, "client_msg_id": client_msg_id });
            if socket.send_text(frame.to_string()).await.is_err() {
                break;
            }
            knowledge.unanswered.push(client_msg_id);
            while knowledge.unanswered.len() >= AHEAD {
                let Ok(frame) = socket.next_frame().await else { return knowledge };
                let Some(known) = Known::read(&frame) else { continue };
                knowledge.unanswered.retain(|name| Some(name) != known.client_msg_id.as_ref());
                knowledge.seen.push(known);
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
        knowledge
    })
}

/// Posts one message after the other until the broker is gone.
fn posting(person: Person, room: i64, counter: &Counter) -> JoinHandle<Knowledge> {
    let counter = counter.clone();
    tokio::spawn(async move {
        let mut knowledge = Knowledge::default();
        for n in 0.. {
            let name = format!("{} {n}", person.name);
            let body = json!({ "content": format!("by {name}"), "room_id": room, "client_msg_id": name });
            let request = person.client.request(Method::POST, &format!("/api/rooms/{room}/messages")).json(&body);
            knowledge.unanswered.push(name);
            let Ok(answer) = person.client.answer::<Value>(request).await else { break };
            knowledge.unanswered.clear();
            knowledge.seen.push(Known::read(&answer).expect("a message"));
            counter.fetch_add(1, Ordering::Relaxed);
        }
        knowledge
    })
}

#[tokio::test]
async fn what_any_client_has_seen_is_there_once_after_the_broker_was_killed() {
    let mut setup = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "0");
    let mut room = None;
    // each time at another moment, with what was there before
    for (round, enough) in [20, 100, 50].into_iter().enumerate() {
        let broker = setup.start().await;
        let owner = Person::user(&broker, &format!("owner{round}")).await;
        let here = match room {
            None => owner.room("lobby").await,
            Some(room) => room,
        };
        room = Some(here);
        owner.join(here).await;
        let counters: Vec<_> = (0..7).map(|_| Counter::default()).collect();
        let mut counting = counters.iter();
        let (mut tasks, mut people) = (Vec::new(), HashMap::new());
        for n in 0..3 {
            let person = Person::user(&broker, &format!("socket{round}{n}")).await;
            let mut socket = person.chat().await;
            send(&mut socket, json!({ "type": "join_room", "room_id": here, "since_id": i64::MAX })).await;
            while next_of_any_type(&mut socket).await["type"] != "message_history" {}
            let counter = counting.next().unwrap();
            tasks.push((person.name.clone(), writing(socket, here, person.name.clone(), counter)));
            people.insert(person.name.clone(), person.client);
        }
        for n in 0..2 {
            let person = Person::user(&broker, &format!("rest{round}{n}")).await;
            person.join(here).await;
            people.insert(person.name.clone(), person.client.clone());
            tasks.push((person.name.clone(), posting(person, here, counting.next().unwrap())));
        }
        for path in [format!("/ws/room/{here}?since_id={}", i64::MAX), format!("/ws?chat_id={here}")] {
            tasks.push((path.clone(), watching(owner.open(&path).await, counting.next().unwrap())));
        }
        until(async || counters.iter().all(|counter| counter.load(Ordering::Relaxed) >= enough)).await;
        setup = broker.kill().await;
        let mut knowledge = Vec::new();
        for (who, task) in tasks {
            knowledge.push((who, within(task).await.unwrap()));
        }
        let broker = setup.start().await;
        let owner = Person { client: again(&broker, &owner.client), ..owner };
        let history = owner.history(here).await;
        let history_ids = ids(&json!(history));
        assert!(history_ids.is_sorted_by(|one, next| one < next), "each once: {history_ids:?}");
        let stored: HashMap<_, _> = history.iter().filter_map(Known::read).map(|known| (known.id, known)).collect();
        let mut named = HashMap::new();
        for known in stored.values().filter(|known| known.client_msg_id.is_some()) {
            let before = named.insert(known.client_msg_id.clone(), known.id);
            assert_eq!(before, None, "stored twice: {known:?}");
        }
        for (who, knowledge) in &knowledge {
            assert!(!knowledge.seen.is_empty(), "{who}");
            let seen = knowledge.seen.iter().map(|known| known.id);
            assert!(seen.is_sorted_by(|one, next| one < next), "{who} has seen them in their order, each once");
            for known in &knowledge.seen {
                assert_eq!(stored.get(&known.id), Some(known), "as {who} has seen it");
            }
        }
        // whoever has had no answer sends again, and it is there once, whether it was stored before or not
        for (who, knowledge) in &knowledge {
            let Some(client) = people.get(who) else { continue };
            let client = again(&broker, client);
            for name in &knowledge.unanswered {
                let body = json!({ "content": format!("by {name}"), "room_id": here, "client_msg_id": name });
                let request = client.request(Method::POST, &format!("/api/rooms/{here}/messages")).json(&body);
                let answer: Value = within(client.answer(request)).await.unwrap();
                if let Some(id) = named.get(&Some(name.clone())) {
                    assert_eq!(answer["id"], *id, "{name} was there before");
                }
            }
        }
        let history = owner.history(here).await;
        let mut names: Vec<_> = history.iter().filter_map(|message| message["client_msg_id"].as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "each once");
        // of each sender all messages are there without a gap, and in the order in which they were sent
        for who in people.keys() {
            let numbers: Vec<usize> = history
                .iter()
                .filter_map(|message| message["client_msg_id"].as_str()?.strip_prefix(&format!("{who} "))?.parse().ok())
                .collect();
            assert!(numbers.iter().copied().eq(0..numbers.len()), "{who}: {numbers:?}");
        }
        setup = broker.kill().await;
    }
}

async fn next_of_any_type(socket: &mut Connection) -> Value {
    within(socket.next_frame()).await.unwrap()
}

/// The same identity at the broker that was started again.
fn again(broker: &Broker, client: &switchboard::client::Client) -> switchboard::client::Client {
    broker.client().with_token(client.token().unwrap())
}

#[tokio::test]
async fn rooms_their_members_and_what_was_said_outlive_a_restart() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let carl = Person::user(&broker, "carl").await;
    let device = Person::device(&broker, "thermometer").await;
    let (room, hidden) = (anna.room("lobby").await, bert.private_room("hidden").await);
    for person in [&bert, &carl, &device] {
        person.join(room).await;
    }
    let role = Some(json!({ "role": "moderator" }));
    anna.done(Method::PATCH, &format!("/api/rooms/{room}/members/{}", bert.id()), role).await;
    carl.leave(room).await;
    let mut said = Vec::new();
    for (person, room) in [(&anna, room), (&bert, room), (&device, room), (&anna, room), (&bert, hidden)] {
        let path = format!("/api/rooms/{room}/messages");
        let body = json!({ "content": "x\n😀", "room_id": room, "client_msg_id": "the only one" });
        // the second one of anna's is the first one
        said.push(person.post(&path, body).await);
    }
    let message = |n: usize| format!("/api/rooms/{room}/messages/{}", said[n]["id"]);
    anna.done(Method::PATCH, &message(0), Some(json!({ "content": "better" }))).await;
    bert.done(Method::DELETE, &message(2), None).await;
    anna.post(&format!("/api/rooms/{room}/read"), json!({ "message_id": said[1]["id"] })).await;
    let paths = [
        format!("/api/rooms/{room}"),
        format!("/api/rooms/{hidden}"),
        "/api/rooms/".to_owned(),
        format!("/api/rooms/{room}/members"),
        format!("/api/rooms/{room}/messages"),
        format!("/api/rooms/{hidden}/messages"),
    ];
    let people = [anna, bert, carl, device];
    let mut before = Vec::new();
    for person in &people {
        for path in &paths {
            before.push(person.call(Method::GET, path, None).await);
        }
    }
    assert_eq!(before[4].1.as_array().unwrap().len(), 3);
    let mut socket = people[0].chat_in(room).await;
    let mut broker = broker;
    broker.signal("TERM");
    assert_eq!(crate::support::close_code(&mut socket).await, 1001);
    assert_eq!(broker.ended().await, Some(0));
    let broker = broker.kill().await.start().await;
    let people = people.map(|person| Person { client: again(&broker, &person.client), ..person });
    let mut after = Vec::new();
    for person in &people {
        for path in &paths {
            after.push(person.call(Method::GET, path, None).await);
        }
    }
    assert_eq!(after, before);
    let [anna, bert, carl, device] = people;
    // nobody is there until somebody comes
    assert_eq!(anna.get(&format!("/api/rooms/{room}/presence")).await["count"], 0);
    let mut annas = anna.chat().await;
    let history = join(&mut annas, room).await;
    assert_eq!(ids(&history["messages"]), ids(&anna.get(&paths[4]).await));
    // names of messages are remembered, and ids go on from where they were
    let body = json!({ "content": "again", "room_id": room, "client_msg_id": "the only one" });
    let repeated = bert.post(&format!("/api/rooms/{room}/messages"), body).await;
    assert_eq!(repeated, said[1]);
    let next = device.say(room, "next").await;
    assert!(next["id"].as_i64() > said[4]["id"].as_i64());
    let seen = next_event(&mut annas).await;
    assert_eq!((&seen["type"], &seen["id"], &seen["content"]), (&json!("message"), &next["id"], &json!("next")));
    assert_eq!(carl.call(Method::GET, &paths[4], None).await.0, 403);
}

#[tokio::test]
async fn what_was_seen_while_the_broker_stopped_is_there() {
    let broker = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let counter = Counter::default();
    let task = writing(anna.chat_in(room).await, room, anna.name.clone(), &counter);
    let mut watcher = anna.open(&format!("/ws/room/{room}")).await;
    next_of_type(&mut watcher, "message_history").await;
    let watcher = watching(watcher, &counter);
    until(async || counter.load(Ordering::Relaxed) >= 200).await;
    let mut broker = broker;
    broker.signal("TERM");
    assert_eq!(broker.ended().await, Some(0));
    let (writer, watcher) = (within(task).await.unwrap(), within(watcher).await.unwrap());
    let broker = broker.kill().await.start().await;
    let anna = Person { client: again(&broker, &anna.client), ..anna };
    let stored: Vec<_> = anna.history(room).await.iter().filter_map(Known::read).collect();
    assert!(stored.is_sorted_by_key(|known| known.id));
    for seen in [&writer.seen, &watcher.seen] {
        assert!(!seen.is_empty() && seen.iter().all(|known| stored.contains(known)));
    }
    for name in &writer.unanswered {
        assert!(stored.iter().filter(|known| known.client_msg_id.as_ref() == Some(name)).count() <= 1);
    }
}
