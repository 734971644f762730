//! `switchboard commands`: lists, shows, follows and cancels commands.

use std::process::ExitCode;

use anyhow::{Context, bail};
use chrono::{DateTime, FixedOffset};
use clap::{Args, Subcommand, builder::PossibleValuesParser};
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::Value;

use super::{
    names::resolve,
    values::{command_id, number, time},
};
use crate::{
    client::Client,
    domain::{commands::TargetState, ids::CommandId},
    terminal::{
        output::{Output, json_text, print_json, table, text, while_read},
        say,
    },
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List commands, newest first
    List {
        /// Only commands with a target in this state
        #[arg(long, value_parser = PossibleValuesParser::new(TargetState::ALL.map(TargetState::as_str)))]
        state: Option<String>,
        /// Only commands to this target: a user's integer id, a UUID, or a name
        #[arg(long)]
        target: Option<String>,
        /// Only commands since this time, such as 2026-01-31T12:00:00Z
        #[arg(long, value_name = "TIME", value_parser = time)]
        since: Option<DateTime<FixedOffset>>,
        /// The most commands to list
        #[arg(long, default_value_t = 50, value_parser = number(1..=1000_u64))]
        limit: u64,
        #[command(flatten)]
        output: Output,
    },
    /// Show one command with all its targets
    Show {
        /// The command's id, as `commands list` shows it
        #[arg(value_parser = command_id)]
        id: CommandId,
        #[command(flatten)]
        output: Output,
    },
    /// Follow a command until it is finished
    Watch {
        /// The command's id, as `commands list` shows it
        #[arg(value_parser = command_id)]
        id: CommandId,
        #[command(flatten)]
        output: Output,
    },
    /// Cancel a command
    Cancel {
        /// The command's id, as `commands list` shows it
        #[arg(value_parser = command_id)]
        id: CommandId,
        #[command(flatten)]
        output: Output,
    },
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::List { state, target, since, limit, output } => {
            let client = output.login.client().await?;
            let target = match target {
                // the broker itself resolves a user's integer id
                Some(target) if target.parse::<i64>().is_err() => Some(resolve(&client, &target).await?.to_string()),
                target => target,
            };
            let query = [
                ("state", state),
                ("target", target),
                ("since", since.map(|since| since.to_rfc3339())),
                ("limit", Some(limit.to_string())),
            ];
            let query: Vec<_> = query.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            let list: Value = client.answer(client.request(Method::GET, "/api/commands").query(&query)).await?;
            if output.json {
                print_json(&list)?;
            } else {
                print_list(&list);
            }
        }
        Action::Show { id, output } => {
            let command: Value = output.login.client().await?.get(&format!("/api/commands/{id}")).await?;
            print(&command, output.json)?;
        }
        Action::Watch { id, output } => while_read(watch(&output.login.client().await?, id, output.json)).await?,
        Action::Cancel { id, output } => {
            let client = output.login.client().await?;
            let before: Value = client.get(&format!("/api/commands/{id}")).await?;
            let command: Value = client.answer(client.request(Method::DELETE, &format!("/api/commands/{id}"))).await?;
            print(&command, output.json)?;
            if !output.json && before["state"] == "finished" {
                say!("The command had finished before: nothing was cancelled.");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(command: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(command);
    }
    say!(
        "{}  {} {}  by {}  {}",
        text(&command["id"]),
        text(&command["method"]),
        text(&command["url"]),
        text(&command["requester"]),
        text(&command["created_at"])
    );
    print_targets(command);
    Ok(())
}

/// The text of a target's result; of one that came after the target's end, `late:` and the text.
fn result(target: &Value) -> String {
    match (&target["result"], &target["late_result"]) {
        (Value::Null, Value::Null) => String::new(),
        (Value::Null, late) => format!("late: {}", json_text(late)),
        (result, _) => json_text(result),
    }
}

/// Prints a line per target: UUID, name, state and result.
pub(super) fn print_targets(command: &Value) {
    let mut table = table(&["TARGET", "NAME", "STATE", "RESULT"]);
    for target in command["targets"].as_array().map(Vec::as_slice).unwrap_or_default() {
        table.add_row([text(&target["uuid"]), text(&target["name"]), text(&target["state"]), result(target)]);
    }
    say!("{table}");
}

fn print_list(list: &Value) {
    let mut table = table(&["ID", "GIVEN", "BY", "COMMAND", "STATE", "TARGETS"]);
    for command in list["commands"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let targets = command["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        let succeeded = targets.iter().filter(|target| target["state"] == "succeeded").count();
        table.add_row([
            text(&command["id"]),
            text(&command["created_at"]),
            text(&command["requester"]),
            format!("{} {}", text(&command["method"]), text(&command["url"])),
            text(&command["state"]),
            match targets {
                [one] => format!("{} {}", text(&one["name"]), text(&one["state"])),
                many => format!("{succeeded} of {} succeeded", many.len()),
            },
        ]);
    }
    say!("{table}");
}

/// Prints the command, then each event, until the command has finished.
async fn watch(client: &Client, id: CommandId, json: bool) -> anyhow::Result<()> {
    // prints the current state first, so that there is output at once
    let command: Value = client.get(&format!("/api/commands/{id}")).await?;
    let is_over = command["state"] == "finished";
    if !json {
        print(&command, false)?;
    } else if is_over {
        say!("{command}");
    }
    if is_over {
        return Ok(());
    }
    let response = client.response(client.request(Method::GET, &format!("/api/commands/{id}/events"))).await?;
    let mut chunks = response.bytes_stream();
    let mut buffer = String::new();
    while let Some(chunk) = chunks.next().await {
        buffer += std::str::from_utf8(&chunk.context("the connection broke")?).context("not UTF-8")?;
        while let Some((event, rest)) = buffer.split_once("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                if json {
                    say!("{data}");
                } else {
                    print_event(name, &serde_json::from_str(data)?)?;
                }
                if name == "finished" {
                    return Ok(());
                }
            }
            buffer = rest.to_owned();
        }
    }
    bail!("lost the broker before the command was finished")
}

fn print_event(name: &str, event: &Value) -> anyhow::Result<()> {
    match name {
        "finished" => print(event, false),
        "progress" => {
            say!("{}  progress  {}", text(&event["target"]["name"]), json_text(&event["progress"]));
            Ok(())
        }
        _ => {
            let target = &event["target"];
            say!("{}  {}  {}", text(&target["name"]), text(&target["state"]), result(target));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_late_result_is_shown_as_one() {
        let target = |result: Value, late: Value| json!({ "result": result, "late_result": late });
        assert_eq!(result(&target(Value::Null, Value::Null)), "");
        assert_eq!(result(&target(Value::Null, json!({ "a": 1 }))), r#"late: {"a":1}"#);
        assert_eq!(result(&target(json!([1]), Value::Null)), "[1]");
    }
}
