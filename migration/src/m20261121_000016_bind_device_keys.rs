//! Whether a device's UUID is bound, that is, was registered with proof. New device keys are random; keys issued before this
//! migration stay valid until the device registers again.

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
        // it is not known under which policy existing devices were registered
        let column = boolean(Devices::IsBound).default(false).take();
        manager.alter_table(Table::alter().table(Devices::Table).add_column(column).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table(Devices::Table).drop_column(Devices::IsBound).to_owned()).await
    }
}
