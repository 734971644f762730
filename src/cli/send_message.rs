//! `switchboard send-message`: sends one message to a device, and tells what has become of it.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, builder::PossibleValuesParser};
use serde_json::{Value, json};

use super::{messages::in_words, names::resolve, values::number};
use crate::{
    client::{Client, ClientError},
    domain::messages::{MAX_TTL_SECS, Priority},
    protocol::json,
    terminal::{
        output::{Output, print_json, text},
        say,
    },
};

/// Time between two questions whether the message has ended.
const PERIOD: Duration = Duration::from_millis(500);

#[derive(Args)]
#[command(after_help = "Exit codes: 0 sent, or with --wait delivered; 1 not; 2 the arguments are wrong.")]
pub(super) struct Arguments {
    /// The device: its UUID or unique name
    device: String,
    /// The content, as a text
    #[arg(required_unless_present = "data", conflicts_with = "data")]
    content: Option<String>,
    /// The content, as JSON, such as '{"degrees": 21.5}'
    #[arg(long, value_name = "JSON", value_parser = |text: &str| json::parse(text.as_bytes()))]
    data: Option<Value>,
    /// Store the message and deliver it, again if need be, until the device acknowledges it; also to a device that is offline
    #[arg(long)]
    ack: bool,
    /// Wait until the message has been delivered or has ended otherwise
    #[arg(long, requires = "ack")]
    wait: bool,
    /// Seconds the message may wait to be acknowledged [default: the broker's `messages.ttl_secs`]
    #[arg(long, value_name = "SECS", requires = "ack", value_parser = number(1..=MAX_TTL_SECS))]
    ttl: Option<u32>,
    /// What waits for the device goes by priority, then by age [default: normal]
    #[arg(long, requires = "ack", value_parser = PossibleValuesParser::new(Priority::ALL.map(Priority::as_str)))]
    priority: Option<String>,
    /// An id of yours; with --ack the same message with the same id is sent once [default: a random one]
    #[arg(long, value_name = "ID")]
    msgid: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { device, content, data, ack, wait, ttl, priority, msgid, output } = arguments;
    let client = output.login.client().await?;
    let to = resolve(&client, &device).await?;
    let mut message = json!({ "to": to, "content": data.or(content.map(Value::String)) });
    for (field, value) in [
        ("acknowledge", ack.then(|| json!(true))),
        ("ttl", ttl.map(Value::from)),
        ("priority", priority.map(Value::from)),
        ("msgid", msgid.map(Value::from)),
    ] {
        if let Some(value) = value {
            message[field] = value;
        }
    }
    let receipt: Value = client.post("/api/messages", &message).await?;
    if !output.json {
        print_receipt(&receipt);
    }
    if !wait {
        return if output.json { print_json(&receipt) } else { Ok(()) };
    }
    let id = &receipt["id"];
    let ended = end(&client, id).await.with_context(|| format!("stopped waiting for message {id}, which goes on"))?;
    if output.json {
        print_json(&ended)?;
    }
    let status = &ended["status"];
    ensure!(status == "delivered", "message {id} was not delivered: {}", in_words(status));
    if !output.json {
        say!("{}", in_words(status));
    }
    Ok(())
}

fn print_receipt(receipt: &Value) {
    let msgid = text(&receipt["msgid"]);
    if receipt["status"].is_null() {
        return say!("{}: msgid {msgid}", text(&receipt["message"]));
    }
    let (status, id, expires) = (in_words(&receipt["status"]), &receipt["id"], text(&receipt["expires_at"]));
    say!("{status}: id {id}, msgid {msgid}, expires {expires}");
}

/// Waits for the end of a message.
async fn end(client: &Client, id: &Value) -> Result<Value, ClientError> {
    loop {
        let message: Value = client.get(&format!("/api/messages/{id}")).await?;
        if !message["ended_at"].is_null() {
            return Ok(message);
        }
        tokio::time::sleep(PERIOD).await;
    }
}
