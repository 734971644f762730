//! The CommandDispatcher with its Journal, its database and the sockets of its targets, without the Registry and without a
//! network.

use std::{collections::HashMap, os::fd::OwnedFd, rc::Rc};

use actix::Arbiter;
use socket2::{Domain, Type};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::UnixStream};

use super::*;
use crate::{
    actors::{
        gateway_monitor::{self, Gateways},
        topic_manager::{self, Topics},
    },
    auth::accounts::{Accounts, test_accounts},
    cluster::LocalBackplane,
    delivery::{self, Outbox, SessionKind},
    domain::{accounts::Holder, ids::Role, liveness::Periods},
    metrics::labels::Dialect,
    settings::{self, Flags, Settings},
};

/// How long a test waits for what has to come.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct World {
    pub(super) commands: Commands,
    pub(super) directory: Arc<Directory>,
    pub(super) relays: Arc<Relays>,
    pub(super) journal: Journal,
    pub(super) store: Store,
    pub(super) settings: Settings,
    pub(super) operator: Arc<Account>,
    _data: TempDir,
}

/// The socket of a client.
pub(super) struct Peer {
    pub(super) session: SessionHandle,
    stream: UnixStream,
}

impl Peer {
    /// The next frame that was sent to it.
    pub(super) async fn next(&mut self) -> Value {
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
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let flags = Flags { data_dir: Some(data.path().to_owned()), ..Flags::default() };
        let mut settings = settings::load(&flags).unwrap();
        change(&mut settings);
        let store = Store::connect(&settings.storage).await.unwrap();
        store.migrate_up().await.unwrap();
        let relays = Relays::new(1, &settings.limits, Clock::default());
        relays.start_worker(Periods { ping: 60, silence: 600, heartbeat: 60 }).unwrap();
        actix::spawn(delivery::tick::run());
        let journal = Journal::start(&Arbiter::current(), store.clone(), settings.clone().into());
        let directory = Arc::new(Directory::default());
        let commands = start(&directory, &relays, &journal, &store, &settings).await;
        let role = Role::Operator;
        let (username, email, full_name) = ("olga".to_owned(), None, None);
        let holder = Holder::User { id: 1, username, email, full_name, role, is_active: true };
        let operator = Arc::new(Account { holder, ..device("") });
        Self { commands, directory, relays, journal, store, settings, operator, _data: data }
    }

    /// Another process takes the place of the one that handled the commands so far.
    pub(super) async fn restart(&mut self) {
        self.commands.written().await.unwrap();
        self.directory = Arc::new(Directory::default());
        self.commands = start(&self.directory, &self.relays, &self.journal, &self.store, &self.settings).await;
    }

    /// A device connects.
    pub(super) async fn connect(&self, account: &Arc<Account>) -> Peer {
        let (socket, peer) = socket2::Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        let limits = self.relays.outbox_limits();
        let outbox = delivery::insert(|worker, key| {
            Outbox::new(SessionHandle::new(worker, key, Utc::now()), Rc::new(socket), limits, Dialect::Device)
        });
        outbox.head_out();
        let session = outbox.handle().clone();
        session.exchange(delivery::testing::token(account));
        self.directory.join_for_test(account, SessionKind::Device, &session);
        self.commands.recipient().do_send(ClientReady { client: account.id, session: session.clone() });
        let stream = std::os::unix::net::UnixStream::from(OwnedFd::from(peer));
        Peer { session, stream: UnixStream::from_std(stream).unwrap() }
    }

    pub(super) fn order(&self, targets: &[&Arc<Account>]) -> Order {
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
    pub(super) fn run(&self, order: Order) -> tokio::task::JoinHandle<Result<Arc<Command>, CommandError>> {
        let (commands, prepared) = (self.commands.clone(), self.commands.check(order, true).unwrap());
        tokio::task::spawn_local(async move { commands.run(prepared).await })
    }

    pub(super) async fn give(&self, order: Order) -> Given {
        self.commands.give(self.commands.check(order, true).unwrap(), None).await.unwrap()
    }

    pub(super) fn answer(&self, account: &Account, frame: &Value, result: &str) {
        let content = ReplyContent::Result { result: result.into(), failed: false };
        self.commands.reply(Reply { client: account.id, command: id(frame), content });
    }

    /// A command as it is recorded.
    pub(super) async fn recorded(&self, id: CommandId) -> Command {
        self.commands.written().await.unwrap();
        self.store.command(id, 0, usize::MAX).await.unwrap().unwrap().command
    }

    /// The first target as it is recorded, as soon as it is like this.
    pub(super) async fn until(&self, id: CommandId, is_expected: impl Fn(&crate::domain::commands::Target) -> bool) {
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
    let accounts = test_accounts(store).await;
    let topics = topic_manager::Dependencies {
        directory: directory.clone(),
        relays: relays.clone(),
        backplane: Arc::new(LocalBackplane),
        store: store.clone(),
        accounts: accounts.clone(),
        journal: journal.recipient(),
        clock: Clock::default(),
        settings: settings.clone().into(),
    };
    let topics = Topics::start(&Arbiter::current(), topics);
    let dependencies = Dependencies {
        directory: directory.clone(),
        relays: relays.clone(),
        backplane: Arc::new(LocalBackplane),
        gateways: no_gateways(relays, journal, &topics, &accounts, store, settings),
        topics,
        accounts,
        journal: journal.clone(),
        store: store.clone(),
        clock: Clock::default(),
        settings: settings.clone().into(),
        unfinished: store.unfinished_commands(None).await.unwrap(),
    };
    Commands::start(&Arbiter::current(), dependencies).await.unwrap()
}

fn no_gateways(
    relays: &Arc<Relays>,
    journal: &Journal,
    topics: &Topics,
    accounts: &Arc<Accounts>,
    store: &Store,
    settings: &Settings,
) -> Gateways {
    let dependencies = gateway_monitor::Dependencies {
        gateways: Vec::new(),
        before: HashMap::new(),
        probes: settings.probes.clone(),
        settings: settings.clone().into(),
        relays: relays.clone(),
        journal: journal.clone(),
        announce: topics.recipient(),
        store: store.clone(),
        accounts: accounts.clone(),
        clock: Clock::default(),
        backplane: None,
    };
    Gateways::start(&Arbiter::current(), dependencies)
}
