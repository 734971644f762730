//! The HTTP side: `routes` is the whole API as one table, then a file per resource.
//!
//! To add a route: a handler with its `#[utoipa::path]` in the file of its resource, a line in
//! [`routes::configure`], and a line in the list of the OpenAPI document; a test holds the two together.

pub mod body;
mod clients;
mod command_events;
mod commands;
mod register;
pub use register::check_username;
mod docs;
mod health;
pub mod request_id;
pub mod root;
pub mod routes;
mod send_command;
mod tokens;
mod topics;
mod users;
mod websocket;

use std::net::IpAddr;

use actix_web::HttpRequest;

use crate::settings::Settings;

/// The address a request came from: the peer's, or what a trusted proxy says.
fn client_address(request: &HttpRequest, settings: &Settings) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    if !settings.http.trusted_proxies.contains(&peer) {
        return Some(peer);
    }
    // each proxy appends whom it saw: the last one that is no proxy of ours is the client
    let hops = request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
    let hops: Vec<IpAddr> = hops.flat_map(|value| value.split(',')).filter_map(|hop| hop.trim().parse().ok()).collect();
    hops.into_iter().rev().find(|hop| !settings.http.trusted_proxies.contains(hop)).or(Some(peer))
}

/// Whether the client speaks TLS, with a trusted proxy in front.
fn is_tls(request: &HttpRequest, settings: &Settings) -> bool {
    let trusted = request.peer_addr().is_some_and(|peer| settings.http.trusted_proxies.contains(&peer.ip()));
    trusted && request.headers().get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}
