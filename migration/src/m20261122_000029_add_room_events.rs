//! The events of rooms, numbered by room, which nodes read that have missed some. Only brokers that share the database write
//! them.

use crate::schema::*;

#[derive(DeriveIden)]
enum Rooms {
    Table,
    LastEvent,
}

#[derive(DeriveIden)]
enum RoomEvents {
    Table,
    RoomId,
    Sequence,
    Broker,
    Event,
    At,
}

const BY_TIME: &str = "idx_room_events_at";

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let column = big_integer(Rooms::LastEvent).default(0).take();
    schema.run(Table::alter().table(Rooms::Table).add_column(column).to_owned()).await?;
    let events = Table::create()
        .table(RoomEvents::Table)
        .col(big_integer(RoomEvents::RoomId))
        .col(big_integer(RoomEvents::Sequence))
        .col(uuid(RoomEvents::Broker))
        .col(text(RoomEvents::Event))
        .col(timestamp_with_time_zone(RoomEvents::At))
        .primary_key(Index::create().col(RoomEvents::RoomId).col(RoomEvents::Sequence))
        .to_owned();
    schema.run(events).await?;
    schema.run(Index::create().name(BY_TIME).table(RoomEvents::Table).col(RoomEvents::At).to_owned()).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(RoomEvents::Table).to_owned()).await?;
    schema.run(Table::alter().table(Rooms::Table).drop_column(Rooms::LastEvent).to_owned()).await
}
