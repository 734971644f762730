//! `GET /`: what this server is and where to go from here.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, Responder, http::header, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::routes;
use crate::http::extract::NoBadCredentials;

/// Paths by what they are for.
const ENDPOINTS: [(&str, &str); 22] = [
    ("register", "/register"),
    ("login", "/token"),
    ("websocket", "/ws"),
    ("clients", "/clients"),
    ("topics", "/topics"),
    ("create_topic", "/topics/create"),
    ("subscribe", "/topics/subscribe"),
    ("unsubscribe", "/topics/unsubscribe"),
    ("rooms", "/api/rooms/"),
    ("messages", "/api/rooms/{room_id}/messages"),
    ("connections", "/connections"),
    ("devices", "/devices"),
    ("gateways", "/api/gateways"),
    ("device_status", "/device_status/"),
    ("send_command", "/send-command/{target}"),
    ("broadcast_command", "/broadcast-command"),
    ("commands", "/api/commands"),
    ("users", "/api/users/"),
    ("health", "/healthz"),
    ("readiness", "/readyz"),
    ("openapi", "/openapi.json"),
    ("asyncapi", "/asyncapi.json"),
];

/// Name, version and endpoints of this server.
#[derive(Serialize, ToSchema)]
pub struct ServerInfo {
    message: &'static str,
    name: &'static str,
    version: &'static str,
    documentation: &'static str,
    /// Paths that speak WebSocket.
    websocket_endpoints: [&'static str; routes::WEBSOCKETS.len()],
    /// Paths by what they are for.
    endpoints: BTreeMap<&'static str, &'static str>,
}

/// Name, version and endpoints of this server; browsers are redirected to its documentation.
#[utoipa::path(get, path = "/", tag = "operations", responses((status = 200, description = "Name, version, endpoints", body = ServerInfo), (status = 303, description = "For browsers: where to read on", headers(("Location" = String, description = "The documentation")))), security((), ("bearer" = [])))]
pub async fn index(request: HttpRequest, _: NoBadCredentials) -> impl Responder {
    let wants_html = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if wants_html {
        return HttpResponse::SeeOther().insert_header((header::LOCATION, "/docs")).finish();
    }
    HttpResponse::Ok().json(ServerInfo {
        message: "Switchboard is running",
        name: "Switchboard",
        version: env!("CARGO_PKG_VERSION"),
        documentation: "/docs",
        websocket_endpoints: routes::WEBSOCKETS.map(|(path, _)| path),
        endpoints: ENDPOINTS.into(),
    })
}

/// No such path.
pub async fn not_found() -> Result<web::Json<()>, crate::http::errors::ApiError> {
    Err(crate::http::errors::ApiError::NotFound("Not Found"))
}
