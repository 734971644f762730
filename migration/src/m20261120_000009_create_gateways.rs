//! Gateways created over HTTP, and the history of all gateways.

use crate::schema::*;

#[derive(DeriveIden)]
enum Gateways {
    Table,
    Id,
    Name,
    Address,
    ParentId,
    MaxRttMs,
    MaxLossPercent,
    CreatedAt,
}

#[derive(DeriveIden)]
enum GatewayTransitions {
    Table,
    GatewayId,
    At,
    Status,
    Reason,
}

#[derive(DeriveIden)]
enum GatewayHours {
    Table,
    GatewayId,
    BeganAt,
    Probes,
    Answered,
    RttMs,
    Samples,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(Gateways::Table)
                // given by the client or assigned by the store; shares one id space with configured gateways
                .col(big_integer(Gateways::Id).primary_key())
                .col(string(Gateways::Name))
                .col(string(Gateways::Address))
                .col(big_integer_null(Gateways::ParentId))
                .col(double_null(Gateways::MaxRttMs))
                .col(double_null(Gateways::MaxLossPercent))
                .col(timestamp_with_time_zone(Gateways::CreatedAt))
                .to_owned(),
        )
        .await?;
    schema
        .run(
            Table::create()
                .table(GatewayTransitions::Table)
                .col(big_integer(GatewayTransitions::GatewayId))
                .col(timestamp_with_time_zone(GatewayTransitions::At))
                .col(string(GatewayTransitions::Status))
                .col(string_null(GatewayTransitions::Reason))
                .primary_key(Index::create().col(GatewayTransitions::GatewayId).col(GatewayTransitions::At))
                .to_owned(),
        )
        .await?;
    // a row holds about an hour of a gateway's probes; with a row per probe, each probe would write a page
    schema
        .run(
            Table::create()
                .table(GatewayHours::Table)
                .col(big_integer(GatewayHours::GatewayId))
                .col(timestamp_with_time_zone(GatewayHours::BeganAt))
                .col(big_integer(GatewayHours::Probes))
                .col(big_integer(GatewayHours::Answered))
                // the mean over answered probes
                .col(double_null(GatewayHours::RttMs))
                // JSON: for each probe the milliseconds since began_at and the round trip (null if lost);
                // the column is null when only the hourly figures are kept
                .col(text_null(GatewayHours::Samples))
                .primary_key(Index::create().col(GatewayHours::GatewayId).col(GatewayHours::BeganAt))
                .to_owned(),
        )
        .await?;
    schema
        .run(
            Index::create()
                .name("idx_gateway_hours_began_at")
                .table(GatewayHours::Table)
                .col(GatewayHours::BeganAt)
                .to_owned(),
        )
        .await?;
    // finds the rows whose samples are to be deleted
    schema.sql("CREATE INDEX idx_gateway_hours_raw ON gateway_hours (began_at) WHERE samples IS NOT NULL").await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(GatewayHours::Table).to_owned()).await?;
    schema.run(Table::drop().table(GatewayTransitions::Table).to_owned()).await?;
    schema.run(Table::drop().table(Gateways::Table).to_owned()).await
}
