//! Starts and stops the broker. Actors are created and connected to each other only here.

pub(crate) mod bootstrap;
mod server;

use std::{
    fmt,
    fs::File,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use actix::{Arbiter, MailboxError};
use actix_web::{dev::Server, web};
use anyhow::Context;
use chrono::TimeDelta;

use server::{listen, serve, warn_of_risks};

use crate::{
    actors::{
        command_dispatcher::{self, Commands},
        gateway_monitor::{self, Gateways},
        journal::Journal,
        registry::{Clients, Dependencies, Directory, Neighbours},
        room_manager::Rooms,
        topic_manager::{self, Topics},
    },
    auth::{accounts::Accounts, login::Logins, passwords::Passwords, registration::Registrations, tokens::Tokens},
    clock::Clock,
    cluster::{Backplane, LocalBackplane},
    delivery::{CloseAll, Relays},
    domain::{budget::Budgets, gateways::Gateway, rooms::RoomLimit},
    protocol::close_code::CloseCode,
    settings::{self, Registration, Settings},
    state::{Broker, Readiness, Supervision},
    store::{Location, Store},
};

/// How long a stopping server waits, first for the last writes, then for the database's connections to close.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(5);

/// Period of the cleanup loops.
const CLEANING: Duration = Duration::from_secs(3600);

/// A broker that listens but does not serve yet; see [`Application::run_until_stopped`].
pub struct Application {
    broker: web::Data<Broker>,
    server: Server,
    control: Arbiter,
    probing: Arbiter,
    address: SocketAddr,
    database: Location,
    first_password: Option<PathBuf>,
    has_accounts: bool,
    /// locks the data directory until the process ends
    _lock: File,
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Application {
    /// Opens the database, starts the actors and listens. Connections are accepted from then on.
    ///
    /// # Errors
    /// The reason why the broker cannot start, as a text for the operator.
    pub async fn build(settings: Settings) -> anyhow::Result<Self> {
        let secret = {
            settings.check_secret()?;
            bootstrap::create_data_dir(&settings.storage.data_dir)?;
            bootstrap::secret(&settings)?
        };
        let database = Location::of(&settings.storage)?;
        let start =
            bootstrap::Start { database_elsewhere: (!settings.storage.database_url.is_empty()).then_some(&database) };
        let lock = bootstrap::lock_data_dir(&settings.storage.data_dir, Some(start))?;
        // bound before the database is opened, so that a second server on the same address fails before it migrates
        let listener = listen(settings.http.bind)?;
        let address = listener.local_addr()?;
        let workers = match settings.http.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        warn_of_risks(&settings, address);

        // this connection has longer timeouts than the one that serves clients
        let clock = Clock::default();
        let starting = Store::connect(&settings.storage).await?.with_clock(clock.clone());
        let store = starting.serving(&settings.storage);
        let mut database_lock = starting.lock().await?;
        starting.migrate_up().await.context("cannot bring the database's schema up to date")?;
        let serving = bootstrap::serving_broker(address, settings.auth.password_rules());
        starting.register_broker(&serving, &mut database_lock).await?;
        if settings.devices.registration == Registration::Claim {
            warn_of_unbound_devices(&starting).await?;
        }
        let first_password = bootstrap::create_first_admin(&starting, &settings).await?;
        let has_accounts = starting.count_users().await? > 0;
        let tokens = Tokens::new(
            &secret,
            TimeDelta::minutes(settings.auth.access_token_minutes),
            TimeDelta::days(settings.auth.refresh_token_days),
            clock.clone(),
        );
        let accounts = Arc::new(Accounts::load(store.clone(), tokens).await?);
        // half of the workers at most hash passwords, so that a flood of logins does not starve the sockets
        let passwords = Passwords::new((workers / 2).max(1), settings.limits.password_hashes_queued)?;

        let control = Arbiter::new();
        let relays = Relays::new(workers, &settings.limits, clock.clone());
        let directory = Arc::new(Directory::default());
        let backplane: Arc<dyn Backplane> = Arc::new(LocalBackplane);
        let topics = {
            let dependencies = topic_manager::Dependencies {
                directory: directory.clone(),
                relays: relays.clone(),
                backplane: backplane.clone(),
                store: store.clone(),
                accounts: accounts.clone(),
                clock: clock.clone(),
            };
            Topics::start(&control.handle(), dependencies, &settings)
        };
        let journal = Journal::start(&control.handle(), store.clone(), settings.limits.rooms_per_user);
        let rooms = Rooms::start(
            &control.handle(),
            journal.recipient(),
            relays.clone(),
            store.clone(),
            RoomLimit(settings.limits.rooms_per_user),
            clock.clone(),
        );
        let probing = Arbiter::new();
        let gateways = {
            let dependencies = gateway_monitor::Dependencies {
                gateways: all_gateways(&settings, &starting).await?,
                before: starting.last_gateway_transitions().await?.into_iter().collect(),
                probes: settings.probes.clone(),
                most: settings.limits.gateways,
                relays: relays.clone(),
                journal: journal.clone(),
                announce: topics.recipient(),
                store: store.clone(),
                accounts: accounts.clone(),
                clock: clock.clone(),
            };
            Gateways::start(&probing.handle(), dependencies)
        };
        let commands = {
            let dependencies = command_dispatcher::Dependencies {
                directory: directory.clone(),
                relays: relays.clone(),
                gateways: gateways.clone(),
                journal: journal.clone(),
                store: store.clone(),
                clock: clock.clone(),
                limits: settings.limits.commands(),
                outbound_bytes: settings.limits.outbound_bytes,
                unfinished: starting.unfinished_commands().await?,
            };
            Commands::start(&control.handle(), dependencies).await?
        };
        let clients = {
            let neighbours = Neighbours {
                presence_changed: topics.recipient(),
                client_ready: commands.recipient(),
                session_gone: [commands.recipient(), rooms.recipient()],
                client_deleted: commands.recipient(),
                renamed: rooms.recipient(),
                close_replaced: topics.recipient(),
                announce: topics.recipient(),
                unsubscribe: topics.recipient(),
            };
            let dependencies = Dependencies {
                directory,
                relays: relays.clone(),
                backplane: backplane.clone(),
                neighbours,
                journal: journal.clone(),
                clock: clock.clone(),
                store: store.clone(),
                accounts: accounts.clone(),
                rooms: rooms.clone(),
                per_identity: settings.limits.connections_per_identity,
            };
            Clients::start(&control.handle(), dependencies)
        };
        let sessions = Arc::new(clients.clone());
        let registrations = Registrations::new(
            settings.devices.registration,
            settings.limits.registrations_per_minute,
            accounts.clone(),
            sessions.clone(),
            passwords.clone(),
            store.clone(),
        );
        let logins = Logins::new(
            settings.limits.login_failures_per_minute,
            settings.auth.password_rules(),
            accounts.clone(),
            sessions,
            passwords,
            store.clone(),
        );
        starting.close().await;
        // so that the first request sees all gateways
        gateways.record_all().await?;
        let supervision = Supervision::default();
        supervision.watch_actor("registry", clients.recipient());
        supervision.watch_actor("topic manager", topics.recipient());
        supervision.watch_actor("room manager", rooms.recipient());
        supervision.watch_actor("command dispatcher", commands.recipient());
        supervision.watch_actor("journal", journal.recipient());
        supervision.watch_actor("gateway monitor", gateways.recipient());
        control.spawn(supervision.watched("account watcher", {
            let (accounts, clients) = (accounts.clone(), clients.clone());
            let period = Duration::from_secs(settings.auth.recheck_secs);
            async move { accounts.watch(period, |change| clients.apply_here(change)).await }
        }));
        control.spawn(supervision.watched(
            "deletion of old rows",
            delete_what_is_old(store.clone(), clock.clone(), settings.commands.retention_days),
        ));
        control.spawn(supervision.watched("free space watcher", {
            let (store, storage) = (store.clone(), settings.storage.clone());
            async move { store.watch_space(storage.data_dir, storage.min_free_bytes).await }
        }));
        control.spawn(supervision.watched(
            "deletion of old gateway history",
            thin_gateway_history(store.clone(), clock.clone(), settings.probes.clone()),
        ));
        control.spawn(supervision.watched("database lock", {
            let (store, supervision) = (store.clone(), supervision.clone());
            async move { supervision.fail(store.hold(database_lock, serving.instance).await) }
        }));
        supervision.start().context("cannot start the thread that watches the actors")?;

        let broker = web::Data::new(Broker {
            stored_bytes: budget(settings.limits.stored_bytes_per_minute, 60.0, 1.0),
            requests: budget(settings.limits.requests_per_second, 1.0, 2.0),
            requests_of_addresses: budget(settings.limits.requests_per_second_per_address, 1.0, 2.0),
            draining: AtomicBool::new(false),
            readiness: Readiness::default(),
            supervision,
            clock,
            store,
            accounts,
            registrations,
            logins,
            clients,
            topics,
            commands,
            rooms,
            gateways,
            journal,
            relays,
            backplane,
            settings,
        });
        let server = serve(broker.clone(), listener, workers)?;
        Ok(Self { broker, server, control, probing, address, database, first_password, has_accounts, _lock: lock })
    }

    /// The base URL: `http://` and the address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The file with the password of the first account, if this start created that account.
    pub fn first_password(&self) -> Option<&PathBuf> {
        self.first_password.as_ref()
    }

    /// The address that the broker listens on, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The location of the database.
    pub fn database(&self) -> &Location {
        &self.database
    }

    /// Whether an account existed after the start.
    pub fn has_accounts(&self) -> bool {
        self.has_accounts
    }

    /// Serves until `stop` completes, then drains: new sockets are refused, all sockets are closed with 1001, and the
    /// records that are queued are written to the database.
    ///
    /// # Errors
    /// The HTTP server failed or ended by itself.
    pub async fn run_until_stopped(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let handle = self.server.handle();
        let mut server = actix_web::rt::spawn(self.server);
        tokio::select! {
            () = stop => {}
            ended = &mut server => {
                ended??;
                anyhow::bail!("the HTTP server ended by itself");
            }
        }
        let (http, relays) = (&self.broker.settings.http, &self.broker.relays);
        tracing::info!(sessions = relays.session_count(), "draining");
        self.broker.begin_draining();
        self.broker.supervision.stop();
        let spread = Duration::from_secs(http.close_spread_secs.min(http.drain_secs));
        relays.close_all(CloseAll { code: CloseCode::GoingAway, spread });
        let empty = async {
            while relays.session_count() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(http.drain_secs), empty).await.is_err() {
            tracing::warn!(sessions = relays.session_count(), "sessions left after http.drain_secs are cut");
        }
        let graceful = relays.session_count() == 0;
        handle.stop(graceful).await;
        server.await??;
        // acknowledged changes must reach the database before the process ends
        let written = async {
            // the Registry has handled the end of every session
            self.broker.clients.settled().await?;
            self.broker.commands.record_begun().await?;
            self.broker.gateways.record_all().await?;
            // retried, since the database may be back within JOURNAL_PATIENCE
            while self.broker.journal.flush().await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok::<_, MailboxError>(())
        };
        if !matches!(tokio::time::timeout(JOURNAL_PATIENCE, written).await, Ok(Ok(()))) {
            tracing::error!("the last records could not be written to the database in time");
        }
        // background tasks may still use connections
        if tokio::time::timeout(JOURNAL_PATIENCE, self.broker.store.close()).await.is_err() {
            tracing::warn!("the database did not close its connections in time");
        }
        self.probing.stop();
        self.control.stop();
        tracing::info!("stopped");
        Ok(())
    }
}

/// Warns if devices were registered without proof (`devices.registration = "open"`): until such a device registers again,
/// an impostor's registration looks the same as its own.
async fn warn_of_unbound_devices(store: &Store) -> anyhow::Result<()> {
    let devices = store.count_unbound_devices().await?;
    if devices > 0 {
        tracing::warn!(
            devices,
            "some devices were registered without proof, possibly by somebody else: a device is bound, and its earlier tokens become invalid, when it registers again with its device_key or a token; `switchboard devices rm` frees a UUID that somebody else has taken"
        );
    }
    Ok(())
}

/// A budget of `limit` units per `secs` seconds. A burst may spend `at_once` times `limit`.
fn budget<K: Eq + std::hash::Hash>(limit: u32, secs: f64, at_once: f64) -> Mutex<Budgets<K>> {
    Mutex::new(Budgets::new(f64::from(limit) / secs, f64::from(limit) * at_once))
}

/// The gateways of the configuration and those created over HTTP. Both share one id space.
async fn all_gateways(settings: &Settings, store: &Store) -> anyhow::Result<Vec<Gateway>> {
    let configured = settings.gateways();
    let created = store.gateways().await?;
    if let Some(taken) = created.iter().find(|created| configured.iter().any(|one| one.id == created.id)) {
        anyhow::bail!(
            "bad value for `gateways`: gateway {} has been created over HTTP already, as \"{}\": give yours another id",
            taken.id,
            taken.name
        );
    }
    if let Some(highest) = configured.iter().map(|gateway| gateway.id).max() {
        store.reserve_gateway_ids(highest).await?;
    }
    Ok(configured.into_iter().chain(created).collect())
}

/// Deletes old samples and transitions of gateways, once per [`CLEANING`]. Never returns.
async fn thin_gateway_history(store: Store, clock: Clock, probes: settings::Probes) {
    let mut ticks = tokio::time::interval(CLEANING);
    loop {
        ticks.tick().await;
        let now = clock.now();
        let raw = now - TimeDelta::hours(probes.samples_hours.into());
        let all = now - TimeDelta::days(probes.history_days.into());
        if let Err(error) = store.thin_gateway_history(raw, all).await {
            tracing::warn!(%error, "cannot delete old gateway history");
        }
    }
}

/// Deletes commands that ended more than `days` ago, and old logins, once per [`CLEANING`]. Never returns.
async fn delete_what_is_old(store: Store, clock: Clock, days: u32) {
    let mut ticks = tokio::time::interval(CLEANING);
    loop {
        ticks.tick().await;
        match store.delete_commands_before(clock.now() - TimeDelta::days(days.into())).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "old commands deleted (commands.retention_days)"),
            Err(error) => tracing::warn!(%error, "cannot delete old commands"),
        }
        if let Err(error) = store.forget_old_logins().await {
            tracing::warn!(%error, "cannot delete old logins");
        }
    }
}
