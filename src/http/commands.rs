//! Commands as a resource: create, read, follow, cancel.

pub mod create;
pub mod events;
mod info;
mod request;
pub mod send;

use std::time::Duration;

use actix_web::{HttpRequest, web};
use chrono::TimeDelta;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

use self::{
    info::ProgressInfo,
    request::{CreateCommand, ListQuery, MAX_TIMEOUT_SECS, StateName, TargetPage},
};
pub use self::{
    info::{CommandInfo, TargetInfo},
    request::Request,
};
use super::{
    audit,
    body::QueryOf,
    client_address,
    paging::{Next, PAGE_BYTES},
};
use crate::{
    actors::command_dispatcher::{CommandError, CommandQuery, NewCommand, Targets},
    domain::{accounts::Authenticated, ids::CommandId},
    http::Admission,
    http::errors::ApiError,
    http::extract::UserIdentity,
    protocol::{json, outbound::rfc3339},
    state::Broker,
};

/// How long a caller waits for the end of its command.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The command that a request asks for.
fn new_command(
    (http, broker): (&HttpRequest, &Broker),
    requester: &Authenticated,
    targets: Targets,
    request: Request,
    timeout_secs: Option<u64>,
    deliver_within_secs: u64,
) -> NewCommand {
    let Request { method, url, data } = request;
    let default = match broker.settings.load().limits.command_timeout_secs {
        0 => MAX_TIMEOUT_SECS,
        secs => secs,
    };
    NewCommand {
        requester: requester.account.clone(),
        targets,
        method,
        url,
        data,
        timeout: Duration::from_secs(timeout_secs.unwrap_or(default)),
        address: client_address(http, &broker.settings.load()),
        deliver_within: (deliver_within_secs > 0).then(|| TimeDelta::seconds(deliver_within_secs as i64)),
    }
}

/// Records that a client may not give a command to others.
fn audit_refusal(http: &HttpRequest, broker: &Broker, requester: &Authenticated, error: &CommandError) {
    if matches!(error, CommandError::NotAllowed) {
        audit::access_refused(http, broker, requester);
    }
}

/// A command id in a path.
fn command_id(path: &str) -> Result<CommandId, ApiError> {
    CommandId::parse(path)
        .ok_or_else(|| ApiError::invalid("uuid_parsing", &["path", "id"], "Input should be a valid UUID", path.into()))
}

/// The state of a command, with each target's last progress reports.
#[utoipa::path(get, path = "/api/commands/{id}", tag = "commands", params(("id" = uuid::Uuid, Path), ("limit" = Option<u64>, Query, description = "Targets, 1 to 1000; left out: up to 10,000"), ("cursor" = Option<String>, Query, description = "From an earlier answer: further targets", max_length = 1024)), responses((status = 200, body = CommandInfo), (status = 403, description = "For users, not for devices"), (status = 404, description = "Command not found")), security(("bearer" = [])))]
pub async fn show(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    identity: UserIdentity,
    path: web::Path<String>,
    page: QueryOf<TargetPage>,
) -> Result<web::Json<CommandInfo>, ApiError> {
    let id = command_id(&path)?;
    let TargetPage { from, limit } = page.0;
    let written = broker.commands.written_of(id).await?;
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let (page, reports) = written.get(id, &identity.0.account, from, limit).await?;
    let mut info = CommandInfo::of_page(&page);
    for report in reports {
        if let Some(target) = info.targets.iter_mut().find(|target| target.uuid == report.client) {
            let progress = json::stored(&report.progress);
            target.progress.push(ProgressInfo { at: rfc3339(report.at), progress });
        }
    }
    Ok(web::Json(info))
}

/// Cancel a command for all targets that have not ended. Targets that it was sent to are told.
#[utoipa::path(delete, path = "/api/commands/{id}", tag = "commands", params(("id" = uuid::Uuid, Path)), responses((status = 200, description = "As it stands now", body = CommandInfo), (status = 404, description = "Command not found"), (status = 503, description = "The node that handles the command cannot be asked")), security(("bearer" = [])))]
pub async fn cancel(
    request: HttpRequest,
    broker: web::Data<Broker>,
    identity: UserIdentity,
    path: web::Path<String>,
) -> Result<web::Json<CommandInfo>, ApiError> {
    let address = client_address(&request, &broker.settings.load());
    let page = broker.commands.cancel(command_id(&path)?, &identity.0.account, address).await?;
    Ok(web::Json(CommandInfo::of_page(&page)))
}

/// A page of commands, newest first.
#[derive(Serialize, ToSchema)]
pub struct CommandList {
    /// On this page.
    count: usize,
    commands: Vec<CommandInfo>,
    #[serde(flatten)]
    next: Next,
    /// The older name of `cursor`; null: there is none.
    #[schema(value_type = Option<uuid::Uuid>)]
    next_cursor: Option<CommandId>,
}

/// Commands, newest first: all of them for operators, the caller's own for others.
#[utoipa::path(get, path = "/api/commands", tag = "commands", params(("state" = Option<StateName>, Query, description = "Of any of its targets"), ("target" = Option<String>, Query, description = "A user's integer id, or the UUID of a device or user", max_length = 64), ("since" = Option<String>, Query, description = "RFC 3339", max_length = 64), ("limit" = Option<u64>, Query, description = "1 to 1000"), ("cursor" = Option<String>, Query, description = "From an earlier answer", max_length = 1024)), responses((status = 200, body = CommandList), (status = 403, description = "For users, not for devices"), (status = 404, description = "`target` is no client")), security(("bearer" = [])))]
pub async fn list(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    identity: UserIdentity,
    query: QueryOf<ListQuery>,
) -> Result<web::Json<CommandList>, ApiError> {
    let ListQuery { state, target, since, limit, cursor } = query.0;
    let query = CommandQuery { state, target, since, before: cursor, limit, bytes: PAGE_BYTES };
    let filter = broker.commands.filter(query, &identity.0.account).await?;
    let written = broker.commands.written_everywhere().await?;
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let (pages, more) = written.list(filter).await?;
    let next_cursor = if more { pages.last().map(|last| last.command.id) } else { None };
    // not encoded, as in `next_cursor`
    let next = Next { truncated: next_cursor.is_some(), cursor: next_cursor.map(|id| id.to_string()) };
    let commands: Vec<_> = pages.iter().map(CommandInfo::of_page).collect();
    Ok(web::Json(CommandList { count: commands.len(), commands, next, next_cursor }))
}

/// Serialises a value.
pub(super) fn to_raw<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>, ApiError> {
    to_raw_value(value).map_err(|error| ApiError::Internal(error.to_string()))
}
