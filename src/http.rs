//! The HTTP side. `routes` is the table of all routes; there is a file for each resource.
//!
//! A handler that needs an identity takes [`extract::Identity`] (any client), [`extract::UserIdentity`], [`extract::Operator`] or
//! [`extract::Admin`] as an argument.
//!
//! To add a route: a handler with its `#[utoipa::path]` in the file of its resource, and a line in the table in `routes`. The
//! limits in the OpenAPI document are those that the handler's [`body::FromFields`] checks.

mod admission;
mod arriving;
mod asyncapi;
mod audit;
pub mod body;
mod clients;
mod cluster;
mod commands;
pub mod connections;
pub mod credentials;
mod devices;
mod docs;
mod errors;
pub mod extract;
mod gateways;
mod health;
mod input;
mod log_level;
mod memory;
mod messages;
mod metrics;
mod one_of;
mod openapi;
pub(crate) mod paging;
mod reads;
mod register;
mod request_body;
pub mod request_id;
mod response_body;
pub mod rooms;
pub mod root;
pub mod routes;
mod sent_object;
pub(crate) mod stream;
mod tokens;
mod topics;
mod users;
mod webhooks;
mod websocket;

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, web};
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;

pub use self::admission::Admission;
use crate::{
    domain::network,
    http::errors::ApiError,
    settings::{Http, Settings},
    store::patience,
};

/// How long a warning is not repeated.
const WARN_AGAIN: Duration = Duration::from_secs(600);

/// An answer that only says what was done.
#[derive(Serialize, ToSchema)]
pub struct Confirmation {
    message: String,
}

impl Confirmation {
    fn of(message: impl Into<String>) -> web::Json<Self> {
        web::Json(Self { message: message.into() })
    }
}

/// Runs work to its end, also if the caller disconnects: see [`patience::undisturbed`].
async fn undisturbed<T: 'static>(work: impl Future<Output = Result<T, ApiError>> + 'static) -> Result<T, ApiError> {
    patience::undisturbed(work.in_current_span()).await?
}

/// The address of the client: the peer's, or the one that a trusted proxy names.
fn client_address(request: &HttpRequest, settings: &Settings) -> Option<IpAddr> {
    let mut address = peer(request)?;
    warn_of_unknown_proxy(request, settings, address);
    let headers = request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = headers.flat_map(|value| value.split(',')).collect();
    // each proxy appends the address of its peer, so the hops are read from the end, as far as trusted proxies appended them
    for hop in hops.into_iter().rev() {
        if !is_trusted(&settings.http, address) {
            break;
        }
        let hop = hop.trim();
        let seen = hop.parse::<IpAddr>().or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()));
        match seen {
            Ok(seen) => address = seen.to_canonical(),
            Err(_) => break,
        }
    }
    Some(address)
}

/// The address for limits: of IPv6, the /64.
pub(crate) fn limited_address(request: &HttpRequest, settings: &Settings) -> Option<IpAddr> {
    client_address(request, settings).map(network::limit_key)
}

fn is_trusted(http: &Http, address: IpAddr) -> bool {
    http.trusted_proxies.iter().any(|proxy| proxy.contains(address))
}

/// Whether a proxy has passed the request on, as far as its headers tell.
fn is_forwarded(request: &HttpRequest) -> bool {
    let names = ["x-forwarded-for", "forwarded", "x-real-ip"];
    names.iter().any(|name| request.headers().contains_key(*name))
}

/// Warns of a proxy that is not trusted, since all its clients count as one address.
fn warn_of_unknown_proxy(request: &HttpRequest, settings: &Settings, peer: IpAddr) {
    static WARNED: Mutex<Option<Instant>> = Mutex::new(None);
    if !network::is_private(peer) || is_trusted(&settings.http, peer) || !is_forwarded(request) {
        return;
    }
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.is_none_or(|warned| warned.elapsed() >= WARN_AGAIN) {
        *warned = Some(Instant::now());
        tracing::warn!(
            %peer,
            "requests come through a proxy that is not in http.trusted_proxies: all its clients count as one address and share limits such as limits.login_failures_per_minute"
        );
    }
}

fn peer(request: &HttpRequest) -> Option<IpAddr> {
    Some(request.peer_addr()?.ip().to_canonical())
}

/// Whether the request comes from a trusted proxy.
pub(crate) fn is_from_trusted_proxy(request: &HttpRequest, http: &Http) -> bool {
    peer(request).is_some_and(|peer| is_trusted(http, peer))
}

/// Whether the client uses TLS, according to a trusted proxy.
fn is_tls(request: &HttpRequest, settings: &Settings) -> bool {
    is_from_trusted_proxy(request, &settings.http)
        && request.headers().get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}
