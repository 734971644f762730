//! What the broker writes in groups: a record that can't be written stops no other one.

use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use switchboard::client::{Client, Connection, Device};

use crate::support::{Broker, answer, get, next, post, posting, reply, until, within};

/// Gives a command that its device does not answer yet. Answers its id.
async fn command(operator: &Client, device: &Device, socket: &mut Connection) -> String {
    let request = operator.request(Method::POST, "/api/commands").header("Prefer", "respond-async");
    let body = json!({ "target": device.uuid, "method": "GET", "url": "/" });
    let (status, body) = answer(request.json(&body)).await;
    assert_eq!(status, 202, "{body}");
    next(socket).await["command_id"].as_str().unwrap().to_owned()
}

async fn report(socket: &mut Connection, command: &str, progress: i64) {
    let frame = json!({ "type": "progress", "command_id": command, "progress": progress });
    socket.send_text(frame.to_string()).await.unwrap();
}

async fn target(operator: &Client, command: &str) -> Value {
    let (status, body) = get(operator, &format!("/api/commands/{command}")).await;
    assert_eq!(status, 200, "{body}");
    body["targets"][0].clone()
}

/// Everything that needs the Journal works.
async fn works(operator: &Client, device: &Device, socket: &mut Connection) {
    let body = json!({ "target": device.uuid, "method": "GET", "url": "/" });
    let asked = posting(operator, "/api/commands", &body);
    reply(socket, json!("done")).await;
    let (status, told) = within(asked).await.unwrap();
    assert_eq!((status, &told["targets"][0]["state"]), (200, &json!("succeeded")), "{told}");
    let (status, room) = post(operator, "/api/rooms/", json!({ "name": format!("room of {}", told["id"]) })).await;
    assert_eq!(status, 200, "{room}");
}

#[tokio::test]
async fn a_progress_report_that_is_stored_already_stops_nothing() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let command = command(&admin, &device, &mut socket).await;
    report(&mut socket, &command, 1).await;
    until(async || target(&admin, &command).await["progress"][0]["progress"] == 1).await;
    // as if the next one had been written, and the answer been lost
    let columns = "command_id, client_uuid, at, progress, version";
    broker
        .execute(&format!(
            "INSERT INTO command_progress ({columns}) SELECT {} FROM command_progress",
            columns.replace("version", "version + 1")
        ))
        .await;
    report(&mut socket, &command, 2).await;
    report(&mut socket, &command, 3).await;
    until(async || target(&admin, &command).await["progress"][2]["progress"] == 3).await;
    works(&admin, &device, &mut socket).await;
    // neither is it an error
    let log = broker.log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn a_record_that_the_database_refuses_is_dropped_and_stops_no_other_one() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    broker.execute("CREATE UNIQUE INDEX once ON command_progress (progress)").await;
    let command = command(&admin, &device, &mut socket).await;
    for progress in [1, 2, 2, 2, 3, 3, 4] {
        report(&mut socket, &command, progress).await;
    }
    until(async || target(&admin, &command).await["progress"][3]["progress"] == 4).await;
    let kept = target(&admin, &command).await;
    let kept = kept["progress"].as_array().unwrap().iter().map(|report| report["progress"].as_i64().unwrap());
    assert!(kept.eq(1..=4), "each once");
    works(&admin, &device, &mut socket).await;
    let log = broker.log();
    let refused = log.lines().filter(|line| line.contains("ERROR") && line.contains("the database refuses a record"));
    let refused: Vec<_> = refused.collect();
    assert_eq!(refused.len(), 3, "{log}");
    assert!(refused.iter().all(|line| line.contains(&command)), "{refused:?}");
}

#[tokio::test]
async fn a_broker_whose_records_can_not_be_written_is_not_ready() {
    // SQLite locks the whole database
    if std::env::var("SWITCHBOARD_TEST_POSTGRES").is_err() {
        return;
    }
    let mut broker = Broker::with().alone("readiness of one node").set("STORAGE__TIMEOUT_MS", "1800").start().await;
    let admin = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let command = command(&admin, &device, &mut socket).await;
    let other = broker.database().await;
    other.execute_unprepared("BEGIN; LOCK TABLE command_progress IN ACCESS EXCLUSIVE MODE").await.unwrap();
    report(&mut socket, &command, 1).await;
    until(async || get(&admin, "/readyz").await.0 == 503).await;
    let (_, ready) = get(&admin, "/readyz").await;
    assert_eq!((&ready["status"], &ready["database"]), (&json!("unavailable"), &json!("away")), "{ready}");
    other.execute_unprepared("ROLLBACK").await.unwrap();
    until(async || get(&admin, "/readyz").await.0 == 200).await;
    works(&admin, &device, &mut socket).await;
}
