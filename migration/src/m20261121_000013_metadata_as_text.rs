//! Metadata of topics and devices is stored as text, so that one row that is not valid JSON does not make a whole list
//! unreadable.

use crate::schema::*;

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
    schema: &Schema<'_>,
    column: fn(Columns) -> ColumnDef,
    cast: Option<&'static str>,
) -> Result<(), DbErr> {
    for table in [Tables::Topics, Tables::Devices] {
        let add = column(Columns::MetadataCopy).default("{}").take();
        schema.run(Table::alter().table(table).add_column(add).to_owned()).await?;
        let value = Expr::col(Columns::Metadata);
        let value = match cast {
            Some(name) => value.cast_as(name),
            None => value,
        };
        schema.run(Query::update().table(table).value(Columns::MetadataCopy, value).to_owned()).await?;
        schema.run(Table::alter().table(table).drop_column(Columns::Metadata).to_owned()).await?;
        let rename = Table::alter().table(table).rename_column(Columns::MetadataCopy, Columns::Metadata).to_owned();
        schema.run(rename).await?;
    }
    Ok(())
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    change_type(schema, text, Some("text")).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    // SQLite stores JSON as text, and CAST to a type unknown to it would convert the text to a number
    let cast = (schema.backend() == DbBackend::Postgres).then_some("json");
    change_type(schema, json, cast).await
}
