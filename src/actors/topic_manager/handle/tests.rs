//! Subscriptions that something else overtakes, and publications that wait for other nodes.

use std::time::Instant;

use actix::Arbiter;
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::{
    actors::{
        journal::testing::TestJournal,
        topic_manager::{
            FromNodes,
            messages::{ClientDeleted, PresenceChanged, Publish},
        },
    },
    auth::accounts::test_accounts,
    cluster::elsewhere::{ClientState, Elsewhere},
    delivery::testing::{Peer, worker},
    domain::{
        accounts::{
            Holder,
            tests::{device, user},
        },
        ids::Role,
        topics::{
            TopicRefusal,
            history::{Append, Beginning},
        },
    },
    settings,
    store::{ChangeLimits, Changes, test_store},
};

/// What happens between the two checks of a subscription: then the other nodes are told.
enum Meanwhile {
    Nothing,
    TopicDeleted(Store, &'static str, ClientId),
    AccountChanged(Arc<Accounts>, Account),
}

#[async_trait]
impl Backplane for Meanwhile {
    async fn announced(&self) {
        match self {
            Self::Nothing => {}
            Self::TopicDeleted(store, topic, creator) => {
                assert!(store.delete_topic(topic, *creator).await.unwrap());
            }
            Self::AccountChanged(accounts, account) => {
                accounts.put(account.clone());
            }
        }
    }
}

/// Other nodes of which this is known.
struct OtherNodes(Arc<Elsewhere>);

#[async_trait]
impl Backplane for OtherNodes {
    fn elsewhere(&self) -> &Elsewhere {
        &self.0
    }
}

fn topics(store: &Store, accounts: &Arc<Accounts>, backplane: impl Backplane) -> Topics {
    let dependencies = Dependencies {
        directory: Arc::new(Directory::default()),
        relays: worker(),
        backplane: Arc::new(backplane),
        store: store.clone(),
        accounts: accounts.clone(),
        journal: TestJournal::start().1,
        clock: Clock::default(),
        settings: settings::built_in().into(),
    };
    Topics::start(&Arbiter::current(), dependencies)
}

#[actix_web::test]
async fn a_subscription_to_a_topic_that_is_deleted_meanwhile_ends() {
    let ((_folder, store), alice) = (test_store().await, device("alice"));
    let accounts = test_accounts(&store).await;
    accounts.put(alice.clone());
    let topics = topics(&store, &accounts, Meanwhile::TopicDeleted(store.clone(), "weather", alice.id));
    let topic = TopicId::from("weather");
    topics.create(&topic, &alice, json!({}), None).await.unwrap();
    assert!(matches!(topics.subscribe(&alice, &topic).await, Err(TopicError::NotFound)));
    assert!(topics.subscribers(&topic).await.unwrap().is_empty());
}

#[actix_web::test]
async fn a_subscription_of_a_device_that_is_deleted_meanwhile_ends() {
    let (_folder, store) = test_store().await;
    let accounts = test_accounts(&store).await;
    for is_registered_again in [false, true] {
        let alice = device("alice");
        accounts.put(alice.clone());
        let holder = Holder::Device { name: String::new(), gateway_id: None, incarnation: 1 };
        let now = Account { version: 1, is_deleted: !is_registered_again, holder, ..alice.clone() };
        let topics = topics(&store, &accounts, Meanwhile::AccountChanged(accounts.clone(), now));
        let topic = TopicId::from(format!("weather {is_registered_again}").as_str());
        topics.create(&topic, &alice, json!({}), None).await.unwrap();
        assert!(matches!(topics.subscribe(&alice, &topic).await, Err(TopicError::ClientDeleted)));
        assert!(topics.subscribers(&topic).await.unwrap().is_empty());
    }
}

#[actix_web::test]
async fn a_subscription_to_status_of_an_operator_who_loses_the_role_meanwhile_ends() {
    let ((_folder, store), boss) = (test_store().await, user("boss", Role::Operator));
    let accounts = test_accounts(&store).await;
    let demoted = Account { version: 1, holder: user("boss", Role::User).holder, ..boss.clone() };
    let topics = topics(&store, &accounts, Meanwhile::AccountChanged(accounts.clone(), demoted));
    let topic = TopicId::from(TopicId::STATUS);
    let refused = topics.subscribe(&boss, &topic).await;
    assert!(matches!(refused, Err(TopicError::Refused(TopicRefusal::OperatorRequired))));
    assert!(topics.subscribers(&topic).await.unwrap().is_empty());
}

#[actix_web::test]
async fn a_subscriber_that_begins_anew_gets_the_history_once() {
    let ((_folder, store), alice) = (test_store().await, device("alice"));
    let accounts = test_accounts(&store).await;
    accounts.put(alice.clone());
    let topics = topics(&store, &accounts, Meanwhile::Nothing);
    let topic = TopicId::from("weather");
    let retention = Retention { size: 10, ttl_secs: None };
    topics.create(&topic, &alice, json!({}), Some(retention)).await.unwrap();
    let appends: Vec<_> = (1..=3)
        .map(|number| json!({ "number": number }).to_string().into())
        .map(|message| Append { topic: topic.clone(), message: Some(message) })
        .collect();
    let changes = Changes { appends: &appends, ..Changes::default() };
    let limits = ChangeLimits { topic_history_bytes: 1000, ..ChangeLimits::default() };
    store.write_journal(&[], changes, limits).await.unwrap();
    let mut peer = Peer::of(&alice).await;
    let presence = PresenceChanged { client: alice.id, subscriber: Some(peer.session.clone()), is_connected: true };
    topics.manager.send(presence).await.unwrap();
    // nothing is read meanwhile
    let parts = topics.parts.acquire_many(catch_up::PARTS as u32).await.unwrap();
    for attempt in 1..=3 {
        let (session, answer) = (peer.session.clone(), json!({ "attempt": attempt }).to_string());
        topics.subscribe_from(&alice, &topic, Beginning::Last(10), |_| (session, answer)).await.unwrap();
        assert_eq!(peer.json().await["attempt"], attempt);
    }
    drop(parts);
    for number in 1..=3 {
        assert_eq!(peer.json().await["number"], number);
    }
    // after all that waited for it
    let _parts = topics.parts.acquire_many(catch_up::PARTS as u32).await.unwrap();
    topics.relays.deliver(&peer.session, &[br#"{"number":"end"}"#]);
    assert_eq!(peer.json().await["number"], "end");
}

#[actix_web::test]
async fn a_publication_waits_only_for_congested_nodes_with_subscribers_of_its_topic() {
    let ((_folder, store), alice) = (test_store().await, device("alice"));
    let accounts = test_accounts(&store).await;
    accounts.put(alice.clone());
    let (elsewhere, node) = (Arc::new(Elsewhere::default()), Uuid::from_u128(1));
    let topics = topics(&store, &accounts, OtherNodes(elsewhere.clone()));
    for topic in ["weather", "other"] {
        topics.create(&TopicId::from(topic), &alice, json!({}), None).await.unwrap();
        assert!(topics.known.find(&TopicId::from(topic)).await.is_ok());
    }
    elsewhere.put_interest(node, "weather", false, 1);
    elsewhere.congested().put(node, true, Instant::now());
    let peer = Peer::of(&alice).await;
    let publish = |topic: &str| {
        let (frame, msgid) = (Bytes::new(), "1".to_owned());
        let (topic, session) = (TopicId::from(topic), peer.session.clone());
        topics.publish(Publish { client: alice.id, session, topic, msgid, frame, has_offset: false, place: None })
    };
    assert!(publish("other").is_ok());
    assert!(matches!(publish("weather"), Err(NotPublished::NotNow(_))));
    elsewhere.congested().put(node, false, Instant::now());
    assert!(publish("weather").is_ok());
}

#[actix_web::test]
async fn the_subscriptions_of_a_deleted_client_are_handed_over_to_no_other_node() {
    let ((_folder, store), alice) = (test_store().await, device("alice"));
    let accounts = test_accounts(&store).await;
    accounts.put(alice.clone());
    let (elsewhere, node) = (Arc::new(Elsewhere::default()), Uuid::from_u128(1));
    let topics = topics(&store, &accounts, OtherNodes(elsewhere.clone()));
    let topic = TopicId::from("weather");
    topics.create(&topic, &alice, json!({}), None).await.unwrap();
    let peer = Peer::of(&alice).await;
    let gone = || PresenceChanged { client: alice.id, subscriber: None, is_connected: false };
    for is_deleted in [false, true] {
        let presence = PresenceChanged { subscriber: Some(peer.session.clone()), is_connected: true, ..gone() };
        topics.manager.send(presence).await.unwrap();
        elsewhere.put(node, ClientState::gone(alice.id.uuid()));
        topics.subscribe(&alice, &topic).await.unwrap();
        elsewhere.put(node, ClientState { sessions: 1, chat: 1, ..ClientState::gone(alice.id.uuid()) });
        if is_deleted {
            topics.manager.send(ClientDeleted { client: alice.id, incarnation: 1 }).await.unwrap();
        }
        topics.manager.send(gone()).await.unwrap();
        assert_eq!(topics.manager.send(GetSubscribers(topic.clone())).await.unwrap(), []);
        assert_eq!(elsewhere.is_subscribed("weather"), !is_deleted);
        elsewhere.put_interest(node, "weather", false, 0);
    }
}

#[actix_web::test]
async fn subscriptions_that_come_for_a_client_that_has_gone_on_to_a_third_node_go_there() {
    let ((_folder, store), alice) = (test_store().await, device("alice"));
    let accounts = test_accounts(&store).await;
    let (elsewhere, [from, third]) = (Arc::new(Elsewhere::default()), [1, 2].map(Uuid::from_u128));
    let topics = topics(&store, &accounts, OtherNodes(elsewhere.clone()));
    for (at, stays) in [(from, true), (third, false)] {
        elsewhere.put(at, ClientState { sessions: 1, chat: 1, ..ClientState::gone(alice.id.uuid()) });
        let ids = vec![("weather".to_owned(), false)];
        topics.manager.send(FromNodes::Subscriptions { node: from, client: alice.id.uuid(), ids }).await.unwrap();
        let here = topics.manager.send(GetSubscribers(TopicId::from("weather"))).await.unwrap();
        assert_eq!((here.contains(&alice.id), elsewhere.is_subscribed("weather")), (stays, !stays));
        elsewhere.put(at, ClientState::gone(alice.id.uuid()));
    }
}

#[actix_web::test]
async fn a_subscriber_is_told_when_its_topic_was_deleted_at_another_node_before_it_has_got_the_history() {
    let ((_folder, store), alice) = (test_store().await, device("alice"));
    let accounts = test_accounts(&store).await;
    accounts.put(alice.clone());
    let topics = topics(&store, &accounts, Meanwhile::Nothing);
    let topic = TopicId::from("weather");
    let mut peer = Peer::of(&alice).await;
    let presence = PresenceChanged { client: alice.id, subscriber: Some(peer.session.clone()), is_connected: true };
    topics.manager.send(presence).await.unwrap();
    for is_created_again in [false, true] {
        let retention = Retention { size: 10, ttl_secs: None };
        topics.create(&topic, &alice, json!({}), Some(retention)).await.unwrap();
        let parts = topics.parts.acquire_many(catch_up::PARTS as u32).await.unwrap();
        let (session, answer) = (peer.session.clone(), json!({ "type": "subscribed" }).to_string());
        topics.subscribe_from(&alice, &topic, Beginning::Last(10), |_| (session, answer)).await.unwrap();
        // the TopicManager has not heard of it yet
        assert!(store.delete_topic("weather", alice.id).await.unwrap());
        if is_created_again {
            topics.create(&topic, &alice, json!({}), Some(retention)).await.unwrap();
        }
        drop(parts);
        assert_eq!(peer.json().await["type"], "subscribed");
        assert_eq!(peer.json().await, json!({ "type": "topic_deleted", "topic_id": "weather" }));
        assert!(topics.subscribers(&topic).await.unwrap().is_empty());
    }
    // and is not told again when that is heard of
    topics.manager.send(TopicDeleted(topic)).await.unwrap();
    topics.relays.deliver(&peer.session, &[br#"{"type":"end"}"#]);
    assert_eq!(peer.json().await["type"], "end");
}
