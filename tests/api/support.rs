//! A broker per test, and clients for it.

mod broker;
mod raw;

pub use broker::{Broker, ChangeBroker, Output};
pub use raw::{Frame, RawSocket};

use std::{future::Future, time::Duration};

use reqwest::StatusCode;
use serde_json::Value;
use switchboard::client::{ClientError, Connection};

/// Longer than anything here takes on the slowest machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The result, or a failed test: for what would hang otherwise.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("waited in vain")
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
        ClientError::Refused { status, code, detail } => (status.as_u16(), code, detail),
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
