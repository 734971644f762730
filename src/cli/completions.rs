//! `switchboard completions`: completions of the command line for shells.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::CommandLine;
use crate::terminal::say;

#[derive(Args)]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut CommandLine::command(), "switchboard", &mut script);
    say!("{}", String::from_utf8(script)?.trim_end());
    Ok(())
}
