//! What subscribers and publishers get from the TopicManager, and in which order.

use actix::Addr;
use chrono::DateTime;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    messages::{GetCounts, GetSubscribers, MarkPublished},
    *,
};
use crate::{
    actors::journal::{Performed, testing::TestJournal},
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
        subscriptions::Subscription,
        topics::{
            history::{AppendRefusal, Appended, Kept},
            pattern::Pattern,
        },
    },
    protocol::{close_code::CloseCode, outbound::StatusEvent},
    settings::built_in,
    store::{StoreError, test_store},
};

struct Scene {
    manager: Addr<TopicManager>,
    directory: Arc<Directory>,
    journal: TestJournal<Append>,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self::with_join(Duration::from_secs(3600)).await
    }

    /// With a time for which a batch waits for the next one at most.
    async fn with_join(join: Duration) -> Self {
        let directory = Arc::new(Directory::default());
        let (journal, changes) = TestJournal::start();
        let (folder, store) = test_store().await;
        let mut settings = built_in();
        (settings.limits.subscriptions_per_client, settings.limits.waiting_subscriptions) = (2, 3);
        settings.sessions.subscription_wait_secs = 60;
        let mut manager = TopicManager::new(
            directory.clone(),
            worker(),
            Arc::new(LocalBackplane),
            (changes, Arc::new(KnownTopics::new(store.clone(), None)), store),
            Clock::default(),
            settings.into(),
        );
        manager.queue.join = join;
        let manager = Context::start(manager);
        Self { manager, directory, journal, _folder: folder }
    }

    async fn subscribe(&self, account: &Account, topic: &str) -> Result<(), CannotSubscribe> {
        let subscription = Subscription::Topic(topic.into());
        self.manager.send(Subscribe { client: account.id, subscription, newest: None }).await.unwrap()
    }

    async fn connect(&self, peer: &Peer, account: &Account) {
        let subscriber = Some(peer.session.clone());
        self.manager.send(PresenceChanged { client: account.id, subscriber, is_connected: true }).await.unwrap();
    }

    /// Subscribers for which a publication waits for the next batch.
    async fn many_readers(&self, topic: &str) -> Vec<Peer> {
        let mut readers = Vec::new();
        for _ in 0..publishing::MANY {
            let account = device("reader");
            let reader = Peer::of(&account).await;
            self.connect(&reader, &account).await;
            self.subscribe(&account, topic).await.unwrap();
            readers.push(reader);
        }
        readers
    }

    async fn subscribers(&self, topic: &str) -> Vec<ClientId> {
        self.manager.send(GetSubscribers(topic.into())).await.unwrap()
    }

    fn publish(&self, peer: &Peer, account: &Account, topic: &str, msgid: &str) {
        self.manager.do_send(publication(peer, account, topic, msgid));
    }

    /// Publishes to a topic with a history.
    async fn publish_to_history(&self, peer: &Peer, account: &Account, topic: &str, msgid: &str) {
        let place = Places::default().try_take(1);
        let frame = wire::text(&[json!({ "msgid": msgid }).to_string().as_bytes()]);
        self.manager.do_send(Publish { frame, place, ..publication(peer, account, topic, msgid) });
    }
}

fn publication(peer: &Peer, account: &Account, topic: &str, msgid: &str) -> Publish {
    Publish {
        client: account.id,
        session: peer.session.clone(),
        topic: topic.into(),
        msgid: msgid.to_owned(),
        frame: wire::text(&[msgid.as_bytes()]),
        has_offset: false,
        place: None,
    }
}

fn told(frame: &Value) -> (&str, &str) {
    let kind = frame["code"].as_str().or(frame["type"].as_str());
    (kind.unwrap(), frame["msgid"].as_str().unwrap())
}

/// The outcome of a publication that is kept with this offset.
fn kept(offset: i64) -> Appended {
    Ok(Some(Kept { history: 1, offset }))
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
    let counts = scene.manager.send(GetCounts(vec!["s".to_owned(), "t".to_owned()])).await.unwrap();
    assert_eq!(counts, [0, 1]);
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
    let unsubscribe = Unsubscribe { client: alice.id, id: "a".into() };
    scene.manager.send(unsubscribe).await.unwrap();
    scene.subscribe(&alice, "c").await.unwrap();
}

#[actix_web::test]
async fn a_client_whose_subscriptions_match_twice_gets_a_publication_once_and_counts_once() {
    let (scene, alice, bob) = (Scene::new().await, device("alice"), device("bob"));
    let (mut sender, mut reader) = (Peer::of(&alice).await, Peer::of(&bob).await);
    scene.connect(&sender, &alice).await;
    scene.connect(&reader, &bob).await;
    scene.subscribe(&bob, "a/b").await.unwrap();
    for (account, pattern) in [(&alice, "a/+"), (&bob, "#")] {
        let subscription = Subscription::Pattern(Pattern::parse(pattern.into()).unwrap());
        scene.manager.send(Subscribe { client: account.id, subscription, newest: None }).await.unwrap().unwrap();
    }
    scene.publish(&sender, &alice, "a/b", "first");
    assert_eq!(sender.json().await["message"], "Message sent to 1 subscribers");
    scene.manager.send(TopicDeleted("a/b".into())).await.unwrap();
    scene.publish(&sender, &alice, "a/c", "second");
    assert_eq!(reader.next().await, "first");
    assert_eq!(reader.json().await["type"], "topic_deleted");
    assert_eq!(reader.next().await, "second");
    let mut subscribers = scene.subscribers("a/b").await;
    subscribers.sort_unstable();
    let mut both = [alice.id, bob.id];
    both.sort_unstable();
    assert_eq!(subscribers, both);
    scene.publish(&sender, &alice, "b", "third");
    assert_eq!(sender.json().await["type"], "topic_deleted");
    assert_eq!(sender.json().await["type"], "topic_sent");
    assert_eq!(told(&sender.json().await), ("not_subscribed", "third"));
}

