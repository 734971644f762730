//! The CommandDispatcher with its Journal, its database and the sockets of its targets, without the Registry and without a
//! network.

mod deletions;
mod refusals;

use std::{collections::HashMap, os::fd::OwnedFd, rc::Rc};

use actix::Arbiter;
use chrono::TimeDelta;
use serde_json::Value;
use socket2::{Domain, Type};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::UnixStream};

use super::*;
use crate::{
    actors::{
        gateway_monitor::{self, Gateways},
        topic_manager::Announce,
    },
    auth::{accounts::Accounts, tokens::Tokens},
    clock::Clock,
    delivery::{self, Outbox, SessionKind},
    domain::{
        accounts::{Account, Holder, tests::device},
        commands::{Exceeded, Order, TargetState},
        ids::Role,
        liveness::Periods,
    },
    settings::{self, Flags, Settings},
};

/// How long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    commands: Commands,
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    journal: Journal,
    store: Store,
    settings: Settings,
    operator: Arc<Account>,
    _data: TempDir,
}

/// The socket of a client.
struct Peer {
    session: SessionHandle,
    stream: UnixStream,
}

impl Peer {
    /// The next frame that was sent to it.
    async fn next(&mut self) -> Value {
        let read = async {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).await.unwrap();
            let len = match head[1] {
                126 => self.stream.read_u16().await.unwrap().into(),
                len => usize::from(len),
            };
            let mut payload = vec![0; len];
            self.stream.read_exact(&mut payload).await.unwrap();
            serde_json::from_slice(&payload).unwrap()
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap()
    }
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let flags = Flags { data_dir: Some(data.path().to_owned()), ..Flags::default() };
        let mut settings = settings::load(&flags).unwrap();
        change(&mut settings);
        let store = Store::connect(&settings.storage).await.unwrap();
        store.migrate_up().await.unwrap();
        let relays = Relays::new(1, &settings.limits, Clock::default());
        relays.start_worker(Periods { ping: 60, silence: 600, heartbeat: 60 }).unwrap();
        actix::spawn(delivery::tick::run());
        let journal = Journal::start(&Arbiter::current(), store.clone(), 0);
        let directory = Arc::new(Directory::default());
        let commands = start(&directory, &relays, &journal, &store, &settings).await;
        let role = Role::Operator;
        let (username, email, full_name) = ("olga".to_owned(), None, None);
        let holder = Holder::User { id: 1, username, email, full_name, role, is_active: true };
        let operator = Arc::new(Account { holder, ..device("") });
        Self { commands, directory, relays, journal, store, settings, operator, _data: data }
    }

    /// Another process takes the place of the one that handled the commands so far.
    async fn restart(&mut self) {
        self.commands.written().await.unwrap();
        self.directory = Arc::new(Directory::default());
        self.commands = start(&self.directory, &self.relays, &self.journal, &self.store, &self.settings).await;
    }

    /// A device connects.
    async fn connect(&self, account: &Arc<Account>) -> Peer {
        let (socket, peer) = socket2::Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        let limits = self.relays.outbox_limits();
        let outbox =
            delivery::insert(|worker, key| Outbox::new(SessionHandle::new(worker, key), Rc::new(socket), limits));
        outbox.head_out();
        let session = outbox.handle().clone();
        session.exchange(delivery::testing::token(account));
        self.directory.join_for_test(account, SessionKind::Device, &session);
        self.commands.recipient().do_send(ClientReady { client: account.id, session: session.clone() });
        let stream = std::os::unix::net::UnixStream::from(OwnedFd::from(peer));
        Peer { session, stream: UnixStream::from_std(stream).unwrap() }
    }

    fn order(&self, targets: &[&Arc<Account>]) -> Order {
        Order {
            requester: self.operator.clone(),
            targets: targets.iter().map(|target| Arc::clone(target)).collect(),
            method: "GET".to_owned(),
            url: "/status".to_owned(),
            data: Some(r#"{"a":1.0}"#.into()),
            timeout: PATIENCE,
            deliver_within: None,
        }
    }

    /// Sends a command without storing it first; its end.
    fn run(&self, order: Order) -> tokio::task::JoinHandle<Result<Arc<Command>, CommandError>> {
        let (commands, prepared) = (self.commands.clone(), self.commands.prepare(order, true).unwrap());
        tokio::task::spawn_local(async move { commands.run(prepared).await })
    }

    async fn give(&self, order: Order) -> Given {
        self.commands.give(self.commands.prepare(order, true).unwrap(), None).await.unwrap()
    }

    fn answer(&self, account: &Account, frame: &Value, result: &str) {
        let content = ReplyContent::Result { result: result.into(), failed: false };
        self.commands.reply(Reply { client: account.id, command: id(frame), content });
    }

    /// A command as it is recorded.
    async fn recorded(&self, id: CommandId) -> Command {
        self.commands.written().await.unwrap();
        self.store.command(id, 0, usize::MAX).await.unwrap().unwrap().command
    }

    /// The first target as it is recorded, as soon as it is like this.
    async fn until(&self, id: CommandId, is_expected: impl Fn(&crate::domain::commands::Target) -> bool) {
        let recorded = async {
            while !is_expected(&self.recorded(id).await.targets[0]) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, recorded).await.unwrap();
    }
}

