//! Leases, with which nodes agree on one of them that does a task, and what lets them see each other's changes of gateways: a
//! version, and an index by time.

use crate::schema::*;

#[derive(DeriveIden)]
enum Leases {
    Table,
    Name,
    Holder,
    Term,
    Until,
}

#[derive(DeriveIden)]
enum Counters {
    Table,
    Name,
    Value,
}

#[derive(DeriveIden)]
enum GatewayTransitions {
    Table,
    At,
}

/// The counter of changes of gateways.
const COUNTER: &str = "gateway_change";

/// The index of changes of status by time.
const INDEX: &str = "idx_gateway_transitions_at";

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(Leases::Table)
                .col(string(Leases::Name).primary_key())
                .col(uuid(Leases::Holder))
                // grows whenever the holder changes
                .col(big_integer(Leases::Term))
                // by the clock of the database
                .col(timestamp_with_time_zone(Leases::Until))
                .to_owned(),
        )
        .await?;
    let row = Query::insert()
        .into_table(Counters::Table)
        .columns([Counters::Name, Counters::Value])
        .values_panic([COUNTER.into(), 0.into()])
        .to_owned();
    schema.run(row).await?;
    let by_time = Index::create().name(INDEX).table(GatewayTransitions::Table).col(GatewayTransitions::At).to_owned();
    schema.run(by_time).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Index::drop().name(INDEX).table(GatewayTransitions::Table).to_owned()).await?;
    let counter = Expr::col(Counters::Name).eq(COUNTER);
    schema.run(Query::delete().from_table(Counters::Table).and_where(counter).to_owned()).await?;
    schema.run(Table::drop().table(Leases::Table).to_owned()).await
}
