//! Rooms, their members and their messages. Reads are here, writes in `changes`.

pub(super) mod changes;
mod events;
mod history;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use entity::{messages, room_members, rooms};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait,
    sea_query::{Alias, Expr, Query},
};
use uuid::Uuid;

use self::history::read_page;
pub use self::{events::RecordedEvent, history::Page};
use super::{Store, StoreError};
use crate::domain::{
    ids::{ClientId, MessageId, RoomId},
    rooms::{Member, Participant, Room, RoomRole},
};

/// Unread messages are counted among this many newest messages.
const UNREAD_COUNTED: u64 = 1000;

/// A room, and a client's membership of it.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the names of the fields say it
pub struct RoomView {
    pub room: Room,
    /// The membership, and the number of unread messages of others, up to 1000.
    pub membership: Option<(Member, u64)>,
}

impl From<rooms::Model> for Room {
    fn from(row: rooms::Model) -> Self {
        Self {
            id: RoomId(row.id),
            name: row.name,
            description: row.description,
            is_private: row.is_private,
            created_at: row.created_at.to_utc(),
        }
    }
}

impl From<room_members::Model> for Member {
    fn from(row: room_members::Model) -> Self {
        Self {
            who: Participant { client: row.client_uuid.into(), user_id: row.user_id, username: row.username.into() },
            role: RoomRole::parse(&row.role).unwrap_or(RoomRole::Member),
            joined_at: row.joined_at.to_utc(),
            last_read: MessageId(row.last_read_id),
            added_by: row.added_by.map(ClientId::from),
        }
    }
}

/// Renames a client in all rooms that it is a member of. Its messages keep the old name.
pub(super) async fn rename_member(
    connection: &impl ConnectionTrait,
    client: ClientId,
    name: &str,
) -> Result<(), StoreError> {
    let own = || room_members::Column::ClientUuid.eq(client.uuid());
    let rooms = room_members::Entity::find().select_only().column(room_members::Column::RoomId).filter(own());
    // the rows of the rooms are locked first and in order, as in `changes`
    rooms::Entity::find()
        .filter(rooms::Column::Id.in_subquery(rooms.into_query()))
        .order_by_asc(rooms::Column::Id)
        .lock_exclusive()
        .all(connection)
        .await?;
    room_members::Entity::update_many()
        .col_expr(room_members::Column::Username, Expr::value(name))
        .filter(own())
        .exec(connection)
        .await?;
    Ok(())
}

/// The number of rooms that a client has joined, without those that others added it to.
async fn count_joined(connection: &impl ConnectionTrait, client: ClientId) -> Result<u64, StoreError> {
    let joined = room_members::Entity::find()
        .filter(room_members::Column::ClientUuid.eq(client.uuid()))
        .filter(room_members::Column::AddedBy.is_null());
    Ok(joined.count(connection).await?)
}

/// The number of rooms that a client has created and that have no members.
async fn count_deserted(connection: &impl ConnectionTrait, creator: ClientId) -> Result<u64, StoreError> {
    let members = Query::select()
        .expr(Expr::val(1))
        .from(room_members::Entity)
        .and_where(
            Expr::col((room_members::Entity, room_members::Column::RoomId)).equals((rooms::Entity, rooms::Column::Id)),
        )
        .to_owned();
    let deserted =
        rooms::Entity::find().filter(rooms::Column::CreatedBy.eq(creator.uuid())).filter(Expr::exists(members).not());
    Ok(deserted.count(connection).await?)
}

