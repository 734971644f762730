//! Rooms, their members and messages.

use crate::schema::*;

#[derive(DeriveIden)]
enum Rooms {
    Table,
    Id,
    Name,
    Description,
    IsPrivate,
    CreatedAt,
}

#[derive(DeriveIden)]
enum RoomMembers {
    Table,
    RoomId,
    ClientUuid,
    UserId,
    Username,
    Role,
    JoinedAt,
    LastReadId,
}

#[derive(DeriveIden)]
enum Messages {
    Table,
    Id,
    RoomId,
    ClientUuid,
    UserId,
    Username,
    Content,
    ClientMsgId,
    CreatedAt,
    EditedAt,
    DeletedAt,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(Rooms::Table)
                .col(big_pk_auto(Rooms::Id))
                .col(string(Rooms::Name))
                .col(text_null(Rooms::Description))
                .col(boolean(Rooms::IsPrivate))
                .col(timestamp_with_time_zone(Rooms::CreatedAt))
                .to_owned(),
        )
        .await?;
    // names of private rooms are not unique, since a refusal would reveal that the room exists
    schema.sql("CREATE UNIQUE INDEX idx_rooms_public_name ON rooms (name) WHERE NOT is_private").await?;
    schema
        .run(
            Table::create()
                .table(RoomMembers::Table)
                .col(big_integer(RoomMembers::RoomId))
                .col(uuid(RoomMembers::ClientUuid))
                // null for devices
                .col(big_integer_null(RoomMembers::UserId))
                // the name at the time of joining
                .col(string(RoomMembers::Username))
                .col(string(RoomMembers::Role))
                .col(timestamp_with_time_zone(RoomMembers::JoinedAt))
                // the read mark: the newest message that the member has read
                .col(big_integer(RoomMembers::LastReadId))
                .primary_key(Index::create().col(RoomMembers::RoomId).col(RoomMembers::ClientUuid))
                .foreign_key(
                    ForeignKey::create().from(RoomMembers::Table, RoomMembers::RoomId).to(Rooms::Table, Rooms::Id),
                )
                .to_owned(),
        )
        .await?;
    schema
        .run(
            Index::create()
                .name("idx_room_members_client_uuid")
                .table(RoomMembers::Table)
                .col(RoomMembers::ClientUuid)
                .to_owned(),
        )
        .await?;
    schema
        .run(
            Table::create()
                .table(Messages::Table)
                .col(big_pk_auto(Messages::Id))
                .col(big_integer(Messages::RoomId))
                .col(uuid(Messages::ClientUuid))
                .col(big_integer_null(Messages::UserId))
                // the name at the time of writing
                .col(string(Messages::Username))
                .col(text(Messages::Content))
                // the sender's id for the message; a repetition with the same id is the same message
                .col(string_null(Messages::ClientMsgId))
                .col(timestamp_with_time_zone(Messages::CreatedAt))
                .col(timestamp_with_time_zone_null(Messages::EditedAt))
                .col(timestamp_with_time_zone_null(Messages::DeletedAt))
                .foreign_key(ForeignKey::create().from(Messages::Table, Messages::RoomId).to(Rooms::Table, Rooms::Id))
                .to_owned(),
        )
        .await?;
    schema
        .run(
            Index::create()
                .name("idx_messages_room_id_id")
                .table(Messages::Table)
                .col(Messages::RoomId)
                .col(Messages::Id)
                .to_owned(),
        )
        .await?;
    // most messages have no client_msg_id and are not in this index
    schema
        .sql(
            "CREATE UNIQUE INDEX idx_messages_client_msg_id ON messages (room_id, client_uuid, client_msg_id) \
             WHERE client_msg_id IS NOT NULL",
        )
        .await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(Messages::Table).to_owned()).await?;
    schema.run(Table::drop().table(RoomMembers::Table).to_owned()).await?;
    schema.run(Table::drop().table(Rooms::Table).to_owned()).await
}
