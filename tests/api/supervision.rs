//! A broker of which a part has died ends, to be started again; and two brokers never share a database.

use reqwest::Method;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, Statement};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

use crate::support::{Broker, ChangeBroker, create_database, get, post, until, within};

const ACTORS: [&str; 7] =
    ["command dispatcher", "gateway monitor", "journal", "registry", "relay", "room manager", "topic manager"];

#[actix_web::test]
async fn a_broker_whose_actor_panics_ends_with_a_clear_line() {
    let deaths = ACTORS.map(async |actor| {
        let mut broker =
            Broker::with().alone("the end of one process").env("SWITCHBOARD_TEST_PANIC", actor).start().await;
        // whoever asks for health may not hear the answer
        let _ = broker.client().request(Method::GET, "/healthz").send().await;
        assert_eq!(broker.ended().await, Some(70), "{actor}");
        let log = broker.log();
        assert!(log.contains(&format!("the {actor} has ended: this process cannot continue")), "{log}");
        // the panic is a line of the log, too
        assert!(log.contains("panic: as SWITCHBOARD_TEST_PANIC asks"), "{log}");
    });
    futures_util::future::join_all(deaths).await;
}

const LOOPS: [&str; 9] = [
    "account watcher",
    "database lock",
    "deletion of old gateway history",
    "deletion of old rows",
    "free space watcher",
    "idle connection closer",
    "tick loop of a worker",
    "tick loop of the actors",
    "tick loop of the gateway monitor",
];

#[actix_web::test]
async fn a_broker_whose_loop_panics_ends_with_a_clear_line() {
    for name in LOOPS {
        let (url, _dir) = shared_database().await;
        let mut broker = Broker::with()
            .alone("one broker per database")
            .env("DATABASE_URL", &url)
            .env("SWITCHBOARD_TEST_PANIC", name);
        // it may end before it says that it has started
        let mut serving = Command::from(broker.command(&["serve", "--bind", "127.0.0.1:0"]));
        let ended = within(serving.kill_on_drop(true).output()).await.unwrap();
        let log = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(70), "{name}: {log}");
        assert!(log.contains(&format!("the {name} has ended: this process cannot continue")), "{log}");
        assert!(log.contains("panic: as SWITCHBOARD_TEST_PANIC asks"), "{log}");
    }
}

#[actix_web::test]
async fn a_broker_that_is_alive_says_so_and_stops_as_asked() {
    let mut broker = Broker::start().await;
    let (status, body) = get(&broker.client(), "/healthz").await;
    assert_eq!((status, body), (200, json!({ "status": "alive" })));
    broker.signal("TERM");
    assert_eq!(broker.ended().await, Some(0), "{}", broker.log());
}

/// A database for several brokers: what `DATABASE_URL` is to be, and what keeps it.
async fn shared_database() -> (String, TempDir) {
    let dir = TempDir::new().unwrap();
    match std::env::var("SWITCHBOARD_TEST_POSTGRES") {
        Ok(server) => (create_database(&server).await, dir),
        Err(_) => (format!("sqlite:///{}", dir.path().join("shared.db").display()), dir),
    }
}

#[actix_web::test]
async fn a_second_broker_on_a_database_refuses_to_start_and_names_the_first() {
    let (url, _dir) = shared_database().await;
    let first = Broker::with().alone("one broker per database").env("DATABASE_URL", &url).start().await;
    // a data directory of its own does not make it another database
    let refused = {
        let mut second = ChangeBroker::default().env("DATABASE_URL", &url);
        second.run(&["serve", "--bind", "127.0.0.1:0"], "")
    };
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let address = first.url.strip_prefix("http://").unwrap();
    assert!(refused.stderr.contains("another broker uses this database (process "), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("listening on {address}, since 20")), "{}", refused.stderr);
    // commands need no lock
    let mut command = ChangeBroker::default().env("DATABASE_URL", &url);
    let listed = command.run(&["user", "list"], "");
    assert_eq!(listed.code, Some(0), "{listed:?}");
    // nor does the first one notice
    assert_eq!(get(&first.client(), "/readyz").await.0, 200);

    first.kill().await;
    Broker::with().alone("one broker per database").env("DATABASE_URL", &url).start().await;
}

#[actix_web::test]
async fn a_link_to_a_database_is_no_other_database() {
    let dir = TempDir::new().unwrap();
    let (file, link) = (dir.path().join("shared.db"), dir.path().join("link.db"));
    let url = |path: &std::path::Path| format!("sqlite:///{}", path.display());
    let _first = Broker::with().alone("one broker per database").env("DATABASE_URL", &url(&file)).start().await;
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let mut second = ChangeBroker::default().env("DATABASE_URL", &url(&link));
    let refused = second.run(&["serve", "--bind", "127.0.0.1:0"], "");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("another broker uses this database (process "), "{}", refused.stderr);
}

