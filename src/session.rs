//! WebSocket sessions. A Session is the actor of one socket, on the worker thread that accepted the connection. Its
//! [`Dialect`] determines the frames that it understands.
//!
//! A session joins the Registry, publishes through the TopicManager, sends room requests to the RoomManager and acknowledged
//! messages to the MessageManager, and delivers direct messages through [`Relays`](delivery::Relays). A status session subscribes to the GatewayMonitor. Incoming frames
//! pass the guard in `inbound`; outgoing frames leave through the [`Outbox`]. Only this module uses actix-web-actors.
//!
//! A new dialect needs a variant of [`Dialect`], a file here for its frames, an arm in `Session::on_text`, and a route.

mod acknowledged;
mod agent;
mod body;
mod chat;
mod command_reply;
mod common;
mod device;
mod forwarding;
mod handshake;
mod inbound;
mod public;
mod refusal;
mod subscription;

use std::{error::Error, rc::Rc};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, StreamHandler, WrapFuture};
use actix_http::ws::Item;
use actix_web::web;
use actix_web_actors::ws::{Message, ProtocolError, WebsocketContext};
use chrono::{DateTime, Utc};

use self::forwarding::Forwards;
pub use self::{
    handshake::{ConnectionSocket, accept, check_handshake},
    refusal::{HandshakeError, JoinError},
};
use crate::{
    delivery::{self, Outbox, Permit, SessionHandle, SessionKind, tick},
    domain::{
        ids::{ClientId, RoomId},
        rooms::Wanted,
    },
    metrics::{self, connections::OpenConnection, errors::error_frame},
    protocol::{
        close_code::{self, CloseCode},
        error_code::ErrorCode,
        outbound::About,
        wire::{self, Opcode},
    },
    state::Broker,
};

/// The protocol of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// A device's `/ws`: direct messages, topic messages and commands.
    Device,
    /// A user's `/ws`: commands.
    Agent,
    /// `/ws/auth`: chat in any number of rooms.
    Chat,
    /// `/ws/room/{id}`: chat in one room.
    Room {
        /// The room.
        room: RoomId,
        /// The part of the history that is sent at the start.
        wanted: Wanted,
    },
    /// `/ws?chat_id=`: chat in one room, only messages.
    Plain(RoomId),
    /// `/ws` without credentials: ping, echo and authentication.
    Public,
    /// `/ws/status`: the state of the gateways. Frames from the client are ignored.
    Status,
    /// `/ws/echo`.
    Echo {
        /// Whether text and binary frames come back unchanged; else text gets a prefix and binary frames are refused.
        raw: bool,
    },
}

impl Dialect {
    /// Its name in metrics.
    fn label(self) -> metrics::labels::Dialect {
        use metrics::labels::Dialect as Label;
        match self {
            Self::Device => Label::Device,
            Self::Agent => Label::Agent,
            Self::Chat => Label::Chat,
            Self::Room { .. } => Label::Room,
            Self::Plain(_) => Label::Plain,
            Self::Public => Label::Public,
            Self::Status => Label::Status,
            Self::Echo { .. } => Label::Echo,
        }
    }

    fn kind(self) -> SessionKind {
        match self {
            Self::Device => SessionKind::Device,
            Self::Agent => SessionKind::Agent,
            Self::Chat => SessionKind::Chat,
            Self::Room { .. } | Self::Plain(_) => SessionKind::Room,
            Self::Public | Self::Status | Self::Echo { .. } => SessionKind::Public,
        }
    }
}

/// The actor of one socket; see the module.
pub struct Session {
    broker: web::Data<Broker>,
    outbox: Rc<Outbox>,
    dialect: Dialect,
    /// a fragmented message that is not complete yet
    assembling: Option<Box<Assembling>>,
    /// number of consecutive bad frames
    bad_frames: u32,
    unsettled: Unsettled,
    forwards: Rc<Forwards>,
    /// the last tick in which a direct message was handed over to another worker
    handed_over_in: Option<u64>,
    /// in the metrics
    counted: OpenConnection,
    /// one of the `limits.connections` places
    _permit: Permit,
}

/// What the session has asked actors for, of which the receipts may still be to come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Unsettled {
    publications: bool,
    acknowledged_messages: bool,
    /// answers to acknowledged messages; no other frame waits for them
    answers: bool,
}

