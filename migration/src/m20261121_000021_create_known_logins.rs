//! Addresses from which users have logged in.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum KnownLogins {
    Table,
    UserId,
    Address,
    LastAt,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table(KnownLogins::Table)
            .col(big_integer(KnownLogins::UserId))
            // for IPv6 the /64
            .col(string(KnownLogins::Address))
            .col(timestamp_with_time_zone(KnownLogins::LastAt))
            .primary_key(Index::create().col(KnownLogins::UserId).col(KnownLogins::Address))
            .to_owned();
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(KnownLogins::Table).to_owned()).await
    }
}
