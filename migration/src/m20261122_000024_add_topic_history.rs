//! Histories of topics. The publications of a history are numbered by topic, and belong to a history and not to a name, so that
//! those of a deleted topic can be deleted later, in small steps, while there is a new topic of that name.

use crate::schema::*;

#[derive(DeriveIden)]
enum Topics {
    Table,
    HistoryId,
    HistorySize,
    HistoryTtlSecs,
    LastOffset,
}

#[derive(DeriveIden)]
enum TopicHistory {
    Table,
    HistoryId,
    Offset,
    At,
    Message,
}

#[derive(DeriveIden)]
enum Counters {
    Table,
    Name,
}

const COUNTER: &str = "topic_history";

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    // one column at a time, since SQLite adds no more at once; topics without a history have null
    for column in [
        big_integer_null(Topics::HistoryId),
        big_integer_null(Topics::HistorySize),
        big_integer_null(Topics::HistoryTtlSecs),
        big_integer(Topics::LastOffset).default(0).take(),
    ] {
        schema.run(Table::alter().table(Topics::Table).add_column(column).to_owned()).await?;
    }
    let history = Table::create()
        .table(TopicHistory::Table)
        .col(big_integer(TopicHistory::HistoryId))
        .col(big_integer(TopicHistory::Offset))
        .col(timestamp_with_time_zone(TopicHistory::At))
        .col(text(TopicHistory::Message))
        .primary_key(Index::create().col(TopicHistory::HistoryId).col(TopicHistory::Offset))
        .to_owned();
    schema.run(history).await?;
    schema.sql(&format!("INSERT INTO counters (name, value) VALUES ('{COUNTER}', 0)")).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    let counter = Expr::col(Counters::Name).eq(COUNTER);
    schema.run(Query::delete().from_table(Counters::Table).and_where(counter).to_owned()).await?;
    schema.run(Table::drop().table(TopicHistory::Table).to_owned()).await?;
    for column in [Topics::LastOffset, Topics::HistoryTtlSecs, Topics::HistorySize, Topics::HistoryId] {
        schema.run(Table::alter().table(Topics::Table).drop_column(column).to_owned()).await?;
    }
    Ok(())
}
