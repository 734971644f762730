//! `switchboard config`: the settings of a broker that would be started here.

use clap::{Args, Subcommand};
use serde_json::json;

use super::ConfigArguments;
use crate::{
    settings::{self, BUILT_IN, DEFAULTS, Explained, HIDDEN},
    store::Location,
    terminal::{
        output::{complain, print_json},
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
    /// Check all settings as the start of a broker does; exit code 0 if it would start with them
    Check {
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// Show each setting with the layer that it comes from; secrets are hidden
    Show {
        /// Only settings that a file, a variable or a flag sets
        #[arg(long)]
        changed: bool,
        /// Print JSON instead of TOML
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArguments,
    },
    /// Print all settings with their defaults and descriptions, as a file for --config
    Default,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.action {
        Action::Check { config } => check(config),
        Action::Show { changed, json, config } => show(config, changed, json),
        Action::Default => {
            say!("{}", DEFAULTS.trim_end());
            Ok(())
        }
    }
}

fn check(config: ConfigArguments) -> anyhow::Result<()> {
    let settings = config.load(None)?;
    settings.check_secret()?;
    let database = Location::of(&settings.storage)?;
    settings.warnings().iter().for_each(|warning| complain(warning));
    say!("the settings are valid; the database is {database}");
    Ok(())
}

fn show(config: ConfigArguments, changed: bool, json: bool) -> anyhow::Result<()> {
    let mut all = settings::explain(&config.layer(None))?;
    all.retain(|explained| !changed || explained.layer != BUILT_IN);
    if json {
        let all: Vec<_> = all
            .iter()
            .map(|Explained { key, value, layer }| json!({ "key": key, "value": value, "layer": layer }))
            .collect();
        return print_json(&json!(all));
    }
    let mut section = "";
    for Explained { key, value, layer } in &all {
        let (of, name) = key.split_once('.').unwrap_or(("", key));
        if of != section {
            say!("{}[{of}]", if section.is_empty() { "" } else { "\n" });
            section = of;
        }
        let line = format!("{name} = {value}");
        // a secret that is not shown must not become one
        let line = if line.contains(HIDDEN) { format!("# {line}") } else { line };
        say!("{line:<50} # {layer}");
    }
    Ok(())
}
