//! What webhooks are to be told of, and what became of it.

use crate::schema::*;

#[derive(DeriveIden)]
enum WebhookDeliveries {
    Table,
    Id,
    Webhook,
    EventId,
    Event,
    Body,
    CreatedAt,
    State,
    Attempts,
    NextAttemptAt,
    EndedAt,
    LastError,
    LastErrorAt,
}

/// For those that are due.
const DUE: &str = "idx_webhook_deliveries_due";

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(WebhookDeliveries::Table)
                .col(big_pk_auto(WebhookDeliveries::Id))
                .col(string(WebhookDeliveries::Webhook))
                .col(string(WebhookDeliveries::EventId))
                .col(string(WebhookDeliveries::Event))
                .col(text(WebhookDeliveries::Body))
                .col(timestamp_with_time_zone(WebhookDeliveries::CreatedAt))
                // pending, delivered or failed
                .col(string(WebhookDeliveries::State))
                .col(big_integer(WebhookDeliveries::Attempts))
                // by the clock of the database
                .col(timestamp_with_time_zone(WebhookDeliveries::NextAttemptAt))
                .col(timestamp_with_time_zone_null(WebhookDeliveries::EndedAt))
                .col(text_null(WebhookDeliveries::LastError))
                .col(timestamp_with_time_zone_null(WebhookDeliveries::LastErrorAt))
                .to_owned(),
        )
        .await?;
    let due = Index::create()
        .name(DUE)
        .table(WebhookDeliveries::Table)
        .col(WebhookDeliveries::Webhook)
        .col(WebhookDeliveries::State)
        .col(WebhookDeliveries::NextAttemptAt)
        .to_owned();
    schema.run(due).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(WebhookDeliveries::Table).to_owned()).await
}
