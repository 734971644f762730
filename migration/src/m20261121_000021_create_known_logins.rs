//! Addresses from which users have logged in.

use crate::schema::*;

#[derive(DeriveIden)]
enum KnownLogins {
    Table,
    UserId,
    Address,
    LastAt,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let table = Table::create()
        .table(KnownLogins::Table)
        .col(big_integer(KnownLogins::UserId))
        // for IPv6 the /64
        .col(string(KnownLogins::Address))
        .col(timestamp_with_time_zone(KnownLogins::LastAt))
        .primary_key(Index::create().col(KnownLogins::UserId).col(KnownLogins::Address))
        .to_owned();
    schema.run(table).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(KnownLogins::Table).to_owned()).await
}