async fn start(
    directory: &Arc<Directory>,
    relays: &Arc<Relays>,
    journal: &Journal,
    store: &Store,
    settings: &Settings,
) -> Commands {
    let dependencies = Dependencies {
        directory: directory.clone(),
        relays: relays.clone(),
        gateways: no_gateways(relays, journal, store, settings).await,
        journal: journal.clone(),
        store: store.clone(),
        clock: Clock::default(),
        limits: settings.limits.commands(),
        outbound_bytes: settings.limits.outbound_bytes,
        unfinished: store.unfinished_commands().await.unwrap(),
    };
    Commands::start(&Arbiter::current(), dependencies).await.unwrap()
}

/// In place of the TopicManager.
struct Listener;

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<Announce> for Listener {
    type Result = ();

    fn handle(&mut self, _: Announce, _: &mut Self::Context) {}
}

async fn no_gateways(relays: &Arc<Relays>, journal: &Journal, store: &Store, settings: &Settings) -> Gateways {
    let tokens = Tokens::new(&[1; 32], TimeDelta::hours(1), TimeDelta::days(1), Clock::default());
    let dependencies = gateway_monitor::Dependencies {
        gateways: Vec::new(),
        before: HashMap::new(),
        probes: settings.probes.clone(),
        most: 0,
        relays: relays.clone(),
        journal: journal.clone(),
        announce: Listener.start().recipient(),
        store: store.clone(),
        accounts: Arc::new(Accounts::load(store.clone(), tokens).await.unwrap()),
        clock: Clock::default(),
    };
    Gateways::start(&Arbiter::current(), dependencies)
}

fn id(frame: &Value) -> CommandId {
    CommandId::parse(frame["command_id"].as_str().unwrap()).unwrap()
}

fn states(command: &Command) -> Vec<TargetState> {
    command.targets.iter().map(|target| target.state).collect()
}

/// What became of a command, when it has.
async fn within<T>(end: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, end).await.unwrap()
}

