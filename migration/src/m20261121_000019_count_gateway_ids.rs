//! The highest id that any gateway has had, so that no id is assigned twice.

use crate::schema::*;

#[derive(DeriveIden)]
enum Counters {
    Table,
    Name,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let highest = "INSERT INTO counters (name, value) SELECT 'gateway_id', COALESCE(MAX(id), 0) FROM \
         (SELECT id FROM gateways UNION ALL SELECT gateway_id AS id FROM gateway_transitions) AS used";
    schema.sql(highest).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    let counter = Expr::col(Counters::Name).eq("gateway_id");
    schema.run(Query::delete().from_table(Counters::Table).and_where(counter).to_owned()).await
}
