//! What sockets in rooms are told, in which order, and what is told when the database is late.

use std::pin::Pin;

use actix::{Arbiter, Recipient};
use chrono::DateTime;
use futures_util::FutureExt;
use serde_json::json;

use super::*;
use crate::{
    actors::journal::{Performed, testing::TestJournal},
    auth::accounts::test_accounts,
    cluster::LocalBackplane,
    delivery::testing::{Peer, worker},
    domain::{
        accounts::{Account, tests::user},
        ids::{MessageId, Role},
        rooms::{Message as ChatMessage, Room, Wanted},
    },
    settings::built_in,
    store::{Decided, test_store},
};

const ROOM: RoomId = RoomId(7);

type Asking = Pin<Box<dyn Future<Output = Answer>>>;

struct Scene {
    rooms: Rooms,
    journal: TestJournal<RoomChange>,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let (folder, store) = test_store().await;
        let (journal, changes) = TestJournal::start();
        let (accounts, clock) = (test_accounts(&store).await, Clock::default());
        let with = Dependencies {
            journal: changes,
            relays: worker(),
            backplane: Arc::new(LocalBackplane),
            store,
            accounts,
            settings: built_in().into(),
            clock,
        };
        let rooms = Rooms::start(&Arbiter::current(), with);
        Self { rooms, journal, _folder: folder }
    }

    /// Asks for a change; what comes of it is still to come.
    fn ask(&self, change: RoomChange, socket: Option<(SessionHandle, Attachment)>) -> Asking {
        let rooms = self.rooms.clone();
        let mut asking: Asking = Box::pin(async move { rooms.ask(change, socket).await });
        // it is in the RoomManager's mailbox from now on
        assert!(asking.as_mut().now_or_never().is_none());
        asking
    }

    /// Lets a socket into the room, and reads what it is told of that.
    async fn join(&self, peer: &mut Peer, account: &Account) {
        let who = account.participant();
        let socket = Some((peer.session.clone(), Attachment::Joined));
        let join = RoomChange::Join { room: ROOM, who: who.clone(), wanted: Wanted::Nothing };
        let joined = self.ask(join, socket);
        self.journal
            .write(vec![Ok(RoomOutcome::Joined { room: Arc::new(room()), who, newly: true, history: None }.into())])
            .await;
        joined.await.unwrap();
        assert_eq!(kind(peer).await, "room_joined");
        assert_eq!(kind(peer).await, "user_joined");
    }
}

fn room() -> Room {
    let created_at = DateTime::UNIX_EPOCH;
    Room { id: ROOM, name: "room".to_owned(), description: None, is_private: false, created_at }
}

async fn kind(peer: &mut Peer) -> String {
    peer.json().await["type"].as_str().unwrap().to_owned()
}

fn post(account: &Account, text: &str) -> RoomChange {
    RoomChange::Post { room: ROOM, author: account.participant(), content: text.into(), client_msg_id: None }
}

fn posted(account: &Account, id: i64, text: &str) -> Decided {
    let message = ChatMessage {
        id: MessageId(id),
        room: ROOM,
        author: account.participant(),
        content: text.into(),
        client_msg_id: None,
        created_at: DateTime::UNIX_EPOCH,
        edited_at: None,
        deleted_at: None,
    };
    Ok(RoomOutcome::Posted { message: Arc::new(message), newly: true }.into())
}

#[actix_web::test]
async fn changes_are_announced_in_order_once_they_are_written_and_what_gathers_meanwhile_is_one_batch() {
    let (scene, alice, bob) = (Scene::new().await, user("alice", Role::User), user("bob", Role::User));
    let (mut of_alice, mut of_bob) = (Peer::of(&alice).await, Peer::of(&bob).await);
    scene.join(&mut of_alice, &alice).await;
    scene.join(&mut of_bob, &bob).await;
    assert_eq!(kind(&mut of_alice).await, "user_joined");

    let first = scene.ask(post(&alice, "1"), None);
    let (changes, done) = scene.journal.batch().await;
    assert_eq!(changes.len(), 1);
    let (second, third) = (scene.ask(post(&bob, "2"), None), scene.ask(post(&alice, "3"), None));
    // typing is not stored, and does not wait
    scene.rooms.request(typing(&bob), &of_bob.session, Attachment::Joined).unwrap();
    for peer in [&mut of_alice, &mut of_bob] {
        assert_eq!(kind(peer).await, "user_typing", "nothing is told of what is not written");
    }
    done.send(Performed::Done(Ok(vec![posted(&alice, 1, "1")]))).unwrap();
    scene.journal.write(vec![posted(&bob, 2, "2"), posted(&alice, 3, "3")]).await;
    for peer in [&mut of_alice, &mut of_bob] {
        for text in ["1", "2", "3"] {
            assert_eq!(peer.json().await["content"], text);
        }
    }
    for asked in [first, second, third] {
        assert!(matches!(asked.await, Ok(RoomOutcome::Posted { .. })));
    }
}

