//! Who may do what in rooms, and who owns them. The store loads what a decision needs and stores what it leads to.

#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use super::{History, Member, Message, RECENT_MESSAGES, Room, RoomRefusal, RoomRole};
use crate::domain::ids::{ClientId, MessageId, RoomId};

/// The rooms that changes are about and the memberships of the clients concerned, as far as they exist. It is kept up to
/// date while the changes are made.
#[derive(Debug, Default)]
pub struct Memberships {
    rooms: HashMap<RoomId, Arc<Room>>,
    members: HashMap<(RoomId, ClientId), Member>,
}

impl Memberships {
    /// Adds a room, or replaces it.
    pub fn put_room(&mut self, room: Arc<Room>) {
        self.rooms.insert(room.id, room);
    }

    /// Adds a member, or replaces it.
    pub fn put(&mut self, room: RoomId, member: Member) {
        self.members.insert((room, member.who.client), member);
    }

    /// Removes a member.
    pub fn remove(&mut self, room: RoomId, client: ClientId) {
        self.members.remove(&(room, client));
    }

    /// Removes a room.
    pub fn remove_room(&mut self, room: RoomId) {
        self.rooms.remove(&room);
    }

    /// The client's membership, if it has one.
    pub fn find(&self, room: RoomId, client: ClientId) -> Option<&Member> {
        self.members.get(&(room, client))
    }

    /// The room, if the client may know that it exists: a private one exists for its members alone.
    ///
    /// # Errors
    /// It does not exist for this client.
    pub fn room(&self, id: RoomId, client: ClientId) -> Result<&Arc<Room>, RoomRefusal> {
        let room = self.rooms.get(&id).ok_or(RoomRefusal::NoSuchRoom)?;
        let is_visible = !room.is_private || self.find(id, client).is_some();
        if is_visible { Ok(room) } else { Err(RoomRefusal::NoSuchRoom) }
    }

    /// The client's membership, which it needs to read and write.
    ///
    /// # Errors
    /// It is no member.
    pub fn member(&self, room: RoomId, client: ClientId) -> Result<&Member, RoomRefusal> {
        self.room(room, client)?;
        self.find(room, client).ok_or(RoomRefusal::NotAMember)
    }

    /// Whether `by` may add members: the owner alone.
    ///
    /// # Errors
    /// It may not.
    pub fn check_addition(&self, room: RoomId, by: ClientId) -> Result<(), RoomRefusal> {
        let is_owner = self.member(room, by)?.role == RoomRole::Owner;
        if is_owner { Ok(()) } else { Err(RoomRefusal::OwnerRequired) }
    }

    /// The member, if `by` may give it another role: the owner alone, and not to itself.
    ///
    /// # Errors
    /// It may not.
    pub fn check_role_change(&self, room: RoomId, by: ClientId, whose: ClientId) -> Result<&Member, RoomRefusal> {
        self.check_addition(room, by)?;
        let member = self.find(room, whose).ok_or(RoomRefusal::NoSuchMember)?;
        if member.role == RoomRole::Owner { Err(RoomRefusal::OwnerStays) } else { Ok(member) }
    }

    /// The member, if `by` may remove it: moderators remove members, the owner removes everyone else.
    ///
    /// # Errors
    /// It may not.
    pub fn check_removal(&self, room: RoomId, by: ClientId, whose: ClientId) -> Result<&Member, RoomRefusal> {
        let remover = self.member(room, by)?.role;
        if remover < RoomRole::Moderator {
            return Err(RoomRefusal::ModeratorRequired);
        }
        let member = self.find(room, whose).ok_or(RoomRefusal::NoSuchMember)?;
        if member.role == RoomRole::Owner && whose == by {
            return Err(RoomRefusal::OwnerStays);
        }
        if member.role >= remover { Err(RoomRefusal::HigherRoleRequired) } else { Ok(member) }
    }

    /// Whether `by` may change the content of this message: its author alone, while it has a content.
    ///
    /// # Errors
    /// It may not.
    pub fn check_edit(&self, message: &Message, by: ClientId) -> Result<(), RoomRefusal> {
        self.member(message.room, by)?;
        if message.deleted_at.is_some() {
            return Err(RoomRefusal::NoSuchMessage);
        }
        if message.author.client == by { Ok(()) } else { Err(RoomRefusal::NotTheAuthor) }
    }

    /// Whether `by` may delete this message: its author, moderators and the owner.
    ///
    /// # Errors
    /// It may not.
    pub fn check_deletion(&self, message: &Message, by: ClientId) -> Result<(), RoomRefusal> {
        let member = self.member(message.room, by)?;
        let may = message.author.client == by || member.role >= RoomRole::Moderator;
        if may { Ok(()) } else { Err(RoomRefusal::ModeratorRequired) }
    }

    /// Moves a member's read mark, which never moves back. Answers the member, and whether the mark moved.
    ///
    /// # Errors
    /// The client is no member.
    pub fn mark_read(
        &mut self,
        room: RoomId,
        client: ClientId,
        message: MessageId,
    ) -> Result<(&Member, bool), RoomRefusal> {
        self.member(room, client)?;
        let member = self.members.get_mut(&(room, client)).ok_or(RoomRefusal::NotAMember)?;
        let moved = message > member.last_read;
        member.last_read = member.last_read.max(message);
        Ok((member, moved))
    }

    /// Whether the room is to be deleted when its last member has left: a private one, which nobody can see any more.
    pub fn ends_with_last_member(&self, room: RoomId) -> bool {
        self.rooms.get(&room).is_some_and(|room| room.is_private)
    }
}

/// The role of a client that joins by itself: whoever comes into an empty room owns it.
pub fn role_on_joining(is_empty: bool) -> RoomRole {
    if is_empty { RoomRole::Owner } else { RoomRole::Member }
}

/// Who owns a room after its owner: the highest role, then the longest membership. Of several that came at once always
/// the same one.
pub fn successor(candidates: impl IntoIterator<Item = Member>) -> Option<Member> {
    candidates.into_iter().max_by_key(|member| (member.role, Reverse((member.joined_at, member.who.client))))
}

/// How many rooms a client may be in (`limits.rooms_per_user`); 0 is no limit.
#[derive(Debug, Clone, Copy)]
pub struct RoomLimit(pub usize);

impl RoomLimit {
    fn allows(self, rooms: u64) -> bool {
        self.0 == 0 || rooms < self.0 as u64
    }

    /// Whether a client that has joined so many rooms may join one more. Rooms that others added it to do not count, so
    /// that nobody can use up its limit.
    pub fn allows_joining(self, joined: u64) -> bool {
        self.allows(joined)
    }

    /// Whether a client that has joined so many rooms may create one more. Rooms that it created and that have no members
    /// count as well, or whoever leaves each room at once could create any number.
    pub fn allows_creating(self, joined: u64, deserted: u64) -> bool {
        self.allows(joined + deserted)
    }

    /// Whether a client may be added to one more room: all others together may add it to as many as it may join, one of
    /// them to a tenth of that.
    pub fn allows_adding(self, by_all: u64, by_this_one: u64) -> bool {
        self.allows(by_all) && (self.0 == 0 || by_this_one < self.0.div_ceil(10) as u64)
    }
}

impl History {
    /// The newest messages for a client that joins. That there are older ones is nothing special, unless fewer came than
    /// usual.
    pub fn on_joining(self) -> Self {
        let truncated = self.truncated && (self.messages.len() as u64) < RECENT_MESSAGES;
        Self { truncated, ..self }
    }
}
