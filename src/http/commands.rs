//! Commands as a resource: given, followed, called off, and kept as who asked what of whom, when, with what end.

pub mod events;
mod info;
mod request;
pub mod send;
mod targets;

use std::{sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use chrono::{SubsecRound, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use self::{
    info::ProgressInfo,
    request::{CreateCommand, ListQuery, MAX_TIMEOUT_SECS, StateName, TargetPage},
};
pub use self::{
    info::{CommandInfo, TargetInfo},
    request::{Request, TargetRef},
};
use super::{
    body::{Body, QueryOf},
    devices::{behind_down_gateway, check_gateways},
    paging::{Next, PAGE_BYTES},
    undisturbed,
};
use crate::{
    actors::{
        command_dispatcher::{Adopt, Await, Cancel, Dispatch, NoPlace, RecordBegun, Release, Reserve},
        journal::Write,
    },
    domain::{
        accounts::{Account, Authenticated},
        commands::{Command, Exceeded, Order, max_targets, may_command},
        ids::{CommandId, Role},
    },
    error::ApiError,
    http::Admission,
    http::extract::UserIdentity,
    protocol::{
        json,
        outbound::{self, rfc3339},
    },
    state::Broker,
    store::{CommandFilter, CommandPage, KeyedCommand, Record, StoreError},
};

/// How long a caller waits for the end of its command.
const PATIENCE: Duration = Duration::from_secs(30);

const NOT_FOUND: ApiError = ApiError::NotFound("Command not found");

/// How a command is to be carried out.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) timeout_secs: Option<u64>,
    pub(super) deliver_within_secs: u64,
}

/// Makes a command of a request.
pub(super) fn command(
    broker: &Broker,
    requester: &Authenticated,
    accounts: Vec<Arc<Account>>,
    request: Request,
    options: Options,
) -> Result<Command, ApiError> {
    let Request { method, url, data } = request;
    let default = match broker.settings.limits.command_timeout_secs {
        0 => MAX_TIMEOUT_SECS,
        secs => secs,
    };
    let order = Order {
        requester: requester.account.clone(),
        targets: accounts,
        method,
        url,
        data,
        timeout: Duration::from_secs(options.timeout_secs.unwrap_or(default)),
        deliver_within: (options.deliver_within_secs > 0)
            .then(|| TimeDelta::seconds(options.deliver_within_secs as i64)),
    };
    // what PostgreSQL keeps of a time, so that it is the same everywhere
    let command = order.into_command(Utc::now().trunc_subsecs(6));
    // more than a socket may have waiting would make a slow consumer of any target
    let limit = broker.settings.limits.outbound_bytes;
    if limit > 0 && outbound::command(&command).len() > limit / 2 {
        return Err(ApiError::CommandTooLarge(limit / 2));
    }
    Ok(command)
}

/// Refuses to command others, unless the requester is an operator.
pub(super) fn check_right(requester: &Authenticated, accounts: &[Arc<Account>]) -> Result<(), ApiError> {
    if may_command(&requester.account, accounts) {
        Ok(())
    } else {
        Err(ApiError::Forbidden("Operator role required to command others"))
    }
}

/// The answer while commands can't be recorded, because of this failure or because the database does not keep up.
fn not_recorded(failure: Option<StoreError>) -> ApiError {
    match failure {
        // the Journal's records may be at fault, and those are not this caller's
        None | Some(StoreError::Database(_)) => ApiError::DatabaseUnavailable,
        Some(failure) => failure.into(),
    }
}

impl From<NoPlace> for ApiError {
    fn from(no_place: NoPlace) -> Self {
        let exceeded = match no_place {
            NoPlace::Limit(exceeded) => exceeded,
            NoPlace::Backlog(failure) => return not_recorded(failure),
        };
        let own = |limit, retry_after| Self::TooMany { limit, retry_after };
        match exceeded {
            Exceeded::Pending => Self::AtLimit("limits.pending_commands"),
            Exceeded::PendingPerIdentity => own("limits.pending_commands_per_identity", 1),
            Exceeded::Queued => Self::AtLimit("limits.queued_commands"),
            Exceeded::QueuedPerIdentity => own("limits.queued_commands_per_identity", 60),
            Exceeded::QueuedPerTarget => own("limits.queued_commands_per_target", 60),
            Exceeded::Bytes => Self::AtLimit("limits.command_bytes"),
            Exceeded::BytesPerIdentity => own("limits.command_bytes_per_identity", 10),
        }
    }
}

/// Counts what is stored of a command. Operators are free: they dispatch tens of thousands per second.
pub(super) fn charge(broker: &Broker, requester: &Authenticated, command: &Command) -> Result<(), ApiError> {
    if requester.account.role() >= Role::Operator {
        return Ok(());
    }
    broker.charge_stored(requester.account.id, command.url.len() + command.data.as_ref().map_or(0, |data| data.len()))
}

fn check_target_count(role: Role, targets: usize) -> Result<(), ApiError> {
    let most = max_targets(role);
    if targets <= most {
        return Ok(());
    }
    let msg = format!("List should have at most {most} items, not {targets}");
    Err(ApiError::invalid("too_long", &["body", "targets"], msg, Value::Null))
}

/// Give a command. The answer comes when its last target has ended, at the latest after 30 seconds; with
/// `Prefer: respond-async` at once.
#[utoipa::path(post, path = "/api/commands", tag = "commands", request_body = CreateCommand, params(("Prefer" = Option<String>, Header, description = "`respond-async`: do not wait"), ("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key is the same command")), responses((status = 200, description = "Finished", body = CommandInfo), (status = 202, description = "Not finished yet; see Location", body = CommandInfo, headers(("Location" = String, description = "Where to ask for it"))), (status = 403, description = "Operator role required"), (status = 404, description = "Unknown target, or no client matches"), (status = 429, description = "limits.pending_commands_per_identity, limits.queued_commands_per_identity, limits.queued_commands_per_target, limits.command_bytes_per_identity"), (status = 503, description = "limits.pending_commands, limits.queued_commands, limits.command_bytes, or Gateway … is down")), security(("bearer" = [])))]
pub async fn create(
    http: HttpRequest,
    broker: web::Data<Broker>,
    identity: UserIdentity,
    body: Body<CreateCommand>,
) -> Result<HttpResponse, ApiError> {
    let wait = !prefers_async(&http);
    let idempotency_key = idempotency_key(&http)?;
    let CreateCommand { target, targets, select, method, url, data, timeout_secs, deliver_within_secs, digest } =
        body.content;
    // a retry first: what it asks for may be as little possible now as it was possible then
    if let Some(key) = &idempotency_key
        && let Some(existing) = broker.store.command_of_key(identity.0.account.id, key).await?
    {
        return answer_retry(&broker, existing, &digest, wait).await;
    }
    let by_name = select.is_none();
    let accounts = match select {
        Some(select) => {
            if identity.0.account.role() < Role::Operator {
                return Err(ApiError::Forbidden("Operator role required to command others"));
            }
            targets::selected(&broker, select, identity.0.account.id).await?
        }
        None => {
            check_target_count(identity.0.account.role(), targets.as_ref().map_or(0, Vec::len))?;
            targets::listed(&broker, target.into_iter().chain(targets.into_iter().flatten())).await?
        }
    };
    check_right(&identity.0, &accounts)?;
    let options = Options { timeout_secs, deliver_within_secs: deliver_within_secs.unwrap_or(0) };
    if by_name && options.deliver_within_secs == 0 {
        check_gateways(&broker, &accounts)?;
    }
    let behind_down_gateway = behind_down_gateway(&broker, &accounts);
    let command = command(&broker, &identity.0, accounts, Request { method, url, data }, options)?;
    charge(&broker, &identity.0, &command)?;
    let id = command.id;
    broker.store.check_space()?;
    if let Some(failure) = broker.backlog.failure() {
        return Err(not_recorded(Some(failure)));
    }
    let dispatch = Dispatch { command, recorded: true, behind_down_gateway };
    match undisturbed(begin(broker.clone(), dispatch, idempotency_key, digest.clone())).await? {
        Begun::New(finished) => answer(&broker, id, wait.then_some(finished)).await,
        Begun::Retry(existing) => answer_retry(&broker, existing, &digest, wait).await,
    }
}

enum Begun {
    New(oneshot::Receiver<Arc<Command>>),
    Retry(KeyedCommand),
}

/// Takes up the places of a command, stores it and sends it, in this order.
async fn begin(
    broker: web::Data<Broker>,
    dispatch: Dispatch,
    idempotency_key: Option<String>,
    digest: String,
) -> Result<Begun, ApiError> {
    let command = Arc::new(dispatch.command.clone());
    let id = command.id;
    broker.command_dispatcher.send(Reserve(command.clone())).await??;
    let begun = store_and_send(&broker, dispatch, &command, idempotency_key, digest).await;
    if !matches!(begun, Ok(Begun::New(_))) {
        broker.command_dispatcher.do_send(Release(id));
    }
    begun
}

async fn store_and_send(
    broker: &Broker,
    dispatch: Dispatch,
    command: &Arc<Command>,
    idempotency_key: Option<String>,
    digest: String,
) -> Result<Begun, ApiError> {
    if let Some(key) = idempotency_key {
        if let Some(existing) = broker.store.create_command_once(command, &key, &digest).await? {
            return Ok(Begun::Retry(existing));
        }
    } else {
        broker.journal.do_send(Write { records: vec![Record::Whole(command.clone())], patient: false });
        if let Err(error) = broker.flush().await {
            // the journal goes on trying: what it will write must not look as if it were still to be sent
            let mut given_up = dispatch.command;
            given_up.withdraw();
            broker.journal.do_send(Write { records: vec![Record::Whole(Arc::new(given_up))], patient: false });
            return Err(error);
        }
    }
    Ok(Begun::New(broker.inlet.dispatch(dispatch).await?))
}

/// Answers a retry with the command that it retries.
async fn answer_retry(
    broker: &Broker,
    existing: KeyedCommand,
    digest: &str,
    wait: bool,
) -> Result<HttpResponse, ApiError> {
    let KeyedCommand { id, body_digest } = existing;
    if body_digest != digest {
        return Err(ApiError::IdempotencyKeyReused);
    }
    let finished = match broker.command_dispatcher.send(Await(id)).await? {
        None => adopt(broker, id).await?,
        finished => finished,
    };
    let waits = wait && !broker.is_draining();
    answer(broker, id, finished.filter(|_| waits)).await
}

/// Sees to a stored command that is not over and that nobody sees to, if it is one. Answers how to wait for its end.
async fn adopt(broker: &Broker, id: CommandId) -> Result<Option<oneshot::Receiver<Arc<Command>>>, ApiError> {
    // nobody sees to what is over either: that is written first
    settle(broker).await?;
    match broker.store.command(id, 0, usize::MAX).await? {
        Some(page) if page.command.finished_at.is_none() => {
            Ok(broker.command_dispatcher.send(Adopt(page.command)).await?)
        }
        _ => Ok(None),
    }
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

/// Waits for the end, if there is something to wait for, and tells how the command stands then.
async fn answer(
    broker: &Broker,
    id: CommandId,
    finished: Option<oneshot::Receiver<Arc<Command>>>,
) -> Result<HttpResponse, ApiError> {
    let mut stops = false;
    if let Some(finished) = finished {
        tokio::select! {
            biased;
            finished = tokio::time::timeout(PATIENCE, finished) => if let Ok(Ok(command)) = finished {
                // what the caller hears must hold after a crash, too
                broker.flush().await?;
                return Ok(HttpResponse::Ok().json(CommandInfo::of(&command)));
            },
            () = broker.drain_begun() => stops = true,
        }
    }
    let page = read(broker, id).await?.ok_or(NOT_FOUND)?;
    // while the server stops, its own sockets close: what becomes of the command is not this answer's to tell
    let is_finished = page.command.finished_at.is_some() && !stops;
    let mut response = if is_finished { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    let location = format!("/api/commands/{id}");
    Ok(response.insert_header((header::LOCATION, location)).json(CommandInfo::of_page(&page)))
}

/// Sees to it that what has happened is written, before it is read.
async fn settle(broker: &Broker) -> Result<(), ApiError> {
    broker.command_dispatcher.send(RecordBegun).await?;
    broker.flush().await
}

/// A command as it stands now.
pub(super) async fn read(broker: &Broker, id: CommandId) -> Result<Option<CommandPage>, ApiError> {
    settle(broker).await?;
    Ok(broker.store.command(id, 0, PAGE_BYTES).await?)
}

/// The command of a path, if the caller may see it: operators see all, others their own.
pub(super) async fn visible(broker: &Broker, identity: &Authenticated, path: &str) -> Result<Command, ApiError> {
    let page = read(broker, command_id(path)?).await?;
    page.map(|page| page.command).filter(|command| command.is_visible_to(&identity.account)).ok_or(NOT_FOUND)
}

fn command_id(path: &str) -> Result<CommandId, ApiError> {
    CommandId::parse(path)
        .ok_or_else(|| ApiError::invalid("uuid_parsing", &["path", "id"], "Input should be a valid UUID", path.into()))
}

/// The state of a command, with each target's last progress reports.
#[utoipa::path(get, path = "/api/commands/{id}", tag = "commands", params(("id" = uuid::Uuid, Path), ("limit" = Option<u64>, Query, description = "Targets, 1 to 1000; left out: up to 10,000", minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query, description = "From an earlier answer: further targets")), responses((status = 200, body = CommandInfo), (status = 403, description = "For users, not for devices"), (status = 404, description = "Command not found")), security(("bearer" = [])))]
pub async fn show(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    identity: UserIdentity,
    path: web::Path<String>,
    page: QueryOf<TargetPage>,
) -> Result<web::Json<CommandInfo>, ApiError> {
    let id = command_id(&path)?;
    settle(&broker).await?;
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let TargetPage { from, limit } = page.0;
    let found = broker.store.command_with_progress(id, from, limit, PAGE_BYTES).await?;
    let (page, reports) = found.filter(|(page, _)| page.command.is_visible_to(&identity.0.account)).ok_or(NOT_FOUND)?;
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
#[utoipa::path(delete, path = "/api/commands/{id}", tag = "commands", params(("id" = uuid::Uuid, Path)), responses((status = 200, description = "As it stands now", body = CommandInfo), (status = 404, description = "Command not found")), security(("bearer" = [])))]
pub async fn cancel(
    broker: web::Data<Broker>,
    identity: UserIdentity,
    path: web::Path<String>,
) -> Result<web::Json<CommandInfo>, ApiError> {
    let command = visible(&broker, &identity.0, &path).await?;
    let mut cancelled = broker.command_dispatcher.send(Cancel(command.id)).await?;
    if !cancelled && command.finished_at.is_none() {
        adopt(&broker, command.id).await?;
        cancelled = broker.command_dispatcher.send(Cancel(command.id)).await?;
    }
    if cancelled {
        tracing::info!(command = %command.id, by = %identity.0.account.id, "command cancelled");
    }
    let page = read(&broker, command.id).await?.ok_or(NOT_FOUND)?;
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
#[utoipa::path(get, path = "/api/commands", tag = "commands", params(("state" = Option<StateName>, Query, description = "Of any of its targets"), ("target" = Option<String>, Query, description = "A user's integer id, or the UUID of a device or user"), ("since" = Option<String>, Query, description = "RFC 3339"), ("limit" = Option<u64>, Query, description = "1 to 1000", minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query, description = "From an earlier answer")), responses((status = 200, body = CommandList), (status = 403, description = "For users, not for devices")), security(("bearer" = [])))]
pub async fn list(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    identity: UserIdentity,
    query: QueryOf<ListQuery>,
) -> Result<web::Json<CommandList>, ApiError> {
    let ListQuery { state, target, since, limit, cursor } = query.0;
    let target = match target {
        Some(target) => Some(target.account(&broker).await?.id),
        None => None,
    };
    settle(&broker).await?;
    let own = identity.0.account.role() < Role::Operator;
    let filter = CommandFilter {
        requested_by: own.then_some(identity.0.account.id),
        state,
        target,
        since,
        before: cursor,
        limit,
        bytes: PAGE_BYTES,
    };
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let (pages, more) = broker.store.commands(filter).await?;
    let next_cursor = if more { pages.last().map(|last| last.command.id) } else { None };
    // readable as it is, since that is what `next_cursor` always was
    let next = Next { truncated: next_cursor.is_some(), cursor: next_cursor.map(|id| id.to_string()) };
    let commands: Vec<_> = pages.iter().map(CommandInfo::of_page).collect();
    Ok(web::Json(CommandList { count: commands.len(), commands, next, next_cursor }))
}

/// Any value as raw JSON.
pub(super) fn to_raw<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>, ApiError> {
    to_raw_value(value).map_err(|error| ApiError::Internal(error.to_string()))
}