impl Unsettled {
    /// Waits until the session has the receipts.
    async fn settle(self, broker: web::Data<Broker>, session: SessionHandle) {
        if self.publications {
            broker.topics.publications_passed(session.clone()).await;
        }
        if self.acknowledged_messages || self.answers {
            broker.messages.settled(session).await;
        }
    }
}

struct Assembling {
    is_text: bool,
    bytes: Vec<u8>,
}

impl Session {
    /// Sets dialect, limits, heartbeats and expiry once the session is authenticated.
    fn adopt(&mut self, dialect: Dialect, expires_at: DateTime<Utc>) {
        self.dialect = dialect;
        self.counted.moved_to(dialect.label());
        self.outbox.set_dialect(dialect.label());
        self.outbox.set_limits(self.broker.relays.outbox_limits());
        if dialect == Dialect::Agent {
            self.outbox.liveness.start_heartbeat(tick::clock());
        }
        self.set_expiry(expires_at);
    }

    fn set_expiry(&self, expires_at: DateTime<Utc>) {
        if self.broker.settings.load().auth.expire_live_sockets {
            self.outbox.liveness.expire_at(Some(expires_at.timestamp()));
        }
    }

    /// The client; `None` before authentication.
    fn client(&self) -> Option<ClientId> {
        self.outbox.handle().client()
    }

    fn now(&self) -> DateTime<Utc> {
        self.broker.clock.now()
    }

    fn send(&self, text: &str) {
        self.outbox.text(&[text.as_bytes()]);
    }

    fn error(&self, code: ErrorCode, text: &str, about: About<'_>) {
        self.send(&error_frame(code, text, about, self.now()));
    }

    /// Answers that a token identifies nobody. If the server failed, the cause goes to the log, since the frame does not tell.
    fn refuse_identity(&self, cause: &dyn Error, (code, text): (ErrorCode, String)) {
        if code == ErrorCode::InternalError {
            tracing::error!(%cause, "cannot identify a client");
        }
        self.error(code, &text, About::default());
    }

    /// Answers a bad frame with an error, and closes the session after `limits.bad_frames` consecutive ones.
    fn bad_frame(&mut self, code: ErrorCode, text: &str, about: About<'_>) {
        self.error(code, text, about);
        self.bad_frames += 1;
        let limit = self.broker.settings.load().limits.bad_frames;
        if limit > 0 && self.bad_frames >= limit {
            metrics::refused_for(CloseCode::TooManyBadFrames.limit());
            self.outbox.close(CloseCode::TooManyBadFrames);
        }
    }

    fn on_text(&mut self, text: &str, context: &mut <Self as Actor>::Context) {
        match self.dialect {
            Dialect::Device => self.on_device_text(text, context),
            Dialect::Agent => self.on_agent_text(text, context),
            Dialect::Chat | Dialect::Room { .. } | Dialect::Plain(_) => self.on_chat_text(text, context),
            Dialect::Public => self.on_public_text(text, context),
            Dialect::Status => {}
            Dialect::Echo { raw: true } => self.send(text),
            Dialect::Echo { raw: false } => {
                self.outbox.text(&[b"Echo: ", text.as_bytes()]);
            }
        }
    }

    fn on_binary(&mut self, bytes: &[u8]) {
        match self.dialect {
            Dialect::Status => {}
            Dialect::Echo { raw: true } => {
                self.outbox.send(Opcode::Binary, &[bytes]);
            }
            _ => self.outbox.close(CloseCode::Unsupported),
        }
    }

    fn on_fragment(&mut self, item: Item, context: &mut <Self as Actor>::Context) {
        match item {
            Item::FirstText(bytes) => {
                self.assembling = Some(Box::new(Assembling { is_text: true, bytes: bytes.into() }));
            }
            Item::FirstBinary(bytes) => {
                self.assembling = Some(Box::new(Assembling { is_text: false, bytes: bytes.into() }));
            }
            Item::Continue(bytes) => {
                if let Some(message) = &mut self.assembling {
                    message.bytes.extend_from_slice(&bytes);
                }
            }
            Item::Last(bytes) => {
                let Some(mut message) = self.assembling.take() else { return };
                message.bytes.extend_from_slice(&bytes);
                if !message.is_text {
                    self.on_binary(&message.bytes);
                } else if let Ok(text) = std::str::from_utf8(&message.bytes) {
                    self.on_text(text, context);
                } else {
                    self.fail(CloseCode::InvalidPayload, context);
                }
            }
        }
    }

