//! The broker that serves this database: one row. The broker also writes it to check that the database takes writes.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

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

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
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

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(Brokers::Table).to_owned()).await
    }
}
