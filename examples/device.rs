//! A thermometer: a device that registers, publishes a reading to a topic every few seconds, and answers commands.
//!
//! ```text
//! cargo run                                     # a broker, in another terminal
//! cargo run --example device http://127.0.0.1:8000
//! ```

use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use switchboard::client::{Client, ClientError, Connection};
use uuid::Uuid;

const TOPIC: &str = "temperature";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
    let mut client = Client::new(&url)?;
    // a real device keeps its UUID and its key in a file, and comes back as the same device: `register_device_again`
    let device = client.register_device("thermometer", Uuid::new_v4()).await?;
    println!("{} is {}", device.name, device.uuid);
    match client.create_topic(TOPIC).await {
        Err(ClientError::Refused { status, .. }) if status == 400 => println!("{TOPIC} exists already"),
        created => created.context("cannot create the topic")?,
    }
    // only subscribers may publish
    client.subscribe(TOPIC).await?;

    let mut connection = client.connect("/ws").await?;
    let mut readings = tokio::time::interval(Duration::from_secs(5));
    let mut degrees = 20.0;
    loop {
        tokio::select! {
            _ = readings.tick() => {
                degrees += 0.1;
                connection.publish(TOPIC, &format!("{degrees:.1}")).await?;
            }
            frame = connection.next_frame() => {
                let frame = frame?;
                // a command has an id, and what it asks for
                if frame["command_id"].is_string() {
                    answer(&mut connection, &frame, degrees).await?;
                }
            }
        }
    }
}

async fn answer(connection: &mut Connection, command: &serde_json::Value, degrees: f64) -> Result<(), ClientError> {
    let reply = match command["url"].as_str() {
        Some("/reading") => json!({ "command_id": command["command_id"], "result": { "degrees": degrees } }),
        _ => json!({ "command_id": command["command_id"], "result": { "error": "there is only /reading" } }),
    };
    connection.send_text(reply.to_string()).await
}
