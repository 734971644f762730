//! The messages of a room, a page at a time.

use entity::messages;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::super::{Store, StoreError};
use crate::domain::{
    ids::{MessageId, RoomId},
    rooms::{History, Message, Participant},
};

/// Messages per query.
const CHUNK: u64 = 100;

/// A part of a room's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names of the fields say it
pub enum Page {
    /// The newest messages, without the first `skip`.
    Newest { skip: u64 },
    /// The newest messages before this one.
    Before(MessageId),
    /// The oldest messages after this one.
    After(MessageId),
}

impl From<messages::Model> for Message {
    fn from(row: messages::Model) -> Self {
        Self {
            id: MessageId(row.id),
            room: RoomId(row.room_id),
            author: Participant { client: row.client_uuid.into(), user_id: row.user_id, username: row.username.into() },
            content: row.content.into(),
            client_msg_id: row.client_msg_id,
            created_at: row.created_at.to_utc(),
            edited_at: row.edited_at.map(|time| time.to_utc()),
            deleted_at: row.deleted_at.map(|time| time.to_utc()),
        }
    }
}

/// A page of a room's messages, oldest first, of at most `limit` messages and `bytes` bytes of content, but at least one
/// message.
pub(super) async fn read_page(
    connection: &impl ConnectionTrait,
    room: RoomId,
    page: Page,
    limit: u64,
    bytes: usize,
) -> Result<History, StoreError> {
    use messages::{Column, Entity};
    let recent = !matches!(page, Page::After(_));
    let mut history = History { messages: Vec::new(), truncated: false, recent };
    let (mut page, mut size) = (page, 0);
    'reading: loop {
        let of_room = Entity::find().filter(Column::RoomId.eq(room.0));
        let query = match page {
            Page::Newest { skip } => of_room.order_by_desc(Column::Id).offset(skip),
            Page::Before(id) => of_room.filter(Column::Id.lt(id.0)).order_by_desc(Column::Id),
            Page::After(id) => of_room.filter(Column::Id.gt(id.0)).order_by_asc(Column::Id),
        };
        let want = std::cmp::min(limit - history.messages.len() as u64, CHUNK);
        let mut rows = query.limit(want + 1).all(connection).await?;
        let more = rows.len() as u64 > want;
        rows.truncate(want as usize);
        for row in rows {
            size += row.content.len();
            if size > bytes && !history.messages.is_empty() {
                history.truncated = true;
                break 'reading;
            }
            history.messages.push(row.into());
        }
        history.truncated = more;
        match history.messages.last() {
            Some(last) if more && (history.messages.len() as u64) < limit => {
                page = if recent { Page::Before(last.id) } else { Page::After(last.id) };
            }
            _ => break,
        }
    }
    if recent {
        history.messages.reverse();
    }
    Ok(history)
}

impl Store {
    /// A page of a room's messages, oldest first, of at most `limit` messages and `bytes` bytes of content.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn history(&self, room: RoomId, page: Page, limit: u64, bytes: usize) -> Result<History, StoreError> {
        read_page(&self.read, room, page, limit, bytes).await
    }
}
