use std::time::Duration;

use super::*;
use crate::store::{ChangeLimits, Changes};
use crate::{
    domain::{
        ids::RoomId,
        rooms::{Placed, RoomChange, RoomOutcome, RoomRefusal, RoomRole, Wanted},
    },
    store::Decided,
};

fn create(creator: &Participant, name: &str, is_private: bool) -> RoomChange {
    RoomChange::Create { creator: creator.clone(), name: name.to_owned(), description: None, is_private }
}

fn post(room: RoomId, author: &Participant, content: &str, name: Option<&str>) -> RoomChange {
    RoomChange::Post { room, author: author.clone(), content: content.into(), client_msg_id: name.map(str::to_owned) }
}

fn join(room: RoomId, who: &Participant) -> RoomChange {
    RoomChange::Join { room, who: who.clone(), wanted: Wanted::Recent }
}

impl Fixture {
    async fn decide(&self, changes: &[RoomChange]) -> Vec<Decided> {
        self.store
            .write_journal(&[], Changes { rooms: changes, ..Changes::default() }, ChangeLimits::default())
            .await
            .unwrap()
            .rooms
            .unwrap()
    }

    async fn room(&self, creator: &Participant, is_private: bool) -> RoomId {
        match self.decide(&[create(creator, "room", is_private)]).await.remove(0) {
            Ok(Placed { outcome: RoomOutcome::Created(room), .. }) => room.id,
            other => panic!("{other:?}"),
        }
    }
}

fn message(decided: &Decided) -> (i64, bool, DateTime<Utc>) {
    match decided {
        Ok(Placed { outcome: RoomOutcome::Posted { message, newly }, .. }) => {
            (message.id.0, *newly, message.created_at)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn changes_are_decided_in_order_each_with_what_came_before_it() {
    let fixture = Fixture::new().await;
    let (anna, bert) = (participant("anna"), participant("bert"));
    let room = fixture.room(&anna, false).await;
    let decided = fixture
        .decide(&[
            create(&bert, "room", false),
            post(room, &bert, "too early", None),
            join(room, &bert),
            post(room, &bert, "now", None),
            RoomChange::Remove { room, by: anna.client, whose: bert.client },
            post(room, &bert, "too late", None),
        ])
        .await;
    assert!(matches!(decided[0], Err(RoomRefusal::NameTaken)), "{decided:?}");
    assert!(matches!(decided[1], Err(RoomRefusal::NotAMember)), "{decided:?}");
    assert!(matches!(decided[2], Ok(Placed { outcome: RoomOutcome::Joined { newly: true, .. }, .. })), "{decided:?}");
    assert!(message(&decided[3]).1);
    assert!(matches!(decided[4], Ok(Placed { outcome: RoomOutcome::Left { removed: true, .. }, .. })), "{decided:?}");
    assert!(matches!(decided[5], Err(RoomRefusal::NotAMember)), "{decided:?}");
}

#[tokio::test]
async fn a_message_that_is_posted_again_under_its_name_is_stored_once() {
    let fixture = Fixture::new().await;
    let anna = participant("anna");
    let room = fixture.room(&anna, false).await;
    let once = post(room, &anna, "hello", Some("once"));
    let decided = fixture.decide(&[once.clone(), once.clone()]).await;
    let (id, newly, at) = message(&decided[0]);
    assert_eq!((newly, at, message(&decided[1])), (true, start(), (id, false, start())));
    fixture.clock.advance(Duration::from_secs(1));
    let again = fixture.decide(&[once, post(room, &anna, "more", None)]).await;
    assert_eq!(message(&again[0]), (id, false, start()));
    let (later, _, at) = message(&again[1]);
    assert!(later > id && at == start() + TimeDelta::seconds(1));
}

#[tokio::test]
async fn the_moderator_who_has_been_there_for_longest_follows_an_owner_who_leaves() {
    let fixture = Fixture::new().await;
    let (anna, bert, carl, dora) = (participant("anna"), participant("bert"), participant("carl"), participant("dora"));
    let room = fixture.room(&anna, false).await;
    for who in [&bert, &carl, &dora] {
        fixture.clock.advance(Duration::from_secs(1));
        fixture.decide(&[join(room, who)]).await;
    }
    let moderator =
        |who: &Participant| RoomChange::SetRole { room, by: anna.client, whose: who.client, role: RoomRole::Moderator };
    fixture.decide(&[moderator(&dora), moderator(&carl)]).await;
    let owners = [(&anna, Some(&carl)), (&carl, Some(&dora)), (&dora, Some(&bert)), (&bert, None)];
    for (owner, next) in owners {
        let left = fixture.decide(&[RoomChange::Leave { room, who: owner.client }]).await.remove(0);
        let Ok(Placed { outcome: RoomOutcome::Left { new_owner, removed: false, .. }, .. }) = left else {
            panic!("{left:?}")
        };
        assert_eq!(new_owner.as_ref(), next);
    }
    // the room stays, for whoever comes
    let joined = fixture.decide(&[join(room, &bert)]).await.remove(0);
    assert!(matches!(joined, Ok(Placed { outcome: RoomOutcome::Joined { newly: true, .. }, .. })), "{joined:?}");
}

#[tokio::test]
async fn a_private_room_goes_with_its_last_member() {
    let fixture = Fixture::new().await;
    let anna = participant("anna");
    let room = fixture.room(&anna, true).await;
    let decided = fixture
        .decide(&[post(room, &anna, "hello", None), RoomChange::Leave { room, who: anna.client }, join(room, &anna)])
        .await;
    assert!(matches!(decided[1], Ok(Placed { outcome: RoomOutcome::Left { new_owner: None, .. }, .. })), "{decided:?}");
    assert!(matches!(decided[2], Err(RoomRefusal::NoSuchRoom)), "{decided:?}");
}

#[tokio::test]
async fn a_deleted_device_comes_into_no_room() {
    let fixture = Fixture::new().await;
    let (anna, device) = (participant("anna"), participant("device"));
    let room = fixture.room(&anna, false).await;
    fixture.device(device.client).await;
    let add = RoomChange::Add { room, by: anna.client, who: device.clone(), role: RoomRole::Member };
    let changes = [create(&device, "its own", true), join(room, &device), add];
    fixture.store.delete_device(device.client).await.unwrap().unwrap();
    let decided = fixture.decide(&changes).await;
    for by_itself in &decided[..2] {
        assert!(matches!(by_itself, Err(RoomRefusal::ClientDeleted)), "{decided:?}");
    }
    assert!(matches!(decided[2], Err(RoomRefusal::NoSuchMember)), "{decided:?}");
    assert_eq!(fixture.store.rooms_of(device.client).await.unwrap(), []);
    fixture.device(device.client).await;
    for decided in fixture.decide(&changes[..2]).await {
        assert!(decided.is_ok(), "{decided:?}");
    }
}
