//! Several brokers may serve a database: a row for each, by its instance.

use crate::schema::*;

#[derive(DeriveIden)]
enum Brokers {
    Table,
    Id,
    Instance,
    Host,
    ProcessId,
    Address,
    StartedAt,
    SeenAt,
    PasswordMinChars,
    RefuseCommonPasswords,
}

/// Replaces the table. Its rows are those of brokers that have ended, since none serves the database now.
async fn replace(schema: &Schema<'_>, first: Vec<ColumnDef>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(Brokers::Table).to_owned()).await?;
    let mut table = Table::create();
    table.table(Brokers::Table);
    let others = [
        string(Brokers::Host),
        big_integer(Brokers::ProcessId),
        string(Brokers::Address),
        timestamp_with_time_zone(Brokers::StartedAt),
        timestamp_with_time_zone(Brokers::SeenAt),
        big_integer_null(Brokers::PasswordMinChars),
        boolean_null(Brokers::RefuseCommonPasswords),
    ];
    for column in first.into_iter().chain(others) {
        table.col(column);
    }
    schema.run(table).await
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    replace(schema, vec![uuid(Brokers::Instance).primary_key().take()]).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    replace(schema, vec![big_integer(Brokers::Id).primary_key().take(), uuid(Brokers::Instance)]).await
}
