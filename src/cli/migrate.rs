//! `switchboard migrate`

use clap::{Args, ValueEnum};

use super::{ConfigArguments, start_logging};
use crate::{auth::bootstrap, store::Store};

#[derive(Args)]
pub(super) struct Arguments {
    /// What to do
    #[arg(value_enum, default_value = "up")]
    direction: Direction,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum Direction {
    /// Apply what is not applied yet
    Up,
    /// Take the last migration back; what it added is lost
    Down,
    /// Show which migrations are applied
    Status,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = arguments.config.load(None)?;
    start_logging(&settings.log)?;
    bootstrap::create_data_dir(&settings.storage.data_dir)?;
    let store = Store::connect(&settings.storage).await?;
    match arguments.direction {
        Direction::Up => store.migrate_up().await?,
        Direction::Down => store.migrate_down().await?,
        Direction::Status => {}
    }
    for (name, applied) in store.migration_status().await? {
        println!("{}  {name}", if applied { "applied" } else { "pending" });
    }
    Ok(())
}
