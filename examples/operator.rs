//! An operator: asks each device that is online for its reading, and prints the answers.
//!
//! ```text
//! cargo run --example operator http://127.0.0.1:8000 admin "$(cat data/initial-admin-password)"
//! ```

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};
use switchboard::client::Client;
use uuid::Uuid;

#[derive(Deserialize)]
struct Devices {
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    uuid: Uuid,
    name: String,
    online: bool,
}

#[derive(Deserialize)]
struct Command {
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    uuid: Uuid,
    state: String,
    result: Value,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (url, username, password) = (arguments.next(), arguments.next(), arguments.next());
    let usage = "usage: operator URL USERNAME PASSWORD";
    let mut client = Client::new(&url.context(usage)?)?;
    client.login(&username.context(usage)?, &password.context(usage)?).await?;

    let found: Devices = client.get("/devices?limit=1000").await?;
    let online: Vec<&Device> = found.devices.iter().filter(|device| device.online).collect();
    if online.is_empty() {
        println!("no device is online");
        return Ok(());
    }
    // one command for all of them; the answer comes when the last device has answered, or after 30 s
    let targets: Vec<Uuid> = online.iter().map(|device| device.uuid).collect();
    let command = json!({ "targets": targets, "method": "GET", "url": "/reading" });
    let command: Command = client.post("/api/commands", &command).await?;
    for target in command.targets {
        let name = online.iter().find(|device| device.uuid == target.uuid).map_or("", |device| device.name.as_str());
        println!("{name}: {} {}", target.state, target.result);
    }
    Ok(())
}
