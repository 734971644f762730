//! Messages: posts, read marks and typing, many of them in few statements; edits and deletions one by one.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use entity::{messages, room_members};
use sea_orm::{
    ActiveValue::Unchanged, ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect, QueryTrait,
    Set, sea_query::OnConflict,
};

use super::{CHUNK, Decision, Work, members::member_row};
use crate::{
    domain::{
        ids::{ClientId, MessageId, RoomId},
        rooms::{Message, RoomChange, RoomOutcome, RoomRefusal},
    },
    store::{StoreError, pieces},
};

/// Room, author and `client_msg_id`, which identify a message.
type Name = (RoomId, ClientId, String);

fn name_of(post: &RoomChange) -> Option<Name> {
    match post {
        RoomChange::Post { room, author, client_msg_id: Some(name), .. } => Some((*room, author.client, name.clone())),
        _ => None,
    }
}

/// A message that was posted before under the same `client_msg_id`.
enum Known {
    /// It was stored before this transaction.
    Stored(Arc<Message>),
    /// It is the change with this index.
    Here(usize),
}

impl<C: ConnectionTrait> Work<'_, C> {
    /// Writes posts, read marks and typing, in any order.
    pub(super) async fn talk(&mut self, changes: &[RoomChange]) -> Result<Vec<Decision>, StoreError> {
        // each is overwritten below
        let mut decided = vec![Err(RoomRefusal::DatabaseUnavailable); changes.len()];
        self.post_all(changes, &mut decided).await?;
        self.mark_all_read(changes, &mut decided).await?;
        for (change, decided) in changes.iter().zip(&mut decided) {
            if let RoomChange::Type { room, who } = change {
                let member = self.memberships.member(*room, who.client);
                *decided = member.map(|_| RoomOutcome::Typing { room: *room, who: who.clone() });
            }
        }
        Ok(decided)
    }

    /// Writes new messages in order. A message that was posted before under its `client_msg_id` is not written again.
    async fn post_all(&mut self, changes: &[RoomChange], decided: &mut [Decision]) -> Result<(), StoreError> {
        let mut known = self.named_messages(changes).await?;
        let (mut rows, mut indexes, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        for (index, change) in changes.iter().enumerate() {
            let RoomChange::Post { room, author, content, client_msg_id } = change else { continue };
            if let Err(refusal) = self.memberships.member(*room, author.client) {
                decided[index] = Err(refusal);
                continue;
            }
            let name = name_of(change);
            match name.as_ref().and_then(|name| known.get(name)) {
                Some(Known::Stored(message)) => {
                    decided[index] = Ok(RoomOutcome::Posted { message: message.clone(), newly: false });
                    continue;
                }
                Some(Known::Here(first)) => {
                    repeated.push((index, *first));
                    continue;
                }
                None => {}
            }
            if let Some(name) = name {
                known.insert(name, Known::Here(index));
            }
            indexes.push(index);
            rows.push(messages::ActiveModel {
                room_id: Set(room.0),
                client_uuid: Set(author.client.into()),
                user_id: Set(author.user_id),
                username: Set(author.username.to_string()),
                content: Set(content.to_string()),
                client_msg_id: Set(client_msg_id.clone()),
                created_at: Set(self.now.into()),
                ..Default::default()
            });
        }
        let ids = self.insert_messages(rows).await?;
        for (index, id) in indexes.into_iter().zip(ids) {
            let RoomChange::Post { room, author, content, client_msg_id } = &changes[index] else { continue };
            let message = Message {
                id,
                room: *room,
                author: author.clone(),
                content: content.clone(),
                client_msg_id: client_msg_id.clone(),
                created_at: self.now,
                edited_at: None,
                deleted_at: None,
            };
            decided[index] = Ok(RoomOutcome::Posted { message: Arc::new(message), newly: true });
        }
        for (index, first) in repeated {
            if let Ok(RoomOutcome::Posted { message, .. }) = &decided[first] {
                decided[index] = Ok(RoomOutcome::Posted { message: message.clone(), newly: false });
            }
        }
        Ok(())
    }

    /// The messages that were stored before this transaction, by room, author and `client_msg_id`.
    async fn named_messages(&self, changes: &[RoomChange]) -> Result<HashMap<Name, Known>, StoreError> {
        use messages::{Column, Entity};
        let names: HashSet<Name> = changes.iter().filter_map(name_of).collect();
        let names: Vec<_> = names.into_iter().collect();
        let mut known = HashMap::new();
        for some in names.chunks(CHUNK) {
            let wanted = some.iter().fold(Condition::any(), |wanted, (room, author, name)| {
                wanted.add(
                    Condition::all()
                        .add(Column::RoomId.eq(room.0))
                        .add(Column::ClientUuid.eq(author.uuid()))
                        .add(Column::ClientMsgId.eq(name)),
                )
            });
            for row in Entity::find().filter(wanted).all(self.transaction).await? {
                let name = (RoomId(row.room_id), row.client_uuid.into(), row.client_msg_id.clone().unwrap_or_default());
                known.insert(name, Known::Stored(Arc::new(row.into())));
            }
        }
        Ok(known)
    }

    /// Writes messages. Returns their ids in the same order.
    async fn insert_messages(&self, rows: Vec<messages::ActiveModel>) -> Result<Vec<MessageId>, StoreError> {
        let mut ids = Vec::with_capacity(rows.len());
        let sizes = pieces(rows.len());
        let mut rows = rows.into_iter();
        for size in sizes {
            let mut insert = messages::Entity::insert_many(rows.by_ref().take(size)).into_query();
            let inserted = self.transaction.query_all(insert.returning_col(messages::Column::Id)).await?;
            let begin = ids.len();
            for row in inserted {
                ids.push(MessageId(row.try_get_by_index(0)?));
            }
            // ids are assigned in the order of the rows, but may be returned in another
            ids[begin..].sort_unstable();
        }
        Ok(ids)
    }

    /// Moves read marks. Of several marks of one member the newest counts.
    async fn mark_all_read(&mut self, changes: &[RoomChange], decided: &mut [Decision]) -> Result<(), StoreError> {
        use messages::{Column, Entity};
        let marked = |change: &RoomChange| match change {
            RoomChange::Read { message, .. } => Some(message.0),
            _ => None,
        };
        let ids: Vec<i64> = changes.iter().filter_map(marked).collect();
        let mut rooms: HashMap<i64, i64> = HashMap::new();
        for ids in ids.chunks(CHUNK) {
            let found = Entity::find().select_only().columns([Column::Id, Column::RoomId]);
            let found = found.filter(Column::Id.is_in(ids.iter().copied()));
            rooms.extend(found.into_tuple::<(i64, i64)>().all(self.transaction).await?);
        }
        let mut moved = HashSet::new();
        for (change, decided) in changes.iter().zip(decided) {
            let RoomChange::Read { room, message, by } = change else { continue };
            *decided = match self.memberships.member(*room, *by) {
                Ok(_) if rooms.get(&message.0) != Some(&room.0) => Err(RoomRefusal::NoSuchMessage),
                Ok(_) => self.memberships.mark_read(*room, *by, *message).map(|(member, newly)| {
                    if newly {
                        moved.insert((*room, *by));
                    }
                    let (who, message) = (member.who.clone(), member.last_read);
                    RoomOutcome::MarkedRead { room: *room, who, message, newly }
                }),
                Err(refusal) => Err(refusal),
            };
        }
        let rows: Vec<_> = moved
            .into_iter()
            .filter_map(|(room, client)| Some(member_row(room, self.memberships.find(room, client)?)))
            .collect();
        let sizes = pieces(rows.len());
        let mut rows = rows.into_iter();
        for size in sizes {
            room_members::Entity::insert_many(rows.by_ref().take(size))
                .on_conflict(
                    OnConflict::columns([room_members::Column::RoomId, room_members::Column::ClientUuid])
                        .update_column(room_members::Column::LastReadId)
                        .to_owned(),
                )
                .exec_without_returning(self.transaction)
                .await?;
        }
        Ok(())
    }

    /// Loads a message for a member of the room.
    async fn message(
        &self,
        room: RoomId,
        id: MessageId,
        by: ClientId,
    ) -> Result<Result<Message, RoomRefusal>, StoreError> {
        if let Err(refusal) = self.memberships.member(room, by) {
            return Ok(Err(refusal));
        }
        let of_room = messages::Entity::find_by_id(id.0).filter(messages::Column::RoomId.eq(room.0));
        Ok(of_room.one(self.transaction).await?.map(Message::from).ok_or(RoomRefusal::NoSuchMessage))
    }

    pub(super) async fn edit(
        &mut self,
        room: RoomId,
        id: MessageId,
        by: ClientId,
        content: &Arc<str>,
    ) -> Result<Decision, StoreError> {
        let mut message = match self.message(room, id, by).await? {
            Ok(message) => message,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(refusal) = self.memberships.check_edit(&message, by) {
            return Ok(Err(refusal));
        }
        message.content = content.clone();
        message.edited_at = Some(self.now);
        self.write_message(&message).await?;
        Ok(Ok(RoomOutcome::Edited(Arc::new(message))))
    }

    pub(super) async fn delete(&mut self, room: RoomId, id: MessageId, by: ClientId) -> Result<Decision, StoreError> {
        let mut message = match self.message(room, id, by).await? {
            Ok(message) => message,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(refusal) = self.memberships.check_deletion(&message, by) {
            return Ok(Err(refusal));
        }
        let newly = message.deleted_at.is_none();
        if newly {
            message.content = "".into();
            message.deleted_at = Some(self.now);
            self.write_message(&message).await?;
        }
        Ok(Ok(RoomOutcome::Deleted { message: Arc::new(message), newly }))
    }

    async fn write_message(&self, message: &Message) -> Result<(), StoreError> {
        let row = messages::ActiveModel {
            id: Unchanged(message.id.0),
            content: Set(message.content.to_string()),
            edited_at: Set(message.edited_at.map(Into::into)),
            deleted_at: Set(message.deleted_at.map(Into::into)),
            ..Default::default()
        };
        messages::Entity::update(row).exec(self.transaction).await?;
        Ok(())
    }
}
