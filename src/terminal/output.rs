//! Output of sub-commands: lines, tables, JSON.

use std::{
    fmt,
    future::pending,
    io::{self, Write},
    os::fd::AsFd,
    process::exit,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde_json::{Value, json};
use tokio::{io::Interest, net::unix::pipe::Sender};

use super::login::LoginArguments;

#[derive(Args)]
pub(crate) struct Output {
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) login: LoginArguments,
}

/// Whether messages on stderr are JSON (`log.format = "json"`).
static JSON: AtomicBool = AtomicBool::new(false);

/// Writes messages as JSON objects from now on, as log lines are.
pub(crate) fn use_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Prints a line; see `say!`. Ends the program silently when the reader, such as `head`, has closed the pipe.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    match writeln!(io::stdout().lock(), "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit(0),
        Err(error) => {
            complain(&format!("cannot write to stdout: {error}"));
            exit(1);
        }
    }
}

/// Runs a task that prints a line now and then. Ends the program silently when the reader of stdout, such as `head`, is gone:
/// the line at which a write would fail may not come for long.
pub(crate) async fn while_read<T>(task: impl Future<Output = T>) -> T {
    tokio::select! {
        result = task => result,
        () = reader_gone() => exit(0),
    }
}

/// Never completes if stdout is a file, which cannot be waited for.
async fn reader_gone() {
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    if let Some(stdout) = stdout.ok().and_then(|stdout| Sender::from_owned_fd_unchecked(stdout).ok())
        && stdout.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    pending::<()>().await;
}

/// Prints a message to stderr, on one line.
pub(crate) fn complain(message: &str) {
    let message = one_line(message);
    let line = if JSON.load(Ordering::Relaxed) {
        log_line("ERROR", json!({ "message": message }))
    } else {
        format!("switchboard: {message}")
    };
    // an error is ignored: if stderr is closed, there is no place to report it
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A JSON object in the format of log lines.
pub(crate) fn log_line(level: &str, fields: Value) -> String {
    let timestamp = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    json!({ "timestamp": timestamp, "level": level, "fields": fields, "target": "switchboard" }).to_string()
}

fn one_line(message: &str) -> String {
    let words: Vec<_> = message.split_whitespace().collect();
    printable(&words.join(" "))
}

/// Escapes control characters in a foreign text, so that it cannot send commands to the terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { printable.extend(c.escape_debug()) } else { printable.push(c) }
    }
    printable
}

/// A value as plain text; `null` is empty.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Null => String::new(),
        other => json_text(other),
    }
}

/// A value as JSON on one line, with control characters escaped.
pub(crate) fn json_text(value: &Value) -> String {
    printable(&value.to_string())
}

/// Name and UUID in a frame or object; only the UUID if the name is empty.
pub(crate) fn named(of: &Value) -> String {
    match (text(&of["name"]), text(&of["uuid"])) {
        (name, uuid) if name.is_empty() => uuid,
        (name, uuid) => format!("{name} ({uuid})"),
    }
}

/// An empty table with this head and without borders.
pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(head);
    table
}

/// The array in field `name`; empty if there is none.
pub(crate) fn items<'a>(list: &'a Value, name: &str) -> &'a [Value] {
    list[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &Value) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_other_peoples_texts_is_a_command_to_the_terminal() {
        assert_eq!(printable("\u{1b}[2J \u{9b}2J \u{7f} \"ü\" \\"), "\\u{1b}[2J \\u{9b}2J \\u{7f} \"ü\" \\");
        assert_eq!(text(&json!({ "a": "\u{9b}2J" })), "{\"a\":\"\\u{9b}2J\"}");
        assert_eq!(one_line("one\n  two\r\nthree"), "one two three");
    }
}
