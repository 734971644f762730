//! `/healthz`: is it alive. `/readyz`: should it get traffic, and if not, why (contract section 9).

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::{actors, app::Broker};

/// An actor that does not answer for so long is not alive.
const PATIENCE: Duration = Duration::from_secs(2);

/// Alive: the actors answer.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "Alive"), (status = 503, description = "An actor does not answer")))]
pub async fn healthz(broker: web::Data<Broker>) -> HttpResponse {
    let registry = broker.registry.send(actors::registry::Ping);
    let topic_manager = broker.topic_manager.send(actors::topic_manager::Ping);
    let room_manager = broker.rooms.manager().send(actors::room_manager::Ping);
    let all = futures_util::future::try_join3(registry, topic_manager, room_manager);
    match tokio::time::timeout(PATIENCE, all).await {
        Ok(Ok(_)) => HttpResponse::Ok().json(json!({ "status": "alive" })),
        _ => HttpResponse::ServiceUnavailable().json(json!({ "status": "an actor does not answer" })),
    }
}

/// Ready for traffic, with a detail for each part.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, description = "Ready"), (status = 503, description = "Draining, or the database is away")))]
pub async fn readyz(broker: web::Data<Broker>) -> HttpResponse {
    let database = match tokio::time::timeout(PATIENCE, broker.store.ping()).await {
        Ok(Ok(())) => "ok",
        Ok(Err(error)) => {
            tracing::warn!(%error, "database away");
            "away"
        }
        Err(_) => "does not answer",
    };
    let draining = broker.is_draining();
    let ready = database == "ok" && !draining;
    let status = if ready { "ready" } else { "unavailable" };
    let parts = json!({
        "status": status, "database": database, "redis": "disabled", "gateways": "none", "draining": draining,
    });
    if ready { HttpResponse::Ok().json(parts) } else { HttpResponse::ServiceUnavailable().json(parts) }
}
