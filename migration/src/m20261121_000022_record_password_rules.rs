//! The rules for passwords of the broker that serves the database, for the command line.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum Brokers {
    Table,
    PasswordMinChars,
    RefuseCommonPasswords,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // one column at a time, since SQLite adds no more at once; null until a broker starts
        for column in [big_integer_null(Brokers::PasswordMinChars), boolean_null(Brokers::RefuseCommonPasswords)] {
            manager.alter_table(Table::alter().table(Brokers::Table).add_column(column).to_owned()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [Brokers::RefuseCommonPasswords, Brokers::PasswordMinChars] {
            manager.alter_table(Table::alter().table(Brokers::Table).drop_column(column).to_owned()).await?;
        }
        Ok(())
    }
}