#[actix_web::test]
async fn who_loses_the_role_loses_the_subscriptions_that_include_status() {
    let (scene, boss) = (Scene::new().await, user("boss", Role::Operator));
    let pattern = Subscription::Pattern(Pattern::parse("$status/#".into()).unwrap());
    scene.manager.send(Subscribe { client: boss.id, subscription: pattern, newest: None }).await.unwrap().unwrap();
    scene.subscribe(&boss, "weather").await.unwrap();
    assert_eq!(scene.subscribers(TopicId::STATUS).await, [boss.id]);
    let demoted = Account { holder: user("boss", Role::User).holder, ..boss.clone() };
    scene.manager.send(AccountChanged(Arc::new(demoted))).await.unwrap();
    assert!(scene.subscribers(TopicId::STATUS).await.is_empty());
    assert_eq!(scene.subscribers("weather").await, [boss.id]);
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
    assert_eq!(told(&peer.json().await), ("not_subscribed", "late"));
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

#[actix_web::test]
async fn a_publication_with_a_history_is_seen_once_it_is_stored_and_nothing_of_its_sender_overtakes_it() {
    let (scene, alice, bob) = (Scene::new().await, device("alice"), device("bob"));
    let (mut sender, mut reader, mut other) = (Peer::of(&alice).await, Peer::of(&bob).await, Peer::of(&bob).await);
    for (peer, account) in [(&sender, &alice), (&reader, &bob)] {
        scene.subscribe(account, "kept").await.unwrap();
        scene.subscribe(account, "plain").await.unwrap();
        scene.connect(peer, account).await;
    }
    scene.publish_to_history(&sender, &alice, "kept", "1").await;
    let (changes, done) = scene.journal.batch().await;
    scene.publish(&sender, &alice, "plain", "2");
    scene.publish(&sender, &alice, "elsewhere", "3");
    let (mark, passed) = Mark::new();
    scene.manager.do_send(MarkPublished { session: sender.session.clone(), mark });
    // another session does not wait
    scene.publish(&other, &bob, "plain", "at once");
    assert_eq!(told(&other.json().await), ("topic_sent", "at once"));
    for peer in [&mut sender, &mut reader] {
        assert_eq!(peer.next().await, "at once");
    }
    assert_eq!(changes[0].message.as_deref(), Some(json!({ "msgid": "1" }).to_string().as_bytes()));
    done.send(Performed::Done(Ok(vec![kept(7)]))).unwrap();
    assert_eq!(reader.json().await, json!({ "offset": 7, "msgid": "1" }));
    let receipt = sender.json().await;
    assert_eq!((told(&receipt), &receipt["offset"]), (("topic_sent", "1"), &json!(7)));
    // the rest has nothing to be stored
    let (changes, done) = scene.journal.batch().await;
    assert!(changes.len() == 3 && changes.iter().all(|append| append.message.is_none()));
    done.send(Performed::Done(Ok(vec![Ok(None); 3]))).unwrap();
    assert_eq!(reader.next().await, "2");
    assert_eq!(told(&sender.json().await), ("topic_sent", "2"));
    assert_eq!(told(&sender.json().await), ("not_subscribed", "3"));
    // ends with an error, since nothing is sent
    passed.await.unwrap_err();
    // and nothing waits any more
    scene.publish(&sender, &alice, "plain", "4");
    assert_eq!(told(&sender.json().await), ("topic_sent", "4"));
}

#[actix_web::test]
async fn a_publication_that_is_not_stored_is_refused_and_one_that_is_stored_late_is_still_seen() {
    let (scene, alice, bob) = (Scene::new().await, device("alice"), device("bob"));
    let (mut sender, mut reader) = (Peer::of(&alice).await, Peer::of(&bob).await);
    for (peer, account) in [(&sender, &alice), (&reader, &bob)] {
        scene.subscribe(account, "t").await.unwrap();
        scene.connect(peer, account).await;
    }
    for (msgid, outcome, code) in [
        ("1", Ok(vec![Err(AppendRefusal::StorageFull)]), "storage_full"),
        ("2", Ok(vec![Err(AppendRefusal::TopicNotFound)]), "topic_not_found"),
        ("3", Err(StoreError::lost()), "database_unavailable"),
    ] {
        scene.publish_to_history(&sender, &alice, "t", msgid).await;
        let (_, done) = scene.journal.batch().await;
        done.send(Performed::Done(outcome)).unwrap();
        assert_eq!(told(&sender.json().await), (code, msgid));
    }
    scene.publish_to_history(&sender, &alice, "t", "4").await;
    let (_, done) = scene.journal.batch().await;
    let (tell, outcomes) = oneshot::channel();
    done.send(Performed::Late(outcomes)).unwrap();
    assert_eq!(told(&sender.json().await), ("database_unavailable", "4"));
    tell.send(Ok(vec![kept(1)])).unwrap();
    assert_eq!(reader.json().await, json!({ "offset": 1, "msgid": "4" }));
}

#[actix_web::test]
async fn what_waits_behind_a_publication_that_is_not_stored_yet_is_bounded_and_refused_in_its_place() {
    let (scene, alice) = (Scene::new().await, device("alice"));
    let mut sender = Peer::of(&alice).await;
    scene.subscribe(&alice, "t").await.unwrap();
    scene.connect(&sender, &alice).await;
    scene.publish_to_history(&sender, &alice, "t", "1").await;
    let (_, done) = scene.journal.batch().await;
    let frame = wire::text(&[&vec![b'x'; 7 * 1024 * 1024]]);
    for msgid in ["2", "3", "4"] {
        scene.manager.do_send(Publish { frame: frame.clone(), ..publication(&sender, &alice, "t", msgid) });
    }
    // the rest is in the queue by now
    scene.subscribers("t").await;
    done.send(Performed::Done(Ok(vec![kept(1)]))).unwrap();
    assert_eq!(told(&sender.json().await), ("topic_sent", "1"));
    scene.journal.write(vec![Ok(None); 3]).await;
    for expected in [("topic_sent", "2"), ("topic_sent", "3"), ("at_limit", "4")] {
        assert_eq!(told(&sender.json().await), expected);
    }
}

#[actix_web::test]
async fn what_comes_at_once_is_one_batch_and_to_many_subscribers_it_goes_with_the_next_one() {
    let (scene, alice) = (Scene::new().await, device("alice"));
    let mut sender = Peer::of(&alice).await;
    scene.connect(&sender, &alice).await;
    scene.subscribe(&alice, "few").await.unwrap();
    scene.subscribe(&alice, "many").await.unwrap();
    let mut readers = scene.many_readers("many").await;
    for topic in ["few", "many"] {
        for msgid in ["1", "2"] {
            scene.publish_to_history(&sender, &alice, topic, msgid).await;
        }
        let (changes, first) = scene.journal.batch().await;
        assert_eq!(changes.len(), 2);
        scene.publish_to_history(&sender, &alice, topic, "3").await;
        scene.subscribers(topic).await;
        first.send(Performed::Done(Ok(vec![kept(1), kept(2)]))).unwrap();
        let (_, second) = scene.journal.batch().await;
        // what is told by now comes before this
        scene.publish(&readers[0], &device("other"), topic, "probe");
        if topic == "few" {
            assert_eq!(told(&sender.json().await), ("topic_sent", "1"));
            assert_eq!(told(&sender.json().await), ("topic_sent", "2"));
        }
        assert_eq!(told(&readers[0].json().await), ("not_subscribed", "probe"));
        // a third waits, but not for a fourth
        scene.publish_to_history(&sender, &alice, topic, "4").await;
        scene.subscribers(topic).await;
        second.send(Performed::Done(Ok(vec![kept(3)]))).unwrap();
        let (_, third) = scene.journal.batch().await;
        if topic == "many" {
            for reader in &mut readers {
                for offset in 1..=3 {
                    assert_eq!(reader.json().await["offset"], offset);
                }
            }
            assert_eq!(told(&sender.json().await), ("topic_sent", "1"));
            assert_eq!(told(&sender.json().await), ("topic_sent", "2"));
        }
        assert_eq!(told(&sender.json().await), ("topic_sent", "3"));
        third.send(Performed::Done(Ok(vec![kept(4)]))).unwrap();
        assert_eq!(told(&sender.json().await), ("topic_sent", "4"));
    }
}

#[actix_web::test]
async fn what_waits_for_the_next_batch_is_told_when_that_takes_long() {
    let (scene, alice) = (Scene::with_join(Duration::from_millis(5)).await, device("alice"));
    let mut sender = Peer::of(&alice).await;
    scene.connect(&sender, &alice).await;
    scene.subscribe(&alice, "many").await.unwrap();
    let mut readers = scene.many_readers("many").await;
    scene.publish_to_history(&sender, &alice, "many", "1").await;
    let (_, first) = scene.journal.batch().await;
    scene.publish_to_history(&sender, &alice, "many", "2").await;
    scene.subscribers("many").await;
    first.send(Performed::Done(Ok(vec![kept(1)]))).unwrap();
    let (_, second) = scene.journal.batch().await;
    assert_eq!(told(&sender.json().await), ("topic_sent", "1"));
    assert_eq!(readers[0].json().await["offset"], 1);
    second.send(Performed::Done(Err(StoreError::lost()))).unwrap();
    assert_eq!(told(&sender.json().await), ("database_unavailable", "2"));
}
