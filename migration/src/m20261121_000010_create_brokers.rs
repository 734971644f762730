//! The broker that serves this database: one row. The broker also writes it to check that the database takes writes.

use crate::schema::*;

#[derive(DeriveIden)]
enum Brokers {
    Table,
    Id,
    Instance,
    Host,
    ProcessId,
    Address,
    StartedAt,
    SeenAt,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(Brokers::Table)
                .col(big_integer(Brokers::Id).primary_key())
                .col(uuid(Brokers::Instance))
                .col(string(Brokers::Host))
                .col(big_integer(Brokers::ProcessId))
                .col(string(Brokers::Address))
                .col(timestamp_with_time_zone(Brokers::StartedAt))
                .col(timestamp_with_time_zone(Brokers::SeenAt))
                .to_owned(),
        )
        .await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(Brokers::Table).to_owned()).await
}
