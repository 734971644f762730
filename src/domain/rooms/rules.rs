//! Who may do what in rooms, and who owns them. The store loads what a decision needs and stores what it leads to.

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

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;
    use crate::domain::rooms::Participant;

    const ROOM: RoomId = RoomId(1);

    fn member(role: RoomRole, joined_secs: i64) -> Member {
        Member {
            who: Participant { client: ClientId::random(), user_id: None, username: "somebody".into() },
            role,
            joined_at: DateTime::UNIX_EPOCH + TimeDelta::seconds(joined_secs),
            last_read: MessageId(0),
            added_by: None,
        }
    }

    /// A room with an owner, two moderators and two members.
    struct Scene {
        memberships: Memberships,
        owner: ClientId,
        moderators: [ClientId; 2],
        members: [ClientId; 2],
        stranger: ClientId,
    }

    fn scene(is_private: bool) -> Scene {
        let mut memberships = Memberships::default();
        memberships.put_room(Arc::new(Room {
            id: ROOM,
            name: "room".to_owned(),
            description: None,
            is_private,
            created_at: DateTime::UNIX_EPOCH,
        }));
        let mut put = |role| {
            let member = member(role, 0);
            let client = member.who.client;
            memberships.put(ROOM, member);
            client
        };
        let owner = put(RoomRole::Owner);
        let moderators = [put(RoomRole::Moderator), put(RoomRole::Moderator)];
        let members = [put(RoomRole::Member), put(RoomRole::Member)];
        Scene { memberships, owner, moderators, members, stranger: ClientId::random() }
    }

    fn message(author: ClientId) -> Message {
        Message {
            id: MessageId(1),
            room: ROOM,
            author: Participant { client: author, user_id: None, username: "author".into() },
            content: "text".into(),
            client_msg_id: None,
            created_at: DateTime::UNIX_EPOCH,
            edited_at: None,
            deleted_at: None,
        }
    }

    #[test]
    fn a_private_room_exists_for_its_members_alone() {
        let Scene { memberships, members, stranger, .. } = scene(true);
        assert!(memberships.room(ROOM, members[0]).is_ok());
        assert_eq!(memberships.room(ROOM, stranger).unwrap_err(), RoomRefusal::NoSuchRoom);
        assert_eq!(memberships.member(ROOM, stranger).unwrap_err(), RoomRefusal::NoSuchRoom);
        let Scene { memberships, stranger, .. } = scene(false);
        assert!(memberships.room(ROOM, stranger).is_ok());
        assert_eq!(memberships.member(ROOM, stranger).unwrap_err(), RoomRefusal::NotAMember);
        assert_eq!(memberships.room(RoomId(2), stranger).unwrap_err(), RoomRefusal::NoSuchRoom);
    }

    #[test]
    fn the_owner_alone_adds_members_and_gives_roles_but_keeps_its_own() {
        let Scene { memberships, owner, moderators, members, stranger } = scene(false);
        assert_eq!(memberships.check_addition(ROOM, owner), Ok(()));
        assert!(memberships.check_role_change(ROOM, owner, moderators[0]).is_ok());
        for other in [moderators[0], members[0]] {
            assert_eq!(memberships.check_addition(ROOM, other), Err(RoomRefusal::OwnerRequired));
            let refused = memberships.check_role_change(ROOM, other, members[1]);
            assert_eq!(refused.unwrap_err(), RoomRefusal::OwnerRequired);
        }
        let refused = |whose| memberships.check_role_change(ROOM, owner, whose).unwrap_err();
        assert_eq!(refused(owner), RoomRefusal::OwnerStays);
        assert_eq!(refused(stranger), RoomRefusal::NoSuchMember);
        assert_eq!(memberships.check_addition(ROOM, stranger), Err(RoomRefusal::NotAMember));
    }

    #[test]
    fn members_are_removed_by_those_of_a_higher_role() {
        let Scene { memberships, owner, moderators, members, stranger } = scene(false);
        assert!(memberships.check_removal(ROOM, owner, moderators[0]).is_ok());
        assert!(memberships.check_removal(ROOM, owner, members[0]).is_ok());
        assert!(memberships.check_removal(ROOM, moderators[0], members[0]).is_ok());
        let refused = |by, whose| memberships.check_removal(ROOM, by, whose).unwrap_err();
        assert_eq!(refused(moderators[0], moderators[1]), RoomRefusal::HigherRoleRequired);
        assert_eq!(refused(moderators[0], owner), RoomRefusal::HigherRoleRequired);
        assert_eq!(refused(members[0], members[1]), RoomRefusal::ModeratorRequired);
        assert_eq!(refused(owner, owner), RoomRefusal::OwnerStays);
        assert_eq!(refused(owner, stranger), RoomRefusal::NoSuchMember);
        assert_eq!(refused(stranger, members[0]), RoomRefusal::NotAMember);
    }

    #[test]
    fn a_message_is_edited_by_its_author_and_deleted_by_moderators_too() {
        let Scene { mut memberships, owner, moderators, members: [author, other], stranger } = scene(false);
        let mut said = message(author);
        assert_eq!(memberships.check_edit(&said, author), Ok(()));
        assert_eq!(memberships.check_edit(&said, owner), Err(RoomRefusal::NotTheAuthor));
        for by in [author, moderators[0], owner] {
            assert_eq!(memberships.check_deletion(&said, by), Ok(()));
        }
        assert_eq!(memberships.check_deletion(&said, other), Err(RoomRefusal::ModeratorRequired));
        assert_eq!(memberships.check_deletion(&said, stranger), Err(RoomRefusal::NotAMember));
        said.deleted_at = Some(DateTime::UNIX_EPOCH);
        assert_eq!(memberships.check_edit(&said, author), Err(RoomRefusal::NoSuchMessage));
        // whoever has left has no say about its own messages
        memberships.remove(ROOM, author);
        assert_eq!(memberships.check_deletion(&said, author), Err(RoomRefusal::NotAMember));
    }

    #[test]
    fn a_read_mark_never_moves_back() {
        let Scene { mut memberships, members: [reader, _], stranger, .. } = scene(false);
        let mut mark = |id| {
            let (member, moved) = memberships.mark_read(ROOM, reader, MessageId(id)).unwrap();
            (member.last_read.0, moved)
        };
        assert_eq!([mark(5), mark(3), mark(5), mark(6)], [(5, true), (5, false), (5, false), (6, true)]);
        let refused = memberships.mark_read(ROOM, stranger, MessageId(1));
        assert_eq!(refused.unwrap_err(), RoomRefusal::NotAMember);
    }

    #[test]
    fn a_room_passes_to_the_moderator_else_the_member_who_was_there_for_longest() {
        let (old, older) = (member(RoomRole::Member, 1), member(RoomRole::Member, 0));
        let (young, younger) = (member(RoomRole::Moderator, 5), member(RoomRole::Moderator, 6));
        let next = |candidates: &[&Member]| successor(candidates.iter().copied().cloned()).map(|next| next.who.client);
        assert_eq!(next(&[&old, &older]), Some(older.who.client));
        assert_eq!(next(&[&older, &younger, &young]), Some(young.who.client));
        assert_eq!(next(&[]), None);
        // those who came at once
        let (one, other) = (member(RoomRole::Member, 0), member(RoomRole::Member, 0));
        assert_eq!(next(&[&one, &other]), next(&[&other, &one]));
        assert_eq!((role_on_joining(true), role_on_joining(false)), (RoomRole::Owner, RoomRole::Member));
    }

    #[test]
    fn a_private_room_ends_with_its_last_member() {
        assert!(scene(true).memberships.ends_with_last_member(ROOM));
        assert!(!scene(false).memberships.ends_with_last_member(ROOM));
    }

    #[test]
    fn the_limit_of_rooms_counts_those_joined_created_and_added_to_apart() {
        let limit = RoomLimit(20);
        assert!(limit.allows_joining(19) && !limit.allows_joining(20));
        assert!(limit.allows_creating(10, 9) && !limit.allows_creating(10, 10));
        assert!(limit.allows_adding(19, 1) && !limit.allows_adding(20, 0) && !limit.allows_adding(2, 2));
        // one at least
        assert!(RoomLimit(1).allows_adding(0, 0));
        let none = RoomLimit(0);
        assert!(none.allows_joining(1000) && none.allows_creating(1000, 1000) && none.allows_adding(1000, 1000));
    }
}
