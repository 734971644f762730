//! Users can be deleted, and a login can outlive a change of the password.

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
            // the one login whose tokens of an earlier generation still count: it changed the password
            uuid_null(Users::KeptLogin),
            // the row stays, so that running servers hear of it
            timestamp_with_time_zone_null(Users::DeletedAt),
        ] {
            manager.alter_table(Table::alter().table(Users::Table).add_column(column).to_owned()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // without the column they would look alive
        let deleted = Expr::col(Users::DeletedAt).is_not_null();
        manager.execute(Query::delete().from_table(Users::Table).and_where(deleted).to_owned()).await?;
        for column in [Users::DeletedAt, Users::KeptLogin] {
            manager.alter_table(Table::alter().table(Users::Table).drop_column(column).to_owned()).await?;
        }
        Ok(())
    }
}
