//! When the database is away, locked or too slow: a clear refusal in time, and everything works again when it is back.

use std::time::{Duration, Instant};

use reqwest::{Method, header::RETRY_AFTER};
use sea_orm::{ConnectionTrait, DatabaseConnection};
use serde_json::{Value, json};
use switchboard::client::Client;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use uuid::Uuid;

use crate::support::{
    Broker, ChangeBroker, answer, create_database, delete, get, handshake, next, next_of_type, post, posting, reply,
    until, within,
};

/// The contract says two seconds; a slow machine may take longer, and has more time for what does not fail. Less than requests
/// take that wait for each other.
const IN_TIME: Duration = Duration::from_secs(30);

/// The way to a database, which can be blocked and cut.
struct Way {
    address: String,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    /// Nothing passes, and nobody hears why: as if the server were stopped by SIGSTOP, or a cable cut.
    Blocked,
    /// Connections end, and new ones are refused.
    Cut,
}

impl Way {
    /// On a thread of its own: a test that waits for a command of the binary must not stop it.
    fn to(server: String) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (state, watched) = watch::channel(State::Open);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(forward(client, server.clone(), watched.clone()));
                }
            });
        });
        Self { address, state }
    }

    fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn forward(mut client: TcpStream, server: String, mut state: watch::Receiver<State>) {
    let mut upstream: Option<TcpStream> = None;
    loop {
        let now = *state.borrow_and_update();
        match (now, &mut upstream) {
            (State::Cut, _) => return,
            (State::Blocked, _) => {
                if state.changed().await.is_err() {
                    return;
                }
            }
            (State::Open, None) => match TcpStream::connect(&server).await {
                Ok(connected) => upstream = Some(connected),
                Err(_) => return,
            },
            (State::Open, Some(upstream)) => tokio::select! {
                _ = copy_bidirectional(&mut client, upstream) => return,
                _ = state.changed() => {}
            },
        }
    }
}

/// The database of a broker, in the hands of the test.
enum Database {
    Postgres(Way),
    /// Another program that holds SQLite's lock on writing.
    Sqlite {
        url: String,
        lock: Option<DatabaseConnection>,
    },
}

impl Database {
    /// A broker whose database can be taken away.
    async fn with_broker(change: ChangeBroker) -> (Self, Broker) {
        let change = change.set("STORAGE__TIMEOUT_MS", "4000");
        if let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES") {
            let url = create_database(&server).await;
            let (before, rest) = url.split_once('@').expect("postgres://user@host:port/name");
            let (server, name) = rest.split_once('/').unwrap();
            let way = Way::to(server.to_owned());
            let broker = change.env("DATABASE_URL", &format!("{before}@{}/{name}", way.address)).start().await;
            return (Self::Postgres(way), broker);
        }
        let mut broker = change.start().await;
        let url = format!("sqlite://{}", broker.data_dir().join("switchboard.db").display());
        (Self::Sqlite { url, lock: None }, broker)
    }

    /// Takes it away so that nobody hears that it is gone.
    async fn block(&mut self) {
        match self {
            Self::Postgres(way) => way.set(State::Blocked),
            Self::Sqlite { url, lock } => {
                let mut options = sea_orm::ConnectOptions::new(url.clone());
                options.max_connections(1).sqlx_logging(false);
                let connection = sea_orm::Database::connect(options).await.unwrap();
                // the broker may be writing
                until(async || connection.execute_unprepared("BEGIN EXCLUSIVE").await.is_ok()).await;
                *lock = Some(connection);
            }
        }
    }

    async fn back(&mut self) {
        match self {
            Self::Postgres(way) => way.set(State::Open),
            Self::Sqlite { lock, .. } => {
                let connection = lock.take().unwrap();
                connection.execute_unprepared("ROLLBACK").await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

/// Status and body of an answer that must come in time and be no failure of the server's; one that refuses because of the
/// database says when to come again.
async fn in_time(request: reqwest::RequestBuilder, what: &str) -> (u16, Value) {
    let began = Instant::now();
    let response = within(request.send()).await.expect(what);
    let (status, retry_after) = (response.status().as_u16(), response.headers().contains_key(RETRY_AFTER));
    let body = if what.contains("/events") { Value::Null } else { response.json().await.unwrap_or_default() };
    assert!(began.elapsed() < IN_TIME, "{what} took {:?}: {status} {body}", began.elapsed());
    assert_ne!(status, 500, "{what}: {body}");
    if status == 503 && body["code"] == "database_unavailable" {
        assert!(retry_after, "{what}: {body}");
        assert_eq!(body["detail"], "Database unavailable", "{what}");
    }
    (status, body)
}

/// What the document has as an example of a schema.
fn example(document: &Value, schema: &Value) -> Value {
    if let Some(example) = schema.get("example") {
        return example.clone();
    }
    if let Some(name) = schema["$ref"].as_str() {
        return example(document, &document["components"]["schemas"][name.rsplit('/').next().unwrap()]);
    }
    if let Some(first) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()).and_then(|all| all.first()) {
        return example(document, first);
    }
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.map(|(name, schema)| (name.clone(), example(document, schema))).collect::<serde_json::Map<_, _>>().into()
}

/// A request for every route of the document.
fn requests(client: &Client, document: &Value, device: Uuid) -> Vec<(String, reqwest::RequestBuilder)> {
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            let mut path = path.clone();
            for name in ["device_id", "target"] {
                path = path.replace(&format!("{{{name}}}"), &device.to_string());
            }
            path = path.replace("/commands/{id}", &format!("/commands/{device}")).replace("{topic_id}", "weather");
            while let (Some(from), Some(to)) = (path.find('{'), path.find('}')) {
                path.replace_range(from..=to, "1");
            }
            let mut request = client.request(method.clone(), &path);
            let content = &operation["requestBody"]["content"];
            if let Some(json) = content.get("application/json") {
                request = request.json(&example(document, &json["schema"]));
            } else if content.is_object() {
                request = request.form(&[("username", "admin"), ("password", "wrong password")]);
            }
            all.push((format!("{method} {path}"), request));
        }
    }
    assert!(all.len() > 50, "{}", all.len());
    all
}

