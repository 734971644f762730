//! A commit whose answer comes late, or is lost on its way: callers are refused in time, and what follows from the commit follows
//! when it is known. With PostgreSQL a proxy keeps the answers back, with SQLite the disk is slow.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::support::{
    Broker, ChangeBroker, answer,
    chat::{Person, call, next_event},
    create_database, delete, everywhere, get, next, post, posting, preload, reply, until, within,
};

/// What happens to the answers to commits of writes, and to questions what became of those.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answers {
    Pass,
    /// They wait until they pass again.
    Wait,
    /// They are lost with their connections.
    Lost,
}

/// The way to PostgreSQL.
#[derive(Clone)]
struct Way {
    server: String,
    answers: watch::Sender<Answers>,
    /// answers that did not pass
    kept: Arc<AtomicUsize>,
}

impl Way {
    /// On a thread of its own, as the tests' broker may be asked synchronously.
    fn to(server: String) -> (Self, String) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let way = Self { server, answers: watch::Sender::new(Answers::Pass), kept: Arc::default() };
        let ways = way.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(ways.clone().forward(client));
                }
            });
        });
        (way, address)
    }

    async fn forward(self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.server).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let is_about_commit = AtomicBool::new(false);
        let there = async {
            let (mut bytes, mut writes) = (vec![0; 65536], false);
            while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
                let sent = &bytes[..read];
                let names = |name: &[u8]| sent.windows(name.len()).any(|part| part == name);
                writes |= names(b"pg_advisory_xact_lock_shared");
                let is_commit = writes && sent.ends_with(b"COMMIT\0");
                if is_commit || names(b"pg_xact_status") {
                    writes = false;
                    is_about_commit.store(true, Ordering::SeqCst);
                }
                if to_server.write_all(sent).await.is_err() {
                    return;
                }
            }
        };
        let back = async {
            let mut bytes = vec![0; 65536];
            let mut answers = self.answers.subscribe();
            while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
                if is_about_commit.swap(false, Ordering::SeqCst) && *answers.borrow() != Answers::Pass {
                    self.kept.fetch_add(1, Ordering::SeqCst);
                    if *answers.borrow() == Answers::Lost {
                        return;
                    }
                    if answers.wait_for(|answers| *answers == Answers::Pass).await.is_err() {
                        return;
                    }
                }
                if to_client.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = there => {}
            () = back => {}
        }
    }
}

/// The commits of a broker, in the hands of the test.
enum Commits {
    /// The proxy before PostgreSQL.
    Postgres(Way),
    /// The file that delays what SQLite waits for.
    Sqlite(PathBuf),
}

impl Commits {
    /// A broker whose commits can be delayed.
    async fn with_broker() -> (Self, Broker) {
        Self::of(Broker::with()).await
    }

    async fn of(change: ChangeBroker) -> (Self, Broker) {
        let mut change = change.set("STORAGE__TIMEOUT_MS", "4000");
        let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES") else {
            let held = change.dir().join("held");
            let change = preload(change, "slow_sync.c").env("SLOW_SYNC", held.to_str().unwrap());
            return (Self::Sqlite(held), change.start().await);
        };
        let url = create_database(&server).await;
        let (before, rest) = url.split_once('@').expect("postgres://user@host:port/name");
        let (server, name) = rest.split_once('/').unwrap();
        let (way, address) = Way::to(server.to_owned());
        (Self::Postgres(way), change.env("DATABASE_URL", &format!("{before}@{address}/{name}")).start().await)
    }

    /// What can be done to them: SQLite's answers can't be lost.
    fn kinds(&self) -> &'static [Answers] {
        match self {
            Self::Postgres(_) => &[Answers::Wait, Answers::Lost],
            Self::Sqlite(_) => &[Answers::Wait],
        }
    }

    fn set(&self, answers: Answers) {
        match (self, answers) {
            (Self::Postgres(way), answers) => drop(way.answers.send_replace(answers)),
            (Self::Sqlite(held), Answers::Pass) => std::fs::remove_file(held).unwrap(),
            (Self::Sqlite(held), _) => std::fs::write(held, "").unwrap(),
        }
    }

    /// How many have been delayed or lost so far.
    fn kept(&self) -> usize {
        match self {
            Self::Postgres(way) => way.kept.load(Ordering::SeqCst),
            Self::Sqlite(held) => {
                std::fs::metadata(held.with_extension("delayed")).map_or(0, |delayed| delayed.len() as usize)
            }
        }
    }
}

