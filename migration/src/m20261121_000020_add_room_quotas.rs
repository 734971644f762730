//! The creator of a room and the owner who added a member, for quotas.

use crate::schema::*;

#[derive(DeriveIden)]
enum Rooms {
    Table,
    CreatedBy,
}

#[derive(DeriveIden)]
enum RoomMembers {
    Table,
    AddedBy,
}

const BY_CREATOR: &str = "idx_rooms_created_by";

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    // existing rooms have no creator, and their members count as having joined themselves
    let created_by = Table::alter().table(Rooms::Table).add_column(uuid_null(Rooms::CreatedBy)).to_owned();
    schema.run(created_by).await?;
    let added_by = Table::alter().table(RoomMembers::Table).add_column(uuid_null(RoomMembers::AddedBy)).to_owned();
    schema.run(added_by).await?;
    let index = Index::create().name(BY_CREATOR).table(Rooms::Table).col(Rooms::CreatedBy).to_owned();
    schema.run(index).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Index::drop().name(BY_CREATOR).table(Rooms::Table).to_owned()).await?;
    let added_by = Table::alter().table(RoomMembers::Table).drop_column(RoomMembers::AddedBy).to_owned();
    schema.run(added_by).await?;
    schema.run(Table::alter().table(Rooms::Table).drop_column(Rooms::CreatedBy).to_owned()).await
}
