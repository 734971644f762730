//! The command line: parses arguments, runs the sub-command, prints errors, sets the exit code.
//!
//! A new sub-command needs a variant of `Command`, a file here, and an arm in `run`. It prints with `say!` (see
//! `terminal`).

#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic when the reader has closed the pipe

mod agent;
mod archive;
mod audit;
mod backup;
mod client;
mod cluster;
mod commands;
mod completions;
mod config;
mod database;
mod demo;
mod device;
mod devices;
mod doctor;
mod gateways;
mod man;
mod messages;
mod migrate;
mod names;
mod publish;
mod restore;
mod send;
mod send_message;
mod serve;
mod status;
mod subscribe;
mod token;
mod user;
mod values;

use std::{ops::RangeInclusive, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    bench,
    client::ClientError,
    cluster::envelope::{EnvelopeVersions, VERSIONS},
    logging,
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
Without a command it runs `serve`: a broker at http://127.0.0.1:8000 with its data in ./data. `switchboard demo` shows what it does.\n\n\
Exit codes: 0 success, 1 failure (a line on stderr gives the reason), 2 wrong arguments; `send` has more."
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
    /// Check or show the settings, or print all of them with their descriptions
    Config(config::Arguments),
    /// Find what is wrong on this machine for a broker with these settings, and how to mend it
    Doctor(doctor::Arguments),
    /// Show whether a broker is ready, its connections and its rates
    Status(status::Arguments),
    /// Manage users, also while the broker runs
    User(user::Arguments),
    /// Make an access token for a user or device, also while the broker runs
    Token(token::Arguments),
    /// Migrate the database's schema: apply all migrations, revert the last one, or show their status
    Migrate(migrate::Arguments),
    /// Back up the embedded database and the secret to one file, also while the broker runs
    Backup(backup::Arguments),
    /// Restore a backup into a data directory that no broker uses
    Restore(restore::Arguments),
    /// Watch two devices register, connect, and exchange messages
    Demo(demo::Arguments),
    /// Connect as a device and exchange messages in the terminal
    Client(client::Arguments),
    /// Send a command to a device or user, and print its answer
    Send(send::Arguments),
    /// Send a message to a device
    SendMessage(send_message::Arguments),
    /// Publish a message to a topic
    Publish(publish::Arguments),
    /// Connect as a device and print what is published to a topic, or to all topics that match a pattern
    Subscribe(subscribe::Arguments),
    /// List, show, follow or cancel commands
    Commands(commands::Arguments),
    /// List or follow the audit log
    Audit(audit::Arguments),
    /// List, add, remove or watch gateways
    Gateways(gateways::Arguments),
    /// Show the nodes and the Redis servers that connect them
    Cluster(cluster::Arguments),
    /// List, show or remove devices
    Devices(devices::Arguments),
    /// Connect as a device that answers commands by running a program
    Agent(agent::Arguments),
    /// Measure a broker's throughput, latency and use of memory
    Bench(bench::Arguments),
    /// Print the completions of this command for a shell
    Completions(completions::Arguments),
    /// Print this command's manual page, or write those of all its commands into a directory
    Man(man::Arguments),
}

/// Arguments that select the settings.
#[derive(Args)]
struct ConfigArguments {
    /// Directory of the embedded database and the generated secrets [default: ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A file with settings that override the built-in ones
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArguments {
    /// The given arguments as flags, for a command that the operator can copy.
    fn flags(&self) -> String {
        let flag = |name: &str, value: &Option<PathBuf>| {
            value.as_ref().map(|value| format!(" {name} {}", quoted(&value.display().to_string()))).unwrap_or_default()
        };
        flag("--config", &self.config) + &flag("--data-dir", &self.data_dir)
    }

    /// The layer of these arguments.
    fn layer(self, bind: Option<String>) -> Flags {
        Flags { config: self.config, data_dir: self.data_dir, bind }
    }

    fn load(self, bind: Option<String>) -> Result<Settings, SettingsError> {
        settings::load(&self.layer(bind))
    }
}

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    main_with_envelopes(VERSIONS)
}

/// The same as a program that understands these versions of envelopes, and no others. For tests of nodes of different releases.
pub fn main_with_envelopes(versions: RangeInclusive<u8>) -> ExitCode {
    let arguments = CommandLine::parse();
    match run(arguments.command.unwrap_or(Command::Serve(arguments.serve)), versions.into()) {
        Ok(code) => code,
        Err(error) => {
            let advice = error.downcast_ref().map(advice).unwrap_or_default();
            // with all causes
            output::complain(&format!("{error:#}{advice}"));
            let is_usage = error.is::<WrongArguments>()
                || matches!(error.downcast_ref(), Some(ClientError::Url(_) | ClientError::Tls(_)));
            if is_usage { ExitCode::from(WRONG_ARGUMENTS) } else { ExitCode::FAILURE }
        }
    }
}

/// What to do about an error that the broker's own text does not tell, since it does not know the command line.
fn advice(error: &ClientError) -> &'static str {
    match error {
        // what exists below a right path is named in the text
        ClientError::Refused { detail, .. } if detail == "Not Found" => ": is the path of --url right?",
        error if error.is_unauthorized() => {
            ": the token is invalid, expired or revoked; give another one with --token (SWITCHBOARD_TOKEN), or log in with --username"
        }
        _ => "",
    }
}

/// The exit code for wrong arguments, the same as clap's.
const WRONG_ARGUMENTS: u8 = 2;

fn run(command: Command, envelopes: EnvelopeVersions) -> anyhow::Result<ExitCode> {
    let system = actix_web::rt::System::new();
    let done = match command {
        Command::Serve(arguments) => system.block_on(serve::run(arguments, envelopes)),
        Command::Config(arguments) => config::run(arguments),
        Command::Doctor(arguments) => return system.block_on(doctor::run(arguments)),
        Command::Status(arguments) => return system.block_on(status::run(arguments)),
        Command::Token(arguments) => system.block_on(token::run(arguments)),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(arguments),
        Command::User(arguments) => system.block_on(user::run(arguments)),
        Command::Migrate(arguments) => system.block_on(migrate::run(arguments)),
        Command::Backup(arguments) => system.block_on(backup::run(arguments)),
        Command::Restore(arguments) => system.block_on(restore::run(arguments)),
        Command::Demo(arguments) => system.block_on(demo::run(arguments)),
        Command::Client(arguments) => system.block_on(client::run(arguments)),
        Command::Send(arguments) => return system.block_on(send::run(arguments)),
        Command::SendMessage(arguments) => system.block_on(send_message::run(arguments)),
        Command::Publish(arguments) => system.block_on(publish::run(arguments)),
        Command::Subscribe(arguments) => system.block_on(subscribe::run(arguments)),
        Command::Commands(arguments) => return system.block_on(commands::run(arguments)),
        Command::Audit(arguments) => system.block_on(audit::run(arguments)),
        Command::Gateways(arguments) => system.block_on(gateways::run(arguments)),
        Command::Cluster(arguments) => system.block_on(cluster::run(arguments)),
        Command::Devices(arguments) => system.block_on(devices::run(arguments)),
        Command::Agent(arguments) => system.block_on(agent::run(arguments)),
        Command::Bench(arguments) => system.block_on(bench::run(arguments)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Quotes a word for a shell, if necessary.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Starts logging to stderr; output of commands goes to stdout.
fn start_logging(log: &settings::Log) -> anyhow::Result<()> {
    logging::start(log)?;
    if log.format == LogFormat::Json {
        output::use_json();
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
