//! `switchboard migrate`: applies, reverts or lists migrations of the schema.

use clap::{Args, ValueEnum};

use super::{ConfigArguments, database::Database};
use crate::terminal::say;

#[derive(Args)]
pub(super) struct Arguments {
    /// The action
    #[arg(value_enum, default_value = "up")]
    direction: Direction,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum Direction {
    /// Apply all pending migrations
    Up,
    /// Revert the last migration; the data it added is lost
    Down,
    /// Show which migrations are applied
    Status,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let up = matches!(arguments.direction, Direction::Up);
    let database = Database::open(arguments.config, up).await?;
    let store = &database.store;
    match arguments.direction {
        Direction::Up => database.migrate_up().await?,
        Direction::Down => {
            let _lock = database.lock().await?;
            store.migrate_down().await?;
        }
        Direction::Status => {}
    }
    for (name, applied) in store.migration_status().await? {
        say!("{}  {name}", if applied { "applied" } else { "pending" });
    }
    Ok(())
}
