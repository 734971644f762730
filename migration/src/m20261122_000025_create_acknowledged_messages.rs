//! Acknowledged messages, by recipient. Their ids are counted, so that they become visible in order.

use crate::schema::*;

#[derive(DeriveIden)]
enum AcknowledgedMessages {
    Table,
    Id,
    Sender,
    SenderIncarnation,
    Recipient,
    RecipientIncarnation,
    Msgid,
    Object,
    Bytes,
    Priority,
    State,
    Refusals,
    Attempts,
    CreatedAt,
    SentAt,
    EndedAt,
    ExpiresAt,
    ToldAt,
}

#[derive(DeriveIden)]
enum Counters {
    Table,
    Name,
}

const COUNTERS: [&str; 2] = ["acknowledged_message_id", "acknowledged_message_bytes"];

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    use AcknowledgedMessages as Column;
    let table = Table::create()
        .table(Column::Table)
        .col(big_integer(Column::Id).primary_key().take())
        .col(uuid(Column::Sender))
        .col(big_integer(Column::SenderIncarnation))
        .col(uuid(Column::Recipient))
        .col(big_integer(Column::RecipientIncarnation))
        .col(text(Column::Msgid))
        // of the object
        .col(big_integer(Column::Bytes))
        .col(big_integer(Column::Priority))
        .col(string(Column::State))
        .col(big_integer(Column::Refusals))
        .col(big_integer(Column::Attempts))
        .col(timestamp_with_time_zone(Column::CreatedAt))
        .col(timestamp_with_time_zone_null(Column::SentAt))
        .col(timestamp_with_time_zone_null(Column::EndedAt))
        .col(timestamp_with_time_zone(Column::ExpiresAt))
        .col(timestamp_with_time_zone_null(Column::ToldAt))
        // last, since SQLite reads a row up to the last column that is asked for
        .col(text(Column::Object))
        .to_owned();
    schema.run(table).await?;
    let key = Index::create()
        .name("acknowledged_messages_key")
        .table(Column::Table)
        .col(Column::Recipient)
        .col(Column::Msgid)
        .col(Column::Sender)
        .col(Column::RecipientIncarnation)
        .col(Column::SenderIncarnation)
        .unique()
        .to_owned();
    schema.run(key).await?;
    // lists of a recipient use the key, since each further index is a page to be written for nearly every message
    let of_sender = Index::create()
        .name("acknowledged_messages_sender")
        .table(Column::Table)
        .col(Column::Sender)
        .col(Column::Id)
        .to_owned();
    schema.run(of_sender).await?;
    // partial, so that only few rows are in them
    for index in [
        "acknowledged_messages_open ON acknowledged_messages (recipient, priority, id, bytes) WHERE ended_at IS NULL",
        "acknowledged_messages_expiry ON acknowledged_messages (expires_at) WHERE ended_at IS NULL",
        "acknowledged_messages_untold ON acknowledged_messages (sender, id) WHERE ended_at IS NOT NULL AND told_at IS NULL",
    ] {
        schema.sql(&format!("CREATE INDEX {index}")).await?;
    }
    for counter in COUNTERS {
        schema.sql(&format!("INSERT INTO counters (name, value) VALUES ('{counter}', 0)")).await?;
    }
    Ok(())
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    let counters = Expr::col(Counters::Name).is_in(COUNTERS);
    schema.run(Query::delete().from_table(Counters::Table).and_where(counters).to_owned()).await?;
    schema.run(Table::drop().table(AcknowledgedMessages::Table).to_owned()).await
}
