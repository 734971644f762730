//! What a migration works with: the database, and columns of the types that Switchboard uses.

pub(crate) use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, DeriveIden, ExprTrait,
    sea_query::{ColumnDef, DynIden, Expr, ForeignKey, Index, IntoIden, Query, Table},
};
use sea_orm::{DatabaseTransaction, StatementBuilder};

/// The database within the transaction of a migration.
pub(crate) struct Schema<'a>(pub(crate) &'a DatabaseTransaction);

impl Schema<'_> {
    pub(crate) async fn run<S: StatementBuilder>(&self, statement: S) -> Result<(), DbErr> {
        self.0.execute(&statement).await.map(drop)
    }

    pub(crate) async fn sql(&self, statement: &str) -> Result<(), DbErr> {
        self.0.execute_unprepared(statement).await.map(drop)
    }

    pub(crate) fn backend(&self) -> DbBackend {
        self.0.get_database_backend()
    }
}

/// Declares a function for each type of column.
macro_rules! columns {
    ($($name:ident: $type:ident $null:ident,)*) => {$(
        pub(crate) fn $name(name: impl IntoIden) -> ColumnDef {
            ColumnDef::new(name).$type().$null().take()
        }
    )*};
}

columns! {
    big_integer: big_integer not_null,
    big_integer_null: big_integer null,
    boolean: boolean not_null,
    boolean_null: boolean null,
    double_null: double null,
    json: json not_null,
    string: string not_null,
    string_null: string null,
    text: text not_null,
    text_null: text null,
    timestamp_with_time_zone: timestamp_with_time_zone not_null,
    timestamp_with_time_zone_null: timestamp_with_time_zone null,
    uuid: uuid not_null,
    uuid_null: uuid null,
}

/// The primary key of rows that the database numbers.
pub(crate) fn big_pk_auto(name: impl IntoIden) -> ColumnDef {
    big_integer(name).auto_increment().primary_key().take()
}
