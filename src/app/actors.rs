//! The actors of the broker: each is started with what it uses, and with the way to those that it tells something.

use std::{sync::Arc, time::Duration};

use actix::Arbiter;

use super::data::Restored;
use crate::{
    actors::{
        cluster_link::{self, Cluster},
        command_dispatcher::{self, Commands},
        directory::Directory,
        gateway_monitor::{self, Gateways},
        journal::Journal,
        message_manager::{self, Messages},
        registry::{self, Clients, Neighbours},
        room_manager::{self, Rooms},
        topic_manager::{self, Topics},
    },
    auth::accounts::Accounts,
    clock::Clock,
    cluster::{node::Node, shard::Names},
    delivery::Relays,
    settings::{LiveSettings, RedisAddress},
    state::Supervision,
    store::{Sharing, Store},
};

/// The handles of all actors.
pub(super) struct Actors {
    pub clients: Clients,
    pub topics: Topics,
    pub messages: Messages,
    pub rooms: Rooms,
    pub commands: Commands,
    pub gateways: Gateways,
    pub journal: Journal,
    pub relays: Arc<Relays>,
    pub cluster: Cluster,
}

/// This process.
pub(super) struct ThisNode {
    /// how many threads serve clients
    pub workers: usize,
    /// what other nodes know of it
    pub node: Node,
    /// of keys and channels in Redis
    pub names: Names,
}

/// The threads of actors, beside those of the workers.
pub(super) struct Arbiters {
    /// of all actors but the GatewayMonitor, and of periodic work
    pub control: Arbiter,
    /// of the GatewayMonitor
    pub probing: Arbiter,
}

impl Actors {
    /// Starts all actors; the Relay of each worker starts with the worker.
    ///
    /// # Errors
    /// The database failed, the GatewayMonitor has ended, or an address of Redis cannot be used.
    pub(super) async fn start(
        arbiters: &Arbiters,
        live: &LiveSettings,
        clock: &Clock,
        this: ThisNode,
        store: &Store,
        accounts: &Arc<Accounts>,
        restored: Restored,
    ) -> anyhow::Result<Self> {
        let ThisNode { workers, node, names } = this;
        let control = arbiters.control.handle();
        let settings = live.load();
        let limits = &settings.limits;
        let directory = Arc::new(Directory::default());
        let relays = Relays::new(workers, limits, clock.clone());
        let addresses =
            RedisAddress::all(&settings.redis).map_err(|(key, expected)| anyhow::anyhow!("{key}: {expected}"))?;
        let sharing = if settings.is_shared() { Sharing::Shared } else { Sharing::Alone };
        let patience = Duration::from_millis(settings.cluster.timeout_ms);
        let cluster = Cluster::start(&control, node, addresses, &names, (sharing, patience), relays.clone())?;
        let backplane = cluster.backplane();
        let journal = Journal::start(&control, store.clone(), live.clone()).telling(&settings.webhooks());
        let topics = Topics::start(
            &control,
            topic_manager::Dependencies {
                directory: directory.clone(),
                relays: relays.clone(),
                backplane: backplane.clone(),
                store: store.clone(),
                accounts: accounts.clone(),
                journal: journal.recipient(),
                clock: clock.clone(),
                settings: live.clone(),
            },
        );
        let messages = Messages::start(
            &control,
            message_manager::Dependencies {
                directory: directory.clone(),
                relays: relays.clone(),
                backplane: backplane.clone(),
                store: store.clone(),
                journal: journal.recipient(),
                clock: clock.clone(),
                settings: live.clone(),
            },
        );
        let rooms = Rooms::start(
            &control,
            room_manager::Dependencies {
                journal: journal.recipient(),
                relays: relays.clone(),
                backplane: backplane.clone(),
                store: store.clone(),
                accounts: accounts.clone(),
                settings: live.clone(),
                clock: clock.clone(),
            },
        );
        let gateways = Gateways::start(
            &arbiters.probing.handle(),
            gateway_monitor::Dependencies {
                gateways: restored.gateways,
                before: restored.transitions,
                probes: settings.probes.clone(),
                settings: live.clone(),
                relays: relays.clone(),
                journal: journal.clone(),
                announce: topics.recipient(),
                store: store.clone(),
                accounts: accounts.clone(),
                clock: clock.clone(),
                backplane: cluster.is_shared().then(|| backplane.clone()),
            },
        );
        let commands = Commands::start(
            &control,
            command_dispatcher::Dependencies {
                directory: directory.clone(),
                relays: relays.clone(),
                backplane: backplane.clone(),
                gateways: gateways.clone(),
                topics: topics.clone(),
                accounts: accounts.clone(),
                journal: journal.clone(),
                store: store.clone(),
                clock: clock.clone(),
                settings: live.clone(),
                unfinished: restored.unfinished,
            },
        )
        .await?;
        let neighbours = Neighbours {
            presence_changed: topics.recipient(),
            client_ready: [commands.recipient(), messages.recipient()],
            session_gone: [commands.recipient(), rooms.recipient(), messages.recipient()],
            sender_ready: messages.recipient(),
            bell: messages.recipient(),
            client_deleted: [commands.recipient(), topics.recipient()],
            renamed: rooms.recipient(),
            close_replaced: topics.recipient(),
            announce: topics.recipient(),
            account_changed: topics.recipient(),
        };
        let clients = Clients::start(
            &control,
            registry::Dependencies {
                directory: directory.clone(),
                relays: relays.clone(),
                backplane,
                neighbours,
                journal: journal.clone(),
                clock: clock.clone(),
                settings: live.clone(),
            },
        );
        let clients_elsewhere = clients.recipient();
        cluster.link(cluster_link::Neighbours {
            directory,
            relays: relays.clone(),
            clients_elsewhere,
            topics: topics.recipient(),
            commands: commands.recipient(),
            messages: messages.recipient(),
            rooms: rooms.recipient(),
            settled: [clients.recipient(), topics.recipient(), rooms.recipient()],
            accounts: accounts.clone(),
            gateways: gateways.clone(),
        });
        // so that the first request sees all gateways
        gateways.record_all().await?;
        Ok(Self { clients, topics, messages, rooms, commands, gateways, journal, relays, cluster })
    }

    /// Has the actors watched, all but the Relays.
    pub(super) fn watch(&self, supervision: &Supervision) {
        if let Some(link) = self.cluster.recipient() {
            supervision.watch_actor("cluster link", link);
        }
        supervision.watch_actor("registry", self.clients.recipient());
        supervision.watch_actor("topic manager", self.topics.recipient());
        supervision.watch_actor("message manager", self.messages.recipient());
        supervision.watch_actor("room manager", self.rooms.recipient());
        supervision.watch_actor("command dispatcher", self.commands.recipient());
        supervision.watch_actor("journal", self.journal.recipient());
        supervision.watch_actor("gateway monitor", self.gateways.recipient());
    }
}

impl Arbiters {
    pub(super) fn start() -> Self {
        Self { control: Arbiter::new(), probing: Arbiter::new() }
    }

    /// Ends the threads.
    pub(super) fn stop(&self) {
        self.probing.stop();
        self.control.stop();
    }
}
