//! What subscribers and publishers get from the TopicManager, and in which order.

use actix::{Actor, Addr};
use chrono::DateTime;
use serde_json::{Value, json};

use super::{
    messages::{GetCounts, GetSubscribers},
    *,
};
use crate::{
    cluster::LocalBackplane,
    delivery::{
        Mark, SessionKind,
        testing::{Peer, worker},
    },
    domain::{
        accounts::{
            Account,
            tests::{device, user},
        },
        ids::{ClientId, ClientKind, Role},
    },
    protocol::{close_code::CloseCode, outbound::StatusEvent},
    store::test_store,
};

struct Scene {
    manager: Addr<TopicManager>,
    directory: Arc<Directory>,
    store: Store,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let (folder, store) = test_store().await;
        let directory = Arc::new(Directory::default());
        let (backplane, wait) = (Arc::new(LocalBackplane), Duration::from_secs(60));
        let manager =
            TopicManager::new(directory.clone(), worker(), backplane, store.clone(), Clock::default(), (2, 3), wait);
        let manager = manager.start();
        Self { manager, directory, store, _folder: folder }
    }

    async fn subscribe(&self, account: &Account, topic: &str) -> Result<(), CannotSubscribe> {
        self.manager.send(Subscribe { client: account.id, topic: topic.into() }).await.unwrap()
    }

    async fn connect(&self, peer: &Peer, account: &Account) {
        let subscriber = Some(peer.session.clone());
        self.manager.send(PresenceChanged { client: account.id, subscriber, is_connected: true }).await.unwrap();
    }

    async fn subscribers(&self, topic: &str) -> Vec<ClientId> {
        self.manager.send(GetSubscribers(topic.into())).await.unwrap()
    }

    fn publish(&self, peer: &Peer, account: &Account, topic: &str, msgid: &str) {
        self.manager.do_send(Publish {
            client: account.id,
            session: peer.session.clone(),
            topic: topic.into(),
            msgid: msgid.to_owned(),
            frame: wire::text(&[msgid.as_bytes()]),
        });
    }
}

fn told(frame: &Value) -> (&str, &str) {
    let kind = frame["code"].as_str().or(frame["type"].as_str());
    (kind.unwrap(), frame["msgid"].as_str().unwrap())
}

#[actix_web::test]
async fn a_subscription_waits_for_its_client_and_ends_with_its_last_session() {
    let (scene, alice, bob) = (Scene::new().await, device("alice"), device("bob"));
    let (mut sender, mut reader) = (Peer::of(&alice).await, Peer::of(&bob).await);
    scene.subscribe(&alice, "t").await.unwrap();
    scene.subscribe(&bob, "t").await.unwrap();
    scene.connect(&sender, &alice).await;
    scene.publish(&sender, &alice, "t", "before");
    assert_eq!(sender.json().await["message"], "Message sent to 0 subscribers");
    scene.connect(&reader, &bob).await;
    scene.publish(&sender, &alice, "t", "after");
    assert_eq!(reader.next().await, "after");
    assert_eq!(sender.json().await["message"], "Message sent to 1 subscribers");

    let gone = PresenceChanged { client: bob.id, subscriber: None, is_connected: false };
    scene.manager.send(gone).await.unwrap();
    assert_eq!(scene.subscribers("t").await, [alice.id]);
    assert_eq!(scene.manager.send(GetCounts).await.unwrap()[&TopicId::from("t")], 1);
}

#[actix_web::test]
async fn subscriptions_are_limited_by_client_and_while_they_wait() {
    let (scene, alice, bob, carol) = (Scene::new().await, device("alice"), device("bob"), device("carol"));
    for topic in ["a", "b"] {
        scene.subscribe(&alice, topic).await.unwrap();
    }
    assert_eq!(scene.subscribe(&alice, "c").await, Err(CannotSubscribe::TooMany));
    scene.subscribe(&bob, "a").await.unwrap();
    assert_eq!(scene.subscribe(&carol, "a").await, Err(CannotSubscribe::TooManyWaiting));
    // a client that is there does not wait
    scene.connect(&Peer::of(&carol).await, &carol).await;
    scene.subscribe(&carol, "a").await.unwrap();
    let unsubscribe = Unsubscribe { client: alice.id, topic: "a".into() };
    scene.manager.send(unsubscribe).await.unwrap();
    scene.subscribe(&alice, "c").await.unwrap();
}

