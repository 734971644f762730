//! A device's metadata, when it was last seen, and whether it is deleted.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum Devices {
    Table,
    Name,
    Metadata,
    GatewayId,
    LastSeen,
    DeletedAt,
}

const BY_NAME: &str = "idx_devices_name";
const BY_GATEWAY: &str = "idx_devices_gateway_id";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite adds one column per statement
        for column in [
            json(Devices::Metadata).default("{}").take(),
            big_integer_null(Devices::GatewayId),
            timestamp_with_time_zone_null(Devices::LastSeen),
            // the row stays, so that running servers learn of the deletion and old tokens stay invalid
            timestamp_with_time_zone_null(Devices::DeletedAt),
        ] {
            manager.alter_table(Table::alter().table(Devices::Table).add_column(column).to_owned()).await?;
        }
        for (name, column) in [(BY_NAME, Devices::Name), (BY_GATEWAY, Devices::GatewayId)] {
            manager.create_index(Index::create().name(name).table(Devices::Table).col(column).to_owned()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for name in [BY_GATEWAY, BY_NAME] {
            manager.drop_index(Index::drop().name(name).table(Devices::Table).to_owned()).await?;
        }
        // without the column, deleted devices would appear as existing
        let deleted = Expr::col(Devices::DeletedAt).is_not_null();
        let delete = Query::delete().from_table(Devices::Table).and_where(deleted).to_owned();
        manager.execute(delete).await?;
        for column in [Devices::DeletedAt, Devices::LastSeen, Devices::GatewayId, Devices::Metadata] {
            manager.alter_table(Table::alter().table(Devices::Table).drop_column(column).to_owned()).await?;
        }
        Ok(())
    }
}
