//! `/healthz`: whether the process works. `/readyz`: whether it should get traffic (contract section 9).

use std::time::Duration;

use actix_web::{HttpResponse, http::header, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::state::{Broker, NEARLY_FULL};

/// How long an actor may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the process is alive.
#[derive(Serialize, ToSchema)]
pub struct Health {
    #[schema(example = "alive")]
    status: &'static str,
    /// The actor that does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'static str>,
}

/// `Retry-After` of `/readyz`, in seconds.
const RETRY_AFTER: u64 = 5;

/// Whether the process works: all actors answer.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "Alive", body = Health), (status = 503, description = "An actor does not answer", body = Health)))]
pub async fn healthz(broker: web::Data<Broker>) -> HttpResponse {
    health(broker.unresponsive_actor(PATIENCE).await)
}

fn health(unresponsive: Option<&'static str>) -> HttpResponse {
    match unresponsive {
        None => HttpResponse::Ok().json(Health { status: "alive", actor: None }),
        actor => HttpResponse::ServiceUnavailable()
            .insert_header((header::RETRY_AFTER, RETRY_AFTER))
            .json(Health { status: "an actor does not answer", actor }),
    }
}

/// Whether the process should get traffic, with a detail for each part.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    /// `ready`, `degraded` or `unavailable`.
    status: &'static str,
    /// `ok`, or what is wrong.
    database: &'static str,
    /// `ok`, `away`, `incomplete` while not all clients of other nodes are known, or `disabled` on a node of its own.
    redis: &'static str,
    /// `ok`, `none`, or what is wrong.
    gateways: String,
    /// The server is shutting down.
    draining: bool,
}

/// Whether to send traffic, with a detail for each part. 503: send none. 200 with `degraded`: look at the details.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, description = "Ready; degraded if something can wait, such as Redis or free space", body = Readiness), (status = 503, description = "Draining, or the database takes no writes: it is away, or its disk is full", body = Readiness)))]
pub async fn readyz(broker: web::Data<Broker>) -> HttpResponse {
    let database = tokio::time::timeout(PATIENCE, broker.database_readiness()).await.unwrap_or("away");
    let draining = broker.is_stopping();
    let ready = matches!(database, "ok" | NEARLY_FULL) && !draining;
    let trouble = broker.gateways.trouble();
    let redis = match broker.cluster.is_up() {
        None => "disabled",
        Some(false) => "away",
        Some(true) if !broker.cluster.is_complete() => "incomplete",
        Some(true) => "ok",
    };
    let status = match ready {
        false => "unavailable",
        true if trouble.is_some() || database == NEARLY_FULL || matches!(redis, "away" | "incomplete") => "degraded",
        true => "ready",
    };
    let gateways = trouble.unwrap_or_else(|| if broker.gateways.is_empty() { "none" } else { "ok" }.to_owned());
    let parts = Readiness { status, database, redis, gateways, draining };
    if ready {
        return HttpResponse::Ok().json(parts);
    }
    HttpResponse::ServiceUnavailable().insert_header((header::RETRY_AFTER, RETRY_AFTER)).json(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn an_actor_that_does_not_answer_is_named_and_makes_the_process_unhealthy() {
        let unhealthy = health(Some("registry"));
        assert_eq!(unhealthy.status().as_u16(), 503);
        assert!(unhealthy.headers().contains_key(header::RETRY_AFTER));
        let body = actix_web::body::to_bytes(unhealthy.into_body()).await.unwrap();
        assert_eq!(body, r#"{"status":"an actor does not answer","actor":"registry"}"#);
        assert_eq!(health(None).status().as_u16(), 200);
    }
}
