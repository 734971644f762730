//! What sub-commands print that ask a running broker: a table, or JSON.

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde_json::Value;

use super::login::LoginArguments;

#[derive(Args)]
pub(super) struct Output {
    /// Print JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) login: LoginArguments,
}

/// A value as a person reads it; null is nothing.
pub(super) fn text(value: &Value) -> String {
    match value {
        // names are other people's: nothing of them is a command to the terminal
        Value::String(text) if text.contains(char::is_control) => text.escape_debug().to_string(),
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// An empty table without lines.
pub(super) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(head);
    table
}

/// The objects of a list.
pub(super) fn items<'a>(list: &'a Value, name: &str) -> &'a [Value] {
    list[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Prints a value as JSON.
pub(super) fn print_json(value: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
