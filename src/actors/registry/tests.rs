//! What the Registry tells its neighbours, and whose sessions it closes.

use std::{mem, time::Duration};

use actix::{Addr, Arbiter, MessageResult};
use uuid::Uuid;

use super::*;
use crate::{
    actors::HealthCheck,
    cluster::{
        LocalBackplane,
        elsewhere::{ClientState, Elsewhere},
    },
    delivery::testing::{Peer, token, worker},
    domain::{
        accounts::tests::{device, user},
        ids::Role,
    },
    settings::built_in,
    store::tests::Fixture,
};

/// What a neighbour was told; sessions by their numbers.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Presence { subscriber: Option<u64>, is_connected: bool },
    Ready(u64),
    Gone(u64),
    Deleted,
    Renamed(String),
    SenderReady,
    Bell,
    CloseReplaced(u64, CloseCode),
    Announced { is_connected: bool },
    AccountChanged,
}

use Told::{Announced, Deleted, Gone, Presence, Ready, Renamed as RenamedTo};

/// All neighbours in one, so that what they are told has one order.
#[derive(Default)]
struct Neighbour(Vec<Told>);

impl Actor for Neighbour {
    type Context = actix::Context<Self>;
}

macro_rules! hears {
    ($($message:ty: |$given:pat_param| $told:expr;)*) => {$(
        impl Handler<$message> for Neighbour {
            type Result = ();

            fn handle(&mut self, $given: $message, _: &mut Self::Context) {
                self.0.push($told);
            }
        }
    )*};
}

hears! {
    PresenceChanged: |PresenceChanged { subscriber, is_connected, .. }| Presence {
        subscriber: subscriber.as_ref().map(id),
        is_connected,
    };
    ClientReady: |ClientReady { session, .. }| Ready(id(&session));
    SessionGone: |SessionGone { session, .. }| Gone(id(&session));
    ClientDeleted: |_| Deleted;
    Renamed: |Renamed(who)| RenamedTo(who.username.to_string());
    CloseReplaced: |CloseReplaced { session, code }| Told::CloseReplaced(id(&session), code);
    Announce: |Announce(event)| Announced { is_connected: matches!(event, StatusEvent::Client { is_connected: true, .. }) };
    AccountChanged: |_| Told::AccountChanged;
    SenderReady: |_| Told::SenderReady;
    Bell: |_| Told::Bell;
}

#[derive(Message)]
#[rtype(result = "Vec<Told>")]
struct TakeTold;

impl Handler<TakeTold> for Neighbour {
    type Result = MessageResult<TakeTold>;

    fn handle(&mut self, _: TakeTold, _: &mut Self::Context) -> Self::Result {
        MessageResult(mem::take(&mut self.0))
    }
}

fn id(session: &SessionHandle) -> u64 {
    use crate::domain::subscriptions::Location;
    Location::id(session)
}

struct Scene {
    registry: Addr<Registry>,
    directory: Arc<Directory>,
    neighbour: Addr<Neighbour>,
    journal: Journal,
    fixture: Fixture,
}

impl Scene {
    async fn new(per_identity: usize) -> Self {
        Self::with(per_identity, Arc::new(LocalBackplane)).await
    }

    async fn with(per_identity: usize, backplane: Arc<dyn Backplane>) -> Self {
        let mut settings = built_in();
        settings.limits.connections_per_identity = per_identity;
        let fixture = Fixture::new().await;
        let journal = Journal::start(&Arbiter::current(), fixture.store.clone(), built_in().into());
        let (neighbour, other) = (Neighbour::default().start(), Neighbour::default().start());
        let neighbours = Neighbours {
            presence_changed: neighbour.clone().recipient(),
            client_ready: [neighbour.clone().recipient(), other.clone().recipient()],
            session_gone: [neighbour.clone().recipient(), other.clone().recipient(), other.clone().recipient()],
            sender_ready: other.clone().recipient(),
            bell: other.clone().recipient(),
            client_deleted: [neighbour.clone().recipient(), other.clone().recipient()],
            renamed: neighbour.clone().recipient(),
            close_replaced: neighbour.clone().recipient(),
            announce: neighbour.clone().recipient(),
            account_changed: neighbour.clone().recipient(),
        };
        let directory = Arc::new(Directory::default());
        let registry = Registry::new(
            directory.clone(),
            worker(),
            backplane,
            neighbours,
            journal.clone(),
            fixture.clock.clone(),
            settings.into(),
        );
        Self { registry: Context::start(registry), directory, neighbour, journal, fixture }
    }

