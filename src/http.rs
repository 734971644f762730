//! The HTTP side: `routes` is the whole API as one table, then a file per resource.
//!
//! To add a route: a handler with its `#[utoipa::path]` in the file of its resource, a line in
//! [`routes::configure`], and a line in the list of the OpenAPI document; a test holds the two together.

pub mod body;
mod clients;
mod commands;
mod devices;
mod gateways;
mod register;
pub use register::check_username;
mod docs;
mod health;
mod openapi;
pub mod request_id;
pub mod rooms;
pub mod root;
pub mod routes;
mod tokens;
mod topics;
mod users;
mod websocket;

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
};

use actix_web::{HttpRequest, web};
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;

use crate::{error::ApiError, settings::Settings};

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

/// Does something to its end, also when the caller hangs up: what is stored must be told.
async fn undisturbed<T: 'static>(work: impl Future<Output = Result<T, ApiError>> + 'static) -> Result<T, ApiError> {
    actix_web::rt::spawn(work.in_current_span()).await.map_err(|error| ApiError::Internal(error.to_string()))?
}

/// The address a request came from: the peer's, or what a trusted proxy says.
fn client_address(request: &HttpRequest, settings: &Settings) -> Option<IpAddr> {
    let mut address = peer(request)?;
    let headers = request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = headers.flat_map(|value| value.split(',')).collect();
    // each proxy appends whom it saw, so we go back as long as it was a proxy of ours who says so
    for hop in hops.into_iter().rev() {
        if !settings.http.trusted_proxies.contains(&address) {
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

fn peer(request: &HttpRequest) -> Option<IpAddr> {
    Some(request.peer_addr()?.ip().to_canonical())
}

/// Whether the client speaks TLS, with a trusted proxy in front.
fn is_tls(request: &HttpRequest, settings: &Settings) -> bool {
    let trusted = peer(request).is_some_and(|peer| settings.http.trusted_proxies.contains(&peer));
    trusted && request.headers().get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}
