//! Access tokens revoked before they expired, by token id (`jti`) or by family.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum Revocations {
    Table,
    Id,
    ExpiresAt,
    CreatedAt,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(Revocations::Table)
                    // a token's jti or its family
                    .col(pk_uuid(Revocations::Id))
                    // when the tokens have expired and the row can be deleted
                    .col(timestamp_with_time_zone(Revocations::ExpiresAt))
                    .col(timestamp_with_time_zone(Revocations::CreatedAt))
                    .to_owned(),
            )
            .await?;
        for (name, column) in [
            ("idx_revocations_expires_at", Revocations::ExpiresAt),
            ("idx_revocations_created_at", Revocations::CreatedAt),
        ] {
            manager.create_index(Index::create().name(name).table(Revocations::Table).col(column).to_owned()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(Revocations::Table).to_owned()).await
    }
}
