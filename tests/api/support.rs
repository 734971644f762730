//! A broker per test, and clients for it.

mod broker;
pub mod chat;
mod program;
mod raw;
mod tls;

pub use broker::{Broker, ChangeBroker, Output, create_database};
pub use program::Program;
pub use raw::{Frame, RawSocket};
pub use tls::TlsProxy;

use std::{future::Future, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::Value;
use switchboard::client::{Client, ClientError, Connection};

/// Longer than anything here takes on the slowest machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The result, or a failed test: for what would hang otherwise.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("waited in vain")
}

/// Asks again and again until the answer is yes.
pub async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    within(async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Whether `/clients` lists this client.
pub async fn is_listed(client: &Client, uuid: uuid::Uuid) -> bool {
    let (_, body) = get(client, "/clients").await;
    body["clients"].get(uuid.to_string()).is_some()
}

/// The next frame as JSON.
pub async fn next(connection: &mut Connection) -> Value {
    within(connection.next_frame()).await.expect("a frame")
}

/// The next frame, which must be of this type.
pub async fn next_of_type(connection: &mut Connection, kind: &str) -> Value {
    let frame = next(connection).await;
    assert_eq!(frame["type"], kind, "{frame}");
    frame
}

/// Reads until the broker closes, and tells the code.
pub async fn close_code(connection: &mut Connection) -> u16 {
    loop {
        match within(connection.next_message()).await {
            Ok(_) => {}
            Err(ClientError::Closed { code, .. }) => return code,
            Err(error) => panic!("expected a close frame, got {error}"),
        }
    }
}

/// The status and code of a refusal.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (u16, String, String) {
    match result.expect_err("a refusal") {
        ClientError::Refused { status, code, detail, .. } => (status.as_u16(), code, detail),
        other => panic!("expected a refusal, got {other}"),
    }
}

/// Status and JSON body of an answer, whatever it is.
pub async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = within(request.send()).await.expect("an answer");
    let status = response.status();
    let text = within(response.text()).await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Gets; status and body of the answer.
pub async fn get(client: &Client, path: &str) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::GET, path)).await;
    (status.as_u16(), body)
}

/// Posts JSON; status and body of the answer.
pub async fn post(client: &Client, path: &str, body: Value) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::POST, path).json(&body)).await;
    (status.as_u16(), body)
}

/// Deletes; status and body of the answer.
pub async fn delete(client: &Client, path: &str) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::DELETE, path)).await;
    (status.as_u16(), body)
}

/// Posts JSON while the test goes on; status and body of the answer.
pub fn posting(client: &Client, path: &str, body: &Value) -> tokio::task::JoinHandle<(u16, Value)> {
    let request = client.request(Method::POST, path).json(body);
    tokio::spawn(async move {
        let (status, body) = answer(request).await;
        (status.as_u16(), body)
    })
}

/// Takes the next frame, which must be a command, answers it, and gives it back.
pub async fn reply(connection: &mut Connection, result: Value) -> Value {
    let command = next(connection).await;
    assert!(command["method"].is_string(), "{command}");
    let reply = serde_json::json!({ "command_id": command["command_id"], "result": result });
    connection.send_text(reply.to_string()).await.unwrap();
    command
}

/// Nothing more has come on this socket than what was read: a pong is the next frame.
pub async fn nothing_came(connection: &mut Connection) {
    connection.send_text(r#"{"type":"ping"}"#).await.unwrap();
    next_of_type(connection, "pong").await;
}

/// Waits until every command has come to its end.
pub async fn no_command_is_left(operator: &Client) {
    for state in ["queued", "sent", "in_progress"] {
        until(async || {
            let (status, list) = get(operator, &format!("/api/commands?state={state}")).await;
            assert_eq!(status, 200, "{list}");
            list["count"] == 0
        })
        .await;
    }
}

/// A handshake with these headers; later ones win.
pub fn handshake(client: &Client, path: &str, headers: &[(&'static str, &str)]) -> reqwest::RequestBuilder {
    let usual = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let mut all = reqwest::header::HeaderMap::new();
    for (name, value) in usual.iter().chain(headers) {
        all.insert(*name, value.parse().unwrap());
    }
    client.request(Method::GET, path).headers(all)
}

/// What a validation error finds fault with, each as `type part.field`. It must have FastAPI's shape.
pub fn faults(body: &Value) -> Vec<String> {
    assert_eq!(body["code"], "validation_error", "{body}");
    let fault = |fault: &Value| {
        assert!(fault["msg"].is_string() && fault.get("input").is_some(), "{fault}");
        let loc = fault["loc"].as_array().expect("a location").iter();
        let loc: Vec<_> = loc.map(|part| part.as_str().map_or(part.to_string(), str::to_owned)).collect();
        format!("{} {}", fault["type"].as_str().expect("a type"), loc.join("."))
    };
    body["detail"].as_array().expect("a list of faults").iter().map(fault).collect()
}