async fn is_back(client: &Client) -> bool {
    let (status, _) = get(client, "/readyz").await;
    let topic = json!({ "topic_id": format!("back {}", Uuid::new_v4().simple()) });
    status == 200 && post(client, "/topics/create", topic).await.0 == 200
}

#[actix_web::test]
async fn without_the_database_every_route_refuses_in_time_or_does_without_it() {
    let quick = Broker::with().set("LIMITS__COMMAND_TIMEOUT_SECS", "1");
    let (mut database, mut broker) = Database::with_broker(quick).await;
    let admin = broker.admin().await;
    let (device, registered, mut socket) = broker.connected("device").await;
    let (_, document) = get(&admin, "/openapi.json").await;
    database.block().await;

    let all = requests(&admin, &document, registered.uuid).into_iter().map(|(what, request)| async move {
        in_time(request, &what).await;
    });
    futures_util::future::join_all(all).await;
    // what certainly needs it
    let room = json!({ "name": "room" });
    let command = json!({ "target": registered.uuid, "method": "GET", "url": "/", "deliver_within_secs": 60 });
    let user = json!({ "username": "new", "email": "new@example.org", "password": "a long password" });
    let topic = json!({ "topic_id": "topic" });
    let new = json!({ "name": "new", "uuid": Uuid::new_v4() });
    let mut refused = vec![
        ("/topics/create", topic),
        ("/api/rooms/", room),
        ("/api/commands", command),
        ("/api/users/", user),
        ("/register", new),
    ];
    if database.is_postgres() {
        refused.push(("/auth/refresh", json!({ "refresh_token": "some token" })));
    }
    for (path, body) in refused {
        let (status, body) = in_time(admin.request(Method::POST, path).json(&body), path).await;
        assert_eq!((status, &body["code"]), (503, &json!("database_unavailable")), "{path} {body}");
    }
    let (status, ready) = in_time(admin.request(Method::GET, "/readyz"), "/readyz").await;
    assert_eq!((status, &ready["database"]), (503, &json!("away")), "{ready}");
    let (status, alive) = in_time(admin.request(Method::GET, "/healthz"), "/healthz").await;
    assert_eq!(status, 200, "{alive}");
    // what passes through goes on
    within(socket.send_direct(registered.uuid, "to myself")).await.unwrap();
    // after the commands of the walk
    until(async || next(&mut socket).await["content"] == "to myself").await;
    next_of_type(&mut socket, "sent").await;

    database.back().await;
    until(async || is_back(&device).await).await;
}

