//! What is said in rooms: posts, read marks and typing in few statements for many of them; edits one by one.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use entity::{messages, room_members};
use sea_orm::{
    ActiveValue::Unchanged, ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect, QueryTrait,
    Set, sea_query::OnConflict,
};

use super::{AT_ONCE, Decided, Work};
use crate::{
    domain::{
        ids::{ClientId, MessageId, RoomId},
        rooms::{Change, Message, Outcome, Refusal, RoomRole},
    },
    store::{StoreError, pieces},
};

/// Which message it is to its author: a room, the author, and `client_msg_id`.
type Name = (RoomId, ClientId, String);

fn name_of(post: &Change) -> Option<Name> {
    match post {
        Change::Post { room, author, client_msg_id: Some(name), .. } => Some((*room, author.client, name.clone())),
        _ => None,
    }
}

/// A message that is there under the name that its author gave it.
enum Known {
    /// From before.
    Stored(Arc<Message>),
    /// As the change of this index.
    Here(usize),
}

impl<C: ConnectionTrait> Work<'_, C> {
    /// Posts, read marks and typing, in any mixture.
    pub(super) async fn talk(&mut self, changes: &[Change]) -> Result<Vec<Decided>, StoreError> {
        // each is decided below
        let mut decided = vec![Err(Refusal::DatabaseUnavailable); changes.len()];
        self.post_all(changes, &mut decided).await?;
        self.mark_all_read(changes, &mut decided).await?;
        for (change, decided) in changes.iter().zip(&mut decided) {
            if let Change::Type { room, who } = change {
                *decided = self.member(*room, who.client).map(|_| Outcome::Typing { room: *room, who: who.clone() });
            }
        }
        Ok(decided)
    }

    /// Messages one after the other. One that is there already under its `client_msg_id` is not written again.
    async fn post_all(&mut self, changes: &[Change], decided: &mut [Decided]) -> Result<(), StoreError> {
        let mut known = self.named_messages(changes).await?;
        let (mut rows, mut indexes, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        for (index, change) in changes.iter().enumerate() {
            let Change::Post { room, author, content, client_msg_id } = change else { continue };
            if let Err(refusal) = self.member(*room, author.client) {
                decided[index] = Err(refusal);
                continue;
            }
            let name = name_of(change);
            match name.as_ref().and_then(|name| known.get(name)) {
                Some(Known::Stored(message)) => {
                    decided[index] = Ok(Outcome::Posted { message: message.clone(), newly: false });
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
            let Change::Post { room, author, content, client_msg_id } = &changes[index] else { continue };
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
            decided[index] = Ok(Outcome::Posted { message: Arc::new(message), newly: true });
        }
        for (index, first) in repeated {
            if let Ok(Outcome::Posted { message, .. }) = &decided[first] {
                decided[index] = Ok(Outcome::Posted { message: message.clone(), newly: false });
            }
        }
        Ok(())
    }

    /// Those of the messages that are stored already, by the names that their authors gave them.
    async fn named_messages(&self, changes: &[Change]) -> Result<HashMap<Name, Known>, StoreError> {
        use messages::{Column, Entity};
        let names: HashSet<Name> = changes.iter().filter_map(name_of).collect();
        let names: Vec<_> = names.into_iter().collect();
        let mut known = HashMap::new();
        for some in names.chunks(AT_ONCE) {
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

    /// Writes messages; their ids in the same order.
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
            // ids are given in the order of the rows, but need not be told in it
            ids[begin..].sort_unstable();
        }
        Ok(ids)
    }

    /// Read marks; of several of one member the furthest counts.
    async fn mark_all_read(&mut self, changes: &[Change], decided: &mut [Decided]) -> Result<(), StoreError> {
        use messages::{Column, Entity};
        let marked = |change: &Change| match change {
            Change::Read { message, .. } => Some(message.0),
            _ => None,
        };
        let ids: Vec<i64> = changes.iter().filter_map(marked).collect();
        let mut rooms: HashMap<i64, i64> = HashMap::new();
        for ids in ids.chunks(AT_ONCE) {
            let found = Entity::find().select_only().columns([Column::Id, Column::RoomId]);
            let found = found.filter(Column::Id.is_in(ids.iter().copied()));
            rooms.extend(found.into_tuple::<(i64, i64)>().all(self.transaction).await?);
        }
        let mut moved = HashSet::new();
        for (change, decided) in changes.iter().zip(decided) {
            let Change::Read { room, message, by } = change else { continue };
            *decided = match self.member(*room, *by) {
                Ok(_) if rooms.get(&message.0) != Some(&room.0) => Err(Refusal::NoSuchMessage),
                Ok(member) => {
                    let (newly, who) = (*message > member.last_read, member.who.clone());
                    let message = (*message).max(member.last_read);
                    if newly {
                        moved.insert((*room, *by));
                        self.members.entry((*room, *by)).and_modify(|member| member.last_read = message);
                    }
                    Ok(Outcome::MarkedRead { room: *room, who, message, newly })
                }
                Err(refusal) => Err(refusal),
            };
        }
        let rows: Vec<_> = moved
            .into_iter()
            .filter_map(|key| self.members.get(&key).map(|member| super::member_row(key.0, member)))
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

    /// A message, for a member of the room.
    async fn message(&self, room: RoomId, id: MessageId, by: ClientId) -> Result<Result<Message, Refusal>, StoreError> {
        if let Err(refusal) = self.member(room, by) {
            return Ok(Err(refusal));
        }
        let of_room = messages::Entity::find_by_id(id.0).filter(messages::Column::RoomId.eq(room.0));
        Ok(of_room.one(self.transaction).await?.map(Message::from).ok_or(Refusal::NoSuchMessage))
    }

    pub(super) async fn edit(
        &mut self,
        room: RoomId,
        id: MessageId,
        by: ClientId,
        content: &Arc<str>,
    ) -> Result<Decided, StoreError> {
        let mut message = match self.message(room, id, by).await? {
            Ok(message) if message.deleted_at.is_some() => return Ok(Err(Refusal::NoSuchMessage)),
            Ok(message) if message.author.client != by => return Ok(Err(Refusal::NotTheAuthor)),
            Ok(message) => message,
            Err(refusal) => return Ok(Err(refusal)),
        };
        message.content = content.clone();
        message.edited_at = Some(self.now);
        self.write_message(&message).await?;
        Ok(Ok(Outcome::Edited(Arc::new(message))))
    }

    pub(super) async fn delete(&mut self, room: RoomId, id: MessageId, by: ClientId) -> Result<Decided, StoreError> {
        let mut message = match self.message(room, id, by).await? {
            Ok(message) => message,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let is_moderator = self.member(room, by).is_ok_and(|member| member.role >= RoomRole::Moderator);
        if message.author.client != by && !is_moderator {
            return Ok(Err(Refusal::ModeratorRequired));
        }
        let newly = message.deleted_at.is_none();
        if newly {
            message.content = "".into();
            message.deleted_at = Some(self.now);
            self.write_message(&message).await?;
        }
        Ok(Ok(Outcome::Deleted { message: Arc::new(message), newly }))
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
