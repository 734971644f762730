//! What is read of rooms, and by whom.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{
    super::{GetPresence, GetSocketCounts},
    RoomError, Rooms,
};
use crate::{
    domain::{
        ids::{ClientId, RoomId},
        rooms::{History, Member, Participant, RoomRefusal},
    },
    store::Page,
};

impl Rooms {
    /// Whether the client is a member.
    ///
    /// # Errors
    /// It is not, or may not know that the room exists.
    pub async fn check_member(&self, room: RoomId, client: ClientId) -> Result<(), RoomError> {
        let (_, member) = self.store.room(room, client).await?.ok_or(RoomRefusal::NoSuchRoom)?;
        member.ok_or(RoomRefusal::NotAMember)?;
        Ok(())
    }

    /// Whether the client could join. Joining decides.
    ///
    /// # Errors
    /// Why not.
    pub async fn check_join(&self, room: RoomId, client: ClientId) -> Result<(), RoomError> {
        let (_, member) = self.store.room(room, client).await?.ok_or(RoomRefusal::NoSuchRoom)?;
        if member.is_none() && !self.limit.allows_joining(self.store.count_rooms_joined(client).await?) {
            return Err(RoomRefusal::TooManyRooms.into());
        }
        Ok(())
    }

    /// Members of a room, those who came first before the others, and how many there are in all. For members.
    ///
    /// # Errors
    /// The client is no member.
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

    /// A page of a room's messages. For members.
    ///
    /// # Errors
    /// The client is no member.
    pub async fn history(
        &self,
        room: RoomId,
        client: ClientId,
        page: Page,
        limit: u64,
        bytes: usize,
    ) -> Result<History, RoomError> {
        let history = self.store.history(room, page, limit, bytes).await?;
        // afterwards: a client that is removed meanwhile gets nothing that was said after that
        self.check_member(room, client).await?;
        Ok(history)
    }

    /// Who has sockets in a room on this node, and how many. For members.
    ///
    /// # Errors
    /// The client is no member.
    pub async fn presence(&self, room: RoomId, client: ClientId) -> Result<Vec<(Participant, usize)>, RoomError> {
        self.check_member(room, client).await?;
        Ok(self.manager.send(GetPresence(room)).await?)
    }

    /// How many sockets are in each room on this node, private rooms left out.
    ///
    /// # Errors
    /// The RoomManager has ended.
    pub async fn socket_counts(&self) -> Result<HashMap<RoomId, usize>, RoomError> {
        Ok(self.manager.send(GetSocketCounts).await?)
    }
}