#[actix_web::test]
async fn a_command_is_sent_to_its_target_ends_with_the_answer_and_is_recorded() {
    let world = World::new().await;
    let pump = Arc::new(device("pump"));
    let mut peer = world.connect(&pump).await;
    let end = world.run(world.order(&[&pump]));
    let frame = peer.next().await;
    assert_eq!((&frame["method"], &frame["url"]), (&Value::from("GET"), &Value::from("/status")));
    assert_eq!(frame["data"].to_string(), r#"{"a":1.0}"#);
    // somebody else answers nothing
    world.answer(&device("pump"), &frame, "0");
    world.answer(&pump, &frame, "1");
    let command = within(end).await.unwrap().unwrap();
    assert_eq!((command.id, states(&command)), (id(&frame), vec![TargetState::Succeeded]));
    assert_eq!(command.targets[0].result.as_deref(), Some("1"));
    let recorded = world.recorded(command.id).await;
    assert_eq!((states(&recorded), recorded.finished_at), (states(&command), command.finished_at));
    assert_eq!(recorded.targets[0].sent_at, command.targets[0].sent_at);
}

#[actix_web::test]
async fn a_command_that_may_not_wait_ends_at_once_for_targets_that_are_not_connected() {
    let world = World::new().await;
    let (pump, valve) = (Arc::new(device("pump")), Arc::new(device("valve")));
    let mut peer = world.connect(&valve).await;
    let end = world.run(world.order(&[&pump, &valve]));
    let frame = peer.next().await;
    world.answer(&valve, &frame, "1");
    let command = within(end).await.unwrap().unwrap();
    assert_eq!(states(&command), [TargetState::Offline, TargetState::Succeeded]);
}

#[actix_web::test]
async fn a_target_that_does_not_answer_in_time_times_out_and_its_answer_is_recorded_as_late() {
    let world = World::new().await;
    let pump = Arc::new(device("pump"));
    let mut peer = world.connect(&pump).await;
    let end = world.run(Order { timeout: Duration::ZERO, ..world.order(&[&pump]) });
    let command = within(end).await.unwrap().unwrap();
    assert_eq!(states(&command), [TargetState::TimedOut]);
    let frame = peer.next().await;
    world.answer(&pump, &frame, "2");
    world.until(command.id, |target| target.late_result.as_deref() == Some("2")).await;
    assert_eq!(states(&world.recorded(command.id).await), [TargetState::TimedOut]);
}

#[actix_web::test]
async fn a_lost_socket_ends_what_was_sent_to_it_and_nothing_else() {
    let world = World::new().await;
    let (pump, valve) = (Arc::new(device("pump")), Arc::new(device("valve")));
    let (mut lost, mut other) = (world.connect(&pump).await, world.connect(&valve).await);
    let end = world.run(world.order(&[&pump, &valve]));
    let frame = lost.next().await;
    other.next().await;
    world.commands.recipient().do_send(SessionGone { client: pump.id, session: lost.session.clone() });
    world.until(id(&frame), |target| target.state == TargetState::Disconnected).await;
    assert_eq!(states(&world.recorded(id(&frame)).await), [TargetState::Disconnected, TargetState::Sent]);
    world.answer(&valve, &frame, "1");
    let command = within(end).await.unwrap().unwrap();
    assert_eq!(states(&command), [TargetState::Disconnected, TargetState::Succeeded]);
}

#[actix_web::test]
async fn a_cancelled_command_ends_for_all_targets_and_those_to_which_it_was_sent_are_told() {
    let world = World::new().await;
    let (pump, valve) = (Arc::new(device("pump")), Arc::new(device("valve")));
    let mut peer = world.connect(&pump).await;
    let order = Order { deliver_within: Some(TimeDelta::hours(1)), ..world.order(&[&pump, &valve]) };
    let given = world.give(order).await;
    let frame = peer.next().await;
    let command = id(&frame);
    assert_eq!(states(&world.recorded(command).await), [TargetState::Sent, TargetState::Queued]);
    let stranger = device("stranger");
    let refusal = world.commands.cancel(command, &stranger).await.unwrap_err();
    assert!(matches!(refusal, CommandError::NotFound));
    let page = world.commands.cancel(command, &world.operator).await.unwrap();
    assert_eq!(states(&page.command), [TargetState::Cancelled; 2]);
    assert_eq!(peer.next().await, serde_json::json!({ "type": "cancel", "command_id": frame["command_id"] }));
    let Outcome::Finished(command) = world.commands.outcome(given, PATIENCE).await.unwrap() else {
        panic!("it is finished")
    };
    assert_eq!(states(&command), [TargetState::Cancelled; 2]);
}

#[actix_web::test]
async fn after_a_restart_what_was_queued_is_sent_and_what_was_sent_is_disconnected() {
    let mut world = World::new().await;
    let (pump, valve) = (Arc::new(device("pump")), Arc::new(device("valve")));
    let mut peer = world.connect(&pump).await;
    let order = Order { deliver_within: Some(TimeDelta::hours(1)), ..world.order(&[&pump, &valve]) };
    world.give(order).await;
    let frame = peer.next().await;
    let command = id(&frame);
    world.restart().await;
    world.until(command, |target| target.state == TargetState::Disconnected).await;
    assert_eq!(states(&world.recorded(command).await), [TargetState::Disconnected, TargetState::Queued]);
    let mut peer = world.connect(&valve).await;
    assert_eq!(id(&peer.next().await), command);
    world.answer(&pump, &frame, "1");
    world.until(command, |target| target.late_result.as_deref() == Some("1")).await;
    world.answer(&valve, &frame, "2");
    let mut follow = world.commands.follow(command, &world.operator, 0).await.unwrap();
    let finished = async {
        loop {
            let event = follow.next().await.unwrap().unwrap();
            if let EventContent::Finished(_) = event.content {
                return event.version;
            }
        }
    };
    let version = within(finished).await;
    let recorded = world.recorded(command).await;
    assert_eq!(states(&recorded), [TargetState::Disconnected, TargetState::Succeeded]);
    assert_eq!(recorded.version, version);
}

#[actix_web::test]
async fn a_repeated_request_finds_its_command_and_another_request_with_its_key_is_refused() {
    let world = World::new().await;
    let pump = Arc::new(device("pump"));
    let key = |digest: &str| IdempotencyKey { key: "k".to_owned(), digest: digest.to_owned() };
    let mut peer = world.connect(&pump).await;
    let commands = &world.commands;
    assert!(commands.given_before(world.operator.id, &key("a")).await.unwrap().is_none());
    let prepare = || commands.prepare(world.order(&[&pump]), true).unwrap();
    let first = commands.give(prepare(), Some(key("a"))).await.unwrap();
    let frame = peer.next().await;
    let second = commands.give(prepare(), Some(key("a"))).await.unwrap();
    let third = commands.given_before(world.operator.id, &key("a")).await.unwrap().unwrap();
    for refused in [
        commands.give(prepare(), Some(key("b"))).await,
        commands.given_before(world.operator.id, &key("b")).await.map(Option::unwrap),
    ] {
        assert!(matches!(refused.unwrap_err(), CommandError::KeyReused));
    }
    world.answer(&pump, &frame, "1");
    for given in [first, second, third] {
        let Outcome::Finished(command) = commands.outcome(given, PATIENCE).await.unwrap() else { panic!("finished") };
        assert_eq!(command.id, id(&frame));
    }
}

#[actix_web::test]
async fn limits_are_checked_when_a_command_is_given_and_freed_when_it_ends() {
    let world = World::with(|settings| settings.limits.pending_commands_per_identity = 1).await;
    let pump = Arc::new(device("pump"));
    let mut peer = world.connect(&pump).await;
    let (first, second) = (world.run(world.order(&[&pump])), world.run(world.order(&[&pump])));
    let frame = peer.next().await;
    let over = |refusal| matches!(refusal, CommandError::Limit(Exceeded::PendingPerIdentity));
    assert!(over(within(second).await.unwrap().unwrap_err()));
    let stored = world.commands.prepare(world.order(&[&pump]), true).unwrap();
    assert!(over(world.commands.give(stored, None).await.unwrap_err()));
    world.answer(&pump, &frame, "1");
    within(first).await.unwrap().unwrap();
    let third = world.run(world.order(&[&pump]));
    let frame = peer.next().await;
    world.answer(&pump, &frame, "1");
    within(third).await.unwrap().unwrap();
}

#[actix_web::test]
async fn when_the_broker_stops_nobody_waits_any_more() {
    let world = World::new().await;
    let pump = Arc::new(device("pump"));
    let mut peer = world.connect(&pump).await;
    let end = world.run(world.order(&[&pump]));
    let given = world.give(world.order(&[&pump])).await;
    peer.next().await;
    world.commands.stop_waiting();
    assert!(matches!(within(end).await.unwrap().unwrap_err(), CommandError::Stopping));
    let late = world.give(world.order(&[&pump])).await;
    for given in [given, late] {
        let outcome = within(world.commands.outcome(given, PATIENCE)).await.unwrap();
        assert!(matches!(outcome, Outcome::Stored { stopping: true, .. }));
    }
}