fn typing(account: &Account) -> RoomChange {
    RoomChange::Type { room: ROOM, who: account.participant() }
}

#[actix_web::test]
async fn a_late_commit_is_announced_when_it_comes_although_nobody_waited_for_it() {
    let (scene, alice) = (Scene::new().await, user("alice", Role::User));
    let mut peer = Peer::of(&alice).await;
    scene.join(&mut peer, &alice).await;
    let asked = scene.ask(post(&alice, "late"), None);
    let (_, done) = scene.journal.batch().await;
    let (commit, outcomes) = oneshot::channel();
    done.send(Performed::Late(outcomes)).unwrap();
    assert_eq!(asked.await.unwrap_err(), RoomRefusal::DatabaseUnavailable);
    // what is asked before the commit is over would wait as long
    assert_eq!(scene.ask(post(&alice, "meanwhile"), None).await.unwrap_err(), RoomRefusal::DatabaseUnavailable);
    commit.send(Ok(vec![posted(&alice, 1, "late")])).unwrap();
    assert_eq!(peer.json().await["content"], "late");
    // and all goes on
    let asked = scene.ask(post(&alice, "next"), None);
    scene.journal.write(vec![posted(&alice, 2, "next")]).await;
    asked.await.unwrap();
    assert_eq!(peer.json().await["content"], "next");
}

#[actix_web::test]
async fn a_database_that_fails_refuses_what_was_written_and_what_waits_behind() {
    let (scene, alice) = (Scene::new().await, user("alice", Role::User));
    let first = scene.ask(post(&alice, "1"), None);
    let (_, done) = scene.journal.batch().await;
    let second = scene.ask(post(&alice, "2"), None);
    // behind the second in the mailbox
    scene.rooms.socket_counts().await.unwrap();
    done.send(Performed::Done(Err(StoreError::lost()))).unwrap();
    for asked in [first, second] {
        assert_eq!(asked.await.unwrap_err(), RoomRefusal::DatabaseUnavailable);
    }
    assert!(scene.journal.is_idle());
}

#[actix_web::test]
async fn the_end_of_a_clients_last_socket_in_a_room_is_its_absence() {
    let (scene, alice, bob) = (Scene::new().await, user("alice", Role::User), user("bob", Role::User));
    let (mut of_alice, mut first, mut second) = (Peer::of(&alice).await, Peer::of(&bob).await, Peer::of(&bob).await);
    scene.join(&mut of_alice, &alice).await;
    scene.join(&mut first, &bob).await;
    scene.join(&mut second, &bob).await;
    let gone = |peer: &Peer| SessionGone { client: bob.id, session: peer.session.clone() };
    let recipient: Recipient<SessionGone> = scene.rooms.recipient();
    for peer in [&first, &second] {
        recipient.send(gone(peer)).await.unwrap();
    }
    let mut presence = Vec::new();
    for _ in 0..4 {
        let told = of_alice.json().await;
        presence.push((told["type"].as_str().unwrap().to_owned(), told["presence"].clone()));
    }
    let expected = [
        ("user_joined", json!("online")),
        ("user_joined", json!(null)),
        ("user_disconnected", json!(null)),
        ("user_disconnected", json!("offline")),
    ];
    assert_eq!(presence, expected.map(|(kind, presence)| (kind.to_owned(), presence)));
    assert_eq!(scene.rooms.socket_counts().await.unwrap()[&ROOM], 1);
}

#[actix_web::test]
async fn a_client_that_is_no_member_any_more_has_no_sockets_in_the_room() {
    let (scene, alice, bob) = (Scene::new().await, user("alice", Role::User), user("bob", Role::User));
    let (mut of_alice, mut of_bob) = (Peer::of(&alice).await, Peer::of(&bob).await);
    scene.join(&mut of_alice, &alice).await;
    scene.join(&mut of_bob, &bob).await;
    assert_eq!(kind(&mut of_alice).await, "user_joined");
    let who = bob.participant();
    let left = scene.ask(RoomChange::Remove { room: ROOM, by: alice.id, whose: bob.id }, None);
    let outcome = RoomOutcome::Left { room: ROOM, who, removed: true, new_owner: None };
    scene.journal.write(vec![Ok(outcome.into())]).await;
    left.await.unwrap();
    assert_eq!(of_bob.json().await, json!({ "type": "room_left", "room_id": ROOM, "reason": "removed" }));
    assert_eq!(kind(&mut of_alice).await, "user_left");

    // alice has left on another node; her refused message tells it
    let asked = scene.ask(post(&alice, "late"), None);
    scene.journal.write(vec![Err(RoomRefusal::NotAMember)]).await;
    assert_eq!(asked.await.unwrap_err(), RoomRefusal::NotAMember);
    assert_eq!(of_alice.json().await, json!({ "type": "room_left", "room_id": ROOM }));
    assert!(scene.rooms.socket_counts().await.unwrap().is_empty());
}
