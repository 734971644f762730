//! The bytes of each topic's history; and one counter of the bytes of all histories and acknowledged messages.

use crate::schema::*;

#[derive(DeriveIden)]
enum Topics {
    Table,
    HistoryBytes,
}

/// The bytes of the publications of some histories. Both databases have the function; `LENGTH` counts characters.
const BYTES: &str = "SELECT COALESCE(SUM(octet_length(message)), 0) FROM topic_history";

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let column = big_integer(Topics::HistoryBytes).default(0).take();
    schema.run(Table::alter().table(Topics::Table).add_column(column).to_owned()).await?;
    for statement in [
        format!(
            "UPDATE topics SET history_bytes = ({BYTES} WHERE topic_history.history_id = topics.history_id) \
             WHERE history_id IS NOT NULL"
        ),
        format!(
            "UPDATE counters SET name = 'stored_bytes', value = value + ({BYTES}) \
             WHERE name = 'acknowledged_message_bytes'"
        ),
    ] {
        schema.sql(&statement).await?;
    }
    Ok(())
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    let counter = format!(
        "UPDATE counters SET name = 'acknowledged_message_bytes', value = value - ({BYTES}) WHERE name = 'stored_bytes'"
    );
    schema.sql(&counter).await?;
    schema.run(Table::alter().table(Topics::Table).drop_column(Topics::HistoryBytes).to_owned()).await
}
