//! The stamp of the newest socket of each device, with which nodes tell messages that came through older ones.

use crate::schema::*;

#[derive(DeriveIden)]
enum Devices {
    Table,
    NewestSocket,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let column = big_integer(Devices::NewestSocket).default(0).take();
    schema.run(Table::alter().table(Devices::Table).add_column(column).to_owned()).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::alter().table(Devices::Table).drop_column(Devices::NewestSocket).to_owned()).await
}
