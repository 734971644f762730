//! One row per login, whose token is replaced at each rotation. A used token names its login. Tokens issued before this
//! migration do not, so the digest of such a token is kept with the login until the login ends.

use crate::schema::*;

#[derive(DeriveIden)]
enum RefreshTokens {
    Table,
    Family,
    LegacyHash,
    UsedAt,
}

const BY_FAMILY: &str = "idx_refresh_tokens_family";
const BY_LEGACY_HASH: &str = "idx_refresh_tokens_legacy_hash";

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.sql("DELETE FROM refresh_tokens WHERE used_at IS NOT NULL").await?;
    schema
        .sql(
            "DELETE FROM refresh_tokens WHERE EXISTS (SELECT 1 FROM refresh_tokens AS other \
             WHERE other.family = refresh_tokens.family AND other.token_hash > refresh_tokens.token_hash)",
        )
        .await?;
    let table = || Table::alter().table(RefreshTokens::Table).to_owned();
    schema.run(table().drop_column(RefreshTokens::UsedAt).to_owned()).await?;
    schema.run(table().add_column(string_null(RefreshTokens::LegacyHash)).to_owned()).await?;
    schema.run(Index::drop().name(BY_FAMILY).table(RefreshTokens::Table).to_owned()).await?;
    let index = |name| Index::create().name(name).table(RefreshTokens::Table).to_owned();
    schema.run(index(BY_FAMILY).col(RefreshTokens::Family).unique().to_owned()).await?;
    schema.run(index(BY_LEGACY_HASH).col(RefreshTokens::LegacyHash).to_owned()).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    for name in [BY_LEGACY_HASH, BY_FAMILY] {
        schema.run(Index::drop().name(name).table(RefreshTokens::Table).to_owned()).await?;
    }
    let by_family = Index::create().name(BY_FAMILY).table(RefreshTokens::Table).col(RefreshTokens::Family).to_owned();
    schema.run(by_family).await?;
    let table = || Table::alter().table(RefreshTokens::Table).to_owned();
    schema.run(table().drop_column(RefreshTokens::LegacyHash).to_owned()).await?;
    let used_at = timestamp_with_time_zone_null(RefreshTokens::UsedAt);
    schema.run(table().add_column(used_at).to_owned()).await
}
