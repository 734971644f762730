//! `switchboard demo`: a tour of the broker's functions, step by step, over the network.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    client::{ClientError, Connection},
    terminal::{output::json_text, remote::Remote, say},
};

const TOPIC: &str = "switchboard-demo";

/// Timeout for each step.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let (mut alice, mut bob) = (arguments.remote.client()?, arguments.remote.client()?);
    say!("Switchboard demo at {}\n", alice.url());

    say!("1. Two devices register over HTTP");
    let alice_id = alice.register_device("Alice", Uuid::new_v4()).await.context("POST /register failed")?.uuid;
    let bob_id = bob.register_device("Bob", Uuid::new_v4()).await.context("POST /register failed")?.uuid;
    say!("   Alice is {alice_id}\n   Bob   is {bob_id}");

    say!("2. Both connect by WebSocket");
    let mut alice_socket = alice.connect("/ws").await.context("Alice can't connect")?;
    expect(&mut alice_socket, "Alice", |frame| frame["type"] == "connection").await?;
    let mut bob_socket = bob.connect("/ws").await.context("Bob can't connect")?;
    expect(&mut bob_socket, "Bob  ", |frame| frame["type"] == "connection").await?;

    say!("3. Alice sends Bob a direct message, and gets a receipt");
    let msgid = alice_socket.send_direct(bob_id, "Hello Bob!").await?;
    let message = expect(&mut bob_socket, "Bob  ", |frame| frame["msgid"] == msgid.as_str()).await?;
    ensure!(message["content"] == "Hello Bob!", "Bob got another text: {message}");
    ensure!(message["from"] == alice_id.to_string(), "the message is not from Alice: {message}");
    expect(&mut alice_socket, "Alice", |frame| frame["type"] == "sent" && frame["msgid"] == msgid.as_str()).await?;

    say!("4. Alice creates the topic {TOPIC}, and both subscribe");
    match alice.create_topic(TOPIC).await {
        Ok(()) => say!("   created"),
        Err(ClientError::Refused { code, .. }) if code == "already_exists" => say!("   it is there already"),
        Err(error) => return Err(error).context("POST /topics/create failed"),
    }
    alice.subscribe(TOPIC).await.context("POST /topics/subscribe failed")?;
    bob.subscribe(TOPIC).await.context("POST /topics/subscribe failed")?;

    say!("5. Bob publishes: Alice gets it, Bob gets a receipt");
    let msgid = bob_socket.publish(TOPIC, "Hello everyone!").await?;
    let message = expect(&mut alice_socket, "Alice", |frame| frame["msgid"] == msgid.as_str()).await?;
    ensure!(message["content"] == "Hello everyone!", "Alice got another text: {message}");
    expect(&mut bob_socket, "Bob  ", |frame| frame["type"] == "topic_sent" && frame["msgid"] == msgid.as_str()).await?;

    alice_socket.close().await?;
    bob_socket.close().await?;
    say!("\nAll of it worked.");
    Ok(())
}

/// Waits for a matching frame and prints it. Skips other frames, since other clients may publish to the same topic.
async fn expect(socket: &mut Connection, who: &str, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let wait = async {
        loop {
            let frame = socket.next_frame().await?;
            if is_it(&frame) {
                say!("   {who} ← {}", json_text(&frame));
                return anyhow::Ok(frame);
            }
            ensure!(frame["type"] != "error", "{} got an error: {}", who.trim(), frame["message"]);
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("{} got no such frame in time", who.trim()))?
}
