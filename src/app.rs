//! Start and stop, and the only place where actors meet.

use std::{
    any::Any,
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::{Actor, Addr, Arbiter};
use actix_cors::Cors;
use actix_web::{
    App, HttpServer,
    dev::{Extensions, Server},
    http::Method,
    middleware::{NormalizePath, TrailingSlash, from_fn},
    rt::net::TcpStream,
    web,
};
use anyhow::Context;
use chrono::TimeDelta;
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    actors::{
        command_dispatcher::{CommandDispatcher, RecordBegun},
        journal::{Backlog, Flush, Journal},
        registry::{Apply, Directory, Neighbours, Registry},
        relay::{CloseAll, Relays},
        session::ConnectionSocket,
        topic_manager::TopicManager,
    },
    auth::{
        accounts::{Accounts, Change},
        bootstrap, credentials,
        passwords::Passwords,
        tokens::Tokens,
    },
    cluster::{Backplane, LocalBackplane},
    domain::{liveness::Periods, rate_limit::PerMinute},
    error::ApiError,
    http::{request_id, root, routes},
    protocol::close_code::CloseCode,
    settings::{Registration, Settings},
    store::Store,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// How long a stopping server waits for the database.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(5);

/// How often old commands are looked for.
const CLEANING: Duration = Duration::from_secs(3600);

/// What handlers and sessions work with.
pub struct Broker {
    /// The settings.
    pub settings: Settings,
    /// The database.
    pub store: Store,
    /// Who exists, and which tokens count.
    pub accounts: Arc<Accounts>,
    /// Password hashes.
    pub passwords: Passwords,
    /// Who is connected: to be asked.
    pub directory: Arc<Directory>,
    /// Who is connected: to be told.
    pub registry: Addr<Registry>,
    /// Who is subscribed to what.
    pub topic_manager: Addr<TopicManager>,
    /// Commands and what becomes of them.
    pub command_dispatcher: Addr<CommandDispatcher>,
    /// What writes in groups.
    pub journal: Addr<Journal>,
    /// The way to any session.
    pub relays: Arc<Relays>,
    /// The way to other nodes.
    pub backplane: Arc<dyn Backplane>,
    registrations: Mutex<PerMinute<IpAddr>>,
    login_failures: Mutex<PerMinute<LoginKey>>,
    draining: AtomicBool,
}

/// By what failed logins are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoginKey {
    /// Where they came from.
    Address(IpAddr),
    /// The username or email they tried.
    Account(String),
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

impl Broker {
    /// Registrations by address.
    pub fn registrations(&self) -> MutexGuard<'_, PerMinute<IpAddr>> {
        self.registrations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Failed logins by address and by account.
    pub fn login_failures(&self) -> MutexGuard<'_, PerMinute<LoginKey>> {
        self.login_failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Closes the sessions that a change concerns, here and on other nodes.
    ///
    /// # Errors
    /// The Registry is gone.
    pub async fn apply(&self, change: Change) -> Result<(), ApiError> {
        self.backplane.notify(&change);
        self.registry.send(Apply(change)).await?;
        Ok(())
    }
}

/// A broker that listens and has not been asked to stop.
pub struct Application {
    broker: web::Data<Broker>,
    server: Server,
    control: Arbiter,
    address: SocketAddr,
    first_password: Option<PathBuf>,
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Application {
    /// Opens the database, starts the actors, and listens. From then on connections are accepted.
    ///
    /// # Errors
    /// Whatever keeps it from starting, for the operator to read.
    pub async fn build(settings: Settings) -> anyhow::Result<Self> {
        let secret = {
            settings.check_secret()?;
            bootstrap::create_data_dir(&settings.storage.data_dir)?;
            bootstrap::secret(&settings)?
        };
        // before the database: a second server on the same address should not get as far as to migrate
        let listener = listen(settings.http.bind)?;
        let address = listener.local_addr()?;
        let workers = match settings.http.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        warn_of_risks(&settings, address);

        let store = Store::connect(&settings.storage).await?;
        store.migrate_up().await.context("cannot bring the database's schema up to date")?;
        let first_password = bootstrap::create_first_admin(&store, &settings).await?;
        let tokens = Tokens::new(
            &secret,
            TimeDelta::minutes(settings.auth.access_token_minutes),
            TimeDelta::days(settings.auth.refresh_token_days),
        );
        let accounts = Arc::new(Accounts::load(store.clone(), tokens).await?);
        // half the cores, so that a flood of logins leaves room for the sockets
        let passwords = Passwords::new((workers / 2).max(1), settings.limits.password_hashes_queued)?;

        let control = Arbiter::new();
        let relays = Relays::new(workers, &settings.limits);
        let directory = Arc::new(Directory::default());
        let backplane: Arc<dyn Backplane> = Arc::new(LocalBackplane);
        let topic_manager = {
            let manager = TopicManager::new(
                relays.clone(),
                backplane.clone(),
                store.clone(),
                settings.limits.subscriptions_per_client,
                Duration::from_secs(settings.sessions.subscription_wait_secs),
            );
            TopicManager::start_in_arbiter(&control.handle(), |_| manager)
        };
        let backlog = Backlog::default();
        let journal = {
            let journal = Journal::new(store.clone(), backlog.clone());
            Journal::start_in_arbiter(&control.handle(), |_| journal)
        };
        let command_dispatcher = {
            let dispatcher = CommandDispatcher::new(
                directory.clone(),
                relays.clone(),
                journal.clone(),
                backlog,
                settings.limits.pending_commands,
                store.unfinished_commands().await?,
            );
            CommandDispatcher::start_in_arbiter(&control.handle(), |_| dispatcher)
        };
        let registry = {
            let neighbours = Neighbours {
                presence_changed: topic_manager.clone().recipient(),
                client_ready: command_dispatcher.clone().recipient(),
                session_gone: command_dispatcher.clone().recipient(),
            };
            let registry = Registry::new(
                directory.clone(),
                relays.clone(),
                backplane.clone(),
                neighbours,
                settings.limits.connections_per_identity,
            );
            Registry::start_in_arbiter(&control.handle(), |_| registry)
        };
        control.spawn({
            let (accounts, registry) = (accounts.clone(), registry.clone());
            let period = Duration::from_secs(settings.auth.recheck_secs);
            async move { accounts.watch(period, |change| registry.do_send(Apply(change))).await }
        });

        control.spawn({
            let (store, days) = (store.clone(), settings.commands.retention_days);
            async move { delete_old_commands(store, days).await }
        });

        let broker = web::Data::new(Broker {
            registrations: Mutex::new(PerMinute::new(settings.limits.registrations_per_minute)),
            login_failures: Mutex::new(PerMinute::new(settings.limits.login_failures_per_minute)),
            draining: AtomicBool::new(false),
            settings,
            store,
            accounts,
            passwords,
            directory,
            registry,
            topic_manager,
            command_dispatcher,
            journal,
            relays,
            backplane,
        });
        let server = serve(broker.clone(), listener, workers)?;
        Ok(Self { broker, server, control, address, first_password })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the password of the first account lies, if this start has created it.
    pub fn first_password(&self) -> Option<&PathBuf> {
        self.first_password.as_ref()
    }

    /// Serves until `stop` is ready, then lets everyone go: no new sockets, 1001 to all, what is queued is written.
    ///
    /// # Errors
    /// The server failed.
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
        self.broker.draining.store(true, Ordering::Relaxed);
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
        // what has been answered is written, whatever comes
        let written = async {
            self.broker.command_dispatcher.send(RecordBegun).await?;
            self.broker.journal.send(Flush).await
        };
        if tokio::time::timeout(JOURNAL_PATIENCE, written).await.is_err() {
            tracing::error!("the database does not take what is left to write");
        }
        self.control.stop();
        tracing::info!("stopped");
        Ok(())
    }
}

/// Deletes commands that are over for longer than they are kept, now and then, for ever.
async fn delete_old_commands(store: Store, days: u32) {
    let mut ticks = tokio::time::interval(CLEANING);
    loop {
        ticks.tick().await;
        match store.delete_commands_before(chrono::Utc::now() - TimeDelta::days(days.into())).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "old commands deleted (commands.retention_days)"),
            Err(error) => tracing::warn!(%error, "cannot delete old commands"),
        }
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(socket.into())
    };
    open().with_context(|| format!("cannot listen on {address} (http.bind)"))
}