/// Refused since the database does not answer, in time.
async fn refused(client: &Client, method: Method, path: &str, body: Option<Value>) {
    let began = std::time::Instant::now();
    let (status, body) = call(client, method, path, body).await;
    assert_eq!((status, &body["code"]), (503, &json!("database_unavailable")), "{path}: {body}");
    // the contract says two seconds; here it is more for a slow machine, on which all else has to be in time
    assert!(began.elapsed().as_secs() < 30, "{path} took {:?}", began.elapsed());
}

/// Waits until nothing is left to be written, which would be delayed in place of what the test is about. Reading commands
/// flushes the Journal.
async fn settled(client: &Client) {
    until(async || get(client, "/api/commands").await.0 == 200).await;
}

async fn is_ready(client: &Client) -> bool {
    get(client, "/readyz").await.0 == 200
}

#[actix_web::test]
async fn a_topic_whose_deletion_is_known_late_is_deleted_for_its_subscribers_too() {
    let (commits, mut broker) = Commits::with_broker().await;
    let admin = broker.admin().await;
    for &answers in commits.kinds() {
        let name = format!("{answers:?}");
        let (creator, _, mut creators) = broker.connected("creator").await;
        let (subscriber, device, mut socket) = broker.connected("subscriber").await;
        assert_eq!(post(&creator, "/topics/create", json!({ "topic_id": name })).await.0, 200);
        subscriber.subscribe(&name).await.unwrap();
        settled(&admin).await;
        commits.set(answers);
        refused(&creator, Method::DELETE, &format!("/topics/{name}"), None).await;
        commits.set(Answers::Pass);
        assert_eq!(next(&mut socket).await, json!({ "type": "topic_deleted", "topic_id": name }));
        until(async || post(&creator, "/topics/create", json!({ "topic_id": name })).await.0 == 200).await;
        let (_, topic) = get(&creator, &format!("/topics/{name}")).await;
        assert_eq!(topic["subscriber_count"], 0, "{topic}");
        // the sockets work
        within(creators.send_direct(device.uuid, "hello")).await.unwrap();
        assert_eq!(next(&mut socket).await["content"], "hello");
        until(async || is_ready(&creator).await).await;
    }
}

#[actix_web::test]
async fn changes_of_gateways_that_are_known_late_are_made() {
    let (commits, mut broker) = Commits::with_broker().await;
    let admin = broker.admin().await;
    for &answers in commits.kinds() {
        let name = format!("{answers:?}");
        let named = async |name: &str| {
            let (_, body) = get(&admin, "/api/gateways").await;
            body["gateways"].as_array().unwrap().iter().find(|gateway| gateway["name"] == name).cloned()
        };
        settled(&admin).await;
        commits.set(answers);
        let body = json!({ "name": name, "address": "tcp://127.0.0.1:1" });
        refused(&admin, Method::POST, "/api/gateways", Some(body)).await;
        commits.set(Answers::Pass);
        everywhere(async || named(&name).await.is_some()).await;
        let path = format!("/api/gateways/{}", named(&name).await.unwrap()["id"]);
        until(async || is_ready(&admin).await).await;
        // its first probe is recorded
        everywhere(async || named(&name).await.unwrap()["status"] == "disconnected").await;
        settled(&admin).await;

        let other = format!("other {name}");
        commits.set(answers);
        refused(&admin, Method::PUT, &path, Some(json!({ "name": other }))).await;
        commits.set(Answers::Pass);
        everywhere(async || named(&other).await.is_some()).await;
        until(async || is_ready(&admin).await).await;
        settled(&admin).await;

        commits.set(answers);
        refused(&admin, Method::DELETE, &path, None).await;
        commits.set(Answers::Pass);
        everywhere(async || named(&other).await.is_none()).await;
        until(async || is_ready(&admin).await).await;
        assert_eq!(delete(&admin, &path).await.0, 404);
    }
}

