//! The state of webhooks.

use actix_web::web;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    domain::webhooks::{EventType, Webhook},
    http::errors::ApiError,
    http::extract::Admin,
    protocol::outbound::rfc3339,
    state::Broker,
    store::WebhookState,
};

/// A webhook and what became of its deliveries in the last seven days.
#[derive(Serialize, ToSchema)]
pub struct WebhookInfo {
    /// Without credentials and query.
    #[schema(example = "https://receiver.example.org/switchboard")]
    url: String,
    /// The events that it is told of.
    events: Vec<&'static str>,
    allow_private: bool,
    /// Deliveries that wait.
    pending: u64,
    /// When a delivery was accepted last.
    last_success: Option<String>,
    /// When an attempt failed last, and why.
    last_failure: Option<WebhookFailure>,
}

/// An attempt that failed.
#[derive(Serialize, ToSchema)]
pub struct WebhookFailure {
    at: String,
    #[schema(example = "status 500")]
    reason: String,
}

impl WebhookInfo {
    fn of(webhook: Webhook, state: WebhookState) -> Self {
        Self {
            url: webhook.shown_url,
            events: webhook.events.iter().map(|event: &EventType| event.as_str()).collect(),
            allow_private: webhook.allow_private,
            pending: state.pending,
            last_success: state.last_success.map(rfc3339),
            last_failure: state.last_failure.map(|(at, reason)| WebhookFailure { at: rfc3339(at), reason }),
        }
    }
}

/// All webhooks of the configuration.
#[derive(Serialize, ToSchema)]
pub struct WebhookList {
    count: usize,
    webhooks: Vec<WebhookInfo>,
}

/// The webhooks of the configuration, and what became of their deliveries.
#[utoipa::path(get, path = "/api/webhooks", tag = "operations", responses((status = 200, body = WebhookList), (status = 403, description = "Admin role required")), security(("bearer" = [])))]
pub async fn list(broker: web::Data<Broker>, _: Admin) -> Result<web::Json<WebhookList>, ApiError> {
    let states = broker.webhooks.states().await?;
    let webhooks: Vec<_> = states.into_iter().map(|(webhook, state)| WebhookInfo::of(webhook, state)).collect();
    Ok(web::Json(WebhookList { count: webhooks.len(), webhooks }))
}