fn warn_of_risks(settings: &Settings, address: SocketAddr) {
    let local = address.ip().is_loopback();
    if !local && settings.devices.registration == Registration::Open {
        tracing::warn!(%address, "anyone who reaches this address can register as any device: set devices.registration");
    }
    // two descriptors per socket, and some for the rest
    let wanted = (settings.limits.connections as u64) * 2 + 256;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < wanted => {
            tracing::warn!(limit, wanted, "too few open files are allowed for limits.connections");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

fn serve(broker: web::Data<Broker>, listener: TcpListener, workers: usize) -> anyhow::Result<Server> {
    let limits = &broker.settings.limits;
    // a peer that acknowledges nothing for so long is gone, whatever the session does meanwhile
    let user_timeout = Duration::from_secs(limits.send_timeout_secs * 2);
    let most = if limits.connections == 0 { 1_000_000 } else { limits.connections.max(25_000) };
    let sessions = &broker.settings.sessions;
    let periods =
        Periods { ping: sessions.ping_secs, silence: sessions.silence_secs, heartbeat: sessions.heartbeat_secs };
    let server = HttpServer::new(move || {
        // runs once on each worker's thread
        broker.relays.start_worker(periods);
        App::new()
            .app_data(broker.clone())
            .configure(routes::configure)
            .default_service(web::to(root::not_found))
            .wrap(cors(&broker.settings))
            .wrap(from_fn(request_id::around))
            .wrap(NormalizePath::new(TrailingSlash::Trim))
    })
    .workers(workers)
    .backlog(BACKLOG as u32)
    .max_connections(most)
    .tcp_nodelay(true)
    .disable_signals()
    .shutdown_timeout(2)
    .on_connect(move |connection: &dyn Any, data: &mut Extensions| {
        let Some(stream) = connection.downcast_ref::<TcpStream>() else { return };
        let socket = SockRef::from(stream);
        #[cfg(target_os = "linux")]
        if !user_timeout.is_zero()
            && let Err(error) = socket.set_tcp_user_timeout(Some(user_timeout))
        {
            tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
        }
        match socket.try_clone() {
            Ok(duplicate) => {
                data.insert(ConnectionSocket::new(duplicate));
            }
            Err(error) => tracing::warn!(%error, "cannot duplicate a socket"),
        }
    })
    .listen(listener)?
    .run();
    Ok(server)
}

fn cors(settings: &Settings) -> Cors {
    let origins = settings.http.cors_origins.clone();
    Cors::default()
        .allowed_origin_fn(move |origin, _| {
            origin.to_str().is_ok_and(|origin| credentials::is_allowed_origin(origin, &origins))
        })
        .allowed_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_any_header()
        .expose_headers(["X-Request-ID", "Retry-After", "Location"])
        .supports_credentials()
        // a foreign origin is answered as usual: without the headers its browser shows the answer to nobody
        .block_on_origin_mismatch(false)
        .max_age(600)
}
