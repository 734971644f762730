//! The HTTP server: the listener, its workers, and what is around every request.

use std::{
    any::Any,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

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
use socket2::{Domain, SockRef, Socket, Type};

use super::Broker;
use crate::{
    actors::session::ConnectionSocket,
    domain::{liveness::Periods, origin},
    http::{request_id, root, routes},
    settings::{self, Registration, Settings},
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

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

pub(super) fn warn_of_risks(settings: &Settings, address: SocketAddr) {
    let local = address.ip().is_loopback();
    if !local && settings.devices.registration == Registration::Open {
        tracing::warn!(%address, "anyone who reaches this address can register as any device: set devices.registration");
    }
    let secret = &settings.auth.secret;
    if !secret.is_empty() && settings::is_weak_secret(secret.expose()) {
        tracing::warn!(
            "the secret that signs tokens is shorter than 32 bytes or well known, so tokens can be forged: set SECRET_KEY to 32 random bytes or more (openssl rand -base64 48)"
        );
    }
    if !settings.ignored_variables.is_empty() {
        tracing::warn!(
            "these variables are no settings and are ignored: {}; a setting is SWITCHBOARD__SECTION__KEY, with two underscores",
            settings.ignored_variables.join(", ")
        );
    }
    // two descriptors per socket, and some for the rest
    let wanted = (settings.limits.connections as u64) * 2 + 256;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < wanted => {
            let enough = limit.saturating_sub(256) / 2;
            tracing::warn!(
                "this process may open {limit} files, enough for {enough} connections: ulimit -n {wanted}, or lower limits.connections"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

pub(super) fn serve(broker: web::Data<Broker>, listener: TcpListener, workers: usize) -> anyhow::Result<Server> {
    let limits = &broker.settings.limits;
    // a peer that acknowledges nothing for so long is gone, whatever the session does meanwhile
    let user_timeout = Duration::from_secs(limits.send_timeout_secs * 2);
    let most = if limits.connections == 0 { 1_000_000 } else { limits.connections.max(25_000) };
    let sessions = &broker.settings.sessions;
    let periods =
        Periods { ping: sessions.ping_secs, silence: sessions.silence_secs, heartbeat: sessions.heartbeat_secs };
    let server = HttpServer::new(move || {
        // runs once on each worker's thread
        if let Some(relay) = broker.relays.start_worker(periods) {
            broker.supervision.watch_actor("relay", &relay);
        }
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
        .allowed_origin_fn(move |origin, _| origin.to_str().is_ok_and(|origin| origin::is_allowed(origin, &origins)))
        .allowed_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_any_header()
        .expose_headers(["X-Request-ID", "Retry-After", "Location"])
        .supports_credentials()
        // a foreign origin is answered as usual: without the headers its browser shows the answer to nobody
        .block_on_origin_mismatch(false)
        .max_age(600)
}
