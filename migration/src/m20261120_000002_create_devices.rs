//! Devices, identified by their UUID.

use crate::schema::*;

#[derive(DeriveIden)]
enum Devices {
    Table,
    Uuid,
    Name,
    KeyHash,
    TokenGeneration,
    CreatedAt,
    ChangedAt,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(Devices::Table)
                .col(uuid(Devices::Uuid).primary_key())
                .col(string(Devices::Name))
                // SHA-256 of the device key, in hex
                .col(string(Devices::KeyHash))
                // tokens of an earlier generation are revoked
                .col(big_integer(Devices::TokenGeneration).default(0))
                .col(timestamp_with_time_zone(Devices::CreatedAt))
                // time of the last change of name or token generation, which running servers poll
                .col(timestamp_with_time_zone(Devices::ChangedAt))
                .to_owned(),
        )
        .await?;
    schema
        .run(Index::create().name("idx_devices_changed_at").table(Devices::Table).col(Devices::ChangedAt).to_owned())
        .await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(Devices::Table).to_owned()).await
}
