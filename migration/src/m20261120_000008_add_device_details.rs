//! A device's metadata, when it was last seen, and whether it is deleted.

use crate::schema::*;

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

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    // SQLite adds one column per statement
    for column in [
        json(Devices::Metadata).default("{}").take(),
        big_integer_null(Devices::GatewayId),
        timestamp_with_time_zone_null(Devices::LastSeen),
        // the row stays, so that running servers learn of the deletion and old tokens stay invalid
        timestamp_with_time_zone_null(Devices::DeletedAt),
    ] {
        schema.run(Table::alter().table(Devices::Table).add_column(column).to_owned()).await?;
    }
    for (name, column) in [(BY_NAME, Devices::Name), (BY_GATEWAY, Devices::GatewayId)] {
        schema.run(Index::create().name(name).table(Devices::Table).col(column).to_owned()).await?;
    }
    Ok(())
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    for name in [BY_GATEWAY, BY_NAME] {
        schema.run(Index::drop().name(name).table(Devices::Table).to_owned()).await?;
    }
    // without the column, deleted devices would appear as existing
    let deleted = Expr::col(Devices::DeletedAt).is_not_null();
    let delete = Query::delete().from_table(Devices::Table).and_where(deleted).to_owned();
    schema.run(delete).await?;
    for column in [Devices::DeletedAt, Devices::LastSeen, Devices::GatewayId, Devices::Metadata] {
        schema.run(Table::alter().table(Devices::Table).drop_column(column).to_owned()).await?;
    }
    Ok(())
}
