//! The events of rooms, recorded for other nodes in the transaction of the changes.

use std::collections::HashMap;

use entity::{room_events, rooms};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter,
    sea_query::{CaseStatement, Expr, Query},
};
use uuid::Uuid;

use super::{Decided, Decision, Work};
use crate::{
    domain::{ids::RoomId, line::Position, rooms::Placed},
    store::{StoreError, pieces},
};

/// Numbers the events among the outcomes, whose rooms are locked, and records them.
pub(super) async fn record<C: ConnectionTrait>(
    work: &Work<'_, C>,
    decided: Vec<Decision>,
    broker: Uuid,
) -> Result<Vec<Decided>, StoreError> {
    let mut last_events: HashMap<RoomId, i64> = HashMap::new();
    let last_before = |room: RoomId| work.last_events.get(&room).copied().unwrap_or_default();
    let (mut rows, mut placed) = (Vec::new(), Vec::with_capacity(decided.len()));
    for decided in decided {
        let outcome = match decided {
            Ok(outcome) => outcome,
            Err(refusal) => {
                placed.push(Err(refusal));
                continue;
            }
        };
        let position = match (outcome.event(), outcome.rejoined()) {
            (Some((room, event)), _) => {
                let last = last_events.entry(room).or_insert_with(|| last_before(room));
                *last += 1;
                let event = serde_json::to_string(&event).map_err(|error| DbErr::Json(error.to_string()))?;
                rows.push([Expr::value(room.0), Expr::value(*last), Expr::value(broker), Expr::value(event)]);
                Some(Position::Event(*last))
            }
            (None, Some(room)) => {
                Some(Position::After(last_events.get(&room).copied().unwrap_or_else(|| last_before(room))))
            }
            (None, None) => None,
        };
        placed.push(Ok(Placed { outcome, position }));
    }
    // by the clock of the database, since those of nodes may differ by more than events are kept
    let at = match work.transaction.get_database_backend() {
        DbBackend::Postgres => Expr::current_timestamp(),
        _ => Expr::value(work.now),
    };
    let sizes = pieces(rows.len());
    let mut rows = rows.into_iter();
    for size in sizes {
        use room_events::Column;
        let mut insert = Query::insert();
        insert.into_table(room_events::Entity);
        insert.columns([Column::RoomId, Column::Sequence, Column::Broker, Column::Event, Column::At]);
        for row in rows.by_ref().take(size) {
            let values = row.into_iter().chain([at.clone()]);
            insert.values(values).map_err(|error| DbErr::Custom(error.to_string()))?;
        }
        work.transaction.execute(&insert).await?;
    }
    let last_events: Vec<_> = last_events.into_iter().collect();
    for some in last_events.chunks(super::CHUNK) {
        let by_room = some.iter().fold(CaseStatement::new(), |cases, (room, last)| {
            cases.case(rooms::Column::Id.eq(room.0), Expr::value(*last))
        });
        rooms::Entity::update_many()
            .col_expr(rooms::Column::LastEvent, by_room.finally(Expr::col(rooms::Column::LastEvent)).into())
            .filter(rooms::Column::Id.is_in(some.iter().map(|(room, _)| room.0)))
            .exec(work.transaction)
            .await?;
    }
    Ok(placed)
}