    /// Fails the connection (RFC 6455, section 7.1.7). Nothing more is read, since the decoder cannot continue after an error.
    fn fail(&mut self, code: CloseCode, context: &mut <Self as Actor>::Context) {
        self.outbox.fail(code);
        let outbox = self.outbox.clone();
        let written = async move {
            while !outbox.is_done() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        context.wait(written.into_actor(self).map(|(), _, context| context.stop()));
    }
}

impl Actor for Session {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        let client = self.client().map(|client| client.to_string());
        tracing::debug!(session = self.outbox.handle().id(), dialect = ?self.dialect, client, "session started");
    }
}

impl Drop for Session {
    /// Removes the session everywhere, however it ends, and also if it never started.
    fn drop(&mut self) {
        self.outbox.finish();
        let (by, code) = self.outbox.end();
        self.counted.ended(by, code);
        delivery::remove(self.outbox.handle());
        if self.dialect == Dialect::Status {
            self.broker.gateways.unwatch(self.outbox.handle().clone());
        }
        if let Some(client) = self.outbox.handle().client() {
            self.broker.clients.disconnect(self.outbox.handle().clone(), client);
        }
        tracing::debug!(session = self.outbox.handle().id(), "session ended");
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Session {
    fn handle(&mut self, message: Result<Message, ProtocolError>, context: &mut Self::Context) {
        self.on_message(message, context);
        if let Some(code) = self.outbox.admitted.handled() {
            self.close_after_admitted(code, context);
        }
    }
}

impl Session {
    /// Closes the session when all admitted frames have been handled completely, including frames whose handling waits and
    /// those whose receipts are still to come.
    fn close_after_admitted(&mut self, code: CloseCode, context: &mut <Self as Actor>::Context) {
        let done = self.settle();
        // spawned, not `wait`: actix runs the last future passed to `wait` first
        context.spawn(done.into_actor(self).map(move |(), session, _| session.outbox.close(code)));
    }

    /// Waits until the session has the receipts of what it has sent.
    fn settle(&mut self) -> impl Future<Output = ()> + 'static {
        let settled = std::mem::take(&mut self.unsettled).settle(self.broker.clone(), self.outbox.handle().clone());
        let forwards = self.forwards.clone();
        async move {
            forwards.idle().await;
            settled.await;
        }
    }

    fn on_message(&mut self, message: Result<Message, ProtocolError>, context: &mut <Self as Actor>::Context) {
        if let Ok(Message::Close(reason)) = message {
            let code = reason.map(|reason| u16::from(reason.code));
            let answer = match code {
                None => wire::empty_close(),
                Some(code) if close_code::is_valid_from_peer(code) => wire::close_echo(code),
                Some(_) => wire::close(CloseCode::Protocol),
            };
            self.outbox.peer_closed(&answer, code.unwrap_or(close_code::NO_CODE));
            return;
        }
        // checked first, in any state of the session: the decoder would return the same error again and again
        if let Err(error) = &message {
            tracing::debug!(session = self.outbox.handle().id(), %error, "bad frame");
            return self.fail(close_code_of(error), context);
        }
        if !self.outbox.is_open() {
            return;
        }
        match message {
            Ok(Message::Text(text)) => self.on_text(&text, context),
            Ok(Message::Binary(bytes)) => self.on_binary(&bytes),
            Ok(Message::Continuation(item)) => self.on_fragment(item, context),
            Ok(Message::Ping(payload)) => {
                self.outbox.send(Opcode::Pong, &[&payload]);
            }
            Ok(Message::Pong(_) | Message::Nop | Message::Close(_)) | Err(_) => {}
        }
    }
}

/// The close code for a protocol error of the peer.
fn close_code_of(error: &ProtocolError) -> CloseCode {
    match error {
        ProtocolError::Overflow => CloseCode::TooBig,
        // reserved bits
        ProtocolError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => CloseCode::Protocol,
        ProtocolError::Io(_) => CloseCode::InvalidPayload,
        _ => CloseCode::Protocol,
    }
}
