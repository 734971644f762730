//! Rooms and their members: creation, joining, adding, roles, leaving.

use std::sync::Arc;

use entity::{devices, messages, room_members, rooms};
use sea_orm::{
    ActiveValue::Unchanged, ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Select, Set, sea_query::OnConflict,
};

use super::{
    super::{Page, count_deserted, count_joined, read_page},
    Decision, Work,
};
use crate::{
    domain::{
        ids::{ClientId, MessageId, RoomId},
        rooms::{
            HISTORY_BYTES, MISSED_MESSAGES, Member, Participant, RECENT_MESSAGES, Room, RoomOutcome, RoomRefusal,
            RoomRole, Wanted, role_on_joining, successor,
        },
    },
    store::StoreError,
};

impl<C: ConnectionTrait> Work<'_, C> {
    pub(super) async fn create(
        &mut self,
        creator: &Participant,
        name: &str,
        description: Option<&String>,
        is_private: bool,
    ) -> Result<Decision, StoreError> {
        if self.is_deleted(creator.client).await? {
            return Ok(Err(RoomRefusal::ClientDeleted));
        }
        let joined = count_joined(self.transaction, creator.client).await?;
        let deserted = count_deserted(self.transaction, creator.client).await?;
        if !self.limit.allows_creating(joined, deserted) {
            return Ok(Err(RoomRefusal::TooManyRooms));
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
        // a conflict: another room has that name
        let Some(inserted) = self.transaction.query_one(insert.returning_col(rooms::Column::Id)).await? else {
            return Ok(Err(RoomRefusal::NameTaken));
        };
        let room = Arc::new(Room {
            id: RoomId(inserted.try_get_by_index(0)?),
            name: name.to_owned(),
            description: description.cloned(),
            is_private,
            created_at: self.now,
        });
        self.memberships.put_room(room.clone());
        self.insert_member(room.id, creator, RoomRole::Owner, None).await?;
        Ok(Ok(RoomOutcome::Created(room)))
    }

    pub(super) async fn join(&mut self, id: RoomId, who: &Participant, wanted: Wanted) -> Result<Decision, StoreError> {
        let room = match self.memberships.room(id, who.client) {
            Ok(room) => room.clone(),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let newly = self.memberships.find(id, who.client).is_none();
        if newly {
            if self.nearly_full {
                return Ok(Err(RoomRefusal::StorageFull));
            }
            if self.is_deleted(who.client).await? {
                return Ok(Err(RoomRefusal::ClientDeleted));
            }
            if !self.limit.allows_joining(count_joined(self.transaction, who.client).await?) {
                return Ok(Err(RoomRefusal::TooManyRooms));
            }
            let is_empty = room_members::Entity::find()
                .select_only()
                .column(room_members::Column::RoomId)
                .filter(room_members::Column::RoomId.eq(id.0))
                .into_tuple::<i64>()
                .one(self.transaction)
                .await?
                .is_none();
            self.insert_member(id, who, role_on_joining(is_empty), None).await?;
        } else {
            self.accept(id, who.client).await?;
        }
        let history = match wanted {
            Wanted::Nothing => None,
            Wanted::Recent => {
                let page = Page::Newest { skip: 0 };
                let recent = read_page(self.transaction, id, page, RECENT_MESSAGES, HISTORY_BYTES).await?;
                Some(recent.on_joining())
            }
            Wanted::Since(since) => {
                let page = Page::After(since);
                Some(read_page(self.transaction, id, page, MISSED_MESSAGES, HISTORY_BYTES).await?)
            }
        };
        Ok(Ok(RoomOutcome::Joined { room, who: who.clone(), newly, history }))
    }

    pub(super) async fn add(
        &mut self,
        id: RoomId,
        by: ClientId,
        who: &Participant,
        role: RoomRole,
    ) -> Result<Decision, StoreError> {
        let allowed = self.memberships.check_addition(id, by).and_then(|()| self.memberships.room(id, by).cloned());
        let room = match allowed {
            Ok(room) => room,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let newly = self.memberships.find(id, who.client).is_none();
        if newly {
            if self.is_deleted(who.client).await? {
                return Ok(Err(RoomRefusal::NoSuchMember));
            }
            let by_all = added(who.client).count(self.transaction).await?;
            let by_this_one = added(who.client).filter(room_members::Column::AddedBy.eq(by.uuid()));
            if !self.limit.allows_adding(by_all, by_this_one.count(self.transaction).await?) {
                return Ok(Err(RoomRefusal::TheyHaveTooManyRooms));
            }
            self.insert_member(id, who, role, Some(by)).await?;
        }
        Ok(Ok(RoomOutcome::Joined { room, who: who.clone(), newly, history: None }))
    }

    /// A member that was added joins itself: the room counts as joined from now on, if the limit allows one more.
    async fn accept(&mut self, room: RoomId, client: ClientId) -> Result<(), StoreError> {
        let added = self.memberships.find(room, client).filter(|member| member.added_by.is_some()).cloned();
        let Some(added) = added else { return Ok(()) };
        if !self.limit.allows_joining(count_joined(self.transaction, client).await?) {
            return Ok(());
        }
        let row = room_members::ActiveModel {
            room_id: Unchanged(room.0),
            client_uuid: Unchanged(client.into()),
            added_by: Set(None),
            ..Default::default()
        };
        room_members::Entity::update(row).exec(self.transaction).await?;
        self.memberships.put(room, Member { added_by: None, ..added });
        Ok(())
    }

    /// Whether a client is a deleted device. The next device with its UUID must not find it in a room, so its row is locked:
    /// its deletion waits for this transaction, and ends the membership that this transaction begins.
    async fn is_deleted(&self, client: ClientId) -> Result<bool, StoreError> {
        let device = devices::Entity::find_by_id(client).one(self.transaction).await?;
        Ok(device.is_some_and(|device| device.deleted_at.is_some()))
    }

    async fn insert_member(
        &mut self,
        room: RoomId,
        who: &Participant,
        role: RoomRole,
        added_by: Option<ClientId>,
    ) -> Result<(), StoreError> {
        // earlier messages are not unread for a new member
        let newest = messages::Entity::find()
            .select_only()
            .column(messages::Column::Id)
            .filter(messages::Column::RoomId.eq(room.0))
            .order_by_desc(messages::Column::Id)
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
        self.memberships.put(room, member);
        Ok(())
    }

    /// The possible next owners: the moderator and the member with the longest memberships.
    async fn candidates(&self, room: RoomId) -> Result<Vec<Member>, StoreError> {
        use room_members::{Column, Entity};
        let mut candidates = Vec::new();
        for role in [RoomRole::Moderator, RoomRole::Member] {
            let of_role = Entity::find().filter(Column::RoomId.eq(room.0)).filter(Column::Role.eq(role.as_str()));
            let longest = of_role.order_by_asc(Column::JoinedAt).order_by_asc(Column::ClientUuid);
            candidates.extend(longest.one(self.transaction).await?.map(Member::from));
        }
        Ok(candidates)
    }

    pub(super) async fn set_role(
        &mut self,
        room: RoomId,
        by: ClientId,
        whose: ClientId,
        role: RoomRole,
    ) -> Result<Decision, StoreError> {
        let member = match self.memberships.check_role_change(room, by, whose) {
            Ok(member) => member.clone(),
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.write_role(room, member.clone(), role).await?;
        Ok(Ok(RoomOutcome::RoleSet { room, who: member.who, role }))
    }

    async fn write_role(&mut self, room: RoomId, member: Member, role: RoomRole) -> Result<(), StoreError> {
        let row = room_members::ActiveModel {
            room_id: Unchanged(room.0),
            client_uuid: Unchanged(member.who.client.into()),
            role: Set(role.as_str().to_owned()),
            ..Default::default()
        };
        room_members::Entity::update(row).exec(self.transaction).await?;
        self.memberships.put(room, Member { role, ..member });
        Ok(())
    }

    pub(super) async fn end_membership(
        &mut self,
        room: RoomId,
        member: Member,
        removed: bool,
    ) -> Result<RoomOutcome, StoreError> {
        let client = member.who.client;
        room_members::Entity::delete_by_id((room.0, client.uuid())).exec(self.transaction).await?;
        self.memberships.remove(room, client);
        let mut new_owner = None;
        if member.role == RoomRole::Owner {
            match successor(self.candidates(room).await?) {
                Some(successor) => {
                    new_owner = Some(successor.who.clone());
                    self.write_role(room, successor, RoomRole::Owner).await?;
                }
                None if self.memberships.ends_with_last_member(room) => self.delete_room(room).await?,
                None => {}
            }
        }
        Ok(RoomOutcome::Left { room, who: member.who, removed, new_owner })
    }

    async fn delete_room(&mut self, room: RoomId) -> Result<(), StoreError> {
        let of_room = messages::Entity::delete_many().filter(messages::Column::RoomId.eq(room.0));
        of_room.exec(self.transaction).await?;
        rooms::Entity::delete_by_id(room.0).exec(self.transaction).await?;
        self.memberships.remove_room(room);
        Ok(())
    }
}

/// The memberships of a client that others added it to.
fn added(client: ClientId) -> Select<room_members::Entity> {
    use room_members::Column;
    let of_client = room_members::Entity::find().filter(Column::ClientUuid.eq(client.uuid()));
    of_client.filter(Column::AddedBy.is_not_null())
}

pub(super) fn member_row(room: RoomId, member: &Member) -> room_members::ActiveModel {
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