#[actix_web::test]
async fn a_room_hears_of_what_is_known_late() {
    // at another node the next one does not wait for it
    let (commits, broker) = Commits::of(Broker::with().alone("requests at another node do not wait for it")).await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    for &answers in commits.kinds() {
        settled(&anna.client).await;
        let room = anna.room(&format!("{answers:?}")).await;
        bert.join(room).await;
        let mut berts = bert.chat_in(room).await;
        let path = format!("/api/rooms/{room}/messages");
        let message = json!({ "content": "late", "room_id": room, "client_msg_id": "once" });
        commits.set(answers);
        refused(&anna.client, Method::POST, &path, Some(message.clone())).await;
        // and so is the next one
        refused(&anna.client, Method::POST, &path, Some(json!({ "content": "never", "room_id": room }))).await;
        until(async || !is_ready(&anna.client).await).await;
        commits.set(Answers::Pass);
        let heard = next_event(&mut berts).await;
        assert_eq!((&heard["type"], &heard["content"]), (&json!("message"), &json!("late")), "{heard}");
        let mut again = Value::Null;
        until(async || {
            let (status, body) = anna.call(Method::POST, &path, Some(message.clone())).await;
            again = body;
            status == 200
        })
        .await;
        assert_eq!(again["id"], heard["id"]);
        until(async || is_ready(&anna.client).await).await;
        assert_eq!(anna.say(room, "now").await["content"], "now");
        assert_eq!(next_event(&mut berts).await["content"], "now");

        commits.set(answers);
        refused(&anna.client, Method::DELETE, &format!("/api/rooms/{room}/members/{}", bert.id()), None).await;
        commits.set(Answers::Pass);
        assert_eq!(next(&mut berts).await, json!({ "type": "room_left", "room_id": room, "reason": "removed" }));
        until(async || is_ready(&anna.client).await).await;
    }
}

#[actix_web::test]
async fn a_report_of_progress_whose_commit_is_known_late_stops_nothing() {
    let (commits, mut broker) = Commits::with_broker().await;
    let admin = broker.admin().await;
    for &answers in commits.kinds() {
        let (_, device, mut socket) = broker.connected("device").await;
        let asked = json!({ "target": device.uuid, "method": "GET", "url": "/" });
        let command = posting(&admin, "/api/commands", &asked);
        let id = next(&mut socket).await["command_id"].clone();
        settled(&admin).await;
        let kept = commits.kept();
        commits.set(answers);
        let report = json!({ "type": "progress", "command_id": id, "progress": 1 });
        socket.send_text(report.to_string()).await.unwrap();
        until(async || commits.kept() > kept).await;
        // what waits for the Journal is refused in time
        until(async || {
            let (status, body) = get(&admin, &format!("/api/commands/{}", id.as_str().unwrap())).await;
            status == 503 && body["code"] == "database_unavailable"
        })
        .await;
        assert!(!is_ready(&admin).await);
        commits.set(Answers::Pass);
        socket.send_text(json!({ "command_id": id, "result": "done" }).to_string()).await.unwrap();
        let (status, done) = within(command).await.unwrap();
        assert!(matches!(status, 200 | 503), "{done}");
        until(async || {
            let (status, shown) = get(&admin, &format!("/api/commands/{}", id.as_str().unwrap())).await;
            let target = &shown["targets"][0];
            status == 200 && target["state"] == "succeeded" && target["progress"].as_array().unwrap().len() == 1
        })
        .await;
        until(async || is_ready(&admin).await).await;
        let next_one = posting(&admin, "/api/commands", &asked);
        reply(&mut socket, json!("done")).await;
        assert_eq!(within(next_one).await.unwrap().0, 200);
    }
}

#[actix_web::test]
async fn a_command_with_a_key_whose_commit_is_known_late_is_carried_out_once() {
    let (commits, mut broker) = Commits::with_broker().await;
    let admin = broker.admin().await;
    for &answers in commits.kinds() {
        let (_, device, mut socket) = broker.connected("device").await;
        let keyed = || {
            let body = json!({ "target": device.uuid, "method": "GET", "url": "/" });
            let request = admin.request(Method::POST, "/api/commands").json(&body);
            request.header("Idempotency-Key", format!("{answers:?}"))
        };
        settled(&admin).await;
        commits.set(answers);
        let (status, body) = answer(keyed()).await;
        assert_eq!((status.as_u16(), &body["code"]), (503, &json!("database_unavailable")), "{body}");
        commits.set(Answers::Pass);
        let command = reply(&mut socket, json!("done")).await;
        let mut told = Value::Null;
        until(async || {
            let (status, body) = answer(keyed()).await;
            told = body;
            status == 200
        })
        .await;
        assert_eq!(
            (&told["id"], &told["targets"][0]["state"]),
            (&command["command_id"], &json!("succeeded")),
            "{told}"
        );
        crate::support::nothing_came(&mut socket).await;
        until(async || is_ready(&admin).await).await;
    }
}
