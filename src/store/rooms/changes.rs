//! What is asked of rooms, decided and done in the transaction of the Journal. The rows of the rooms concerned are locked
//! first, in order, so that on PostgreSQL several nodes take turns at a room: a greater message id is never to be seen
//! before a smaller one, and nobody's membership ends between the check and the message.

mod messages;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chrono::{DateTime, SubsecRound, Utc};
use entity::{messages as message_rows, room_members, rooms};
use sea_orm::{
    ActiveValue::Unchanged,
    ColumnTrait, Condition, ConnectionTrait, DbBackend, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Set,
    sea_query::{LockType, OnConflict},
};

use super::{Page, StoreError, count_deserted, count_joined, read_page};
use crate::domain::{
    ids::{ClientId, MessageId, RoomId},
    rooms::{
        Change, HISTORY_BYTES, History, MISSED_MESSAGES, Member, Outcome, Participant, RECENT_MESSAGES, Refusal, Room,
        RoomRole, Wanted,
    },
};

/// What is looked for in one statement: SQLite's expressions are at most a thousand levels deep.
const AT_ONCE: usize = 200;

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
    nearly_full: bool,
) -> Result<Vec<Decided>, StoreError> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let mut work = Work::begin(transaction, changes, rooms_per_user, nearly_full).await?;
    let mut decided = Vec::with_capacity(changes.len());
    let mut rest = changes;
    while let Some(first) = rest.first() {
        // what is said is written in few statements, however many say it
        let is_refused = |change: &Change| nearly_full && change.takes_space();
        let talk = rest.iter().take_while(|change| change.is_talk() && !is_refused(change)).count();
        if is_refused(first) {
            decided.push(Err(Refusal::StorageFull));
            rest = &rest[1..];
        } else if talk > 0 {
            decided.extend(work.talk(&rest[..talk]).await?);
            rest = &rest[talk..];
        } else {
            decided.push(work.apply(first).await?);
            rest = &rest[1..];
        }
    }
    Ok(decided)
}

/// Ends all memberships of a client that goes for good; what it owns passes on as if it had left.
pub(in crate::store) async fn leave_all(transaction: &impl ConnectionTrait, who: ClientId) -> Result<(), StoreError> {
    let rooms: Vec<i64> = room_members::Entity::find()
        .select_only()
        .column(room_members::Column::RoomId)
        .filter(room_members::Column::ClientUuid.eq(who.uuid()))
        .into_tuple()
        .all(transaction)
        .await?;
    let changes: Vec<_> = rooms.into_iter().map(|room| Change::Leave { room: RoomId(room), who }).collect();
    // to leave takes no space
    apply(transaction, &changes, 0, false).await?;
    Ok(())
}

struct Work<'a, C> {
    transaction: &'a C,
    /// those that the changes are about, as far as they exist
    rooms: HashMap<RoomId, Arc<Room>>,
    /// of the clients that the changes are about
    members: HashMap<(RoomId, ClientId), Member>,
    rooms_per_user: usize,
    nearly_full: bool,
    now: DateTime<Utc>,
}

