//! The rules for passwords of the broker that serves the database, for the command line.

use crate::schema::*;

#[derive(DeriveIden)]
enum Brokers {
    Table,
    PasswordMinChars,
    RefuseCommonPasswords,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    // one column at a time, since SQLite adds no more at once; null until a broker starts
    for column in [big_integer_null(Brokers::PasswordMinChars), boolean_null(Brokers::RefuseCommonPasswords)] {
        schema.run(Table::alter().table(Brokers::Table).add_column(column).to_owned()).await?;
    }
    Ok(())
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    for column in [Brokers::RefuseCommonPasswords, Brokers::PasswordMinChars] {
        schema.run(Table::alter().table(Brokers::Table).drop_column(column).to_owned()).await?;
    }
    Ok(())
}
