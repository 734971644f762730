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