impl<'a, C: ConnectionTrait> Work<'a, C> {
    async fn begin(
        transaction: &'a C,
        changes: &[Change],
        rooms_per_user: usize,
        nearly_full: bool,
    ) -> Result<Self, StoreError> {
        // two nodes that create rooms of the same names would wait for each other in the index
        let creates = changes.iter().any(|change| matches!(change, Change::Create { .. }));
        if creates && transaction.get_database_backend() == DbBackend::Postgres {
            transaction.execute_unprepared("LOCK TABLE rooms IN SHARE ROW EXCLUSIVE MODE").await?;
        }
        let mut clients: BTreeMap<i64, BTreeSet<_>> = BTreeMap::new();
        for change in changes {
            let (by, other) = change.clients();
            if let Some(room) = change.room() {
                clients.entry(room.0).or_default().extend([Some(by), other].into_iter().flatten().map(ClientId::uuid));
            }
        }
        let (mut rooms, mut members) = (HashMap::new(), HashMap::new());
        if !clients.is_empty() {
            let found = rooms::Entity::find()
                .filter(rooms::Column::Id.is_in(clients.keys().copied()))
                .order_by_asc(rooms::Column::Id)
                .lock(LockType::NoKeyUpdate)
                .all(transaction)
                .await?;
            rooms = found.into_iter().map(|row| (RoomId(row.id), Arc::new(row.into()))).collect();
        }
        let clients: Vec<_> = clients.into_iter().collect();
        for some in clients.chunks(AT_ONCE) {
            let wanted = some.iter().fold(Condition::any(), |wanted, (room, clients)| {
                wanted.add(
                    Condition::all()
                        .add(room_members::Column::RoomId.eq(*room))
                        .add(room_members::Column::ClientUuid.is_in(clients.iter().copied())),
                )
            });
            for row in room_members::Entity::find().filter(wanted).all(transaction).await? {
                members.insert((RoomId(row.room_id), row.client_uuid.into()), row.into());
            }
        }
        // after the locks, so that times go up as ids do; PostgreSQL stores no more than microseconds
        Ok(Self { transaction, rooms, members, rooms_per_user, nearly_full, now: Utc::now().trunc_subsecs(6) })
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

    fn check_owner(&self, id: RoomId, client: ClientId) -> Result<(), Refusal> {
        let member = self.member(id, client)?;
        if member.role == RoomRole::Owner { Ok(()) } else { Err(Refusal::OwnerRequired) }
    }

    async fn apply(&mut self, change: &Change) -> Result<Decided, StoreError> {
        match change {
            Change::Create { creator, name, description, is_private } => {
                self.create(creator, name, description.as_ref(), *is_private).await
            }
            Change::Join { room, who, wanted } => self.join(*room, who, *wanted).await,
            Change::Add { room, by, who, role } => match self.check_owner(*room, *by) {
                Ok(()) => self.add(*room, *by, who, *role).await,
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
            Change::Post { .. } | Change::Read { .. } | Change::Type { .. } => {
                let mut decided = self.talk(std::slice::from_ref(change)).await?;
                Ok(decided.pop().unwrap_or(Err(Refusal::DatabaseUnavailable)))
            }
            Change::Edit { room, message, by, content } => self.edit(*room, *message, *by, content).await,
            Change::Delete { room, message, by } => self.delete(*room, *message, *by).await,
        }
    }

    async fn create(
        &mut self,
        creator: &Participant,
        name: &str,
        description: Option<&String>,
        is_private: bool,
    ) -> Result<Decided, StoreError> {
        if self.has_created_too_many_rooms(creator.client).await? {
            return Ok(Err(Refusal::TooManyRooms));
        }
        let row = rooms::ActiveModel {
            name: Set(name.to_owned()),
            description: Set(description.cloned()),
            is_private: Set(is_private),
            created_at: Set(self.now.into()),
            created_by: Set(Some(creator.client.into())),
            ..Default::default()
        };
        let mut insert = rooms::Entity::insert(row).on_conflict(OnConflict::new().do_nothing().to_owned()).into_query();
        // there is one of that name
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
        self.insert_member(room.id, creator, RoomRole::Owner, None).await?;
        Ok(Ok(Outcome::Created(room)))
    }

    async fn join(&mut self, id: RoomId, who: &Participant, wanted: Wanted) -> Result<Decided, StoreError> {
        let room = match self.room(id, who.client) {
            Ok(room) => room.clone(),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let newly = !self.members.contains_key(&(id, who.client));
        if newly {
            if self.nearly_full {
                return Ok(Err(Refusal::StorageFull));
            }
            if self.has_too_many_rooms(who.client).await? {
                return Ok(Err(Refusal::TooManyRooms));
            }
            // whoever comes into an empty room has it
            let is_empty = room_members::Entity::find()
                .select_only()
                .column(room_members::Column::RoomId)
                .filter(room_members::Column::RoomId.eq(id.0))
                .into_tuple::<i64>()
                .one(self.transaction)
                .await?
                .is_none();
            let role = if is_empty { RoomRole::Owner } else { RoomRole::Member };
            self.insert_member(id, who, role, None).await?;
        } else {
            self.accept(id, who.client).await?;
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

    async fn add(
        &mut self,
        id: RoomId,
        by: ClientId,
        who: &Participant,
        role: RoomRole,
    ) -> Result<Decided, StoreError> {
        let Some(room) = self.rooms.get(&id).cloned() else { return Ok(Err(Refusal::NoSuchRoom)) };
        let newly = !self.members.contains_key(&(id, who.client));
        if newly {
            if self.was_added_too_often(who.client, by).await? {
                return Ok(Err(Refusal::TheyHaveTooManyRooms));
            }
            self.insert_member(id, who, role, Some(by)).await?;
        }
        Ok(Ok(Outcome::Joined { room, who: who.clone(), newly, history: None }))
    }

    /// As [`Work::has_too_many_rooms`], for somebody who wants to create one more: rooms that it has created and that
    /// nobody is in count as well, or whoever leaves each room at once could create any number.
    async fn has_created_too_many_rooms(&self, creator: ClientId) -> Result<bool, StoreError> {
        if self.rooms_per_user == 0 {
            return Ok(false);
        }
        let (joined, deserted) =
            (count_joined(self.transaction, creator).await?, count_deserted(self.transaction, creator).await?);
        Ok(joined + deserted >= self.rooms_per_user as u64)
    }

    /// Whether a client has been added to as many rooms as it may, without having joined them: by all others together, or
    /// a tenth of that by one. Such rooms leave its own quota alone, so nobody can use that up for it.
    async fn was_added_too_often(&self, client: ClientId, by: ClientId) -> Result<bool, StoreError> {
        use room_members::Column;
        if self.rooms_per_user == 0 {
            return Ok(false);
        }
        let added = || {
            let of_client = room_members::Entity::find().filter(Column::ClientUuid.eq(client.uuid()));
            of_client.filter(Column::AddedBy.is_not_null())
        };
        let by_all = added().count(self.transaction).await?;
        let by_one = added().filter(Column::AddedBy.eq(by.uuid())).count(self.transaction).await?;
        Ok(by_all >= self.rooms_per_user as u64 || by_one >= self.rooms_per_user.div_ceil(10) as u64)
    }

    /// A member that was added joins: from now on the room is one of its own, if it has a place for it.
    async fn accept(&mut self, room: RoomId, client: ClientId) -> Result<(), StoreError> {
        let is_added = self.members.get(&(room, client)).is_some_and(|member| member.added_by.is_some());
        if !is_added || self.has_too_many_rooms(client).await? {
            return Ok(());
        }
        let row = room_members::ActiveModel {
            room_id: Unchanged(room.0),
            client_uuid: Unchanged(client.into()),
            added_by: Set(None),
            ..Default::default()
        };
        room_members::Entity::update(row).exec(self.transaction).await?;
        if let Some(member) = self.members.get_mut(&(room, client)) {
            member.added_by = None;
        }
        Ok(())
    }

    async fn insert_member(
        &mut self,
        room: RoomId,
        who: &Participant,
        role: RoomRole,
        added_by: Option<ClientId>,
    ) -> Result<(), StoreError> {
        // what was said before is not unread for somebody who comes
        let newest = message_rows::Entity::find()
            .select_only()
            .column(message_rows::Column::Id)
            .filter(message_rows::Column::RoomId.eq(room.0))
            .order_by_desc(message_rows::Column::Id)
            .into_tuple::<i64>()
            .one(self.transaction)
            .await?;
        let member = Member {
            who: who.clone(),
            role,
            joined_at: self.now,
            last_read: MessageId(newest.unwrap_or_default()),
            added_by,
        };
        room_members::Entity::insert(member_row(room, &member)).exec_without_returning(self.transaction).await?;
        self.members.insert((room, who.client), member);
        Ok(())
    }

    async fn has_too_many_rooms(&self, client: ClientId) -> Result<bool, StoreError> {
        if self.rooms_per_user == 0 {
            return Ok(false);
        }
        let rooms = count_joined(self.transaction, client).await?;
        Ok(rooms >= self.rooms_per_user as u64)
    }

    /// The member who would be the next owner: the moderator, else the member, who has been there for longest.
    async fn successor(&self, room: RoomId) -> Result<Option<Member>, StoreError> {
        use room_members::{Column, Entity};
        let of_room = || {
            // those who came at once came in any order, but always the same
            let of_room = Entity::find().filter(Column::RoomId.eq(room.0));
            of_room.order_by_asc(Column::JoinedAt).order_by_asc(Column::ClientUuid)
        };
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
        if let Err(refusal) = self.check_owner(room, by) {
            return Ok(Err(refusal));
        }
        let Some(member) = self.members.get(&(room, whose)).cloned() else { return Ok(Err(Refusal::NoSuchMember)) };
        if member.role == RoomRole::Owner {
            return Ok(Err(Refusal::OwnerStays));
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
        if member.role == RoomRole::Owner && whose == by {
            return Err(Refusal::OwnerStays);
        }
        if member.role >= remover { Err(Refusal::HigherRoleRequired) } else { Ok(member.clone()) }
    }

    async fn end_membership(&mut self, room: RoomId, member: Member, removed: bool) -> Result<Outcome, StoreError> {
        let client = member.who.client;
        room_members::Entity::delete_by_id((room.0, client.uuid())).exec(self.transaction).await?;
        self.members.remove(&(room, client));
        let mut new_owner = None;
        if member.role == RoomRole::Owner {
            match self.successor(room).await? {
                Some(successor) => {
                    new_owner = Some(successor.who.clone());
                    self.write_role(room, successor, RoomRole::Owner).await?;
                }
                None => self.delete_if_unreachable(room).await?,
            }
        }
        Ok(Outcome::Left { room, who: member.who, removed, new_owner })
    }

    /// A private room without members is one that nobody can ever see again.
    async fn delete_if_unreachable(&mut self, room: RoomId) -> Result<(), StoreError> {
        if self.rooms.get(&room).is_some_and(|room| room.is_private) {
            message_rows::Entity::delete_many()
                .filter(message_rows::Column::RoomId.eq(room.0))
                .exec(self.transaction)
                .await?;
            rooms::Entity::delete_by_id(room.0).exec(self.transaction).await?;
            self.rooms.remove(&room);
        }
        Ok(())
    }
}

fn member_row(room: RoomId, member: &Member) -> room_members::ActiveModel {
    room_members::ActiveModel {
        room_id: Set(room.0),
        client_uuid: Set(member.who.client.into()),
        user_id: Set(member.who.user_id),
        username: Set(member.who.username.to_string()),
        role: Set(member.role.as_str().to_owned()),
        joined_at: Set(member.joined_at.into()),
        last_read_id: Set(member.last_read.0),
        added_by: Set(member.added_by.map(Into::into)),
    }
}
