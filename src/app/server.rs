//! The HTTP server: the listener, the workers, and the middleware around every request.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_cors::Cors;
use actix_http::HttpService;
use actix_server::Server;
use actix_service::{IntoServiceFactory, ServiceFactoryExt, map_config};
use actix_web::{
    App,
    dev::{AppConfig, Extensions, fn_service},
    error::DispatchError,
    http::Method,
    middleware::{NormalizePath, TrailingSlash, from_fn},
    rt::net::TcpStream,
    web,
};
use anyhow::Context;
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    delivery::tick,
    domain::{admission::Capacity, liveness::Periods, origin},
    http::{Admission, connections::Connections, request_id, root, routes, stream::PacedStream},
    settings::{LiveSettings, Settings},
    state::Broker,
};

/// Length of the listener's queue of connections that are not accepted yet.
const BACKLOG: i32 = 4096;

/// How long a connection that is being closed may take to accept the last bytes.
const DISCONNECT: Duration = Duration::from_secs(1);

pub(super) fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(socket.into())
    };
    open().with_context(|| format!("cannot listen on {address} (http.bind; give another --bind)"))
}

/// The number of workers: that of the cores, unless `http.workers` says otherwise.
/// The threads that serve clients.
pub(crate) fn worker_count(settings: &Settings) -> usize {
    match settings.http.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// Logs what the operator should know about the settings.
pub(super) fn warn_of_risks(settings: &Settings) {
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    if settings.redis.is_given() && !settings.is_shared() {
        tracing::info!(
            "this is the only node, although Redis is given: nodes of a cluster share a PostgreSQL database (DATABASE_URL)"
        );
    }
}

/// Descriptors of the process itself: standard streams, files, listener.
const OWN_DESCRIPTORS: u64 = 32;

/// Descriptors of one thread's runtime.
const PER_RUNTIME: u64 = 6;

/// Descriptors of one connection to an SQLite database: the file, its log, its index.
const PER_DATABASE_CONNECTION: u64 = 3;

/// Descriptors kept free for concurrent gateway probes.
const PROBES: u64 = 128;

/// The connections that a process may serve which may open so many files.
pub(crate) fn capacity(settings: &Settings, descriptors: u64, workers: usize) -> Capacity {
    let own = OWN_DESCRIPTORS
        + PER_RUNTIME * (workers as u64 + 4)
        + PER_DATABASE_CONNECTION * (u64::from(settings.storage.max_connections) + 1)
                // the reserve for probes may be too small: a probe without a descriptor is repeated later
        + PROBES.min(descriptors / 8);
    Capacity::of(descriptors, own, settings.limits.connections, workers)
}

/// The connection table, with the number of connections that the process's descriptor limit allows.
fn connections(live: &LiveSettings, workers: usize) -> Arc<Connections> {
    let settings = live.load();
    let descriptors = rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot raise the limit of open files");
        1024
    });
    let capacity = capacity(&settings, descriptors, workers);
    if capacity.served() < settings.limits.connections {
        tracing::warn!(
            "this process may open {descriptors} files, enough for {} connections: raise the limit of open files (ulimit -n), or lower limits.connections",
            capacity.served()
        );
    }
    Connections::new(capacity, live.clone())
}

pub(super) fn serve(broker: web::Data<Broker>, listener: TcpListener, workers: usize) -> anyhow::Result<Server> {
    let settings = broker.settings.load();
    let limits = &settings.limits;
    // the kernel drops a connection whose peer acknowledges nothing for this long, whatever state the session is in
    let user_timeout = Duration::from_secs(limits.send_timeout_secs * 2);
    let admission = web::Data::new(Admission::new(connections(&broker.settings, workers), &broker.settings));
    let most_per_worker = admission.connections.most_per_worker(workers);
    let sessions = &settings.sessions;
    let periods =
        Periods { ping: sessions.ping_secs, silence: sessions.silence_secs, heartbeat: sessions.heartbeat_secs };
    let server = Server::build()
        .workers(workers)
        .backlog(BACKLOG as u32)
        // above this number the framework stops accepting, until the surplus connections are closed
        .max_concurrent_connections(most_per_worker)
        .disable_signals()
        .shutdown_timeout(2);
    let draining = server.graceful_shutdown_signal();
    let server = server.listen("http", listener, move || {
        // runs once on each worker's thread
        actix_web::rt::spawn(broker.supervision.watched("tick loop of a worker", tick::run()));
        if let Some(relay) = broker.relays.start_worker(periods) {
            broker.supervision.watch_actor("relay", relay.recipient());
        }
        let idle = admission.connections.clone().close_idle();
        actix_web::rt::spawn(broker.supervision.watched("idle connection closer", idle));
        let app = App::new()
            .app_data(broker.clone())
            .app_data(admission.clone())
            .configure(routes::configure)
            .default_service(web::to(root::not_found))
            .wrap(cors(broker.settings.clone()))
            .wrap(from_fn(request_id::around))
            .wrap(NormalizePath::new(TrailingSlash::Trim));
        let app = map_config(app.into_factory(), |()| AppConfig::default());
        let (draining, connections) = (draining.clone(), admission.connections.clone());
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let draining = draining.clone();
                async move { draining.notified().await }
            })
            .client_disconnect_timeout(DISCONNECT)
            .on_connect_ext(move |stream: &PacedStream, data: &mut Extensions| {
                set_options(stream.tcp(), user_timeout);
                connections.accepted(stream, data);
            })
            .h1(app);
        fn_service(|tcp: TcpStream| async {
            let peer = tcp.peer_addr().ok();
            Ok::<_, DispatchError>((PacedStream::new(tcp), peer))
        })
        .and_then(http)
    })?;
    Ok(server.run())
}

fn set_options(tcp: &TcpStream, user_timeout: Duration) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    #[cfg(target_os = "linux")]
    if !user_timeout.is_zero()
        && let Err(error) = SockRef::from(tcp).set_tcp_user_timeout(Some(user_timeout))
    {
        tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
    }
}

fn cors(settings: LiveSettings) -> Cors {
    let is_allowed = move |origin: &str| origin::is_allowed(origin, &settings.load().http.cors_origins);
    Cors::default()
        .allowed_origin_fn(move |origin, _| origin.to_str().is_ok_and(&is_allowed))
        .allowed_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_any_header()
        .expose_headers(["X-Request-ID", "Retry-After", "Location", "Link"])
        .supports_credentials()
        // a request of a foreign origin is answered without CORS headers: the browser withholds the answer from the page
        .block_on_origin_mismatch(false)
        .max_age(600)
}