    async fn connect(&self, peer: &Peer, kind: SessionKind, account: &Account) -> Result<(), ConnectError> {
        let (session, account) = (peer.session.clone(), Arc::new(account.clone()));
        self.registry.send(Connect { session, kind, account }).await.unwrap()
    }

    async fn disconnect(&self, peer: &Peer, account: &Account) {
        self.registry.send(Disconnect { session: peer.session.clone(), client: account.id }).await.unwrap();
    }

    async fn apply(&self, account: Account) -> usize {
        self.registry.send(Apply(AccountChange::Account(Arc::new(account)))).await.unwrap()
    }

    /// What the neighbours have been told since the last question.
    async fn told(&self) -> Vec<Told> {
        self.registry.send(HealthCheck).await.unwrap();
        self.neighbour.send(TakeTold).await.unwrap()
    }
}

const GONE: Told = Presence { subscriber: None, is_connected: false };

fn present(session: u64) -> Told {
    Presence { subscriber: Some(session), is_connected: true }
}

#[actix_web::test]
async fn a_device_that_connects_again_is_found_by_its_new_session_before_the_old_one_is_closed() {
    let (scene, alice) = (Scene::new(0).await, device("alice"));
    let (old, new) = (Peer::of(&alice).await, Peer::of(&alice).await);
    let (first, second) = (id(&old.session), id(&new.session));
    scene.connect(&old, SessionKind::Device, &alice).await.unwrap();
    assert_eq!(scene.told().await, [present(first), Announced { is_connected: true }, Ready(first)]);

    scene.connect(&new, SessionKind::Device, &alice).await.unwrap();
    assert_eq!(scene.directory.device(alice.id), Some(new.session.clone()));
    let replaced = Told::CloseReplaced(first, CloseCode::Replaced);
    assert_eq!(scene.told().await, [Gone(first), present(second), replaced, Ready(second)]);

    // the end of the old one changes nothing
    scene.disconnect(&old, &alice).await;
    assert_eq!(scene.told().await, [Gone(first)]);
    assert_eq!(scene.directory.device(alice.id), Some(new.session.clone()));
    scene.disconnect(&new, &alice).await;
    assert_eq!(scene.told().await, [Gone(second), GONE, Announced { is_connected: false }]);
    assert!(!scene.directory.is_connected(alice.id));
}

/// Other nodes, of which one has some clients.
#[derive(Default)]
struct OtherNodes(Elsewhere);

impl OtherNodes {
    const NODE: Uuid = Uuid::from_u128(2);

    /// The state of a device at the other node: the stamp of its socket, 0 if it has none.
    fn put(&self, device: &Account, stamp: u64) -> ClientsElsewhere {
        let is_there = stamp > 0;
        let state = ClientState {
            is_online: is_there,
            sessions: is_there.into(),
            device: stamp,
            ..ClientState::gone(device.id.uuid())
        };
        ClientsElsewhere(vec![self.0.put(Self::NODE, state)])
    }
}

impl Backplane for OtherNodes {
    fn elsewhere(&self) -> &Elsewhere {
        &self.0
    }

    fn incarnation(&self) -> Uuid {
        Uuid::from_u128(1)
    }
}

