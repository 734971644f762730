//! `GET /api/commands/{id}/events`: the events of a command, as server-sent events.
//!
//! An event's id is the version of the command after it. A client that reconnects with `Last-Event-ID` gets each target's last
//! state and the stored progress reports.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{sync::mpsc, time::timeout};

use super::{CommandInfo, TargetInfo, command_id};
use crate::{
    actors::command_dispatcher::{CommandError, CommandEvent, EventContent, Finished, Follow},
    auth::IdentityError,
    domain::{
        accounts::Authenticated,
        ids::{CommandId, Role},
    },
    http::errors::ApiError,
    http::{connections::Cutter, extract::UserIdentity},
    protocol::json,
    state::Broker,
};

/// Events that are kept for a slow reader. Further ones are read from the database later.
const BUFFER: usize = 4;

/// A comment is sent after this time without events, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often the caller's token and account are checked.
const CHECK: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Event {
    command_id: CommandId,
    target: TargetInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Box<RawValue>>,
}

/// The stream has to end before the command is finished.
struct Ended;

/// Follow a command: `state` and `progress` of each target, and at the end `finished` with the whole command.
#[utoipa::path(get, path = "/api/commands/{id}/events", tag = "commands", params(("id" = uuid::Uuid, Path), ("Last-Event-ID" = Option<i64>, Header, description = "Go on after this event")), responses((status = 200, description = "Server-sent events", content_type = "text/event-stream", body = String), (status = 403, description = "For users, not for devices"), (status = 404, description = "Command not found")), security(("bearer" = [])))]
pub async fn events(
    request: HttpRequest,
    broker: web::Data<Broker>,
    identity: UserIdentity,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = command_id(&path)?;
    let follow = broker.commands.follow(id, &identity.0.account, last_event(&request)?).await?;
    let permit = broker.relays.admit().ok_or(ApiError::AtLimit("limits.connections"))?;
    let place = broker.clients.open_stream(identity.0.account.id).await?;
    let cutter = Cutter::of(&request);
    let is_own = follow.requested_by() == identity.0.account.id;
    let (sender, mut receiver) = mpsc::channel(BUFFER);
    actix_web::rt::spawn(async move {
        let _counted = (permit, place);
        let stream = EventStream { broker, identity: identity.0, id, is_own, sender, cutter, checked: Instant::now() };
        if let Err(error) = stream.run(follow).await {
            tracing::warn!(command = %id, %error, "cannot follow a command");
        }
    });
    let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("cache-control", "no-store"))
        // nginx would wait until it has some kilobytes
        .insert_header(("x-accel-buffering", "no"))
        .streaming(futures_util::StreamExt::map(stream, Ok::<Bytes, ApiError>)))
}

/// The last event that the caller has received; 0: none.
fn last_event(request: &HttpRequest) -> Result<i64, ApiError> {
    let Some(given) = request.headers().get("last-event-id") else { return Ok(0) };
    let given = String::from_utf8_lossy(given.as_bytes());
    given.parse().map_err(|_| {
        let msg = "Input should be the id of an event, which is an integer";
        ApiError::invalid("int_parsing", &["header", "Last-Event-ID"], msg, serde_json::json!(given))
    })
}

/// One caller's stream of events.
struct EventStream {
    broker: web::Data<Broker>,
    identity: Authenticated,
    id: CommandId,
    /// the caller gave the command, so it needs no role to see it
    is_own: bool,
    sender: mpsc::Sender<Bytes>,
    cutter: Cutter,
    /// when the caller's token and account were last checked
    checked: Instant,
}

