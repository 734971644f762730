//! `GET /clients` and `GET /connections`: who is connected, and how many.

use std::collections::BTreeMap;

use actix_web::web;
use serde::Serialize;

use super::{
    body::QueryOf,
    paging::{Next, Part, part_of},
};
use crate::{http::errors::ApiError, http::extract::PublicRead, state::Broker};

/// Who is connected.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Clients)]
pub struct ClientList {
    /// On this page.
    count: usize,
    /// name by UUID
    #[schema(example = json!({"123e4567-e89b-12d3-a456-426614174000": "Alice"}))]
    clients: BTreeMap<String, String>,
    #[serde(flatten)]
    next: Next,
}

/// Connected devices and users on all nodes: names by UUID.
#[utoipa::path(get, path = "/clients", tag = "messaging", params(("limit" = Option<u64>, Query, description = "1 to 1000; left out: up to 10,000"), ("cursor" = Option<String>, Query, description = "From an earlier answer", max_length = 1024)), responses((status = 200, body = ClientList)), security((), ("bearer" = [])))]
pub async fn list(broker: web::Data<Broker>, _: PublicRead, part: QueryOf<Part>) -> web::Json<ClientList> {
    let online = broker.clients.online().into_iter().map(|(id, name)| (id.to_string(), name));
    let (clients, next) = part_of(online, &part.0);
    web::Json(ClientList { count: clients.len(), clients: clients.into_iter().collect(), next })
}

/// How many sockets there are.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Connections {
    total_connections: usize,
    active_connections: usize,
    /// by room id, private rooms left out
    connections_by_room: BTreeMap<String, usize>,
    #[serde(flatten)]
    next: Next,
}

/// How many sockets are open on this node, unauthenticated ones included.
#[utoipa::path(get, path = "/connections", tag = "messaging", params(("limit" = Option<u64>, Query, description = "1 to 1000; left out: up to 10,000"), ("cursor" = Option<String>, Query, description = "From an earlier answer", max_length = 1024)), responses((status = 200, body = Connections)), security((), ("bearer" = [])))]
pub async fn connections(
    broker: web::Data<Broker>,
    _: PublicRead,
    part: QueryOf<Part>,
) -> Result<web::Json<Connections>, ApiError> {
    let open = broker.relays.session_count();
    let counts = broker.rooms.socket_counts().await?;
    let counts: BTreeMap<_, _> = counts.into_iter().map(|(room, sockets)| (room.to_string(), sockets)).collect();
    let (counts, next) = part_of(counts, &part.0);
    let connections_by_room = counts.into_iter().collect();
    Ok(web::Json(Connections { total_connections: open, active_connections: open, connections_by_room, next }))
}
