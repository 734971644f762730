//! `switchboard send`: sends one command, prints the results, and sets the exit code by them.

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use anyhow::ensure;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};

use super::{commands::print_targets, names::resolve, values::number};
use crate::{
    client::{Client, ClientError},
    protocol::json,
    terminal::{login::LoginArguments, say},
};

/// All targets succeeded.
const ALL: u8 = 0;
/// Some target failed.
const SOME: u8 = 2;
/// No target answered.
const NONE: u8 = 3;

#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 all targets succeeded, 1 the command could not be given, 2 some failed (or the arguments are wrong), \
3 no target answered.")]
pub(super) struct Arguments {
    /// A device or user: its UUID, a user's integer id, or a unique name; several separated by commas; or `all`: every
    /// connected one
    target: String,
    /// The command's method, such as GET; the target decides what it means
    method: String,
    /// The command's path, such as /status; the target decides what it means
    url: String,
    /// Data that the target gets with the command, such as '{"level": 3}'
    #[arg(long, value_name = "JSON", value_parser = |text: &str| json::parse(text.as_bytes()))]
    data: Option<Value>,
    /// Print the command's id without waiting for the answer
    #[arg(long = "async")]
    is_async: bool,
    /// Seconds a target may take (1 to 300)
    #[arg(long, value_name = "SECS", value_parser = number(1..=300_u64))]
    timeout: Option<u64>,
    /// Seconds to wait for targets that are not connected (0 to 604800)
    #[arg(long, value_name = "SECS", value_parser = number(0..=604_800_u64))]
    deliver_within: Option<u64>,
    /// Print the whole command as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    login: LoginArguments,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let client = arguments.login.client().await?;
    let mut body = json!({ "method": arguments.method, "url": arguments.url, "data": arguments.data });
    if arguments.target == "all" {
        body["select"] = json!({});
    } else {
        let mut targets = Vec::new();
        for target in arguments.target.split(',').map(str::trim) {
            let is_id = target.parse::<i64>().is_ok();
            targets.push(if is_id { target.to_owned() } else { resolve(&client, target).await?.to_string() });
        }
        body["targets"] = json!(targets);
    }
    if let Some(secs) = arguments.timeout {
        body["timeout_secs"] = json!(secs);
    }
    if let Some(secs) = arguments.deliver_within {
        body["deliver_within_secs"] = json!(secs);
    }
    let spinner = spinner();
    let mut request = client.request(Method::POST, "/api/commands").json(&body);
    if arguments.is_async {
        request = request.header("Prefer", "respond-async");
    }
    let mut command: Value = tokio::select! {
        answer = client.answer(request) => answer?,
        _ = tokio::signal::ctrl_c() => {
            spinner.finish_and_clear();
            anyhow::bail!("stopped waiting: the command continues, see switchboard commands list");
        }
    };
    if arguments.is_async {
        say!("{}", command["id"].as_str().unwrap_or_default());
        return Ok(ExitCode::from(ALL));
    }
    // the broker answers after a while even if the command has not ended
    while command["state"] == "pending" {
        spinner.set_message(progress(&command));
        command = wait(&client, &command).await?;
    }
    spinner.finish_and_clear();
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&command)?);
    } else {
        print_targets(&command);
    }
    exit_code(&command)
}

/// A spinner on stderr, if that is a terminal.
fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message("waiting for the answer");
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn progress(command: &Value) -> String {
    let targets = command["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ended = targets.iter().filter(|target| !target["ended_at"].is_null()).count();
    format!("{ended} of {} have ended", targets.len())
}

/// Loads the command again after half a second.
async fn wait(client: &Client, command: &Value) -> Result<Value, ClientError> {
    let id = command["id"].as_str().unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.get(&format!("/api/commands/{id}")).await
}

fn exit_code(command: &Value) -> anyhow::Result<ExitCode> {
    let targets = command["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!targets.is_empty(), "the broker's answer is not a command: {command}");
    let of =
        |states: &[&str]| targets.iter().filter(|target| states.iter().any(|state| target["state"] == *state)).count();
    Ok(ExitCode::from(match (of(&["succeeded"]), of(&["succeeded", "failed"])) {
        (succeeded, _) if succeeded == targets.len() => ALL,
        (_, 0) => NONE,
        _ => SOME,
    }))
}
