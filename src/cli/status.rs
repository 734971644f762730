//! `switchboard status`: whether a broker is ready, its connections and its rates.

mod readings;

use std::{process::ExitCode, time::Duration};

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use self::readings::{Reading, Samples};
use super::values::number;
use crate::{
    client::{Client, ClientError},
    terminal::{
        login::Credentials,
        output::{print_json, text, while_read},
        remote::Remote,
        say,
    },
};

/// Lines between two heads of the table.
const HEAD_EVERY: u32 = 20;

#[derive(Args)]
#[command(after_help = "\
Rates come from /metrics; a broker elsewhere shows that to operators (--token or --username).\n\
Exit code 0: the broker is ready, or degraded (something can wait). 1: it is not, or it does not answer.")]
pub(super) struct Arguments {
    /// Print nothing but errors, without rates: for health checks
    #[arg(long, conflicts_with_all = ["watch", "json"])]
    quiet: bool,
    /// Print a line after each interval, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Seconds over which rates are measured
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = number(1..=3600_u64))]
    interval: u64,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    credentials: Credentials,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { quiet, watch, interval, json, remote, credentials } = arguments;
    let client = remote.client()?;
    let (is_ready, readiness) = readiness(&client).await?;
    let code = if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if quiet {
        anyhow::ensure!(is_ready, "{} is {}: {}", client.url(), text(&readiness["status"]), details(&readiness));
        return Ok(code);
    }
    let interval = Duration::from_secs(interval);
    let Some((client, first)) = with_metrics(client.clone(), credentials).await? else {
        if json {
            print_json(&json!({ "readiness": readiness }))?;
        } else {
            print_readiness(&client, &readiness);
            say!("  rates        not shown: /metrics is for operators here (--token or --username)");
        }
        return Ok(code);
    };
    if watch {
        while_read(watch_rates(&client, first, interval, json)).await?;
        return Ok(code);
    }
    tokio::time::sleep(interval).await;
    let reading = Reading::between(&first, &samples(&client).await?);
    if json {
        print_json(&json!({ "readiness": readiness, "rates": reading }))?;
    } else {
        print_readiness(&client, &readiness);
        reading.lines().iter().for_each(|(name, value)| say!("  {name:<12} {value}"));
    }
    Ok(code)
}

/// Whether the broker should get traffic, and its details.
async fn readiness(client: &Client) -> Result<(bool, Value), ClientError> {
    let response = client.request(Method::GET, "/readyz").send().await?;
    let status = response.status();
    let body = response.bytes().await?;
    match serde_json::from_slice::<Value>(&body) {
        Ok(details) if details["status"].is_string() => Ok((status.is_success(), details)),
        _ => Err(ClientError::not_json(&String::from_utf8_lossy(&body))),
    }
}

fn details(readiness: &Value) -> String {
    let parts = ["database", "redis", "gateways"].map(|part| format!("{part} {}", text(&readiness[part])));
    let draining = if readiness["draining"] == true { ", draining" } else { "" };
    parts.join(", ") + draining
}

fn print_readiness(client: &Client, readiness: &Value) {
    say!("{} is {}", client.url(), text(&readiness["status"]));
    for part in ["database", "redis", "gateways", "draining"] {
        say!("  {part:<12} {}", text(&readiness[part]));
    }
}

/// A client that may read the metrics, and the first samples. `None` if it may not.
async fn with_metrics(client: Client, credentials: Credentials) -> anyhow::Result<Option<(Client, Samples)>> {
    let client = credentials.token().map_or(client.clone(), |token| client.with_token(token));
    match samples(&client).await {
        Err(error) if error.is_about_rights() && credentials.token().is_none() && credentials.are_given(&client) => {
            let client = credentials.client(client).await?;
            let samples = samples(&client).await?;
            Ok(Some((client, samples)))
        }
        Err(error) if error.is_about_rights() => Ok(None),
        samples => Ok(Some((client, samples?))),
    }
}

async fn samples(client: &Client) -> Result<Samples, ClientError> {
    let response = client.response(client.request(Method::GET, "/metrics")).await?;
    Ok(Samples::read(&response.text().await?))
}

/// Prints the rates of each interval. Ends with an error when the broker does not answer.
async fn watch_rates(client: &Client, first: Samples, interval: Duration, json: bool) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    let (mut before, mut lines) = (first, 0);
    loop {
        ticks.tick().await;
        let (_, readiness) = readiness(client).await?;
        let now = samples(client).await?;
        let reading = Reading::between(&before, &now);
        before = now;
        if json {
            say!("{}", json!({ "readiness": readiness, "rates": reading }));
            continue;
        }
        let cells: Vec<_> = std::iter::once(("STATUS", text(&readiness["status"]))).chain(reading.cells()).collect();
        let row = |texts: &mut dyn Iterator<Item = &str>| texts.map(|text| format!("{text:<12}")).collect::<String>();
        if lines % HEAD_EVERY == 0 {
            say!("{}", row(&mut cells.iter().map(|(name, _)| *name)).trim_end());
        }
        say!("{}", row(&mut cells.iter().map(|(_, value)| value.as_str())).trim_end());
        lines += 1;
    }
}
