//! Users can be deleted, and the login that changes the password stays valid.

use crate::schema::*;

#[derive(DeriveIden)]
enum Users {
    Table,
    KeptLogin,
    DeletedAt,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    // SQLite adds one column per statement
    for column in [
        // the login that changed the password: its tokens of an earlier generation stay valid
        uuid_null(Users::KeptLogin),
        // the row stays, so that running servers learn of the deletion
        timestamp_with_time_zone_null(Users::DeletedAt),
    ] {
        schema.run(Table::alter().table(Users::Table).add_column(column).to_owned()).await?;
    }
    Ok(())
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    // without the column, deleted users would appear as existing
    let deleted = Expr::col(Users::DeletedAt).is_not_null();
    schema.run(Query::delete().from_table(Users::Table).and_where(deleted).to_owned()).await?;
    for column in [Users::DeletedAt, Users::KeptLogin] {
        schema.run(Table::alter().table(Users::Table).drop_column(column).to_owned()).await?;
    }
    Ok(())
}