impl EventStream {
    /// Runs until the command ends, the caller may no longer see it or disconnects, or the server stops.
    async fn run(mut self, mut follow: Follow) -> Result<(), CommandError> {
        loop {
            let event = {
                let mut next = pin!(follow.next());
                let mut quiet = Duration::ZERO;
                loop {
                    match timeout(CHECK, &mut next).await {
                        Ok(event) => break event?,
                        Err(_) => quiet += CHECK,
                    }
                    if self.on_quiet(&mut quiet).await.is_err() {
                        return Ok(());
                    }
                }
            };
            let Some(event) = event else { return Ok(()) };
            if self.check().await.is_err() || self.send(event).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Called after a second without events.
    async fn on_quiet(&mut self, quiet: &mut Duration) -> Result<(), Ended> {
        if self.broker.is_draining() || self.sender.is_closed() {
            return Err(Ended);
        }
        self.check().await?;
        if *quiet >= KEEP_ALIVE {
            *quiet = Duration::ZERO;
            self.write(Bytes::from_static(b": still at work\n\n")).await?;
        }
        Ok(())
    }

    /// Checks from time to time whether the caller's token and account are still valid and let it see this command.
    async fn check(&mut self) -> Result<(), Ended> {
        if self.checked.elapsed() < CHECK {
            return Ok(());
        }
        self.checked = Instant::now();
        let (accounts, account) = (&self.broker.accounts, &self.identity.account);
        if self.broker.settings.load().auth.expire_live_sockets && self.identity.expires_at <= self.broker.clock.now() {
            return Err(Ended);
        }
        match accounts.confirm(&self.identity).await {
            Err(IdentityError::InvalidCredentials | IdentityError::InactiveUser) => return Err(Ended),
            // not known while the database is unavailable
            Err(_) => return Ok(()),
            Ok(()) => {}
        }
        let now = accounts.account(account.id, account.kind()).await.ok().flatten();
        if self.is_own || now.is_none_or(|now| now.role() >= Role::Operator) { Ok(()) } else { Err(Ended) }
    }

    async fn send(&self, CommandEvent { version, content }: CommandEvent) -> Result<(), Ended> {
        let event = |target, progress| Event { command_id: self.id, target: TargetInfo::of(target), progress };
        let (name, data) = match &content {
            EventContent::State(target) => ("state", serde_json::to_string(&event(target, None))),
            EventContent::Progress(target, progress) => {
                ("progress", serde_json::to_string(&event(target, Some(json::stored(progress)))))
            }
            EventContent::Finished(Finished::Stored(page)) => {
                ("finished", serde_json::to_string(&CommandInfo::of_page(page)))
            }
            EventContent::Finished(Finished::Whole(command)) => {
                ("finished", serde_json::to_string(&CommandInfo::of(command)))
            }
        };
        // clients' JSON may have line breaks between its tokens, which would end the data
        let data = data.map_err(|_| Ended)?.replace(['\n', '\r'], "");
        self.write(format!("id: {version}\nevent: {name}\ndata: {data}\n\n").into()).await
    }

    async fn write(&self, event: Bytes) -> Result<(), Ended> {
        let patience = Duration::from_secs(self.broker.settings.load().limits.send_timeout_secs);
        hand_over(&self.sender, event, patience, || {
            tracing::info!(command = %self.id, "a stream of events that nobody reads is cut");
            self.cutter.cut();
        })
        .await
    }
}

/// Waits until the caller has read enough. A caller that reads nothing for so long is cut; zero: never.
async fn hand_over(
    caller: &mpsc::Sender<Bytes>,
    event: Bytes,
    patience: Duration,
    cut: impl FnOnce(),
) -> Result<(), Ended> {
    let sending = caller.send(event);
    if patience.is_zero() {
        return sending.await.map_err(|_| Ended);
    }
    match timeout(patience, sending).await {
        Ok(sent) => sent.map_err(|_| Ended),
        Err(_) => {
            cut();
            Err(Ended)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, task::Poll};

    use super::*;

    const EVENT: Bytes = Bytes::from_static(b"data: 1\n\n");
    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_caller_that_reads_no_events_for_too_long_is_cut_and_one_that_reads_is_not() {
        let (caller, mut read) = mpsc::channel(1);
        let is_cut = Cell::new(false);
        let send = |patience| hand_over(&caller, EVENT, patience, || is_cut.set(true));
        assert!(send(LONG).await.is_ok(), "there is room");
        assert!(send(Duration::from_millis(1)).await.is_err() && is_cut.take());
        for patience in [LONG, Duration::ZERO] {
            let mut waiting = pin!(send(patience));
            poll_fn(|context| {
                assert!(waiting.as_mut().poll(context).is_pending(), "there is no room");
                Poll::Ready(())
            })
            .await;
            assert_eq!(read.recv().await, Some(EVENT));
            assert!(waiting.await.is_ok() && !is_cut.get());
        }
        drop(read);
        assert!(send(LONG).await.is_err() && !is_cut.get(), "it is gone already");
    }
}
