//! What senders and recipients get from the MessageManager, and when.

use actix::Addr;
use chrono::TimeDelta;

use super::{messages::TellUpdates, *};
use crate::{
    actors::{
        HealthCheck,
        journal::{Performed, Places, testing::TestJournal},
    },
    cluster::LocalBackplane,
    delivery::{
        SessionKind,
        testing::{Peer, worker},
    },
    domain::{
        accounts::{Account, tests::device},
        ids::DeliveryId,
        messages::{
            Answer, MessageState, Party, Priority,
            change::{Accepted, Answered, MessageDecided, MessageRefusal, NewMessage, RecipientPresence, TakenMessage},
        },
    },
    settings::built_in,
    store::test_store,
};

struct Scene {
    manager: Addr<MessageManager>,
    directory: Arc<Directory>,
    journal: TestJournal<MessageChange>,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let directory = Arc::new(Directory::default());
        let (journal, changes) = TestJournal::start();
        let (folder, store) = test_store().await;
        let with = Dependencies {
            directory: directory.clone(),
            relays: worker(),
            backplane: Arc::new(LocalBackplane),
            store,
            journal: changes,
            clock: Clock::default(),
            settings: built_in().into(),
        };
        Self { manager: Context::start(MessageManager::new(with, 2)), directory, journal, _folder: folder }
    }

    /// A device connects, for which nothing waits.
    async fn connect(&self, account: &Account) -> Peer {
        let peer = Peer::of(account).await;
        self.directory.join_for_test(account, SessionKind::Device, &peer.session);
        self.manager.send(ClientReady { client: account.id, session: peer.session.clone() }).await.unwrap();
        // the database is looked at by a task; until it has answered, nothing goes at once
        self.looked(account, &peer, false).await;
        peer
    }

    async fn looked(&self, account: &Account, peer: &Peer, found: bool) {
        let recipients = vec![(account.id, peer.session.clone())];
        let waiting = found.then_some(account.id).into_iter().collect();
        let found = Some(messages::Found { recipients: waiting, senders: HashSet::new() });
        self.manager
            .send(messages::Looked { recipients, senders: HashSet::new(), again: HashSet::new(), found })
            .await
            .unwrap();
    }

    async fn send(&self, peer: &Peer, from: &Account, to: &Account, msgid: &str) {
        let message = NewMessage {
            from: party(from),
            to: to.id,
            msgid: msgid.to_owned(),
            object: object(msgid).into(),
            priority: Priority::Normal,
            ttl: Duration::from_secs(60),
            recipient: RecipientPresence::Absent,
            recipient_socket: None,
            socket: None,
        };
        let place = Places::default().try_take(1).unwrap();
        let (request, session) = (Request::Send(message), peer.session.clone());
        self.manager.send(FromSession { request, session, place }).await.unwrap();
    }

    async fn answer(&self, peer: &Peer, from: &Account, msgid: &str) {
        let place = Places::default().try_take(1).unwrap();
        let msgid = msgid.to_owned();
        let answer = AnswerOf { from: party(from), id: None, msgid, sender: None, answer: Answer::Acknowledged };
        let (request, session) = (Request::Answer(answer), peer.session.clone());
        self.manager.send(FromSession { request, session, place }).await.unwrap();
    }
}

fn party(account: &Account) -> Party {
    Party { client: account.id, incarnation: 0 }
}

