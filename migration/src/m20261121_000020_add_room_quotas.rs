//! The creator of a room and the owner who added a member, for quotas.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

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

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // existing rooms have no creator, and their members count as having joined themselves
        let created_by = Table::alter().table(Rooms::Table).add_column(uuid_null(Rooms::CreatedBy)).to_owned();
        manager.alter_table(created_by).await?;
        let added_by = Table::alter().table(RoomMembers::Table).add_column(uuid_null(RoomMembers::AddedBy)).to_owned();
        manager.alter_table(added_by).await?;
        let index = Index::create().name(BY_CREATOR).table(Rooms::Table).col(Rooms::CreatedBy).to_owned();
        manager.create_index(index).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_index(Index::drop().name(BY_CREATOR).table(Rooms::Table).to_owned()).await?;
        let added_by = Table::alter().table(RoomMembers::Table).drop_column(RoomMembers::AddedBy).to_owned();
        manager.alter_table(added_by).await?;
        manager.alter_table(Table::alter().table(Rooms::Table).drop_column(Rooms::CreatedBy).to_owned()).await
    }
}
