//! `GET /api/commands/{id}/events`: what becomes of a command, as server-sent events.
//!
//! An event's id is the command's version after the change. A watcher that comes back with `Last-Event-ID` gets what it
//! missed: each target's last state, and the reports of progress that are kept.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    mpsc,
};

use super::{CommandInfo, TargetInfo, read, visible};
use crate::{
    actors::command_dispatcher::Watch,
    domain::{
        accounts::Authenticated,
        commands::TargetUpdate,
        ids::{CommandId, Role},
    },
    error::ApiError,
    http::{connections::Cutter, extract::UserIdentity, paging::PAGE_BYTES},
    protocol::json,
    state::Broker,
};

/// Events that may wait for a slow watcher; then it waits for itself, and catches up from the database.
const BUFFER: usize = 4;

/// How often something is said, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long to wait for news at a time.
const TICK: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Event {
    command_id: CommandId,
    target: TargetInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Box<RawValue>>,
}

/// The watcher is gone.
struct Gone;

/// Follow a command: `state` and `progress` of each target, and at the end `finished` with the whole command.
#[utoipa::path(get, path = "/api/commands/{id}/events", tag = "commands", params(("id" = uuid::Uuid, Path), ("Last-Event-ID" = Option<i64>, Header, description = "Go on after this event")), responses((status = 200, description = "Server-sent events", content_type = "text/event-stream", body = String), (status = 403, description = "For users, not for devices"), (status = 404, description = "Command not found")), security(("bearer" = [])))]
pub async fn events(
    request: HttpRequest,
    broker: web::Data<Broker>,
    identity: UserIdentity,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let command = visible(&broker, &identity.0, &path).await?;
    let (id, is_own) = (command.id, command.requested_by == identity.0.account.id);
    let permit = broker.relays.admit().ok_or(ApiError::AtLimit("limits.connections"))?;
    let place = broker.clients.open_stream(identity.0.account.id).await?;
    let cutter = Cutter::of(&request);
    let last = last_event(&request)?;
    let (sender, mut receiver) = mpsc::channel(BUFFER);
    actix_web::rt::spawn(async move {
        let _counted = (permit, place);
        let watcher =
            Watcher { broker, identity: identity.0, id, is_own, last, sender, cutter, checked: Instant::now() };
        // ends with the command, with the watcher, or with the server
        if let Err(error) = watcher.run().await {
            tracing::warn!(command = %id, %error, "cannot follow a command");
        }
    });
    let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("cache-control", "no-store"))
        .streaming(futures_util::StreamExt::map(stream, Ok::<Bytes, ApiError>)))
}

/// The event that the watcher got last; 0: none.
fn last_event(request: &HttpRequest) -> Result<i64, ApiError> {
    let Some(given) = request.headers().get("last-event-id") else { return Ok(0) };
    let given = String::from_utf8_lossy(given.as_bytes());
    given.parse().map_err(|_| {
        let msg = "Input should be the id of an event, which is an integer";
        ApiError::invalid("int_parsing", &["header", "Last-Event-ID"], msg, serde_json::json!(given))
    })
}

struct Watcher {
    broker: web::Data<Broker>,
    identity: Authenticated,
    id: CommandId,
    /// the watcher gave the command itself, so it needs no role
    is_own: bool,
    /// the last event that was sent
    last: i64,
    sender: mpsc::Sender<Bytes>,
    cutter: Cutter,
    /// when the watcher's right was last looked at
    checked: Instant,
}

impl Watcher {
    async fn run(mut self) -> Result<(), ApiError> {
        loop {
            // first the ear, then the record: nothing can happen in between
            let live = self.broker.command_dispatcher.send(Watch(self.id)).await?;
            match self.catch_up().await? {
                Ok(true) | Err(Gone) => return Ok(()),
                Ok(false) => {}
            }
            match live {
                Some(live) => match self.follow(live).await {
                    Ok(true) | Err(Gone) => return Ok(()),
                    Ok(false) => {}
                },
                // it is over by now, or at work on another node
                None => tokio::time::sleep(TICK).await,
            }
            if self.broker.is_draining() || self.sender.is_closed() || !self.may_watch().await {
                return Ok(());
            }
        }
    }

    /// Whether the watcher's token and account still stand, and let it see this command.
    async fn may_watch(&mut self) -> bool {
        self.checked = Instant::now();
        let (accounts, account) = (&self.broker.accounts, &self.identity.account);
        if self.broker.settings.auth.expire_live_sockets && self.identity.expires_at <= chrono::Utc::now() {
            return false;
        }
        match accounts.confirm(&self.identity).await {
            Err(ApiError::InvalidCredentials | ApiError::InactiveUser) => return false,
            // not known now: the database is away
            Err(_) => return true,
            Ok(()) => {}
        }
        let now = accounts.account(account.id, account.kind()).await.ok().flatten();
        self.is_own || now.is_none_or(|now| now.role() >= Role::Operator)
    }

