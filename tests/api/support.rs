//! Helpers of the tests: a broker per test, and clients for it.

mod balancer;
mod broker;
pub mod chat;
pub mod frames;
mod loss;
mod node;
mod preload;
mod program;
mod raw;
mod setup;
pub mod tls;

pub use broker::Broker;
pub use loss::LossyProxy;
pub use preload::{SteppedClock, preload};
pub use program::Program;
pub use raw::{Frame, RawSocket};
pub use setup::{ChangeBroker, Output, create_database};
pub use tls::TlsProxy;

use std::{
    future::Future,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::Value;
use switchboard::client::{Client, ClientError, Connection};

/// Timeout of all waits. It exceeds what any step takes on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Between two queries for the same, so that tests that wait leave the processor to others.
pub const PAUSE: Duration = Duration::from_millis(10);

/// Timeouts, in seconds, of tests in which one thing must time out while others must be in time. A test tries the next one
/// if the others were too late, so that it is quick on a fast machine and does not fail on a slow one.
pub const PERIODS: [u32; 4] = [1, 4, 12, 25];

/// An address for a listener that is closed and opened again. No other test takes its port meanwhile, since the others
/// listen on 127.0.0.1.
pub fn own_address() -> SocketAddr {
    static TAKEN: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    // all of 127.0.0.0/8 is this machine
    let ip = [127, 1 + high % 254, low, 1 + TAKEN.fetch_add(1, Ordering::Relaxed) % 254];
    TcpListener::bind((IpAddr::from(ip), 0)).unwrap().local_addr().unwrap()
}

/// Where cargo puts an example, built if it is not there. All of the workspace is named, as for the tests: with the features of
/// one package alone, other packages would be built again.
pub fn example(name: &str) -> String {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--workspace", "--example", name]);
    // what cargo has set for this test would make it build anew what depends on these variables
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(variable);
        }
    }
    assert!(cargo.status().unwrap().success());
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_switchboard")).parent().unwrap();
    folder.join("examples").join(name).display().to_string()
}

/// Waits for a result with a timeout, so that a test fails instead of hanging.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("waited in vain")
}

/// Repeats a query until it returns true.
pub async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    within(async {
        while !is_so().await {
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
}

/// Repeats a query until it returns true at all nodes: of three requests in a row, one goes to each.
pub async fn everywhere(mut is_so: impl AsyncFnMut() -> bool) {
    let mut agreed = 0;
    until(async || {
        agreed = if is_so().await { agreed + 1 } else { 0 };
        agreed == 3
    })
    .await;
}

/// Whether `/clients` lists this client.
pub async fn is_listed(client: &Client, uuid: uuid::Uuid) -> bool {
    let (_, body) = get(client, "/clients").await;
    body["clients"].get(uuid.to_string()).is_some()
}

/// Waits for the next frame and parses it as JSON. Asserts that it is as `/asyncapi.json` says.
pub async fn next(connection: &mut Connection) -> Value {
    let frame = within(connection.next_frame()).await.expect("a frame");
    frames::documented().await.check(connection.path(), &frame);
    frame
}

/// Waits for the next frame and asserts its type.
pub async fn next_of_type(connection: &mut Connection, kind: &str) -> Value {
    let frame = next(connection).await;
    assert_eq!(frame["type"], kind, "{frame}");
    frame
}

/// Reads until the broker closes the socket. Returns the close code.
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

/// Status and JSON body of an answer, also of a refusal.
pub async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = within(request.send()).await.expect("an answer");
    let status = response.status();
    let text = within(response.text()).await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Sends a GET request. Returns status and body.
pub async fn get(client: &Client, path: &str) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::GET, path)).await;
    (status.as_u16(), body)
}

/// Sends a POST request with JSON. Returns status and body.
pub async fn post(client: &Client, path: &str, body: Value) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::POST, path).json(&body)).await;
    (status.as_u16(), body)
}

/// Sends a DELETE request. Returns status and body.
pub async fn delete(client: &Client, path: &str) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::DELETE, path)).await;
    (status.as_u16(), body)
}

/// Sends a POST request with JSON in a task. The task returns status and body.
pub fn posting(client: &Client, path: &str, body: &Value) -> tokio::task::JoinHandle<(u16, Value)> {
    let request = client.request(Method::POST, path).json(body);
    tokio::spawn(async move {
        let (status, body) = answer(request).await;
        (status.as_u16(), body)
    })
}

/// Waits for the next frame, which must be a command, answers it, and returns it.
pub async fn reply(connection: &mut Connection, result: Value) -> Value {
    let command = next(connection).await;
    assert!(command["method"].is_string(), "{command}");
    let reply = serde_json::json!({ "command_id": command["command_id"], "result": result });
    connection.send_text(reply.to_string()).await.unwrap();
    command
}

/// Asserts that no further frame has come on this socket: a ping's pong is the next one.
pub async fn nothing_came(connection: &mut Connection) {
    connection.send_text(r#"{"type":"ping"}"#).await.unwrap();
    next_of_type(connection, "pong").await;
}

/// Waits until every command has ended.
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

/// A handshake with these headers; later ones replace earlier ones.
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

/// The faults in a validation error, each as `type part.field`. Asserts FastAPI's format.
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
