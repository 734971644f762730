//! What is asked of rooms, decided and done in the transaction of the Journal. The rows of the rooms concerned are locked
//! first, in order, so that on PostgreSQL several nodes take turns at a room: a greater message id is never to be seen
//! before a smaller one, and nobody's membership ends between the check and the message.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, SubsecRound, Utc};
use entity::{messages, room_members, rooms};
use sea_orm::{
    ActiveValue::Unchanged,
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Set,
    sea_query::{LockType, OnConflict},
};

use super::{super::pieces, Page, StoreError, read_page};
use crate::domain::{
    ids::{ClientId, MessageId, RoomId},
    rooms::{
        Change, HISTORY_BYTES, History, MISSED_MESSAGES, Member, Message, Outcome, Participant, RECENT_MESSAGES,
        Refusal, Room, RoomRole, Wanted,
    },
};

/// Messages that are looked for in one statement: SQLite's expressions are at most a thousand levels deep.
const NAMES: usize = 200;

/// What came of one change.
pub type Decided = Result<Outcome, Refusal>;

/// Does all changes in order. Answers for each what came of it.
///
/// # Errors
/// When the database fails; then the transaction is not to be committed.
pub(in crate::store) async fn apply(
    transaction: &impl ConnectionTrait,
    changes: &[Change],
    rooms_per_user: usize,
) -> Result<Vec<Decided>, StoreError> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let mut work = Work::begin(transaction, changes, rooms_per_user).await?;
    let mut decided = Vec::with_capacity(changes.len());
    let mut rest = changes;
    while let Some(first) = rest.first() {
        // what follows each other as messages is written in few statements
        let posts = rest.iter().take_while(|change| matches!(change, Change::Post { .. })).count();
        if posts > 0 {
            decided.extend(work.post_all(&rest[..posts]).await?);
            rest = &rest[posts..];
        } else {
            decided.push(work.apply(first).await?);
            rest = &rest[1..];
        }
    }
    Ok(decided)
}

struct Work<'a, C> {
    transaction: &'a C,
    /// those that the changes are about, as far as they exist
    rooms: HashMap<RoomId, Arc<Room>>,
    /// of the clients that the changes are about
    members: HashMap<(RoomId, ClientId), Member>,
    rooms_per_user: usize,
    now: DateTime<Utc>,
}

impl<'a, C: ConnectionTrait> Work<'a, C> {
    async fn begin(transaction: &'a C, changes: &[Change], rooms_per_user: usize) -> Result<Self, StoreError> {
        let ids: BTreeSet<i64> = changes.iter().filter_map(|change| change.room().map(|room| room.0)).collect();
        let clients: BTreeSet<_> = changes
            .iter()
            .flat_map(|change| {
                let (by, other) = change.clients();
                [Some(by), other].into_iter().flatten()
            })
            .map(ClientId::uuid)
            .collect();
        let mut work = Self {
            transaction,
            rooms: HashMap::new(),
            members: HashMap::new(),
            rooms_per_user,
            // PostgreSQL stores no more
            now: Utc::now().trunc_subsecs(6),
        };
        if ids.is_empty() {
            return Ok(work);
        }
        let rooms = rooms::Entity::find()
            .filter(rooms::Column::Id.is_in(ids.iter().copied()))
            .order_by_asc(rooms::Column::Id)
            .lock(LockType::NoKeyUpdate)
            .all(transaction)
            .await?;
        work.rooms = rooms.into_iter().map(|row| (RoomId(row.id), Arc::new(row.into()))).collect();
        let members = room_members::Entity::find()
            .filter(room_members::Column::RoomId.is_in(ids))
            .filter(room_members::Column::ClientUuid.is_in(clients))
            .all(transaction)
            .await?;
        work.members =
            members.into_iter().map(|row| ((RoomId(row.room_id), row.client_uuid.into()), row.into())).collect();
        Ok(work)
    }

    /// The room, for somebody who may know that it exists.
    fn room(&self, id: RoomId, client: ClientId) -> Result<&Arc<Room>, Refusal> {
        let room = self.rooms.get(&id).ok_or(Refusal::NoSuchRoom)?;
        if room.is_private && !self.members.contains_key(&(id, client)) {
            return Err(Refusal::NoSuchRoom);
        }
        Ok(room)
    }

    fn member(&self, id: RoomId, client: ClientId) -> Result<&Member, Refusal> {
        self.room(id, client)?;
        self.members.get(&(id, client)).ok_or(Refusal::NotAMember)
    }

    fn owner(&self, id: RoomId, client: ClientId) -> Result<&Member, Refusal> {
        let member = self.member(id, client)?;
        if member.role == RoomRole::Owner { Ok(member) } else { Err(Refusal::OwnerRequired) }
    }

