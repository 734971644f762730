//! Reads of rooms, for those who may see them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{
    super::{GetPresence, GetSocketCounts},
    RoomError, Rooms,
};
use crate::{
    domain::{
        ids::{ClientId, ClientRef, RoomId},
        rooms::RoomLimit,
        rooms::{History, Member, Participant, RoomRefusal},
    },
    store::{Page, RoomView, StoreError},
};

impl Rooms {
    /// The rooms that a client may see, by id: those after `after`, without the first `skip`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list(
        &self,
        client: ClientId,
        after: Option<RoomId>,
        skip: u64,
        limit: u64,
    ) -> Result<Vec<RoomView>, StoreError> {
        self.store.rooms(client, after, skip, limit).await
    }

    /// A room as a client sees it.
    ///
    /// # Errors
    /// The client may not see the room.
    pub async fn view(&self, room: RoomId, client: ClientId) -> Result<RoomView, RoomError> {
        Ok(self.store.room_view(room, client).await?.ok_or(RoomRefusal::NoSuchRoom)?)
    }

    /// Checks that the client is a member.
    ///
    /// # Errors
    /// It is not, or may not see the room.
    pub async fn check_member(&self, room: RoomId, client: ClientId) -> Result<(), RoomError> {
        let (_, member) = self.store.room(room, client).await?.ok_or(RoomRefusal::NoSuchRoom)?;
        member.ok_or(RoomRefusal::NotAMember)?;
        Ok(())
    }

    /// The client that `by` names in a request about another member.
    pub(super) async fn other_member(
        &self,
        room: RoomId,
        by: ClientId,
        whose: ClientRef,
    ) -> Result<ClientId, RoomError> {
        self.check_member(room, by).await?;
        match whose {
            ClientRef::Client(client) => Ok(client),
            ClientRef::User(id) => {
                let member = self.store.member_of_user(room, id).await?.ok_or(RoomRefusal::NoSuchMember)?;
                Ok(member.who.client)
            }
        }
    }

    /// Checks early whether the client may join. Joining decides.
    ///
    /// # Errors
    /// The reason of a refusal, or a failure.
    pub async fn check_join(&self, room: RoomId, client: ClientId) -> Result<(), RoomError> {
        let (_, member) = self.store.room(room, client).await?.ok_or(RoomRefusal::NoSuchRoom)?;
        let limit = RoomLimit(self.settings.load().limits.rooms_per_user);
        if member.is_none() && !limit.allows_joining(self.store.count_rooms_joined(client).await?) {
            return Err(RoomRefusal::TooManyRooms.into());
        }
        Ok(())
    }

    /// Members of a room by the time they joined, and their total number. For members only.
    ///
    /// # Errors
    /// The client is not a member.
    pub async fn members(
        &self,
        room: RoomId,
        client: ClientId,
        after: Option<(DateTime<Utc>, ClientId)>,
        skip: u64,
        limit: u64,
    ) -> Result<(Vec<Member>, u64), RoomError> {
        let members = self.store.members(room, after, skip, limit).await?;
        let total = self.store.count_members(room).await?;
        self.check_member(room, client).await?;
        Ok((members, total))
    }

    /// A page of a room's messages. For members only.
    ///
    /// # Errors
    /// The client is not a member.
    pub async fn history(
        &self,
        room: RoomId,
        client: ClientId,
        page: Page,
        limit: u64,
        bytes: usize,
    ) -> Result<History, RoomError> {
        let history = self.store.history(room, page, limit, bytes).await?;
        // checked after reading, so that a client that is removed in the meantime gets no later messages
        self.check_member(room, client).await?;
        Ok(history)
    }

    /// The clients with sockets in a room, and how many each has. For members only.
    ///
    /// # Errors
    /// The client is not a member.
    pub async fn presence(&self, room: RoomId, client: ClientId) -> Result<Vec<(Participant, usize)>, RoomError> {
        self.check_member(room, client).await?;
        Ok(self.manager.send(GetPresence(room)).await?)
    }

    /// The number of sockets in each room that is not private.
    ///
    /// # Errors
    /// The RoomManager has stopped.
    pub async fn socket_counts(&self) -> Result<HashMap<RoomId, usize>, RoomError> {
        Ok(self.manager.send(GetSocketCounts).await?)
    }
}
