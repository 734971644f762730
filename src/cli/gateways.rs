//! `switchboard gateways`: lists, adds, removes and watches gateways.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::values;
use crate::{
    client::{Client, ClientError, Connection},
    domain::{
        gateways::{Address, EXPECTED, is_name, is_percent, is_rtt},
        ids::GatewayId,
    },
    terminal::{
        output::{Output, items, print_json, table, text, while_read},
        say,
    },
};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    output: Output,
}

#[derive(Subcommand)]
enum Action {
    /// List all gateways (also without any action)
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Add a gateway; it is probed at once
    Add {
        /// The gateway's name, such as "Plant north"
        #[arg(value_parser = name)]
        name: String,
        /// A host name or IP address, pinged by ICMP; or tcp://host:port
        #[arg(value_parser = |text: &str| Address::parse(text).ok_or(EXPECTED))]
        address: Address,
        /// Its id; assigned if left out
        #[arg(long, value_parser = values::number(0..=GatewayId::MAX.0))]
        id: Option<i64>,
        /// The id of the gateway that it is behind
        #[arg(long, value_name = "ID", value_parser = values::number(0..=GatewayId::MAX.0))]
        parent: Option<i64>,
        /// Degraded above this mean round trip
        #[arg(long, value_name = "MS", value_parser = |text: &str| number(text, is_rtt, "a number greater than 0"))]
        max_rtt_ms: Option<f64>,
        /// Degraded above this loss
        #[arg(long, value_name = "PERCENT")]
        #[arg(value_parser = |text: &str| number(text, is_percent, "a number from 0 to 100"))]
        max_loss_percent: Option<f64>,
        #[command(flatten)]
        output: Output,
    },
    /// Remove a gateway with its history
    Rm {
        /// Its id, as `gateways list` shows it
        #[arg(value_parser = values::number(0..=GatewayId::MAX.0))]
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Show all gateways, then each change as it happens
    Watch {
        #[command(flatten)]
        output: Output,
    },
}

fn name(text: &str) -> Result<String, &'static str> {
    is_name(text).then(|| text.to_owned()).ok_or("expected 1 to 100 characters, none of them a control character")
}

fn number(text: &str, is_good: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number| is_good(*number)).ok_or_else(|| format!("expected {expected}"))
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.action.unwrap_or(Action::List { output: arguments.output }) {
        Action::List { output } => {
            let list: Value = output.login.client().await?.get("/api/gateways").await?;
            if output.json { print_json(&list)? } else { print_table(items(&list, "gateways")) }
        }
        Action::Add { name, address, id, parent, max_rtt_ms, max_loss_percent, output } => {
            let body = json!({
                "name": name, "address": address.as_str(), "id": id, "parent_id": parent,
                "max_rtt_ms": max_rtt_ms, "max_loss_percent": max_loss_percent,
            });
            let gateway: Value = output.login.client().await?.post("/api/gateways", &body).await?;
            if output.json { print_json(&gateway)? } else { print_table(&[gateway]) }
        }
        Action::Rm { id, output } => {
            let client = output.login.client().await?;
            let done: Value = client.answer(client.request(Method::DELETE, &format!("/api/gateways/{id}"))).await?;
            if output.json { print_json(&done)? } else { say!("{}", text(&done["message"])) }
        }
        Action::Watch { output } => while_read(watch(&output.login.client().await?, output.json)).await?,
    }
    Ok(())
}

fn print_table(gateways: &[Value]) {
    let mut table =
        table(&["ID", "NAME", "ADDRESS", "STATUS", "REASON", "SINCE", "RTT MS", "LOSS %", "BEHIND", "SOURCE"]);
    for gateway in gateways {
        let keys =
            ["id", "name", "address", "status", "reason", "since", "rtt_ms", "loss_percent", "parent_id", "source"];
        table.add_row(keys.map(|key| text(&gateway[key])));
    }
    say!("{table}");
}

/// Prints all gateways, then each change, until the connection ends.
async fn watch(client: &Client, json: bool) -> anyhow::Result<()> {
    // the socket is opened first, so that its first frame has the changes since the list was read
    let mut socket = client.connect("/ws/status").await?;
    let list: Value = client.get("/api/gateways").await?;
    if json {
        items(&list, "gateways").iter().for_each(|gateway| say!("{gateway}"));
    } else {
        print_table(items(&list, "gateways"));
    }
    let words = items(&list, "gateways").iter().filter_map(|gateway| {
        let word = match gateway["status"].as_str()? {
            "unknown" => return None,
            "degraded" => "connected",
            word => word,
        };
        Some((gateway["id"].to_string(), json!(word)))
    });
    let mut known: Map<String, Value> = words.collect();
    loop {
        let now = next(&mut socket).await?;
        for (id, word) in &now {
            if known.get(id) == Some(word) {
                continue;
            }
            match client.get::<Value>(&format!("/api/gateways/{id}")).await {
                Ok(gateway) if json => say!("{gateway}"),
                Ok(gateway) => say!(
                    "{}  {id}  {}  {}  {}",
                    text(&gateway["since"]),
                    text(&gateway["name"]),
                    text(word),
                    text(&gateway["reason"])
                ),
                // the gateway was removed after the frame was written
                Err(ClientError::Refused { status, .. }) if status == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        for id in known.keys().filter(|id| !now.contains_key(*id)) {
            if json {
                say!("{}", json!({ "id": id, "status": null }));
            } else {
                say!("{id}  removed, or at another address");
            }
        }
        known = now;
    }
}

async fn next(socket: &mut Connection) -> Result<Map<String, Value>, ClientError> {
    match socket.next_frame().await? {
        Value::Object(words) => Ok(words),
        _ => Err(ClientError::NotJson("expected an object".to_owned())),
    }
}
