//! The reason why a command could not be sent to a target.

use crate::schema::*;

#[derive(DeriveIden)]
enum CommandTargets {
    Table,
    Reason,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let reason = string_null(CommandTargets::Reason);
    schema.run(Table::alter().table(CommandTargets::Table).add_column(reason).to_owned()).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    let drop = Table::alter().table(CommandTargets::Table).drop_column(CommandTargets::Reason).to_owned();
    schema.run(drop).await
}