#[actix_web::test]
async fn a_newer_socket_at_another_node_takes_over_and_the_client_stays_connected() {
    let (nodes, alice) = (Arc::new(OtherNodes::default()), device("alice"));
    let scene = Scene::with(0, nodes.clone()).await;
    let peer = Peer::of(&alice).await;
    let own = id(&peer.session);
    scene.connect(&peer, SessionKind::Device, &alice).await.unwrap();
    scene.told().await;
    // an older one, which the other node closes
    scene.registry.send(nodes.put(&alice, own - 1)).await.unwrap();
    assert_eq!(scene.told().await, []);
    scene.registry.send(nodes.put(&alice, own + 1)).await.unwrap();
    let replaced = Told::CloseReplaced(own, CloseCode::Replaced);
    assert_eq!(scene.told().await, [Gone(own), GONE, replaced]);
    assert!(!scene.directory.is_connected(alice.id));
    // the end of the one here changes nothing, that of the other is seen by all
    scene.disconnect(&peer, &alice).await;
    assert_eq!(scene.told().await, [Gone(own)]);
    scene.registry.send(nodes.put(&alice, 0)).await.unwrap();
    assert_eq!(scene.told().await, [Announced { is_connected: false }]);
}

#[actix_web::test]
async fn sockets_at_other_nodes_count_but_for_those_that_a_new_one_replaces() {
    let (nodes, alice) = (Arc::new(OtherNodes::default()), device("alice"));
    let scene = Scene::with(1, nodes.clone()).await;
    nodes.put(&alice, 1);
    let peer = Peer::of(&alice).await;
    assert!(scene.connect(&peer, SessionKind::Chat, &alice).await.is_err());
    assert!(scene.registry.send(OpenStream(alice.id)).await.unwrap().is_err());
    scene.connect(&peer, SessionKind::Device, &alice).await.unwrap();
    // it was online already
    assert_eq!(scene.told().await, [present(id(&peer.session)), Ready(id(&peer.session))]);
}

#[actix_web::test]
async fn a_device_was_last_seen_when_its_last_socket_closed() {
    let (scene, alice) = (Scene::new(0).await, device("alice"));
    let (store, clock) = (&scene.fixture.store, &scene.fixture.clock);
    scene.fixture.device(alice.id).await;
    let peer = Peer::of(&alice).await;
    let last_seen = async || {
        scene.journal.flush().await.unwrap();
        store.device(alice.id).await.unwrap().unwrap().last_seen
    };
    scene.connect(&peer, SessionKind::Device, &alice).await.unwrap();
    assert_eq!(last_seen().await, Some(clock.now()));
    clock.advance(Duration::from_secs(1));
    scene.disconnect(&peer, &alice).await;
    assert_eq!(last_seen().await, Some(clock.now()));
}

#[actix_web::test]
async fn a_device_that_only_chats_gets_topic_messages_and_is_offline() {
    let (scene, alice) = (Scene::new(0).await, device("alice"));
    let (chat, own) = (Peer::of(&alice).await, Peer::of(&alice).await);
    scene.connect(&chat, SessionKind::Chat, &alice).await.unwrap();
    assert_eq!(scene.told().await, [present(id(&chat.session))]);
    assert!(scene.directory.is_connected(alice.id) && !scene.directory.is_online(alice.id));

    scene.connect(&own, SessionKind::Device, &alice).await.unwrap();
    let (device, chat_id) = (id(&own.session), id(&chat.session));
    assert_eq!(scene.told().await, [present(device), Announced { is_connected: true }, Ready(device)]);
    scene.disconnect(&own, &alice).await;
    let ended = [Gone(device), present(chat_id), Announced { is_connected: false }];
    assert_eq!(scene.told().await, ended);
}

#[actix_web::test]
async fn a_deleted_client_leaves_the_directory_at_once_and_its_sessions_are_closed() {
    let (scene, alice) = (Scene::new(0).await, device("alice"));
    let (mut own, mut chat) = (Peer::of(&alice).await, Peer::of(&alice).await);
    scene.connect(&own, SessionKind::Device, &alice).await.unwrap();
    scene.connect(&chat, SessionKind::Chat, &alice).await.unwrap();
    scene.told().await;
    let deleted = Account { is_deleted: true, ..alice.clone() };
    assert_eq!(scene.apply(deleted.clone()).await, 2);
    assert!(!scene.directory.is_connected(alice.id));
    let (first, second) = (id(&own.session), id(&chat.session));
    let ended = [Gone(first), Gone(second), Deleted, GONE, Announced { is_connected: false }];
    assert_eq!(scene.told().await, ended);
    assert_eq!((own.next().await, chat.next().await), ("close 4401".to_owned(), "close 4401".to_owned()));

    // subscriptions and commands of one that is not connected end as well
    assert_eq!(scene.apply(deleted).await, 0);
    assert_eq!(scene.told().await, [Deleted]);
}

