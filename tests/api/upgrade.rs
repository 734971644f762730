//! Data of earlier versions: it is served by this one, and survives migrations in both directions.
//!
//! `tests/fixtures` has a database of each state of the schema that was released, as SQL for SQLite and for PostgreSQL, named after its
//! last migration, and beside it what its broker answered. `scripts/upgrade-fixture` makes those of the present state.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use reqwest::Method;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use uuid::Uuid;

use crate::support::{
    Broker, ChangeBroker, Output, SteppedClock, answer, chat::Person, create_database, delete, get, next, next_of_type,
    no_command_is_left, own_address, post, reply, until, within,
};

/// The secret of the brokers that made the fixtures.
const SECRET: &str = "the secret of brokers that make fixtures";

/// Tables without rows while one broker alone serves the database.
const OF_SEVERAL_NODES: [&str; 2] = ["leases", "room_events"];

/// The PostgreSQL server, if it is that that is tested.
fn server() -> Option<String> {
    std::env::var("SWITCHBOARD_TEST_POSTGRES").ok()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The databases of this kind, oldest first.
fn databases(ending: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut some: Vec<_> = all.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
    assert!(!some.is_empty(), "no {ending}");
    some.sort();
    some
}

/// How the name of a database ends.
fn ending() -> &'static str {
    if server().is_some() { ".postgres.sql" } else { ".sqlite.sql" }
}

/// A broker with an embedded database, whatever the others have.
fn embedded() -> ChangeBroker {
    Broker::with().env("DATABASE_URL", "").env("SECRET_KEY", SECRET)
}

/// A broker that has not been started, and its empty database.
async fn empty() -> (ChangeBroker, DatabaseConnection) {
    let Some(server) = server() else {
        let mut setup = embedded();
        let data = setup.dir().join("data");
        fs::create_dir(&data).unwrap();
        return (setup, open(&data.join("switchboard.db")).await);
    };
    let url = create_database(&server).await;
    let setup = Broker::with().alone("its rows are those of one node").env("SECRET_KEY", SECRET);
    (setup.env("DATABASE_URL", &url), Database::connect(url).await.unwrap())
}

fn succeeded(output: &Output) -> &str {
    assert_eq!(output.code, Some(0), "{output:?}");
    &output.stdout
}

async fn open(file: &Path) -> DatabaseConnection {
    Database::connect(format!("sqlite://{}?mode=rwc", file.display())).await.unwrap()
}

