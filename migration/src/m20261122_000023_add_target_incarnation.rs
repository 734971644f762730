//! Which of the registrations of a device's UUID a command was given to.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum CommandTargets {
    Table,
    Incarnation,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let incarnation = big_integer(CommandTargets::Incarnation).default(0).to_owned();
        manager.alter_table(Table::alter().table(CommandTargets::Table).add_column(incarnation).to_owned()).await?;
        // a deletion ended what was queued, so that what waits now was given to the present registration
        let of_present = "UPDATE command_targets SET incarnation = COALESCE((SELECT incarnation FROM devices \
             WHERE devices.uuid = command_targets.client_uuid AND devices.deleted_at IS NULL), 0) WHERE state = 'queued'";
        manager.get_connection().execute_unprepared(of_present).await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let drop = Table::alter().table(CommandTargets::Table).drop_column(CommandTargets::Incarnation).to_owned();
        manager.alter_table(drop).await
    }
}
