//! The reason why a command could not be sent to a target.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum CommandTargets {
    Table,
    Reason,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let reason = string_null(CommandTargets::Reason);
        manager.alter_table(Table::alter().table(CommandTargets::Table).add_column(reason).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let drop = Table::alter().table(CommandTargets::Table).drop_column(CommandTargets::Reason).to_owned();
        manager.alter_table(drop).await
    }
}
