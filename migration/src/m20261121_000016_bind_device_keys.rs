//! Whether a device's UUID is bound, that is, was registered with proof. New device keys are random; keys issued before this
//! migration stay valid until the device registers again.

use crate::schema::*;

#[derive(DeriveIden)]
enum Devices {
    Table,
    IsBound,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    // it is not known under which policy existing devices were registered
    let column = boolean(Devices::IsBound).default(false).take();
    schema.run(Table::alter().table(Devices::Table).add_column(column).to_owned()).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::alter().table(Devices::Table).drop_column(Devices::IsBound).to_owned()).await
}