impl Store {
    /// The number of rooms that a client has joined (`limits.rooms_per_user`).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_rooms_joined(&self, client: ClientId) -> Result<u64, StoreError> {
        count_joined(&self.read, client).await
    }

    /// The room, if the client may see it, and the client's membership.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn room(&self, id: RoomId, client: ClientId) -> Result<Option<(Room, Option<Member>)>, StoreError> {
        let Some(room) = rooms::Entity::find_by_id(id.0).one(&self.read).await? else { return Ok(None) };
        let member = room_members::Entity::find_by_id((id.0, client.uuid())).one(&self.read).await?;
        Ok((member.is_some() || !room.is_private).then(|| (room.into(), member.map(Member::from))))
    }

    /// The rooms that a client may see, by id: those after `after`, without the first `skip`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rooms(
        &self,
        client: ClientId,
        after: Option<RoomId>,
        skip: u64,
        limit: u64,
    ) -> Result<Vec<RoomView>, StoreError> {
        let own = room_members::Entity::find()
            .select_only()
            .column(room_members::Column::RoomId)
            .filter(room_members::Column::ClientUuid.eq(client.uuid()))
            .into_query();
        let found = rooms::Entity::find()
            .filter(Condition::any().add(rooms::Column::IsPrivate.eq(false)).add(rooms::Column::Id.in_subquery(own)))
            .apply_if(after, |query, after| query.filter(rooms::Column::Id.gt(after.0)))
            .order_by_asc(rooms::Column::Id)
            .offset(skip)
            .limit(limit)
            .all(&self.read)
            .await?;
        let mut memberships = self.memberships(client, found.iter().map(|room| room.id).collect()).await?;
        Ok(found
            .into_iter()
            .map(|room| RoomView { membership: memberships.remove(&room.id), room: room.into() })
            .collect())
    }

    /// A room as a client sees it, if it may see it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn room_view(&self, id: RoomId, client: ClientId) -> Result<Option<RoomView>, StoreError> {
        let Some(room) = rooms::Entity::find_by_id(id.0).one(&self.read).await? else { return Ok(None) };
        let membership = self.memberships(client, vec![id.0]).await?.remove(&id.0);
        Ok((membership.is_some() || !room.is_private).then(|| RoomView { room: room.into(), membership }))
    }

    async fn memberships(&self, client: ClientId, rooms: Vec<i64>) -> Result<HashMap<i64, (Member, u64)>, StoreError> {
        use messages::Column;
        #[derive(FromQueryResult)]
        struct Unread {
            room_id: i64,
            unread: i64,
        }
        if rooms.is_empty() {
            return Ok(HashMap::new());
        }
        let of_client = room_members::Entity::find()
            .filter(room_members::Column::ClientUuid.eq(client.uuid()))
            .filter(room_members::Column::RoomId.is_in(rooms));
        // the count is limited for each room, or clients that never read would make this slow
        let newer = messages::Entity::find()
            .select_only()
            .columns([Column::ClientUuid, Column::DeletedAt])
            .filter(
                Expr::col((messages::Entity, Column::RoomId))
                    .equals((room_members::Entity, room_members::Column::RoomId)),
            )
            .filter(
                Expr::col((messages::Entity, Column::Id))
                    .gt(Expr::col((room_members::Entity, room_members::Column::LastReadId))),
            )
            .order_by_desc(Column::Id)
            .limit(UNREAD_COUNTED)
            .into_query();
        let counted = Query::select()
            .expr(Expr::col(Column::ClientUuid).count())
            .from_subquery(newer, Alias::new("newer"))
            .and_where(Expr::col(Column::ClientUuid).ne(client.uuid()))
            .and_where(Expr::col(Column::DeletedAt).is_null())
            .to_owned();
        let unread = of_client
            .clone()
            .select_only()
            .column(room_members::Column::RoomId)
            .expr_as(Expr::SubQuery(None, Box::new(counted.into())), "unread")
            .into_model::<Unread>()
            .all(&self.read)
            .await?;
        let mut unread: HashMap<i64, i64> = unread.into_iter().map(|row| (row.room_id, row.unread)).collect();
        let members = of_client.all(&self.read).await?;
        Ok(members
            .into_iter()
            .map(|row| {
                let room = row.room_id;
                (room, (Member::from(row), unread.remove(&room).unwrap_or_default().unsigned_abs()))
            })
            .collect())
    }

    /// Members of a room by the time they joined: those after `after`, without the first `skip`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn members(
        &self,
        room: RoomId,
        after: Option<(DateTime<Utc>, ClientId)>,
        skip: u64,
        limit: u64,
    ) -> Result<Vec<Member>, StoreError> {
        use room_members::Column;
        let rows = room_members::Entity::find()
            .filter(Column::RoomId.eq(room.0))
            .apply_if(after, |query, (at, client)| {
                let same_time = Column::JoinedAt.eq(at).and(Column::ClientUuid.gt(client.uuid()));
                query.filter(Column::JoinedAt.gt(at).or(same_time))
            })
            .order_by_asc(Column::JoinedAt)
            .order_by_asc(Column::ClientUuid)
            .offset(skip)
            .limit(limit)
            .all(&self.read)
            .await?;
        Ok(rows.into_iter().map(Member::from).collect())
    }

    /// The number of members of a room.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_members(&self, room: RoomId) -> Result<u64, StoreError> {
        let of_room = room_members::Entity::find().filter(room_members::Column::RoomId.eq(room.0));
        Ok(of_room.count(&self.read).await?)
    }

    /// The rooms that a client is a member of.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rooms_of(&self, client: ClientId) -> Result<Vec<RoomId>, StoreError> {
        let ids = room_members::Entity::find()
            .select_only()
            .column(room_members::Column::RoomId)
            .filter(room_members::Column::ClientUuid.eq(client.uuid()))
            .into_tuple::<i64>()
            .all(&self.read)
            .await?;
        Ok(ids.into_iter().map(RoomId).collect())
    }

    /// The UUIDs of all members of a room.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn member_ids(&self, room: RoomId) -> Result<Vec<ClientId>, StoreError> {
        let ids = room_members::Entity::find()
            .select_only()
            .column(room_members::Column::ClientUuid)
            .filter(room_members::Column::RoomId.eq(room.0))
            .into_tuple::<Uuid>()
            .all(&self.read)
            .await?;
        Ok(ids.into_iter().map(ClientId::from).collect())
    }

    /// The member of a room that is the user with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn member_of_user(&self, room: RoomId, user: i64) -> Result<Option<Member>, StoreError> {
        let of_user = room_members::Entity::find()
            .filter(room_members::Column::RoomId.eq(room.0))
            .filter(room_members::Column::UserId.eq(user));
        Ok(of_user.one(&self.read).await?.map(Member::from))
    }
}
