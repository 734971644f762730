//! The highest id that any gateway has had, so that no id is assigned twice.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum Counters {
    Table,
    Name,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let highest = "INSERT INTO counters (name, value) SELECT 'gateway_id', COALESCE(MAX(id), 0) FROM \
             (SELECT id FROM gateways UNION ALL SELECT gateway_id AS id FROM gateway_transitions) AS used";
        manager.get_connection().execute_unprepared(highest).await.map(|_| ())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let counter = Expr::col(Counters::Name).eq("gateway_id");
        manager.execute(Query::delete().from_table(Counters::Table).and_where(counter).to_owned()).await
    }
}
