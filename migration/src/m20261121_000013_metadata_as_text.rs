//! Metadata of topics and devices is stored as text, so that one row that is not valid JSON does not make a whole list
//! unreadable.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden, Clone, Copy)]
enum Tables {
    Topics,
    Devices,
}

#[derive(DeriveIden, Clone, Copy)]
enum Columns {
    Metadata,
    MetadataCopy,
}

/// Changes the type of a column. SQLite and sea-query do not support that in one step.
async fn change_type(
    manager: &SchemaManager<'_>,
    column: fn(Columns) -> ColumnDef,
    cast: Option<&'static str>,
) -> Result<(), DbErr> {
    for table in [Tables::Topics, Tables::Devices] {
        let add = column(Columns::MetadataCopy).default("{}").take();
        manager.alter_table(Table::alter().table(table).add_column(add).to_owned()).await?;
        let value = Expr::col(Columns::Metadata);
        let value = match cast {
            Some(name) => value.cast_as(name),
            None => value,
        };
        manager.execute(Query::update().table(table).value(Columns::MetadataCopy, value).to_owned()).await?;
        manager.alter_table(Table::alter().table(table).drop_column(Columns::Metadata).to_owned()).await?;
        let rename = Table::alter().table(table).rename_column(Columns::MetadataCopy, Columns::Metadata).to_owned();
        manager.alter_table(rename).await?;
    }
    Ok(())
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        change_type(manager, text, Some("text")).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite stores JSON as text, and CAST to a type unknown to it would convert the text to a number
        let cast = (manager.get_database_backend() == sea_orm::DatabaseBackend::Postgres).then_some("json");
        change_type(manager, json, cast).await
    }
}
