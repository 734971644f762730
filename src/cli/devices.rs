//! `switchboard devices`: lists, shows and removes devices.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::{names::resolve, values::number};
use crate::{
    domain::ids::GatewayId,
    terminal::{
        output::{Output, items, print_json, table, text},
        say,
    },
};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Subcommand)]
enum Action {
    /// List devices by name (also without any action)
    List(ListArguments),
    /// Show one device with its metadata
    Show {
        /// Its UUID, or its name if no other has the same
        device: String,
        #[command(flatten)]
        output: Output,
    },
    /// Remove a device: its tokens become invalid and its sockets are closed
    Rm {
        /// Its UUID, or its name if no other has the same
        device: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args)]
struct ListArguments {
    /// Only devices whose name contains this text or whose UUID begins with it (4 digits at least)
    #[arg(long)]
    search: Option<String>,
    /// Only devices behind this gateway
    #[arg(long, value_name = "ID", value_parser = number(0..=GatewayId::MAX.0))]
    gateway: Option<i64>,
    /// The number of devices to skip
    #[arg(long, default_value_t = 0, value_parser = number(0..=i64::MAX as u64))]
    skip: u64,
    /// The most devices to list
    #[arg(long, default_value_t = 100, value_parser = number(1..=1000_u64))]
    limit: u64,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.action.unwrap_or(Action::List(arguments.list)) {
        Action::List(ListArguments { search, gateway, skip, limit, output }) => {
            let client = output.login.client().await?;
            let gateway = gateway.map(|id| id.to_string());
            let query = [
                ("search", search),
                ("gateway_id", gateway),
                ("skip", Some(skip.to_string())),
                ("limit", Some(limit.to_string())),
            ];
            let query: Vec<_> = query.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            let list: Value = client.answer(client.request(Method::GET, "/devices").query(&query)).await?;
            if output.json {
                return print_json(&list);
            }
            print_table(items(&list, "devices"));
            let shown = skip + items(&list, "devices").len() as u64;
            if list["total"].as_u64().is_some_and(|total| shown < total) {
                say!("{shown} of {}; the next ones with --skip {shown}", list["total"]);
            }
        }
        Action::Show { device, output } => {
            let client = output.login.client().await?;
            let uuid = resolve(&client, &device).await?;
            let device: Value = client.get(&format!("/devices/{uuid}")).await?;
            if output.json {
                return print_json(&device);
            }
            print_table(std::slice::from_ref(&device));
            if device["metadata"].as_object().is_some_and(|metadata| !metadata.is_empty()) {
                print_json(&device["metadata"])?;
            }
        }
        Action::Rm { device, output } => {
            let client = output.login.client().await?;
            let uuid = resolve(&client, &device).await?;
            let done: Value = client.answer(client.request(Method::DELETE, &format!("/devices/{uuid}"))).await?;
            if output.json { print_json(&done)? } else { say!("{}", text(&done["message"])) }
        }
    }
    Ok(())
}

fn print_table(devices: &[Value]) {
    let mut table = table(&["UUID", "NAME", "ONLINE", "LAST SEEN", "GATEWAY"]);
    for device in devices {
        let online = if device["online"] == true { "yes" } else { "no" };
        table.add_row([
            text(&device["uuid"]),
            text(&device["name"]),
            online.to_owned(),
            text(&device["last_seen"]),
            text(&device["gateway_id"]),
        ]);
    }
    say!("{table}");
}
