//! The level of the log, which admins may change while the broker runs.

use std::time::Duration;

use actix_web::web;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::{Body, Checked, Fields, FromFields};
use crate::{
    http::{errors::ApiError, extract::Admin},
    logging,
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
        if let Err(error) = logging::check(&level) {
            return Err(fields.fault("value_error", "level", error.to_string()));
        }
        Ok(Self { level, seconds: seconds?.and_then(|seconds| seconds.try_into().ok()) })
    }
}

fn shown() -> web::Json<LogLevel> {
    let logging::Current { level, configured } = logging::current();
    web::Json(LogLevel { level, configured })
}

/// What this node logs.
#[utoipa::path(get, path = "/admin/log-level", tag = "operations", responses((status = 200, body = LogLevel)), security(("bearer" = [])))]
pub async fn show(_: Admin) -> web::Json<LogLevel> {
    shown()
}

/// Change what this node logs, until it stops at the latest.
#[utoipa::path(put, path = "/admin/log-level", tag = "operations", request_body = NewLogLevel, responses((status = 200, body = LogLevel)), security(("bearer" = [])))]
pub async fn change(_: Admin, body: Body<NewLogLevel>) -> Result<web::Json<LogLevel>, ApiError> {
    let NewLogLevel { level, seconds } = body.content;
    let time = seconds.map(|seconds| Duration::from_secs(seconds.into()));
    // does not fail: the level was checked when it was read
    let _ = logging::set(&level, time);
    Ok(shown())
}

/// Log by the settings again.
#[utoipa::path(delete, path = "/admin/log-level", tag = "operations", responses((status = 200, body = LogLevel)), security(("bearer" = [])))]
pub async fn reset(_: Admin) -> web::Json<LogLevel> {
    logging::reset();
    shown()
}