/// The first column of what a query finds, as text.
async fn texts(database: &DatabaseConnection, query: String) -> Vec<String> {
    let rows = database.query_all_raw(Statement::from_string(database.get_database_backend(), query)).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

/// The columns of each table.
type Columns = BTreeMap<String, Vec<String>>;

async fn columns(database: &DatabaseConnection) -> Columns {
    let is_postgres = database.get_database_backend() == DbBackend::Postgres;
    let tables = if is_postgres {
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'"
    } else {
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    };
    let mut columns = Columns::new();
    for table in texts(database, tables.to_owned()).await {
        let names = if is_postgres {
            format!(
                "SELECT column_name::text FROM information_schema.columns WHERE table_name = '{table}' ORDER BY ordinal_position"
            )
        } else {
            format!("SELECT name FROM pragma_table_info('{table}')")
        };
        columns.insert(table, texts(database, names).await);
    }
    columns
}

/// Each row as SQL values, by table.
async fn rows(database: &DatabaseConnection, columns: &Columns) -> BTreeMap<String, BTreeSet<String>> {
    let quote = if database.get_database_backend() == DbBackend::Postgres { "quote_nullable" } else { "quote" };
    let mut all = BTreeMap::new();
    for (table, columns) in columns {
        let values: Vec<_> = columns.iter().map(|column| format!("{quote}(\"{column}\")")).collect();
        let query = format!("SELECT {} FROM \"{table}\"", values.join(" || ', ' || "));
        all.insert(table.clone(), texts(database, query).await.into_iter().collect());
    }
    all
}

/// The whole database as SQL.
async fn dump(setup: &mut ChangeBroker, database: &DatabaseConnection) -> String {
    if database.get_database_backend() == DbBackend::Postgres {
        let dump = "pg_dump --inserts --no-owner --no-privileges \"$DATABASE_URL\"";
        let output = setup.command_of("sh", &["-c", dump]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        // without comments, and settings of a session
        let is_part = |line: &&str| {
            !line.is_empty()
                && !["--", "\\", "SET ", "SELECT pg_catalog.set_config"].iter().any(|start| line.starts_with(start))
        };
        return text.lines().filter(is_part).collect::<Vec<_>>().join("\n") + "\n";
    }
    let schema = "SELECT sql || ';' FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY type = 'index', name";
    let mut text = "PRAGMA foreign_keys = OFF;\nBEGIN;\n".to_owned();
    text += &texts(database, schema.to_owned()).await.join("\n");
    let mut columns = columns(database).await;
    columns.insert("sqlite_sequence".to_owned(), vec!["name".to_owned(), "seq".to_owned()]);
    for (table, rows) in rows(database, &columns).await {
        for row in rows {
            text += &format!("\nINSERT INTO {table} VALUES ({row});");
        }
    }
    text + "\nCOMMIT;\n"
}

/// The migrations that are applied.
fn applied(setup: &mut ChangeBroker) -> Vec<String> {
    let status = setup.run(&["migrate", "status"], "");
    let lines = succeeded(&status).lines().filter_map(|line| line.strip_prefix("applied  "));
    lines.map(str::to_owned).collect()
}

/// Whether an answer has all that another one has, and possibly more fields.
fn has(answer: &Value, expected: &Value) -> bool {
    match (answer, expected) {
        (Value::Object(answer), Value::Object(expected)) => {
            expected.iter().all(|(key, expected)| answer.get(key).is_some_and(|answer| has(answer, expected)))
        }
        (Value::Array(answer), Value::Array(expected)) => {
            answer.len() == expected.len()
                && answer.iter().zip(expected).all(|(answer, expected)| has(answer, expected))
        }
        _ => answer == expected,
    }
}

#[tokio::test]
async fn data_of_each_earlier_version_is_served_and_survives_migrations_in_both_directions() {
    for sql in databases(ending()) {
        eprintln!("{}", sql.display());
        of_fixture(&sql).await;
    }
}

async fn of_fixture(sql: &Path) {
    let known: Value = serde_json::from_str(&fs::read_to_string(sql.with_extension("json")).unwrap()).unwrap();
    let (setup, database) = empty().await;
    let (clock, mut setup) = SteppedClock::of(setup);
    database.execute_unprepared(&fs::read_to_string(sql).unwrap()).await.unwrap();
    let columns = columns(&database).await;
    let before = rows(&database, &columns).await;
    let schema = applied(&mut setup);
    assert!(sql.ends_with(format!("{}{}", schema.last().unwrap(), ending())), "{schema:?}");
    for (table, rows) in &before {
        assert!(!rows.is_empty() || OF_SEVERAL_NODES.contains(&table.as_str()), "{table} has no rows");
    }
    // twice, since what goes down must come up again
    for _ in 0..2 {
        succeeded(&setup.run(&["migrate", "up"], ""));
        assert!(!succeeded(&setup.run(&["migrate", "status"], "")).contains("pending"));
        let now = rows(&database, &columns).await;
        for (table, rows) in &before {
            assert!(now[table].is_superset(rows), "{table} after the migrations up: {:#?} {rows:#?}", now[table]);
        }
        while applied(&mut setup) != schema {
            succeeded(&setup.run(&["migrate", "down"], ""));
        }
        assert_eq!(self::columns(&database).await, columns, "after the migrations down");
        assert_eq!(rows(&database, &columns).await, before, "after the migrations down");
    }
    database.close().await.unwrap();

    // its tokens are still valid, and what is kept for a while is still there
    let taken_at: DateTime<Utc> = serde_json::from_value(known["taken_at"].clone()).unwrap();
    clock.set_date((taken_at - Utc::now()).num_seconds() + 5);
    let broker = setup.start().await;
    for asked in known["answers"].as_array().unwrap() {
        let (who, path) = (asked["as"].as_str().unwrap(), asked["path"].as_str().unwrap());
        let client = broker.client().with_token(known["tokens"][who].as_str().unwrap());
        let (status, answer) = get(&client, path).await;
        assert!(status == 200 && has(&answer, &asked["answer"]), "{path}: {answer:#} instead of {:#}", asked["answer"]);
    }
    let refresh = json!({ "refresh_token": known["refresh_token"] });
    assert_eq!(post(&broker.client(), "/auth/refresh", refresh).await.0, 200);
    broker.login("alice", "password of alice").await;
    // what waits goes on
    let pump = broker.client().with_token(known["tokens"]["pump"].as_str().unwrap());
    let mut socket = within(pump.connect("/ws")).await.unwrap();
    next_of_type(&mut socket, "connection").await;
    let frames = [next(&mut socket).await, next(&mut socket).await];
    let has = |key: &str, value: &str| frames.iter().any(|frame| frame[key] == value);
    assert!(has("msgid", "waits") && has("url", "/waits"), "{frames:?}");
}

#[tokio::test]
async fn each_migration_can_be_reverted_and_applied_again_where_there_are_rows() {
    let newest = databases(".sqlite.sql").pop().unwrap();
    let mut setup = embedded();
    let (data, copy) = (setup.dir().join("data"), setup.dir().join("copy"));
    fs::create_dir(&data).unwrap();
    let database = open(&data.join("switchboard.db")).await;
    database.execute_unprepared(&fs::read_to_string(newest).unwrap()).await.unwrap();
    database.close().await.unwrap();
    succeeded(&setup.run(&["migrate", "up"], ""));
    while let Some(last) = applied(&mut setup).pop() {
        succeeded(&setup.run(&["migrate", "down"], ""));
        let database = open(&data.join("switchboard.db")).await;
        let columns = columns(&database).await;
        let before = rows(&database, &columns).await;
        database.close().await.unwrap();
        fs::create_dir_all(&copy).unwrap();
        fs::copy(data.join("switchboard.db"), copy.join("switchboard.db")).unwrap();
        succeeded(&setup.run(&["migrate", "up", "--data-dir", "copy"], ""));
        let database = open(&copy.join("switchboard.db")).await;
        // values may be stored in another way, in columns that are replaced
        let now = rows(&database, &self::columns(&database).await).await;
        database.close().await.unwrap();
        for (table, rows) in before {
            assert!(now[&table].len() >= rows.len(), "{table} after {last}: {:#?} {rows:#?}", now[&table]);
        }
    }
}

/// Makes the fixture of the present state; see `scripts/upgrade-fixture`.
#[tokio::test]
#[ignore = "writes into tests/fixtures"]
async fn make_the_fixture_of_the_present_state() {
    let (setup, database) = empty().await;
    let setup = setup.set("PROBES__PERIOD_SECS", "1").set("PROBES__TIMEOUT_SECS", "1");
    let setup = setup.set("AUTH__ACCESS_TOKEN_MINUTES", "1440").set("AUTH__RECHECK_SECS", "1");
    let mut broker = setup.start().await;
    let (admin, mut known) = fill(&mut broker).await;
    let mut answers = Vec::new();
    for (who, path) in ask(&known) {
        let client = admin.with_token(known["tokens"][&who].as_str().unwrap());
        let (status, answer) = get(&client, &path).await;
        assert_eq!(status, 200, "{path} {answer}");
        answers.push(json!({ "as": who, "path": path, "answer": answer }));
    }
    known["answers"] = answers.into();
    known["taken_at"] = json!(Utc::now());
    broker.signal("TERM");
    assert_eq!(broker.ended().await, Some(0));
    let schema = applied(broker.setup());
    // nothing of the machine that made it
    database.execute_unprepared("UPDATE brokers SET host = 'broker'").await.unwrap();
    let to = fixtures().join(format!("{}{}", schema.last().unwrap(), ending()));
    fs::write(&to, dump(broker.setup(), &database).await).unwrap();
    fs::write(to.with_extension("json"), serde_json::to_string_pretty(&known).unwrap() + "\n").unwrap();
    database.close().await.unwrap();
}

/// What the broker is asked, and as whom.
fn ask(known: &Value) -> Vec<(String, String)> {
    let ids = &known["ids"];
    let admin = [
        "/api/users/?limit=1000".to_owned(),
        "/devices?limit=1000".to_owned(),
        "/topics?limit=1000".to_owned(),
        "/topics/plant%2Fheat".to_owned(),
        "/topics/plant%2Fheat/messages".to_owned(),
        "/api/commands?limit=1000".to_owned(),
        "/api/messages?limit=1000".to_owned(),
    ];
    let commands =
        ids["commands"].as_array().unwrap().iter().map(|id| format!("/api/commands/{}", id.as_str().unwrap()));
    let mut ask: Vec<_> = admin.into_iter().chain(commands).map(|path| ("admin".to_owned(), path)).collect();
    ask.push(("alice".to_owned(), "/api/rooms/?limit=1000".to_owned()));
    for room in ids["rooms"].as_array().unwrap() {
        for part in ["", "/members", "/messages"] {
            ask.push(("alice".to_owned(), format!("/api/rooms/{room}{part}")));
        }
    }
    for message in ids["messages"].as_array().unwrap() {
        ask.push(("pump".to_owned(), format!("/api/messages/{message}")));
    }
    ask
}

/// Sends a request that must succeed, and returns the answer.
async fn done(client: &Client, method: Method, path: &str, body: Value) -> Value {
    let (status, body) = answer(client.request(method, path).json(&body)).await;
    assert!(status.is_success(), "{path} {status} {body}");
    body
}

/// Does what clients and operators do, so that every table has rows. Returns the admin, and what the test has to know.
async fn fill(broker: &mut Broker) -> (Client, Value) {
    let admin = broker.admin().await;
    let token = |client: &Client| client.token().unwrap().to_owned();
    // accounts: active, disabled, deleted, with another password, logged out
    broker.user("olga", "operator").await;
    for name in ["carl", "dora"] {
        broker.user(name, "user").await;
    }
    succeeded(&broker.command(&["user", "disable", "carl"], ""));
    succeeded(&broker.command(&["user", "delete", "dora"], ""));
    succeeded(&broker.command(&["user", "set-password", "olga", "--password-stdin"], "another one of olga"));
    let (alice, bob) = (Person::user(broker, "alice").await, Person::user(broker, "bob").await);
    done(&broker.login("bob", "password of bob").await, Method::POST, "/auth/logout", json!({})).await;
    // gateways: up, down, behind another one
    let listener = std::net::TcpListener::bind(own_address()).unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let north = json!({ "name": "Plant north", "address": address, "max_rtt_ms": 250.5 });
    let north = done(&admin, Method::POST, "/api/gateways", north).await["id"].clone();
    let south = json!({ "name": "Plant south", "address": "tcp://127.0.0.1:1", "parent_id": north });
    let south = done(&admin, Method::POST, "/api/gateways", south).await["id"].clone();
    for (gateway, status) in [(&north, "connected"), (&south, "disconnected")] {
        until(async || get(&admin, &format!("/api/gateways/{gateway}")).await.1["status"] == status).await;
        assert_eq!(get(&admin, &format!("/api/gateways/{gateway}/history")).await.0, 200);
    }
    // devices: with details, deleted, registered again
    let (pump, pump_device) = broker.device("pump").await;
    let (valve, valve_device) = broker.device("valve").await;
    let (_, gone) = broker.device("gone").await;
    let details =
        json!({ "name": "Pump 1", "metadata": { "site": "Köln", "level": [1.5, null] }, "gateway_id": north });
    done(&admin, Method::PUT, &format!("/devices/{}", pump_device.uuid), details).await;
    assert_eq!(delete(&admin, &format!("/devices/{}", gone.uuid)).await.0, 200);
    // topics: with and without a history, deleted
    for (topic, history) in [
        ("plant/heat", json!({ "size": 5, "ttl_secs": 86_400 })),
        ("plain", Value::Null),
        ("old", json!({ "size": 1 })),
    ] {
        let mut topic = json!({ "topic_id": topic, "metadata": { "unit": "C" } });
        if !history.is_null() {
            topic["history"] = history;
        }
        done(&admin, Method::POST, "/topics/create", topic).await;
    }
    for number in 0..8 {
        let published = json!({ "topic_id": "plant/heat", "content": { "c": number, "text": "it's \"warm\" – 💡" } });
        done(&admin, Method::POST, "/topics/publish", published).await;
    }
    assert_eq!(delete(&admin, "/topics/old").await.0, 200);
    let (rooms, messages) =
        (rooms(&alice, &bob, &pump).await, messages(&admin, &pump, pump_device.uuid, valve_device.uuid, &valve).await);
    let commands = commands(&admin, &pump, pump_device.uuid, valve_device.uuid).await;
    let mut again = broker.client();
    let login = within(again.login("alice", "password of alice")).await.unwrap();
    until(async || get(&admin, "/clients").await.1["clients"] == json!({})).await;
    let tokens = json!({ "admin": token(&admin), "alice": token(&alice.client), "pump": token(&pump) });
    let ids = json!({ "rooms": rooms, "messages": messages, "commands": commands });
    (admin, json!({ "tokens": tokens, "refresh_token": login.refresh_token, "ids": ids }))
}

/// Rooms of all kinds, with members of all kinds, and messages that were edited and deleted. Returns their ids.
async fn rooms(alice: &Person, bob: &Person, pump: &Client) -> Vec<i64> {
    let (lobby, private) = (alice.room("lobby").await, alice.private_room("private").await);
    done(&bob.client, Method::POST, &format!("/api/rooms/{lobby}/join"), json!({})).await;
    done(pump, Method::POST, &format!("/api/rooms/{lobby}/join"), json!({})).await;
    done(&alice.client, Method::POST, &format!("/api/rooms/{private}/members"), json!({ "user_id": bob.id() })).await;
    let moderator = format!("/api/rooms/{lobby}/members/{}", bob.id());
    done(&alice.client, Method::PATCH, &moderator, json!({ "role": "moderator" })).await;
    let path = format!("/api/rooms/{lobby}/messages");
    let mut ids = Vec::new();
    for (who, content) in [
        (&alice.client, "it's me – 💬"),
        (&bob.client, "to be edited"),
        (pump, "to be deleted"),
        (&alice.client, "last"),
    ] {
        let message = json!({ "room_id": lobby, "content": content, "client_msg_id": content });
        ids.push(done(who, Method::POST, &path, message).await["id"].clone());
    }
    done(&bob.client, Method::PATCH, &format!("{path}/{}", ids[1]), json!({ "content": "edited" })).await;
    assert_eq!(delete(&bob.client, &format!("{path}/{}", ids[2])).await.0, 200);
    done(&bob.client, Method::POST, &format!("/api/rooms/{lobby}/read"), json!({ "message_id": ids[1] })).await;
    vec![lobby, private]
}

/// Messages that were delivered, rejected and cancelled, and one that waits. Returns the ids of those to the pump.
async fn messages(admin: &Client, pump: &Client, to: Uuid, other: Uuid, valve: &Client) -> Vec<Value> {
    let message = |to: Uuid, msgid: &str, priority: &str| json!({ "to": to, "msgid": msgid, "content": { "do": msgid }, "acknowledge": true, "priority": priority });
    let mut ids = Vec::new();
    for (client, msgid, priority) in [(admin, "taken", "high"), (valve, "refused", "normal")] {
        ids.push(done(client, Method::POST, "/api/messages", message(to, msgid, priority)).await["id"].clone());
    }
    let mut socket = within(pump.connect("/ws")).await.unwrap();
    let mut answered = 0;
    while answered < 2 {
        let frame = next(&mut socket).await;
        let status = match frame["msgid"].as_str() {
            Some(_) if frame["type"] == "ack_received" => {
                answered += 1;
                continue;
            }
            Some("taken") => "delivered",
            Some(_) => "rejected",
            None => continue,
        };
        let ack = json!({ "type": "ack", "msgid": frame["msgid"], "sender": frame["from"], "status": status });
        socket.send_text(ack.to_string()).await.unwrap();
    }
    within(socket.close()).await.unwrap();
    let withdrawn =
        done(admin, Method::POST, "/api/messages", message(other, "withdrawn", "normal")).await["id"].clone();
    assert_eq!(delete(admin, &format!("/api/messages/{withdrawn}")).await.0, 200);
    ids.push(done(admin, Method::POST, "/api/messages", message(to, "waits", "low")).await["id"].clone());
    ids
}

/// Commands that succeeded with progress, failed, ended too early, and one that waits. Returns their ids.
async fn commands(admin: &Client, pump: &Client, to: Uuid, other: Uuid) -> Vec<Value> {
    let mut socket: Connection = within(pump.connect("/ws")).await.unwrap();
    next_of_type(&mut socket, "connection").await;
    while next(&mut socket).await["msgid"] != "waits" {}
    let command = async |target: Value, url: &str, more: Value| {
        let mut body = json!({ "method": "GET", "url": url, "data": { "n": 1.50 } });
        body.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = admin.request(Method::POST, "/api/commands").header("prefer", "respond-async");
        let (status, command) = answer(request.header("idempotency-key", url).json(&body)).await;
        assert_eq!(status, 202, "{command}");
        command["id"].clone()
    };
    let mut ids = vec![command(json!({ "targets": [to, other] }), "/both", json!({})).await];
    let frame = next(&mut socket).await;
    let progress = json!({ "type": "progress", "command_id": frame["command_id"], "progress": { "percent": 50 } });
    socket.send_text(progress.to_string()).await.unwrap();
    let result = json!({ "command_id": frame["command_id"], "result": { "ok": true } });
    socket.send_text(result.to_string()).await.unwrap();
    ids.push(command(json!({ "target": to }), "/fails", json!({})).await);
    reply(&mut socket, json!({ "error": "it cannot" })).await;
    ids.push(command(json!({ "target": to }), "/late", json!({ "timeout_secs": 1 })).await);
    let late = next(&mut socket).await;
    let path = format!("/api/commands/{}", ids[2].as_str().unwrap());
    until(async || get(admin, &path).await.1["targets"][0]["state"] == "timed_out").await;
    let result = json!({ "command_id": late["command_id"], "result": "late" });
    socket.send_text(result.to_string()).await.unwrap();
    until(async || get(admin, &path).await.1["targets"][0]["late_result"] == "late").await;
    no_command_is_left(admin).await;
    within(socket.close()).await.unwrap();
    until(async || get(admin, "/clients").await.1["clients"].get(to.to_string()).is_none()).await;
    ids.push(command(json!({ "target": to }), "/waits", json!({ "deliver_within_secs": 600_000 })).await);
    ids
}
