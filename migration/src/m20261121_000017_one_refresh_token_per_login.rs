//! One row per login, whose token is replaced at each rotation. A used token names its login. Tokens issued before this
//! migration do not, so the digest of such a token is kept with the login until the login ends.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum RefreshTokens {
    Table,
    Family,
    LegacyHash,
    UsedAt,
}

const BY_FAMILY: &str = "idx_refresh_tokens_family";
const BY_LEGACY_HASH: &str = "idx_refresh_tokens_legacy_hash";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        connection.execute_unprepared("DELETE FROM refresh_tokens WHERE used_at IS NOT NULL").await?;
        connection
            .execute_unprepared(
                "DELETE FROM refresh_tokens WHERE EXISTS (SELECT 1 FROM refresh_tokens AS other \
                 WHERE other.family = refresh_tokens.family AND other.token_hash > refresh_tokens.token_hash)",
            )
            .await?;
        let table = || Table::alter().table(RefreshTokens::Table).to_owned();
        manager.alter_table(table().drop_column(RefreshTokens::UsedAt).to_owned()).await?;
        manager.alter_table(table().add_column(string_null(RefreshTokens::LegacyHash)).to_owned()).await?;
        manager.drop_index(Index::drop().name(BY_FAMILY).table(RefreshTokens::Table).to_owned()).await?;
        let index = |name| Index::create().name(name).table(RefreshTokens::Table).to_owned();
        manager.create_index(index(BY_FAMILY).col(RefreshTokens::Family).unique().to_owned()).await?;
        manager.create_index(index(BY_LEGACY_HASH).col(RefreshTokens::LegacyHash).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for name in [BY_LEGACY_HASH, BY_FAMILY] {
            manager.drop_index(Index::drop().name(name).table(RefreshTokens::Table).to_owned()).await?;
        }
        let by_family =
            Index::create().name(BY_FAMILY).table(RefreshTokens::Table).col(RefreshTokens::Family).to_owned();
        manager.create_index(by_family).await?;
        let table = || Table::alter().table(RefreshTokens::Table).to_owned();
        manager.alter_table(table().drop_column(RefreshTokens::LegacyHash).to_owned()).await?;
        let used_at = timestamp_with_time_zone_null(RefreshTokens::UsedAt);
        manager.alter_table(table().add_column(used_at).to_owned()).await
    }
}
