//! The level of the log, which admins may change while the broker runs.

use std::time::Duration;

use actix_web::{HttpRequest, web};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    audit::actor,
    body::{Body, Checked, Fields, FromFields},
};
use crate::{
    domain::audit::{Action, Target},
    http::{errors::ApiError, extract::Admin},
    logging,
    settings::log_filter,
    state::Broker,
};

/// Characters that levels may have.
const CHARS: usize = 1000;

/// The levels of this node's log.
#[derive(Serialize, ToSchema)]
pub struct LogLevel {
    /// In effect: a level, or levels of modules.
    #[schema(example = "debug")]
    level: String,
    /// Those of the settings, which come back at the end of others.
    #[schema(example = "info")]
    configured: String,
}

/// Other levels than those of the settings.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"level": "debug", "seconds": 60}))]
pub struct NewLogLevel {
    /// A level (off, error, warn, info, debug, trace), or levels of modules, such as "warn,switchboard::http=debug".
    level: String,
    /// How long it lasts; until it is changed again if missing.
    seconds: Option<u32>,
}

impl FromFields for NewLogLevel {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let level = fields.text("level", 1..=CHARS);
        let seconds = fields.optional_number("seconds", 1..=logging::MOST_SECONDS.into());
        let level = level?;
        if let Err(error) = log_filter(&level) {
            return Err(fields.fault("value_error", "level", error.to_string()));
        }
        Ok(Self { level, seconds: seconds?.and_then(|seconds| seconds.try_into().ok()) })
    }
}

fn shown() -> web::Json<LogLevel> {
    let logging::Current { level, configured } = logging::current();
    web::Json(LogLevel { level, configured })
}

fn record(request: &HttpRequest, broker: &Broker, admin: &Admin, level: &str) {
    let (by, target) = (actor(request, broker, &admin.0), Target::of(broker.cluster.incarnation()));
    broker.audit.record(by, Action::LogLevelChanged, target, json!({ "level": level }));
}

/// What this node logs.
#[utoipa::path(get, path = "/admin/log-level", tag = "operations", responses((status = 200, body = LogLevel), (status = 403, description = "Admin role required")), security(("bearer" = [])))]
pub async fn show(_: Admin) -> web::Json<LogLevel> {
    shown()
}

/// Change what this node logs, until it stops at the latest.
#[utoipa::path(put, path = "/admin/log-level", tag = "operations", request_body = NewLogLevel, responses((status = 200, body = LogLevel)), security(("bearer" = [])))]
pub async fn change(
    request: HttpRequest,
    broker: web::Data<Broker>,
    admin: Admin,
    body: Body<NewLogLevel>,
) -> Result<web::Json<LogLevel>, ApiError> {
    let NewLogLevel { level, seconds } = body.content;
    let time = seconds.map(|seconds| Duration::from_secs(seconds.into()));
    // does not fail: the level was checked when it was read
    let _ = logging::set(&level, time);
    record(&request, &broker, &admin, &level);
    Ok(shown())
}

/// Log by the settings again.
#[utoipa::path(delete, path = "/admin/log-level", tag = "operations", responses((status = 200, body = LogLevel)), security(("bearer" = [])))]
pub async fn reset(request: HttpRequest, broker: web::Data<Broker>, admin: Admin) -> web::Json<LogLevel> {
    logging::reset();
    record(&request, &broker, &admin, &logging::current().configured);
    shown()
}