fn object(msgid: &str) -> String {
    format!(r#"{{"msgid":"{msgid}"}}"#)
}

fn accepted(id: i64, state: MessageState) -> MessageDecided {
    let expires_at = Clock::default().now() + TimeDelta::hours(1);
    MessageDecided::Accepted(Ok(Accepted { id: DeliveryId(id), state, expires_at, is_known: false, waits: false }))
}

#[actix_web::test]
async fn recipient_and_sender_get_nothing_before_the_message_is_stored() {
    let (scene, anna, pump) = (Scene::new().await, device("anna"), device("pump"));
    let (mut sender, mut recipient) = (scene.connect(&anna).await, scene.connect(&pump).await);
    scene.send(&sender, &anna, &pump, "1").await;
    let (changes, done) = scene.journal.batch().await;
    assert!(matches!(&changes[..], [MessageChange::Accept(message)] if message.recipient == RecipientPresence::Ready));
    scene.answer(&recipient, &pump, "unknown").await;
    done.send(Performed::Done(Ok(vec![accepted(1, MessageState::PendingAck)]))).unwrap();
    assert_eq!(sender.json().await["status"], "pending_ack");
    assert_eq!(recipient.next().await, object("1"));
    scene.journal.write(vec![MessageDecided::Answered(None)]).await;
    assert_eq!(recipient.json().await["status"], "unknown");
}

#[actix_web::test]
async fn a_message_behind_others_that_another_node_has_stored_is_taken_after_them() {
    let (scene, anna, pump) = (Scene::new().await, device("anna"), device("pump"));
    let (sender, mut recipient) = (scene.connect(&anna).await, scene.connect(&pump).await);
    scene.send(&sender, &anna, &pump, "2").await;
    let (changes, done) = scene.journal.batch().await;
    assert!(matches!(&changes[..], [MessageChange::Accept(message)] if message.recipient == RecipientPresence::Ready));
    let MessageDecided::Accepted(Ok(stored)) = accepted(2, MessageState::PendingAck) else { unreachable!() };
    let decided = MessageDecided::Accepted(Ok(Accepted { waits: true, ..stored }));
    done.send(Performed::Done(Ok(vec![decided]))).unwrap();
    let (changes, done) = scene.journal.batch().await;
    assert!(matches!(&changes[..], [MessageChange::Take(take)] if take.except.is_empty()), "{changes:?}");
    let taken = |id: i64| TakenMessage {
        id: DeliveryId(id),
        from: anna.id,
        msgid: id.to_string(),
        priority: Priority::Normal,
        object: object(&id.to_string()),
        earlier_attempts: 0,
    };
    let messages = vec![taken(1), taken(2)];
    done.send(Performed::Done(Ok(vec![MessageDecided::Taken { messages, is_all: true }]))).unwrap();
    for msgid in ["1", "2"] {
        assert_eq!(recipient.next().await, object(msgid));
    }
}

#[actix_web::test]
async fn an_answer_names_the_message_on_its_way_and_its_end_is_told_once() {
    let (scene, anna, pump) = (Scene::new().await, device("anna"), device("pump"));
    let (mut sender, mut recipient) = (scene.connect(&anna).await, scene.connect(&pump).await);
    scene.send(&sender, &anna, &pump, "1").await;
    scene.journal.write(vec![accepted(7, MessageState::PendingAck)]).await;
    recipient.next().await;
    sender.next().await;
    scene.answer(&recipient, &pump, "1").await;
    let (changes, done) = scene.journal.batch().await;
    let MessageChange::Answer(answer) = &changes[0] else { panic!("{changes:?}") };
    assert_eq!(answer.id, Some(DeliveryId(7)));
    let state = MessageState::Delivered;
    let update = MessageUpdate { id: DeliveryId(7), from: party(&anna), to: pump.id, msgid: "1".to_owned(), state };
    let answered = Answered { id: DeliveryId(7), state, update: Some(update), again: None };
    done.send(Performed::Done(Ok(vec![MessageDecided::Answered(Some(answered))]))).unwrap();
    assert_eq!(recipient.json().await["type"], "ack_received");
    assert_eq!(sender.json().await["type"], "delivery_update");
    let (changes, _) = scene.journal.batch().await;
    assert!(matches!(changes[..], [MessageChange::Told(DeliveryId(7))]), "{changes:?}");
}

#[actix_web::test]
async fn what_waits_is_taken_from_the_database_and_goes_in_its_order() {
    let (scene, anna, pump) = (Scene::new().await, device("anna"), device("pump"));
    let sender = scene.connect(&anna).await;
    let mut recipient = scene.connect(&pump).await;
    scene.looked(&pump, &recipient, false).await;
    for msgid in ["1", "2", "3"] {
        scene.send(&sender, &anna, &pump, msgid).await;
        let id = msgid.parse().unwrap();
        scene.journal.write(vec![accepted(id, MessageState::PendingAck)]).await;
    }
    assert_eq!((recipient.next().await, recipient.next().await), (object("1"), object("2")));
    scene.answer(&recipient, &pump, "1").await;
    let state = MessageState::Delivered;
    let answered = Answered { id: DeliveryId(1), state, update: None, again: None };
    scene.journal.write(vec![MessageDecided::Answered(Some(answered))]).await;
    assert_eq!(recipient.json().await["type"], "ack_received");
    let (changes, done) = scene.journal.batch().await;
    let MessageChange::Take(take) = &changes[0] else { panic!("{changes:?}") };
    assert_eq!((take.to, &*take.except, take.most), (pump.id, &[DeliveryId(2)][..], 1));
    let taken = TakenMessage {
        id: DeliveryId(3),
        from: anna.id,
        msgid: "3".to_owned(),
        priority: Priority::Normal,
        object: object("3"),
        earlier_attempts: 1,
    };
    done.send(Performed::Done(Ok(vec![MessageDecided::Taken { messages: vec![taken], is_all: true }]))).unwrap();
    assert_eq!(recipient.next().await, r#"{"redelivered":true,"msgid":"3"}"#);
}

#[actix_web::test]
async fn a_refusal_and_a_failing_database_are_told_and_leave_the_window_open() {
    let (scene, anna, pump) = (Scene::new().await, device("anna"), device("pump"));
    let (mut sender, mut recipient) = (scene.connect(&anna).await, scene.connect(&pump).await);
    for round in 0..3 {
        scene.send(&sender, &anna, &pump, "1").await;
        let (_, done) = scene.journal.batch().await;
        let refusal = MessageDecided::Accepted(Err(MessageRefusal::QueueFull("limits.queued_per_device")));
        let (outcome, code) = if round % 2 == 0 {
            (Ok(vec![refusal]), "queue_full")
        } else {
            (Err(StoreError::lost()), "database_unavailable")
        };
        done.send(Performed::Done(outcome)).unwrap();
        assert_eq!(sender.json().await["code"], code);
    }
    scene.send(&sender, &anna, &pump, "2").await;
    scene.journal.write(vec![accepted(2, MessageState::PendingAck)]).await;
    assert_eq!(recipient.next().await, object("2"));
    // nothing is left to do for those that were refused
    scene.manager.send(HealthCheck).await.unwrap();
    assert!(scene.journal.is_idle());
}

#[actix_web::test]
async fn a_session_is_told_once_how_a_message_has_ended_whoever_finds_it() {
    let (scene, anna, pump) = (Scene::new().await, device("anna"), device("pump"));
    let mut sender = scene.connect(&anna).await;
    let update = |id: i64| MessageUpdate {
        id: DeliveryId(id),
        from: party(&anna),
        to: pump.id,
        msgid: id.to_string(),
        state: MessageState::Delivered,
    };
    let found = async |peer: &Peer, ids: &[i64]| {
        let updates = ids.iter().map(|id| update(*id)).collect();
        assert!(scene.manager.send(TellUpdates { session: peer.session.clone(), updates }).await.unwrap());
    };
    let by_another_node = async |id: i64| {
        scene.manager.send(Bell::Ended { update: update(id), is_told: false }).await.unwrap();
    };
    found(&sender, &[1, 2]).await;
    let (changes, done) = scene.journal.batch().await;
    assert!(matches!(changes[..], [MessageChange::Told(DeliveryId(1)), MessageChange::Told(_)]), "{changes:?}");
    // a second look, while it is not recorded that the sender was told, and another node
    found(&sender, &[1, 2, 3]).await;
    by_another_node(2).await;
    done.send(Performed::Done(Ok(vec![MessageDecided::Done, MessageDecided::Done]))).unwrap();
    let (changes, done) = scene.journal.batch().await;
    assert!(matches!(changes[..], [MessageChange::Told(DeliveryId(3))]), "{changes:?}");
    // it is recorded again until it is
    done.send(Performed::Done(Err(StoreError::lost()))).unwrap();
    let (changes, done) = scene.journal.batch().await;
    assert!(matches!(changes[..], [MessageChange::Told(DeliveryId(3))]), "{changes:?}");
    done.send(Performed::Done(Ok(vec![MessageDecided::Done]))).unwrap();
    // one that comes late
    for id in 1..=4 {
        by_another_node(id).await;
    }
    for id in 1..=4 {
        let told = sender.json().await;
        assert_eq!((&told["type"], &told["msgid"]), (&"delivery_update".into(), &id.to_string().into()), "{told}");
    }
    // another session of the sender knows nothing of that
    let mut newer = Peer::of(&anna).await;
    found(&newer, &[3]).await;
    assert_eq!(newer.json().await["msgid"], "3");
}
