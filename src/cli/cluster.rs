//! `switchboard cluster`: the nodes, and the Redis servers that connect them.

use clap::Args;
use serde_json::Value;

use crate::terminal::{
    output::{Output, items, print_json, table, text},
    say,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(Arguments { output }: Arguments) -> anyhow::Result<()> {
    let cluster: Value = output.login.client().await?.get("/api/cluster").await?;
    if output.json {
        return print_json(&cluster);
    }
    let mut nodes =
        table(&["NODE", "HOST", "PROCESS", "VERSION", "ENVELOPES", "SOCKETS", "PROBES", "SINCE", "INCARNATION"]);
    for node in items(&cluster, "nodes") {
        let this = if node["is_this"] == true { " (this)" } else { "" };
        nodes.add_row([
            text(&node["address"]) + this,
            text(&node["host"]),
            text(&node["process_id"]),
            text(&node["version"]),
            if node["envelope_version"].is_null() {
                "none in common".to_owned()
            } else {
                text(&node["envelope_version"])
            },
            text(&node["sockets"]),
            if node["probes_gateways"] == true { "yes" } else { "no" }.to_owned(),
            text(&node["started_at"]),
            text(&node["incarnation"]),
        ]);
    }
    say!("{nodes}");
    let servers = items(&cluster, "redis");
    if !servers.is_empty() {
        let mut redis = table(&["REDIS", "STATUS", "ROUND TRIP MS", "ERROR"]);
        for server in servers {
            redis.add_row(["address", "status", "round_trip_ms", "error"].map(|field| text(&server[field])));
        }
        say!("\n{redis}");
    }
    if cluster["is_complete"] == false {
        say!("\nThis node does not know the clients of all other nodes now.");
    }
    Ok(())
}
