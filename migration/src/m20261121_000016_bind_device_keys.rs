//! Whether a device was registered with proof. Keys of devices are random from here on; those from before stay good until
//! the device registers again.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum Devices {
    Table,
    IsBound,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // nothing tells under which rules the devices of before were registered
        let column = boolean(Devices::IsBound).default(false).take();
        manager.alter_table(Table::alter().table(Devices::Table).add_column(column).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table(Devices::Table).drop_column(Devices::IsBound).to_owned()).await
    }
}
