//! The events of rooms, recorded for other nodes in the transaction of the changes.

use std::collections::HashMap;

use entity::{room_events, rooms};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, Set,
    sea_query::{CaseStatement, Expr},
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
                rows.push(room_events::ActiveModel {
                    room_id: Set(room.0),
                    sequence: Set(*last),
                    broker: Set(broker),
                    event: Set(serde_json::to_string(&event).map_err(|error| DbErr::Json(error.to_string()))?),
                    at: Set(work.now.into()),
                });
                Some(Position::Event(*last))
            }
            (None, Some(room)) => {
                Some(Position::After(last_events.get(&room).copied().unwrap_or_else(|| last_before(room))))
            }
            (None, None) => None,
        };
        placed.push(Ok(Placed { outcome, position }));
    }
    let sizes = pieces(rows.len());
    let mut rows = rows.into_iter();
    for size in sizes {
        let rows = rows.by_ref().take(size);
        room_events::Entity::insert_many(rows).exec_without_returning(work.transaction).await?;
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
