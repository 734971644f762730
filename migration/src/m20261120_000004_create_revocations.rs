//! Access tokens revoked before they expired, by token id (`jti`) or by family.

use crate::schema::*;

#[derive(DeriveIden)]
enum Revocations {
    Table,
    Id,
    ExpiresAt,
    CreatedAt,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(Revocations::Table)
                // a token's jti or its family
                .col(uuid(Revocations::Id).primary_key())
                // when the tokens have expired and the row can be deleted
                .col(timestamp_with_time_zone(Revocations::ExpiresAt))
                .col(timestamp_with_time_zone(Revocations::CreatedAt))
                .to_owned(),
        )
        .await?;
    for (name, column) in
        [("idx_revocations_expires_at", Revocations::ExpiresAt), ("idx_revocations_created_at", Revocations::CreatedAt)]
    {
        schema.run(Index::create().name(name).table(Revocations::Table).col(column).to_owned()).await?;
    }
    Ok(())
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(Revocations::Table).to_owned()).await
}
