//! The command line: parses, hands over, and says what happened.
//!
//! To add a sub-command: a variant of `Command`, a file here, an arm in `run`. It prints with `say!` (see `terminal`).

#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody reads

mod agent;
mod client;
mod commands;
mod database;
mod demo;
mod device;
mod devices;
mod gateways;
mod migrate;
mod names;
mod send;
mod serve;
mod user;
mod values;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    bench,
    client::ClientError,
    settings::{self, Flags, LogFormat, Settings, SettingsError},
    terminal::{WrongArguments, output},
};

/// Switchboard, a message broker: devices, topics and remote commands over WebSocket and HTTP.
#[derive(Parser)]
#[command(
    name = "switchboard",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "\
Without a command it is `serve`: a broker at http://127.0.0.1:8000 with its data in ./data. `switchboard demo` shows what it does.\n\n\
Exit codes: 0 done, 1 failed (a line on stderr says why), 2 wrong arguments; `send` has more."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Arguments,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker (also without any sub-command)
    Serve(serve::Arguments),
    /// Manage users, also while the broker runs
    User(user::Arguments),
    /// Bring the database's schema up to date, take the last step back, or show where it stands
    Migrate(migrate::Arguments),
    /// Watch two devices register, connect, and exchange messages
    Demo(demo::Arguments),
    /// Connect as a device and talk from the terminal
    Client(client::Arguments),
    /// Send a command to a device or user, and print its answer
    Send(send::Arguments),
    /// List, show, follow or cancel commands
    Commands(commands::Arguments),
    /// List, add, remove or watch gateways
    Gateways(gateways::Arguments),
    /// List, show or remove devices
    Devices(devices::Arguments),
    /// Connect as a device that answers commands by running a program
    Agent(agent::Arguments),
    /// Measure how much a broker carries, and how fast
    Bench(bench::Arguments),
}

/// Where settings come from.
#[derive(Args)]
struct ConfigArguments {
    /// Where the embedded database and the generated secrets live [default: ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Settings that win over the built-in ones
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArguments {
    /// The same as it was given, for a command that is to be copied.
    fn flags(&self) -> String {
        let flag = |name: &str, value: &Option<PathBuf>| {
            value.as_ref().map(|value| format!(" {name} {}", quoted(&value.display().to_string()))).unwrap_or_default()
        };
        flag("--config", &self.config) + &flag("--data-dir", &self.data_dir)
    }

    fn load(self, bind: Option<String>) -> Result<Settings, SettingsError> {
        settings::load(&Flags { config: self.config, data_dir: self.data_dir, bind })
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = CommandLine::parse();
    match run(arguments.command.unwrap_or(Command::Serve(arguments.serve))) {
        Ok(code) => code,
        Err(error) => {
            // with all that led to it
            output::complain(&format!("{error:#}"));
            let is_usage = error.is::<WrongArguments>()
                || matches!(error.downcast_ref(), Some(ClientError::Url(_) | ClientError::Tls(_)));
            if is_usage { ExitCode::from(WRONG_ARGUMENTS) } else { ExitCode::FAILURE }
        }
    }
}

/// The exit code for wrong arguments, as clap has it.
const WRONG_ARGUMENTS: u8 = 2;

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let system = actix_web::rt::System::new();
    let done = match command {
        Command::Serve(arguments) => system.block_on(serve::run(arguments)),
        Command::User(arguments) => system.block_on(user::run(arguments)),
        Command::Migrate(arguments) => system.block_on(migrate::run(arguments)),
        Command::Demo(arguments) => system.block_on(demo::run(arguments)),
        Command::Client(arguments) => system.block_on(client::run(arguments)),
        Command::Send(arguments) => return system.block_on(send::run(arguments)),
        Command::Commands(arguments) => return system.block_on(commands::run(arguments)),
        Command::Gateways(arguments) => system.block_on(gateways::run(arguments)),
        Command::Devices(arguments) => system.block_on(devices::run(arguments)),
        Command::Agent(arguments) => system.block_on(agent::run(arguments)),
        Command::Bench(arguments) => system.block_on(bench::run(arguments)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Log lines go to stderr; what a command answers goes to stdout.
fn start_logging(log: &settings::Log) -> anyhow::Result<()> {
    use tracing_subscriber::{EnvFilter, fmt};
    let given = std::env::var("RUST_LOG").ok().filter(|given| !given.is_empty());
    let given = given.as_deref().unwrap_or(&log.level);
    // a bare level is meant for the broker; the libraries under it tell more than anyone wants to know
    let bare = !given.contains(['=', ',']);
    if bare && !given.eq_ignore_ascii_case("off") && given.parse::<tracing::Level>().is_err() {
        anyhow::bail!(
            "bad value for `log.level` or RUST_LOG: \"{given}\" is no level: error, warn, info, debug, trace"
        );
    }
    // a request that can't be read is its client's mistake, but the framework logs it as an error
    let is_verbose = given.parse().is_ok_and(|level: tracing::Level| level >= tracing::Level::DEBUG);
    let others = if is_verbose { "warn" } else { "warn,actix_http::h1=off" };
    let directives = if bare { format!("{others},switchboard={given}") } else { given.to_owned() };
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| anyhow::anyhow!("bad value for `log.level` or RUST_LOG: {error}"))?;
    // what can't be written is not complained about: that would panic where stderr is closed
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match log.format {
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => {
            output::use_json();
            lines.json().init();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::CommandLine::command().debug_assert();
    }
}
