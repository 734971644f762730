//! `switchboard audit`: lists and follows the audit log.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, FixedOffset};
use clap::{Args, builder::PossibleValuesParser};
use reqwest::Method;
use serde_json::Value;

use super::values::{number, time};
use crate::{
    client::Client,
    domain::audit::Action,
    terminal::{
        output::{Output, items, json_text, print_json, table, text, while_read},
        say,
    },
};

/// The pause between two looks of `--follow`.
const PAUSE: Duration = Duration::from_secs(1);

/// How many records before the newest one `--follow` looks at again: a record of another node may become visible after a later one.
const LATE: i64 = 1000;

/// Most records of an answer.
const MOST: u64 = 1000;

#[derive(Args)]
pub(super) struct Arguments {
    /// Only records of this action
    #[arg(long, value_parser = PossibleValuesParser::new(Action::ALL.iter().map(|action| action.as_str())))]
    action: Option<String>,
    /// Only records of this actor: a client's UUID, or the user of the operating system who ran a command
    #[arg(long)]
    actor: Option<String>,
    /// Only records of this target, by its id
    #[arg(long)]
    target: Option<String>,
    /// Only records since this time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<DateTime<FixedOffset>>,
    /// Only records before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<DateTime<FixedOffset>>,
    /// The most records to list
    #[arg(long, default_value_t = 50, value_parser = number(1..=1000_u64))]
    limit: u64,
    /// Print new records as they come, after those that are there, until it is stopped
    #[arg(long, conflicts_with = "until")]
    follow: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { action, actor, target, since, until, limit, follow, output } = arguments;
    let client = output.login.client().await?;
    let query = [
        ("action", action),
        ("actor", actor),
        ("target", target),
        ("since", since.map(|since| since.to_rfc3339())),
        ("until", until.map(|until| until.to_rfc3339())),
    ];
    let query: Vec<_> = query.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    if follow {
        return while_read(watch(&client, &query, limit, output.json)).await;
    }
    let list = page(&client, &query, limit, None).await?;
    if output.json {
        return print_json(&list);
    }
    let mut table = table(&["TIME", "ACTOR", "ADDRESS", "ACTION", "TARGET", "DETAILS"]);
    for record in items(&list, "records") {
        table.add_row(columns(record));
    }
    say!("{table}");
    Ok(())
}

async fn page(
    client: &Client,
    query: &[(&str, String)],
    limit: u64,
    cursor: Option<&str>,
) -> Result<Value, crate::client::ClientError> {
    let request = client.request(Method::GET, "/api/audit").query(query).query(&[("limit", limit)]);
    client.answer(request.query(&cursor.map(|cursor| [("cursor", cursor)]))).await
}

/// Prints the newest records, and then those that come, oldest first.
async fn watch(client: &Client, query: &[(&str, String)], limit: u64, json: bool) -> anyhow::Result<()> {
    let mut seen = BTreeSet::<i64>::new();
    // what was before the first page is not news
    let mut first = i64::MIN;
    loop {
        let after = seen.last().map_or(i64::MIN, |newest| (newest - LATE).max(first));
        let size = if seen.is_empty() { limit } else { MOST };
        let (mut news, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let list = page(client, query, size, cursor.as_deref()).await?;
            let mut oldest = i64::MIN;
            for record in items(&list, "records") {
                oldest = record["id"].as_i64().unwrap_or(i64::MIN);
                if oldest > after && !seen.contains(&oldest) {
                    news.push((oldest, record.clone()));
                }
            }
            let more = list["cursor"].as_str().filter(|_| !seen.is_empty() && oldest > after);
            cursor = more.map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        let is_first = seen.is_empty();
        for (id, record) in news.into_iter().rev() {
            if json {
                say!("{record}");
            } else {
                say!("{}", columns(&record).join("  "));
            }
            seen.insert(id);
        }
        if is_first {
            first = seen.first().map_or(i64::MIN, |first| first - 1);
        }
        while seen.len() > 2 * LATE as usize {
            seen.pop_first();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn columns(record: &Value) -> [String; 6] {
    let details = &record["details"];
    let details =
        if details.as_object().is_some_and(|details| details.is_empty()) { String::new() } else { json_text(details) };
    [
        text(&record["at"]),
        who(record, "actor"),
        text(&record["address"]),
        text(&record["action"]),
        who(record, "target"),
        details,
    ]
}

/// The name, or else the id; for a role without either the role.
fn who(record: &Value, which: &str) -> String {
    let parts = [&record[format!("{which}_name").as_str()], &record[which], &record[format!("{which}_role").as_str()]];
    parts.into_iter().map(text).find(|part| !part.is_empty()).unwrap_or_default()
}