    async fn apply(&mut self, change: &Change) -> Result<Decided, StoreError> {
        match change {
            Change::Create { creator, name, description, is_private } => {
                self.create(creator, name, description.as_ref(), *is_private).await
            }
            Change::Join { room, who, wanted } => self.join(*room, who, *wanted).await,
            Change::Add { room, by, who, role } => match self.owner(*room, *by).cloned() {
                Ok(_) => self.add(*room, who, *role).await,
                Err(refusal) => Ok(Err(refusal)),
            },
            Change::SetRole { room, by, whose, role } => self.set_role(*room, *by, *whose, *role).await,
            Change::Leave { room, who } => match self.member(*room, *who).cloned() {
                Ok(member) => self.end_membership(*room, member, false).await.map(Ok),
                Err(refusal) => Ok(Err(refusal)),
            },
            Change::Remove { room, by, whose } => match self.removable(*room, *by, *whose) {
                Ok(member) => self.end_membership(*room, member, true).await.map(Ok),
                Err(refusal) => Ok(Err(refusal)),
            },
            Change::Post { .. } => {
                let mut decided = self.post_all(std::slice::from_ref(change)).await?;
                Ok(decided.pop().unwrap_or(Err(Refusal::NotStored)))
            }
            Change::Edit { room, message, by, content } => self.edit(*room, *message, *by, content).await,
            Change::Delete { room, message, by } => self.delete(*room, *message, *by).await,
            Change::Read { room, message, by } => self.read(*room, *message, *by).await,
        }
    }

    async fn create(
        &mut self,
        creator: &Participant,
        name: &str,
        description: Option<&String>,
        is_private: bool,
    ) -> Result<Decided, StoreError> {
        if self.has_too_many_rooms(creator.client).await? {
            return Ok(Err(Refusal::TooManyRooms));
        }
        let public_names =
            rooms::Entity::find().filter(rooms::Column::Name.eq(name)).filter(rooms::Column::IsPrivate.eq(false));
        if !is_private && public_names.count(self.transaction).await? > 0 {
            return Ok(Err(Refusal::NameTaken));
        }
        let row = rooms::ActiveModel {
            name: Set(name.to_owned()),
            description: Set(description.cloned()),
            is_private: Set(is_private),
            created_at: Set(self.now.into()),
            ..Default::default()
        };
        let mut insert = rooms::Entity::insert(row).on_conflict(OnConflict::new().do_nothing().to_owned()).into_query();
        // another node may have been quicker
        let Some(inserted) = self.transaction.query_one(insert.returning_col(rooms::Column::Id)).await? else {
            return Ok(Err(Refusal::NameTaken));
        };
        let room = Arc::new(Room {
            id: RoomId(inserted.try_get_by_index(0)?),
            name: name.to_owned(),
            description: description.cloned(),
            is_private,
            created_at: self.now,
        });
        self.rooms.insert(room.id, room.clone());
        self.insert_member(room.id, creator, RoomRole::Owner).await?;
        Ok(Ok(Outcome::Created(room)))
    }

