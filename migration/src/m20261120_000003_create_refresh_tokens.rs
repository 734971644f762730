//! Refresh tokens. Each can be used once; all tokens of one login form a family.

use crate::schema::*;

#[derive(DeriveIden)]
enum RefreshTokens {
    Table,
    TokenHash,
    Family,
    ClientUuid,
    ClientKind,
    ExpiresAt,
    UsedAt,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(RefreshTokens::Table)
                // SHA-256 of the token, in hex, so that a stolen table contains no usable tokens
                .col(string(RefreshTokens::TokenHash).primary_key())
                .col(uuid(RefreshTokens::Family))
                .col(uuid(RefreshTokens::ClientUuid))
                .col(string(RefreshTokens::ClientKind))
                .col(timestamp_with_time_zone(RefreshTokens::ExpiresAt))
                .col(timestamp_with_time_zone_null(RefreshTokens::UsedAt))
                .to_owned(),
        )
        .await?;
    for (name, column) in [
        ("idx_refresh_tokens_family", RefreshTokens::Family),
        ("idx_refresh_tokens_client_uuid", RefreshTokens::ClientUuid),
        ("idx_refresh_tokens_expires_at", RefreshTokens::ExpiresAt),
    ] {
        schema.run(Index::create().name(name).table(RefreshTokens::Table).col(column).to_owned()).await?;
    }
    Ok(())
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(RefreshTokens::Table).to_owned()).await
}
