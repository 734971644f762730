//! Users can be deleted, and the login that changes the password stays valid.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum Users {
    Table,
    KeptLogin,
    DeletedAt,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite adds one column per statement
        for column in [
            // the login that changed the password: its tokens of an earlier generation stay valid
            uuid_null(Users::KeptLogin),
            // the row stays, so that running servers learn of the deletion
            timestamp_with_time_zone_null(Users::DeletedAt),
        ] {
            manager.alter_table(Table::alter().table(Users::Table).add_column(column).to_owned()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // without the column, deleted users would appear as existing
        let deleted = Expr::col(Users::DeletedAt).is_not_null();
        manager.execute(Query::delete().from_table(Users::Table).and_where(deleted).to_owned()).await?;
        for column in [Users::DeletedAt, Users::KeptLogin] {
            manager.alter_table(Table::alter().table(Users::Table).drop_column(column).to_owned()).await?;
        }
        Ok(())
    }
}
