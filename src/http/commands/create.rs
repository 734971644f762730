//! `POST /api/commands`.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde_json::Value;

use super::{CommandInfo, CreateCommand, MAX_WAIT, Request, audit_refusal, new_command};
use crate::{
    actors::command_dispatcher::{IdempotencyKey, Outcome, Targets},
    http::errors::ApiError,
    http::{body::Body, extract::UserIdentity},
    state::Broker,
};

/// Give a command. The answer comes when its last target has ended, at the latest after 30 seconds; with
/// `Prefer: respond-async` at once.
#[utoipa::path(post, path = "/api/commands", tag = "commands", request_body = CreateCommand, params(("Prefer" = Option<String>, Header, description = "`respond-async`: do not wait"), ("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key is the same command")), responses((status = 200, description = "Finished", body = CommandInfo), (status = 202, description = "Not finished yet; see Location", body = CommandInfo, headers(("Location" = String, description = "Where to ask for it"))), (status = 403, description = "Operator role required"), (status = 404, description = "Unknown target, or no client matches"), (status = 429, description = "limits.pending_commands_per_identity, limits.queued_commands_per_identity, limits.queued_commands_per_target, limits.command_bytes_per_identity"), (status = 503, description = "limits.pending_commands, limits.queued_commands, limits.command_bytes, or Gateway … is down")), security(("bearer" = [])))]
pub async fn create(
    http: HttpRequest,
    broker: web::Data<Broker>,
    identity: UserIdentity,
    body: Body<CreateCommand>,
) -> Result<HttpResponse, ApiError> {
    let wait = if prefers_async(&http) { Duration::ZERO } else { MAX_WAIT };
    let mut request = body.content;
    let digest = std::mem::take(&mut request.digest);
    let key = idempotency_key(&http)?.map(|key| IdempotencyKey { key, digest });
    let CreateCommand { target, targets, select, method, url, data, timeout_secs, deliver_within_secs, .. } = request;
    let targets = match select {
        Some(select) => Targets::Selected(select.into()),
        None => Targets::Named(target.into_iter().chain(targets.into_iter().flatten()).collect()),
    };
    let request = Request { method, url, data };
    let within = deliver_within_secs.unwrap_or(0);
    let new = new_command((&http, &broker), &identity.0, targets, request, timeout_secs, within);
    let outcome = broker.commands.create(new, key, wait).await;
    Ok(answer(outcome.inspect_err(|error| audit_refusal(&http, &broker, &identity.0, error))?))
}

fn prefers_async(request: &HttpRequest) -> bool {
    let mut preferences = request.headers().get_all("prefer").filter_map(|value| value.to_str().ok());
    preferences.any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case("respond-async")))
}

fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, ApiError> {
    let Some(key) = request.headers().get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let msg = "Value error, expected 1 to 255 visible characters";
            Err(ApiError::invalid("value_error", &["header", "Idempotency-Key"], msg, Value::Null))
        }
    }
}

fn answer(outcome: Outcome) -> HttpResponse {
    match outcome {
        Outcome::Finished(command) => HttpResponse::Ok().json(CommandInfo::of(&command)),
        Outcome::Stored { page, stopping } => {
            let is_finished = page.command.finished_at.is_some() && !stopping;
            let mut response = if is_finished { HttpResponse::Ok() } else { HttpResponse::Accepted() };
            let location = format!("/api/commands/{}", page.command.id);
            response.insert_header((header::LOCATION, location)).json(CommandInfo::of_page(&page))
        }
    }
}
