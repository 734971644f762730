//! Streams of events over HTTP: when they end, and what they may take up.

use chrono::Utc;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};

use crate::{
    sockets::{SECRET, expiring},
    support::{Broker, PERIODS, RawSocket, answer, get, next, next_of_type, post, refusal, until, within},
};

/// Gives a command to a device that is not connected; it stays queued.
async fn queued(broker: &Broker, operator: &Client) -> String {
    let (_, absent) = broker.device("absent").await;
    let body = json!({ "target": absent.uuid, "method": "GET", "url": "/", "deliver_within_secs": 600 });
    let request = operator.request(Method::POST, "/api/commands").header("Prefer", "respond-async").json(&body);
    let (status, command) = answer(request).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{command}");
    command["id"].as_str().unwrap().to_owned()
}

/// The stream of a command's events.
async fn watched(watcher: &Client, id: &str) -> reqwest::Response {
    let path = format!("/api/commands/{id}/events");
    let response = within(watcher.request(Method::GET, &path).send()).await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

async fn ends(mut stream: reqwest::Response) {
    within(async { while let Ok(Some(_)) = stream.chunk().await {} }).await;
}

#[tokio::test]
async fn a_stream_of_events_ends_with_the_right_to_see_it() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let id = queued(&broker, &admin).await;

    let olga = broker.user("olga", "operator").await;
    let stream = watched(&olga, &id).await;
    assert_eq!(post(&olga, "/auth/logout", json!({})).await.0, 200);
    ends(stream).await;

    let olga = broker.login("olga", "password of olga").await;
    let stream = watched(&olga, &id).await;
    let output = broker.command(&["user", "set-role", "olga", "user"], "");
    assert_eq!(output.code, Some(0), "{output:?}");
    ends(stream).await;
    assert_eq!(get(&olga, &format!("/api/commands/{id}/events")).await.0, 404);

    let oskar = broker.user("oskar", "operator").await;
    let stream = watched(&oskar, &id).await;
    let output = broker.command(&["user", "disable", "oskar"], "");
    assert_eq!(output.code, Some(0), "{output:?}");
    ends(stream).await;
}

#[tokio::test]
async fn streams_of_events_count_as_sockets() {
    let mut broker = Broker::with()
        .alone("streams are counted per node")
        .set("LIMITS__CONNECTIONS_PER_IDENTITY", "3")
        .set("LIMITS__CONNECTIONS", "4")
        .start()
        .await;
    let admin = broker.admin().await;
    let id = queued(&broker, &admin).await;
    let path = format!("/api/commands/{id}/events");
    let streams = (watched(&admin, &id).await, watched(&admin, &id).await);
    let mut chat = within(admin.connect("/ws/auth")).await.unwrap();
    next_of_type(&mut chat, "connection_established").await;
    let (status, refused) = get(&admin, &path).await;
    assert_eq!(status, 429, "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("limits.connections_per_identity"), "{refused}");
    let (status, code, _) = refusal(within(admin.connect("/ws/auth")).await);
    assert_eq!((status, code.as_str()), (429, "too_many_requests"));
    let other = broker.user("olga", "operator").await;
    let stream = watched(&other, &id).await;
    let (status, refused) = get(&other, &path).await;
    assert_eq!((status, &refused["code"]), (503, &json!("at_limit")), "{refused}");
    drop((streams, stream));
    until(async || within(admin.request(Method::GET, &path).send()).await.unwrap().status() == 200).await;
}

#[tokio::test]
async fn a_stream_of_events_ends_with_its_token_where_sockets_do() {
    let mut broker = Broker::with().env("SECRET_KEY", SECRET).set("AUTH__EXPIRE_LIVE_SOCKETS", "true").start().await;
    let admin = broker.admin().await;
    let id = queued(&broker, &admin).await;
    let lasting = watched(&admin, &id).await;
    let mut watching = None;
    for secs in PERIODS {
        let expires_at = Utc::now().timestamp() + i64::from(secs) + 1;
        let short = admin.with_token(&expiring(admin.token().unwrap(), expires_at));
        let asked = short.request(Method::GET, &format!("/api/commands/{id}/events"));
        let stream = within(asked.send()).await.unwrap();
        if stream.status() == 200 {
            watching = Some((stream, expires_at));
            break;
        }
    }
    let (stream, expires_at) = watching.expect("asked in time");
    ends(stream).await;
    assert!(Utc::now().timestamp() >= expires_at);
    // one with a token that lasts goes on until it loses its right
    assert_eq!(post(&admin, "/auth/logout", json!({})).await.0, 200);
    ends(lasting).await;
}

/// Tells of a command's progress.
async fn progress(socket: &mut Connection, command: &Value, progress: Value) {
    let frame = json!({ "type": "progress", "command_id": command["command_id"], "progress": progress });
    socket.send_text(frame.to_string()).await.unwrap();
}

#[tokio::test]
async fn a_stream_of_events_that_nobody_reads_is_cut_and_frees_its_place() {
    let mut broker = Broker::with()
        .alone("streams are counted per node")
        .set("LIMITS__SEND_TIMEOUT_SECS", "1")
        .set("LIMITS__CONNECTIONS_PER_IDENTITY", "1")
        .set("LIMITS__FRAME_BYTES", "0")
        .set("LIMITS__STORED_BYTES_PER_MINUTE", "0")
        .start()
        .await;
    let admin = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let body = json!({ "target": device.uuid, "method": "GET", "url": "/" });
    let request = admin.request(Method::POST, "/api/commands").header("Prefer", "respond-async").json(&body);
    let (status, given) = answer(request).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{given}");
    let command = next(&mut socket).await;
    let path = format!("/api/commands/{}/events", given["id"].as_str().unwrap());
    let mut stalled = RawSocket::connect_narrow(&broker).await;
    let token = admin.token().unwrap();
    stalled
        .send(format!("GET {path} HTTP/1.1\r\nHost: broker\r\nAuthorization: Bearer {token}\r\n\r\n").as_bytes())
        .await;
    assert!(stalled.read_head().await.starts_with("HTTP/1.1 200 "));
    let status = async || within(admin.request(Method::GET, &path).send()).await.unwrap().status();
    assert_eq!(status().await, 429, "it has the only place");
    // more than the kernel takes, and more events than wait for a watcher
    progress(&mut socket, &command, json!("x".repeat(8 << 20))).await;
    for n in 0..10 {
        progress(&mut socket, &command, json!(n)).await;
    }
    until(async || status().await == 200).await;
    drop(stalled);
}
