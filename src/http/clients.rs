//! `GET /clients`: who is connected.

use std::collections::BTreeMap;

use actix_web::web;
use serde::Serialize;

use crate::{app::Broker, auth::extract::PublicRead};

/// Who is connected.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Clients {
    count: usize,
    /// name by UUID
    #[schema(example = json!({"123e4567-e89b-12d3-a456-426614174000": "Alice"}))]
    clients: BTreeMap<String, String>,
}

/// Who is connected, to whichever node: names by UUID.
#[utoipa::path(get, path = "/clients", tag = "messaging", responses((status = 200, body = Clients)), security((), ("bearer" = [])))]
pub async fn list(broker: web::Data<Broker>, _: PublicRead) -> web::Json<Clients> {
    let elsewhere = broker.backplane.clients().await;
    let clients: BTreeMap<_, _> =
        elsewhere.into_iter().chain(broker.directory.clients()).map(|(id, name)| (id.to_string(), name)).collect();
    web::Json(Clients { count: clients.len(), clients })
}
