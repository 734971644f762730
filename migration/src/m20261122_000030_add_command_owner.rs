//! The broker that handles a command, by its instance; null for commands of earlier versions.

use crate::schema::*;

#[derive(DeriveIden)]
enum Commands {
    Table,
    Owner,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::alter().table(Commands::Table).add_column(uuid_null(Commands::Owner)).to_owned()).await?;
    if schema.backend() == DbBackend::Postgres {
        // for a broker that takes over the commands of another one. What is finished when it is first written is not in it
        schema.sql("CREATE INDEX idx_commands_unfinished ON commands (owner) WHERE finished_at IS NULL").await?;
    }
    Ok(())
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    if schema.backend() == DbBackend::Postgres {
        schema.sql("DROP INDEX idx_commands_unfinished").await?;
    }
    schema.run(Table::alter().table(Commands::Table).drop_column(Commands::Owner).to_owned()).await
}