    /// Sends what the database knows beyond the last event. True: the command is over.
    async fn catch_up(&mut self) -> Result<Result<bool, Gone>, ApiError> {
        let Some(page) = read(&self.broker, self.id).await? else { return Ok(Ok(true)) };
        let command = &page.command;
        let mut missed: Vec<(i64, &str, Event)> = Vec::new();
        let mut reports = self.broker.store.progress_of(self.id, self.last, PAGE_BYTES).await?;
        // what came after the command was read is still to be heard
        let newest = command.targets.iter().map(|target| target.version).max().unwrap_or(0);
        reports.retain(|report| report.version <= newest);
        for report in &reports {
            let Some(target) = command.targets.iter().find(|target| target.client == report.client) else { continue };
            let progress = Some(json::stored(&report.progress));
            missed.push((
                report.version,
                "progress",
                Event { command_id: self.id, target: TargetInfo::at_progress(target), progress },
            ));
        }
        for target in command.targets.iter().filter(|target| target.version > self.last) {
            if !reports.iter().any(|report| report.version == target.version) {
                let event = Event { command_id: self.id, target: TargetInfo::of(target), progress: None };
                missed.push((target.version, "state", event));
            }
        }
        missed.sort_by_key(|(version, ..)| *version);
        for (version, name, event) in &missed {
            if self.send(*version, name, event).await.is_err() {
                return Ok(Err(Gone));
            }
        }
        if command.finished_at.is_none() {
            return Ok(Ok(false));
        }
        let sent = self.send(command.version, "finished", &CommandInfo::of_page(&page)).await;
        Ok(sent.map(|()| true))
    }

    /// Sends what happens from now on. True: the command is over; false: something was missed.
    async fn follow(&mut self, mut live: Receiver<Arc<TargetUpdate>>) -> Result<bool, Gone> {
        let mut quiet = Duration::ZERO;
        loop {
            if self.checked.elapsed() >= TICK && !self.may_watch().await {
                return Err(Gone);
            }
            match tokio::time::timeout(TICK, live.recv()).await {
                Ok(Ok(changed)) => {
                    quiet = Duration::ZERO;
                    // what the watcher hears must hold after a crash, too; if it is not written the record decides
                    if self.broker.flush().await.is_err() {
                        return Ok(false);
                    }
                    if changed.target.version > self.last {
                        let progress = changed.progress.as_deref().map(json::stored);
                        let name = if progress.is_some() { "progress" } else { "state" };
                        let target = TargetInfo::of(&changed.target);
                        self.send(changed.target.version, name, &Event { command_id: self.id, target, progress })
                            .await?;
                    }
                    if let Some(finished) = &changed.finished {
                        self.send(finished.version, "finished", &CommandInfo::of(finished)).await?;
                        return Ok(true);
                    }
                }
                Ok(Err(RecvError::Lagged(_) | RecvError::Closed)) => return Ok(false),
                Err(_) => {
                    quiet += TICK;
                    if self.broker.is_draining() {
                        return Err(Gone);
                    }
                    if quiet >= KEEP_ALIVE {
                        quiet = Duration::ZERO;
                        self.write(Bytes::from_static(b": still at work\n\n")).await?;
                    } else if self.sender.is_closed() {
                        return Err(Gone);
                    }
                }
            }
        }
    }

    async fn send<T: Serialize>(&mut self, version: i64, name: &str, data: &T) -> Result<(), Gone> {
        // what clients sent is in here as they wrote it; line breaks, which only stand between tokens, would end the data
        let data = serde_json::to_string(data).map_err(|_| Gone)?.replace(['\n', '\r'], "");
        let event = format!("id: {version}\nevent: {name}\ndata: {data}\n\n");
        self.last = self.last.max(version);
        self.write(event.into()).await
    }

    /// Waits for room; a watcher that takes nothing for too long is cut.
    async fn write(&self, event: Bytes) -> Result<(), Gone> {
        let sending = self.sender.send(event);
        let secs = self.broker.settings.limits.send_timeout_secs;
        if secs == 0 {
            return sending.await.map_err(|_| Gone);
        }
        match tokio::time::timeout(Duration::from_secs(secs), sending).await {
            Ok(sent) => sent.map_err(|_| Gone),
            Err(_) => {
                tracing::info!(command = %self.id, "watcher that reads nothing is cut");
                self.cutter.cut();
                Err(Gone)
            }
        }
    }
}
