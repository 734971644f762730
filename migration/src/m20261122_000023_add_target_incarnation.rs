//! Which of the registrations of a device's UUID a command was given to.

use crate::schema::*;

#[derive(DeriveIden)]
enum CommandTargets {
    Table,
    Incarnation,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let incarnation = big_integer(CommandTargets::Incarnation).default(0).to_owned();
    schema.run(Table::alter().table(CommandTargets::Table).add_column(incarnation).to_owned()).await?;
    // a deletion ended what was queued, so that what waits now was given to the present registration
    let of_present = "UPDATE command_targets SET incarnation = COALESCE((SELECT incarnation FROM devices \
         WHERE devices.uuid = command_targets.client_uuid AND devices.deleted_at IS NULL), 0) WHERE state = 'queued'";
    schema.sql(of_present).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    let drop = Table::alter().table(CommandTargets::Table).drop_column(CommandTargets::Incarnation).to_owned();
    schema.run(drop).await
}