#[actix_web::test]
async fn behind_a_lock_on_a_table_every_route_refuses_in_time() {
    let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES") else { return }; // SQLite locks the whole database
    let url = create_database(&server).await;
    let change = Broker::with().set("STORAGE__TIMEOUT_MS", "4000").set("LIMITS__COMMAND_TIMEOUT_SECS", "1");
    let mut broker = change.env("DATABASE_URL", &url).start().await;
    let admin = broker.admin().await;
    let (_, registered, _socket) = broker.connected("device").await;
    let (_, document) = get(&admin, "/openapi.json").await;
    let (_, gateway) = post(&admin, "/api/gateways", json!({ "name": "site", "address": "192.0.2.1" })).await;
    let mut options = sea_orm::ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    let other = sea_orm::Database::connect(options).await.unwrap();
    // late in the requests that use them
    for table in ["gateways", "command_targets", "room_members"] {
        other.execute_unprepared(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
        let mut all = requests(&admin, &document, registered.uuid);
        // the admin goes on
        all.retain(|(what, _)| !what.contains("logout") && !what.contains("password"));
        // changes of gateways wait for each other
        all.extend((0..20).map(|n| {
            let path = format!("/api/gateways/{}", gateway["id"]);
            let request = admin.request(Method::PUT, &path).json(&json!({ "name": format!("site {n}") }));
            (format!("PUT {path} {n}"), request)
        }));
        let all = all.into_iter().map(|(what, request)| async move { (in_time(request, &what).await, what) });
        let answers = futures_util::future::join_all(all).await;
        if table == "gateways" {
            let changes =
                answers.iter().filter(|(_, what)| what.starts_with("PUT /api/gateways/") && what.contains(' '));
            for ((status, body), what) in changes {
                assert_eq!((*status, &body["code"]), (503, &json!("database_unavailable")), "{what} {body}");
            }
        }
        other.execute_unprepared("ROLLBACK").await.unwrap();
        until(async || is_back(&admin).await).await;
    }
}

#[actix_web::test]
async fn sockets_are_told_that_the_database_is_away() {
    let (mut database, mut broker) = Database::with_broker(Broker::with()).await;
    let alice = broker.user("alice", "user").await;
    let (_, room) = post(&alice, "/api/rooms/", json!({ "name": "lobby" })).await;
    let mut chat = within(alice.connect(&format!("/ws/room/{}", room["id"]))).await.unwrap();
    next_of_type(&mut chat, "message_history").await;
    next_of_type(&mut chat, "user_joined").await;
    let (_, _, mut device) = broker.connected("device").await;
    database.block().await;

    chat.send_text(r#"{"content": "does anybody hear me?"}"#).await.unwrap();
    let refused = next_of_type(&mut chat, "error").await;
    assert_eq!(
        (&refused["code"], &refused["message"]),
        (&json!("database_unavailable"), &json!("Database unavailable"))
    );
    if database.is_postgres() {
        let _ = device.publish("some topic", "does anybody hear me?").await;
        let refused = next_of_type(&mut device, "error").await;
        assert_eq!(refused["code"], "database_unavailable", "{refused}");
    }

    database.back().await;
    until(async || {
        chat.send_text(r#"{"content": "and now?"}"#).await.unwrap();
        next(&mut chat).await["type"] == "message"
    })
    .await;
}

#[actix_web::test]
async fn a_handshake_that_needs_the_database_is_refused_in_time() {
    let (mut database, broker) = Database::with_broker(Broker::with()).await;
    if !database.is_postgres() {
        return; // a lock keeps nobody from reading
    }
    let (client, _) = broker.device("device").await;
    let token = client.token().unwrap().to_owned();
    // it remembers nobody after that
    let broker = broker.kill().await.start().await;
    let client = broker.client().with_token(&token);
    for state in [State::Blocked, State::Cut] {
        let Database::Postgres(way) = &database else { unreachable!() };
        way.set(state);
        let (status, body) = in_time(handshake(&client, "/ws", &[]), "handshake").await;
        assert_eq!((status, &body["code"]), (503, &json!("database_unavailable")), "{body}");
    }
    database.back().await;
    until(async || client.connect("/ws").await.is_ok()).await;
}

#[actix_web::test]
async fn a_command_is_not_told_to_have_succeeded_before_that_is_stored() {
    let (mut database, mut broker) = Database::with_broker(Broker::with()).await;
    let admin = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let command = json!({ "target": device.uuid, "method": "GET", "url": "/" });
    let asked = posting(&admin, "/api/commands", &command);
    let frame = next(&mut socket).await;
    database.block().await;
    socket.send_text(json!({ "command_id": frame["command_id"], "result": "done" }).to_string()).await.unwrap();
    let (status, body) = within(asked).await.unwrap();
    assert_eq!((status, &body["code"]), (503, &json!("database_unavailable")), "{body}");

    // the end is kept, and written when that is possible again
    database.back().await;
    until(async || {
        let (status, command) = get(&admin, &format!("/api/commands/{}", frame["command_id"].as_str().unwrap())).await;
        status == 200 && command["targets"][0]["state"] == "succeeded"
    })
    .await;
}

#[actix_web::test]
async fn a_command_that_was_told_to_have_succeeded_has_so_after_a_crash() {
    let mut broker = Broker::start().await;
    for _ in 0..5 {
        let admin = broker.admin().await;
        let (_, device, mut socket) = broker.connected("device").await;
        let asked = posting(&admin, "/api/commands", &json!({ "target": device.uuid, "method": "GET", "url": "/" }));
        reply(&mut socket, json!("done")).await;
        let (status, told) = within(asked).await.unwrap();
        assert_eq!((status, &told["targets"][0]["state"]), (200, &json!("succeeded")), "{told}");
        broker = broker.kill().await.start().await;
        let admin = broker.admin().await;
        let (_, after) = get(&admin, &format!("/api/commands/{}", told["id"].as_str().unwrap())).await;
        assert_eq!(after["targets"][0]["state"], "succeeded", "{after}");
    }
}

#[actix_web::test]
async fn what_was_queued_for_a_deleted_device_has_ended_also_after_a_crash() {
    let mut broker = Broker::start().await;
    for _ in 0..3 {
        let admin = broker.admin().await;
        let (_, device) = broker.device("device").await;
        let command = json!({ "target": device.uuid, "method": "GET", "url": "/", "deliver_within_secs": 3_600 });
        let request = admin.request(Method::POST, "/api/commands").header("Prefer", "respond-async").json(&command);
        let (status, told) = answer(request).await;
        assert_eq!(status, 202, "{told}");
        assert_eq!(delete(&admin, &format!("/devices/{}", device.uuid)).await.0, 200);
        broker = broker.kill().await.start().await;
        let admin = broker.admin().await;
        let (_, after) = get(&admin, &format!("/api/commands/{}", told["id"].as_str().unwrap())).await;
        assert_eq!(after["targets"][0]["state"], "offline", "{after}");
    }
}

#[actix_web::test]
async fn a_room_that_can_not_be_changed_keeps_no_command_from_being_stored() {
    let (mut database, mut broker) = Database::with_broker(Broker::with()).await;
    let admin = broker.admin().await;
    let (_, registered, mut socket) = broker.connected("device").await;
    let command = json!({ "target": registered.uuid, "method": "GET", "url": "/" });
    let asked = posting(&admin, "/api/commands", &command);
    reply(&mut socket, json!("done")).await;
    assert_eq!(within(asked).await.unwrap().0, 200);
    // nothing is left to be written that would be tried again
    assert_eq!(get(&admin, "/api/commands").await.0, 200);
    database.block().await;
    let (status, body) = post(&admin, "/api/rooms/", json!({ "name": "room" })).await;
    assert_eq!((status, &body["code"]), (503, &json!("database_unavailable")), "{body}");
    database.back().await;
    until(async || post(&admin, "/topics/create", json!({ "topic_id": "topic" })).await.0 == 200).await;
    let asked = posting(&admin, "/api/commands", &command);
    reply(&mut socket, json!("done")).await;
    let (status, body) = within(asked).await.unwrap();
    assert_eq!(status, 200, "{body}");
}
