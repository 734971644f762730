//! `switchboard man`: manual pages.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_mangen::Man;

use super::CommandLine;
use crate::terminal::say;

#[derive(Args)]
pub(super) struct Arguments {
    /// Write the pages of all commands into this directory, such as /usr/local/share/man/man1
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let command = CommandLine::command();
    if let Some(dir) = arguments.out {
        return clap_mangen::generate_to(command, &dir).with_context(|| format!("cannot write to {}", dir.display()));
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    say!("{}", String::from_utf8(page)?.trim_end());
    Ok(())
}