    async fn join(&mut self, id: RoomId, who: &Participant, wanted: Wanted) -> Result<Decided, StoreError> {
        let room = match self.room(id, who.client) {
            Ok(room) => room.clone(),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let newly = !self.members.contains_key(&(id, who.client));
        if newly {
            if self.has_too_many_rooms(who.client).await? {
                return Ok(Err(Refusal::TooManyRooms));
            }
            // whoever comes into an empty room has it
            let role = if self.successor(id).await?.is_none() { RoomRole::Owner } else { RoomRole::Member };
            self.insert_member(id, who, role).await?;
        }
        let history = match wanted {
            Wanted::Nothing => None,
            Wanted::Recent => {
                let page = Page::Newest { skip: 0 };
                let recent = read_page(self.transaction, id, page, RECENT_MESSAGES, HISTORY_BYTES).await?;
                // that there are older ones is no news, unless fewer came than usual
                let truncated = recent.truncated && (recent.messages.len() as u64) < RECENT_MESSAGES;
                Some(History { truncated, ..recent })
            }
            Wanted::Since(since) => {
                let page = Page::After(since);
                Some(read_page(self.transaction, id, page, MISSED_MESSAGES, HISTORY_BYTES).await?)
            }
        };
        Ok(Ok(Outcome::Joined { room, who: who.clone(), newly, history }))
    }

    async fn add(&mut self, id: RoomId, who: &Participant, role: RoomRole) -> Result<Decided, StoreError> {
        let Some(room) = self.rooms.get(&id).cloned() else { return Ok(Err(Refusal::NoSuchRoom)) };
        let newly = !self.members.contains_key(&(id, who.client));
        if newly {
            if self.has_too_many_rooms(who.client).await? {
                return Ok(Err(Refusal::TooManyRooms));
            }
            self.insert_member(id, who, role).await?;
        }
        Ok(Ok(Outcome::Joined { room, who: who.clone(), newly, history: None }))
    }

    async fn insert_member(&mut self, room: RoomId, who: &Participant, role: RoomRole) -> Result<(), StoreError> {
        // what was said before is not unread for somebody who comes
        let newest = messages::Entity::find()
            .select_only()
            .column(messages::Column::Id)
            .filter(messages::Column::RoomId.eq(room.0))
            .order_by_desc(messages::Column::Id)
            .into_tuple::<i64>()
            .one(self.transaction)
            .await?;
        let member =
            Member { who: who.clone(), role, joined_at: self.now, last_read: MessageId(newest.unwrap_or_default()) };
        let row = room_members::ActiveModel {
            room_id: Set(room.0),
            client_uuid: Set(who.client.into()),
            user_id: Set(who.user_id),
            username: Set(who.username.to_string()),
            role: Set(role.as_str().to_owned()),
            joined_at: Set(self.now.into()),
            last_read_id: Set(member.last_read.0),
        };
        room_members::Entity::insert(row).exec_without_returning(self.transaction).await?;
        self.members.insert((room, who.client), member);
        Ok(())
    }

    async fn has_too_many_rooms(&self, client: ClientId) -> Result<bool, StoreError> {
        if self.rooms_per_user == 0 {
            return Ok(false);
        }
        let rooms = room_members::Entity::find()
            .filter(room_members::Column::ClientUuid.eq(client.uuid()))
            .count(self.transaction)
            .await?;
        Ok(rooms >= self.rooms_per_user as u64)
    }

    /// The member who would be the next owner: the moderator, else the member, who has been there for longest.
    async fn successor(&self, room: RoomId) -> Result<Option<Member>, StoreError> {
        use room_members::{Column, Entity};
        let of_room = || Entity::find().filter(Column::RoomId.eq(room.0)).order_by_asc(Column::JoinedAt);
        let moderators = of_room().filter(Column::Role.eq(RoomRole::Moderator.as_str()));
        let moderator = moderators.one(self.transaction).await?;
        let row = match moderator {
            None => of_room().one(self.transaction).await?,
            found => found,
        };
        Ok(row.map(Member::from))
    }

    async fn set_role(
        &mut self,
        room: RoomId,
        by: ClientId,
        whose: ClientId,
        role: RoomRole,
    ) -> Result<Decided, StoreError> {
        if let Err(refusal) = self.owner(room, by) {
            return Ok(Err(refusal));
        }
        let Some(member) = self.members.get(&(room, whose)).cloned() else { return Ok(Err(Refusal::NoSuchMember)) };
        // the owner stays the owner: that role passes on by leaving
        if member.role == RoomRole::Owner {
            return Ok(Err(Refusal::ModeratorRequired));
        }
        self.write_role(room, member.clone(), role).await?;
        Ok(Ok(Outcome::RoleSet { room, who: member.who, role }))
    }

    async fn write_role(&mut self, room: RoomId, member: Member, role: RoomRole) -> Result<(), StoreError> {
        let row = room_members::ActiveModel {
            room_id: Unchanged(room.0),
            client_uuid: Unchanged(member.who.client.into()),
            role: Set(role.as_str().to_owned()),
            ..Default::default()
        };
        room_members::Entity::update(row).exec(self.transaction).await?;
        self.members.insert((room, member.who.client), Member { role, ..member });
        Ok(())
    }

    /// The member, if `by` may remove it: moderators remove members, the owner removes everyone else.
    fn removable(&self, room: RoomId, by: ClientId, whose: ClientId) -> Result<Member, Refusal> {
        let remover = self.member(room, by)?.role;
        if remover == RoomRole::Member {
            return Err(Refusal::ModeratorRequired);
        }
        let member = self.members.get(&(room, whose)).ok_or(Refusal::NoSuchMember)?;
        if member.role >= remover { Err(Refusal::ModeratorRequired) } else { Ok(member.clone()) }
    }

    async fn end_membership(&mut self, room: RoomId, member: Member, removed: bool) -> Result<Outcome, StoreError> {
        let client = member.who.client;
        room_members::Entity::delete_by_id((room.0, client.uuid())).exec(self.transaction).await?;
        self.members.remove(&(room, client));
        let mut new_owner = None;
        if member.role == RoomRole::Owner
            && let Some(successor) = self.successor(room).await?
        {
            new_owner = Some(successor.who.clone());
            self.write_role(room, successor, RoomRole::Owner).await?;
        }
        Ok(Outcome::Left { room, who: member.who, removed, new_owner })
    }

    /// Messages one after the other. One that is there already under its `client_msg_id` is not written again.
    async fn post_all(&mut self, posts: &[Change]) -> Result<Vec<Decided>, StoreError> {
        let mut known = self.named_messages(posts).await?;
        let mut decided: Vec<Option<Decided>> = Vec::with_capacity(posts.len());
        let mut rows = Vec::new();
        let mut repeated = Vec::new();
        for (index, post) in posts.iter().enumerate() {
            let Change::Post { room, author, content, client_msg_id } = post else { continue };
            if let Err(refusal) = self.member(*room, author.client) {
                decided.push(Some(Err(refusal)));
                continue;
            }
            let name = name_of(post);
            match name.as_ref().and_then(|name| known.get(name)) {
                Some(Known::Stored(message)) => {
                    decided.push(Some(Ok(Outcome::Posted { message: message.clone(), newly: false })));
                    continue;
                }
                Some(Known::Here(first)) => {
                    repeated.push((index, *first));
                    decided.push(None);
                    continue;
                }
                None => {}
            }
            if let Some(name) = name {
                known.insert(name, Known::Here(index));
            }
            decided.push(None);
            rows.push((
                index,
                messages::ActiveModel {
                    room_id: Set(room.0),
                    client_uuid: Set(author.client.into()),
                    user_id: Set(author.user_id),
                    username: Set(author.username.to_string()),
                    content: Set(content.to_string()),
                    client_msg_id: Set(client_msg_id.clone()),
                    created_at: Set(self.now.into()),
                    ..Default::default()
                },
            ));
        }
        let indexes: Vec<_> = rows.iter().map(|(index, _)| *index).collect();
        let ids = self.insert_messages(rows.into_iter().map(|(_, row)| row).collect()).await?;
        for (index, id) in indexes.into_iter().zip(ids) {
            let Change::Post { room, author, content, client_msg_id } = &posts[index] else { continue };
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
            decided[index] = Some(Ok(Outcome::Posted { message: Arc::new(message), newly: true }));
        }
        for (index, first) in repeated {
            if let Some(Ok(Outcome::Posted { message, .. })) = &decided[first] {
                decided[index] = Some(Ok(Outcome::Posted { message: message.clone(), newly: false }));
            }
        }
        // each has been decided by now
        Ok(decided.into_iter().map(|decided| decided.unwrap_or(Err(Refusal::NotStored))).collect())
    }

    /// Those of the messages that are stored already, by the names that their authors gave them.
    async fn named_messages(&self, posts: &[Change]) -> Result<HashMap<Name, Known>, StoreError> {
        use messages::{Column, Entity};
        let names: HashSet<Name> = posts.iter().filter_map(name_of).collect();
        let names: Vec<_> = names.into_iter().collect();
        let mut known = HashMap::new();
        for some in names.chunks(NAMES) {
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

    /// A message that still has its content, for a member of the room.
    async fn message(&self, room: RoomId, id: MessageId, by: ClientId) -> Result<Result<Message, Refusal>, StoreError> {
        if let Err(refusal) = self.member(room, by) {
            return Ok(Err(refusal));
        }
        let row = messages::Entity::find_by_id(id.0)
            .filter(messages::Column::RoomId.eq(room.0))
            .one(self.transaction)
            .await?;
        Ok(row.map(Message::from).ok_or(Refusal::NoSuchMessage))
    }

    async fn edit(
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

    async fn delete(&mut self, room: RoomId, id: MessageId, by: ClientId) -> Result<Decided, StoreError> {
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

    async fn read(&mut self, room: RoomId, id: MessageId, by: ClientId) -> Result<Decided, StoreError> {
        if let Err(refusal) = self.message(room, id, by).await? {
            return Ok(Err(refusal));
        }
        let Some(member) = self.members.get_mut(&(room, by)) else { return Ok(Err(Refusal::NotAMember)) };
        let newly = id > member.last_read;
        if newly {
            member.last_read = id;
            let row = room_members::ActiveModel {
                room_id: Unchanged(room.0),
                client_uuid: Unchanged(by.into()),
                last_read_id: Set(id.0),
                ..Default::default()
            };
            room_members::Entity::update(row).exec(self.transaction).await?;
        }
        let (who, message) = (self.members[&(room, by)].who.clone(), self.members[&(room, by)].last_read);
        Ok(Ok(Outcome::MarkedRead { room, who, message, newly }))
    }
}

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
    /// As the post of this index.
    Here(usize),
}
