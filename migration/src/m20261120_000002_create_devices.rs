//! Devices, identified by their UUID.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

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

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(Devices::Table)
                    .col(pk_uuid(Devices::Uuid))
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
        manager
            .create_index(
                Index::create().name("idx_devices_changed_at").table(Devices::Table).col(Devices::ChangedAt).to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(Devices::Table).to_owned()).await
    }
}
