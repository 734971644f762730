//! Counters, and versions of accounts and revocations, which are taken from one of them. Running servers poll for rows with
//! a version above the last one seen, so that polling does not depend on clocks.

use crate::schema::*;

#[derive(DeriveIden)]
enum Counters {
    Table,
    Name,
    Value,
}

#[derive(DeriveIden)]
enum Users {
    Table,
    Version,
    ChangedAt,
}

#[derive(DeriveIden)]
enum Devices {
    Table,
    Version,
    ChangedAt,
    Incarnation,
}

#[derive(DeriveIden)]
enum Revocations {
    Table,
    Version,
    CreatedAt,
}

/// The value that `down` writes into columns that it restores.
const LONG_AGO: &str = "1970-01-01 00:00:00 +00:00";

fn tables() -> [(DynIden, DynIden, DynIden, &'static str, &'static str); 3] {
    [
        (
            Users::Table.into_iden(),
            Users::Version.into_iden(),
            Users::ChangedAt.into_iden(),
            "idx_users_version",
            "idx_users_changed_at",
        ),
        (
            Devices::Table.into_iden(),
            Devices::Version.into_iden(),
            Devices::ChangedAt.into_iden(),
            "idx_devices_version",
            "idx_devices_changed_at",
        ),
        (
            Revocations::Table.into_iden(),
            Revocations::Version.into_iden(),
            Revocations::CreatedAt.into_iden(),
            "idx_revocations_version",
            "idx_revocations_created_at",
        ),
    ]
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(Counters::Table)
                .col(string(Counters::Name).primary_key())
                .col(big_integer(Counters::Value))
                .to_owned(),
        )
        .await?;
    let rows = Query::insert()
        .into_table(Counters::Table)
        .columns([Counters::Name, Counters::Value])
        .values_panic(["change".into(), 0.into()])
        .to_owned();
    schema.run(rows).await?;
    for (table, version, time, by_version, by_time) in tables() {
        let column = big_integer(version.clone()).default(0).take();
        schema.run(Table::alter().table(table.clone()).add_column(column).to_owned()).await?;
        let index = Index::create().name(by_version).table(table.clone()).col(version).to_owned();
        schema.run(index).await?;
        schema.run(Index::drop().name(by_time).table(table.clone()).to_owned()).await?;
        schema.run(Table::alter().table(table).drop_column(time).to_owned()).await?;
    }
    // number of deletions of this UUID, so that late updates of an earlier incarnation are ignored
    let column = big_integer(Devices::Incarnation).default(0).take();
    schema.run(Table::alter().table(Devices::Table).add_column(column).to_owned()).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::alter().table(Devices::Table).drop_column(Devices::Incarnation).to_owned()).await?;
    for (table, version, time, by_version, by_time) in tables() {
        let column = timestamp_with_time_zone(time.clone()).default(LONG_AGO).take();
        schema.run(Table::alter().table(table.clone()).add_column(column).to_owned()).await?;
        let index = Index::create().name(by_time).table(table.clone()).col(time).to_owned();
        schema.run(index).await?;
        schema.run(Index::drop().name(by_version).table(table.clone()).to_owned()).await?;
        schema.run(Table::alter().table(table).drop_column(version).to_owned()).await?;
    }
    schema.run(Table::drop().table(Counters::Table).to_owned()).await
}