async fn execute(connection: &DatabaseConnection, sql: &str) {
    connection.execute_unprepared(sql).await.unwrap();
}

/// Ends the session that holds the lock on the database.
const END_LOCK_SESSION: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE datname = current_database() AND application_name = 'switchboard lock'";

#[actix_web::test]
async fn a_broker_that_loses_its_lock_takes_it_again() {
    let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES") else { return };
    let url = create_database(&server).await;
    let broker = Broker::with().alone("one broker per database").env("DATABASE_URL", &url).start().await;
    let connection = Database::connect(&url).await.unwrap();
    let sessions = async || {
        let count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock' \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let row = connection.query_one_raw(Statement::from_string(connection.get_database_backend(), count)).await;
        row.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap()
    };
    assert_eq!(sessions().await, 1);
    execute(&connection, END_LOCK_SESSION).await;
    until(async || sessions().await == 0).await;
    until(async || sessions().await == 1).await;
    let (device, _) = broker.device("device").await;
    until(async || {
        let topic = json!({ "topic_id": Uuid::new_v4().simple().to_string() });
        post(&device, "/topics/create", topic).await.0 == 200
    })
    .await;
}

#[actix_web::test]
async fn a_broker_acknowledges_nothing_once_another_serves_its_database() {
    let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES") else { return };
    let url = create_database(&server).await;
    let mut first = Broker::with().alone("one broker per database").env("DATABASE_URL", &url).start().await;
    let (device, _) = first.device("device").await;
    let connection = Database::connect(&url).await.unwrap();
    // it can't notice the loss of its lock before it is asked
    first.signal("STOP");
    execute(&connection, END_LOCK_SESSION).await;
    let second = Broker::with().alone("one broker per database").env("DATABASE_URL", &url).start().await;
    let (other, _) = second.device("another device").await;
    let topic = |n: usize, whose: &str| json!({ "topic_id": format!("{whose} {n}") });
    let asked = (0..50).map(|n| device.request(Method::POST, "/topics/create").json(&topic(n, "first")).send());
    let resumed = async {
        assert_eq!(post(&other, "/topics/create", topic(0, "second")).await.0, 200);
        first.signal("CONT");
    };
    let (answers, ()) = futures_util::future::join(futures_util::future::join_all(asked), resumed).await;
    for answer in answers {
        // it may end before it answers
        assert!(answer.as_ref().is_ok_and(|answer| answer.status() == 503) || answer.is_err(), "{answer:?}");
    }
    assert_eq!(first.ended().await, Some(70));
    let (log, address) = (first.log(), second.url.strip_prefix("http://").unwrap());
    assert!(log.contains("another broker uses this database") && log.contains(address), "{log}");
    let (_, topics) = get(&other, "/topics").await;
    assert_eq!(topics["count"], 1, "{topics}");
    assert_eq!(post(&other, "/topics/create", topic(1, "second")).await.0, 200);
}

#[actix_web::test]
async fn a_broker_whose_database_another_has_taken_over_ends() {
    let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES") else { return };
    let url = create_database(&server).await;
    let mut broker = Broker::with().alone("one broker per database").env("DATABASE_URL", &url).start().await;
    let mut options = sea_orm::ConnectOptions::new(url.clone());
    options.max_connections(1);
    let other = Database::connect(options).await.unwrap();
    let connection = Database::connect(&url).await.unwrap();
    // waits until the broker's session is ended, and has it before the broker can come again
    let takes_over = async {
        let lock = format!("SELECT pg_advisory_lock({})", i64::from_be_bytes(*b"switchbd"));
        execute(&other, &lock).await;
    };
    let ends_session = async {
        let waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let backend = connection.get_database_backend();
        until(async || connection.query_one_raw(Statement::from_string(backend, waiting)).await.unwrap().is_some())
            .await;
        execute(&connection, END_LOCK_SESSION).await;
    };
    futures_util::future::join(takes_over, ends_session).await;
    execute(&connection, "UPDATE brokers SET instance = gen_random_uuid(), host = 'elsewhere'").await;
    assert_eq!(broker.ended().await, Some(70));
    let log = broker.log();
    assert!(log.contains("another broker uses this database (process ") && log.contains("on elsewhere"), "{log}");
}