#[actix_web::test]
async fn sockets_and_streams_of_a_client_count_together_and_a_takeover_takes_no_more() {
    let (scene, alice) = (Scene::new(2).await, user("alice", Role::User));
    let peers = [Peer::of(&alice).await, Peer::of(&alice).await, Peer::of(&alice).await];
    scene.connect(&peers[0], SessionKind::Agent, &alice).await.unwrap();
    scene.registry.send(OpenStream(alice.id)).await.unwrap().unwrap();
    let refused = scene.connect(&peers[1], SessionKind::Chat, &alice).await;
    assert!(matches!(refused, Err(ConnectError::OverLimit(_))));
    assert!(scene.registry.send(OpenStream(alice.id)).await.unwrap().is_err());
    // a new agent socket takes the place of the one before
    scene.connect(&peers[1], SessionKind::Agent, &alice).await.unwrap();
    scene.registry.send(CloseStream(alice.id)).await.unwrap();
    scene.connect(&peers[2], SessionKind::Chat, &alice).await.unwrap();
    assert!(scene.registry.send(OpenStream(alice.id)).await.unwrap().is_err());
    assert_eq!(scene.directory.session_count(alice.id), 2);
}

#[actix_web::test]
async fn a_changed_account_is_known_by_its_new_name_and_keeps_the_sessions_of_its_new_tokens() {
    let (scene, alice) = (Scene::new(0).await, user("alice", Role::Operator));
    let kept = token(&alice);
    let login = kept.family;
    let (mut old, kept) = (Peer::of(&alice).await, Peer::with(kept).await);
    scene.connect(&old, SessionKind::Chat, &alice).await.unwrap();
    scene.connect(&kept, SessionKind::Chat, &alice).await.unwrap();
    scene.told().await;

    let mut renamed = user("alicia", Role::Operator);
    renamed.id = alice.id;
    assert_eq!(scene.apply(renamed.clone()).await, 0);
    assert_eq!(scene.told().await, [Told::AccountChanged, RenamedTo("alicia".to_owned())]);
    assert_eq!(scene.directory.online(), [(alice.id, "alicia".to_owned())]);

    let revoked = Account { generation: 1, kept_login: Some(login), ..renamed };
    assert_eq!(scene.apply(revoked.clone()).await, 1);
    assert_eq!(old.next().await, "close 4401");
    assert!(kept.session.is_open());

    // without the role there is nothing to observe, and a disabled user has no sockets
    let Holder::User { id: number, username, .. } = revoked.holder.clone() else { unreachable!() };
    let (role, is_active) = (Role::User, false);
    let holder = Holder::User { id: number, username, email: None, full_name: None, role, is_active };
    scene.told().await;
    assert_eq!(scene.apply(Account { holder, ..revoked }).await, 1);
    assert_eq!(scene.told().await, [Told::AccountChanged]);
    let mut kept = kept;
    assert_eq!(kept.next().await, "close 4403");
}

#[actix_web::test]
async fn a_revoked_token_closes_its_own_sessions_whoever_has_them() {
    let (scene, alice, bob) = (Scene::new(0).await, user("alice", Role::User), user("bob", Role::User));
    let revoked = token(&alice);
    let jti = revoked.jti;
    let (mut gone, other, stranger) = (Peer::with(revoked).await, Peer::of(&alice).await, Peer::of(&bob).await);
    for (peer, account) in [(&gone, &alice), (&other, &alice), (&stranger, &bob)] {
        scene.connect(peer, SessionKind::Chat, account).await.unwrap();
    }
    let apply = |token| scene.registry.send(Apply(AccountChange::Token(token)));
    assert_eq!(apply(Uuid::new_v4()).await.unwrap(), 0);
    assert_eq!(apply(jti).await.unwrap(), 1);
    assert_eq!(gone.next().await, "close 4401");
    assert!(other.session.is_open() && stranger.session.is_open());
}
