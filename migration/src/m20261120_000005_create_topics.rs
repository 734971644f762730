//! Topics.

use crate::schema::*;

#[derive(DeriveIden)]
enum Topics {
    Table,
    Id,
    Creator,
    Metadata,
    CreatedAt,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(Topics::Table)
                .col(string(Topics::Id).primary_key())
                .col(uuid(Topics::Creator))
                .col(json(Topics::Metadata))
                .col(timestamp_with_time_zone(Topics::CreatedAt))
                .to_owned(),
        )
        .await?;
    schema.run(Index::create().name("idx_topics_creator").table(Topics::Table).col(Topics::Creator).to_owned()).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(Topics::Table).to_owned()).await
}
