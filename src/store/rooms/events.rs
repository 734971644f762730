//! The events of rooms that brokers which share the database have recorded for each other.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use entity::{messages, room_events, rooms};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::super::{Store, StoreError};
use crate::domain::{
    ids::{MessageId, RoomId},
    rooms::{Message, RoomEvent},
};

/// Events that one transaction deletes.
const DELETED: u64 = 5_000;

/// Events that one read returns; each may have a message of 64 KiB.
const READ: u64 = 100;

/// An event as it is recorded.
#[derive(Debug)]
pub struct RecordedEvent {
    /// Its number among the events of the room.
    pub sequence: i64,
    /// The broker that wrote it.
    pub broker: Uuid,
    /// The event. None: a later version of the program wrote it.
    pub event: Option<RoomEvent>,
    /// The message that it is about, as it is now.
    pub message: Option<Message>,
}

impl Store {
    /// The number of the last event of each of these rooms; a deleted room has none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_room_events(&self, rooms: &[RoomId]) -> Result<HashMap<RoomId, i64>, StoreError> {
        let columns = [rooms::Column::Id, rooms::Column::LastEvent];
        let mut last = HashMap::new();
        for some in rooms.chunks(1000) {
            let found = rooms::Entity::find().select_only().columns(columns);
            let found = found.filter(rooms::Column::Id.is_in(some.iter().map(|room| room.0)));
            let found = found.into_tuple::<(i64, i64)>().all(&self.read).await?;
            last.extend(found.into_iter().map(|(room, sequence)| (RoomId(room), sequence)));
        }
        Ok(last)
    }

    /// The first events of a room after this one, in order, as far as they are still recorded.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn room_events(&self, room: RoomId, after: i64) -> Result<Vec<RecordedEvent>, StoreError> {
        use room_events::Column;
        let rows = room_events::Entity::find()
            .filter(Column::RoomId.eq(room.0))
            .filter(Column::Sequence.gt(after))
            .order_by_asc(Column::Sequence)
            .limit(READ)
            .all(&self.read)
            .await?;
        let events: Vec<_> = rows
            .into_iter()
            .map(|row| {
                let event = serde_json::from_str::<RoomEvent>(&row.event);
                let event = event.inspect_err(|error| tracing::warn!(%room, %error, "an event of a room is unknown"));
                RecordedEvent { sequence: row.sequence, broker: row.broker, event: event.ok(), message: None }
            })
            .collect();
        let ids = events.iter().filter_map(|recorded| recorded.event.as_ref()?.message()).map(|id| id.0);
        let rows = messages::Entity::find().filter(messages::Column::Id.is_in(ids)).all(&self.read).await?;
        let messages: HashMap<_, _> = rows.into_iter().map(|row| (MessageId(row.id), Message::from(row))).collect();
        let with_message = |recorded: RecordedEvent| {
            let id = recorded.event.as_ref().and_then(RoomEvent::message);
            RecordedEvent { message: id.and_then(|id| messages.get(&id).cloned()), ..recorded }
        };
        Ok(events.into_iter().map(with_message).collect())
    }

    /// Deletes the events that were recorded longer ago than this, in small transactions.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_room_events_after(&self, age: TimeDelta) -> Result<u64, StoreError> {
        use room_events::{Column, Entity};
        let time = self.database_time().await? - age;
        let mut deleted = 0;
        loop {
            let old = Entity::find().select_only().column(Column::At).filter(Column::At.lt(time));
            let old = old.order_by_asc(Column::At).limit(DELETED).into_tuple::<DateTime<Utc>>().all(&self.read).await?;
            let Some(newest) = old.last() else { return Ok(deleted) };
            let transaction = self.begin_essential().await?;
            let done = Entity::delete_many().filter(Column::At.lte(*newest)).exec(&transaction).await?;
            transaction.commit().await?;
            deleted += done.rows_affected;
        }
    }
}