#[actix_web::test]
async fn a_refusal_that_waits_for_the_database_keeps_its_place_among_receipts_and_marks() {
    let (scene, alice) = (Scene::new().await, device("alice"));
    let mut sender = Peer::of(&alice).await;
    scene.subscribe(&alice, "own").await.unwrap();
    scene.connect(&sender, &alice).await;
    scene.store.create_topic(&"others".into(), alice.id, json!({}), 0).await.unwrap();
    // the database is asked about the first and the third
    let (mark, passed) = Mark::new();
    scene.publish(&sender, &alice, "missing", "1");
    scene.publish(&sender, &alice, "own", "2");
    scene.publish(&sender, &alice, "others", "3");
    scene.publish(&sender, &alice, "own", "4");
    scene.manager.do_send(MarkPublished { session: sender.session.clone(), mark });
    let expected = [("topic_not_found", "1"), ("topic_sent", "2"), ("not_subscribed", "3"), ("topic_sent", "4")];
    for expected in expected {
        assert_eq!(told(&sender.json().await), expected);
    }
    // ends with an error, since nothing is sent
    passed.await.unwrap_err();
}

#[actix_web::test]
async fn the_session_that_was_replaced_gets_what_was_published_before_it_is_closed() {
    let (scene, alice, bob) = (Scene::new().await, device("alice"), device("bob"));
    let (sender, mut old, mut new) = (Peer::of(&alice).await, Peer::of(&bob).await, Peer::of(&bob).await);
    for account in [&alice, &bob] {
        scene.subscribe(account, "t").await.unwrap();
    }
    scene.connect(&sender, &alice).await;
    scene.connect(&old, &bob).await;
    scene.publish(&sender, &alice, "t", "first");
    scene.connect(&new, &bob).await;
    scene.manager.do_send(CloseReplaced { session: old.session.clone(), code: CloseCode::Replaced });
    scene.publish(&sender, &alice, "t", "second");
    assert_eq!([old.next().await, old.next().await, new.next().await], ["first", "close 4409", "second"]);
}

#[actix_web::test]
async fn subscribers_of_a_deleted_topic_are_told_and_no_longer_subscribed() {
    let (scene, alice) = (Scene::new().await, device("alice"));
    let mut peer = Peer::of(&alice).await;
    scene.subscribe(&alice, "t").await.unwrap();
    scene.connect(&peer, &alice).await;
    scene.manager.send(TopicDeleted("t".into())).await.unwrap();
    assert_eq!(peer.json().await, json!({ "type": "topic_deleted", "topic_id": "t" }));
    assert!(scene.subscribers("t").await.is_empty());
    scene.publish(&peer, &alice, "t", "late");
    assert_eq!(told(&peer.json().await), ("topic_not_found", "late"));
}

#[actix_web::test]
async fn operators_who_observe_hear_of_every_client_but_themselves() {
    let (scene, boss, other) = (Scene::new().await, user("boss", Role::Operator), device("other"));
    let mut peer = Peer::of(&boss).await;
    scene.directory.join_for_test(&boss, SessionKind::Agent, &peer.session);
    scene.subscribe(&boss, TopicId::STATUS).await.unwrap();
    for account in [&boss, &other] {
        let (id, kind, name) = (account.id, ClientKind::Device, account.name().to_owned());
        scene.manager.do_send(Announce(StatusEvent::Client {
            id,
            kind,
            name,
            is_connected: true,
            at: DateTime::UNIX_EPOCH,
        }));
    }
    let heard = peer.json().await;
    assert_eq!((&heard["event"], &heard["uuid"]), (&json!("client_connected"), &json!(other.id)));
    // and nobody publishes there
    scene.publish(&peer, &boss, TopicId::STATUS, "fake");
    assert_eq!(told(&peer.json().await), ("not_subscribed", "fake"));
}
