//! Answers handshakes and starts sessions.

use std::rc::Rc;

use actix_http::ws::Codec;
use actix_web::{HttpRequest, HttpResponse, dev::Payload, http::header, web};
use actix_web_actors::ws::{self, HandshakeError as NotAHandshake, WebsocketContext};
use chrono::{DateTime, Utc};
use socket2::Socket;

use super::{Dialect, HandshakeError, JoinError, Session, Unsettled, body::Body, chat, inbound::Guard};
use crate::{
    actors::room_manager::RoomError,
    delivery::{self, Outbox, SessionHandle},
    domain::{accounts::Authenticated, rooms::RoomChange},
    metrics::connections::OpenConnection,
    protocol::outbound,
    state::Broker,
};

/// The duplicate of a connection's socket, for its session.
pub struct ConnectionSocket(Rc<Socket>);

impl ConnectionSocket {
    /// For a connection that has just been accepted.
    pub fn new(socket: Rc<Socket>) -> Self {
        Self(socket)
    }
}

const NO_HANDSHAKE: HandshakeError =
    HandshakeError::NotAHandshake("This is a WebSocket endpoint: connect with a WebSocket client");
const OTHER_VERSION: HandshakeError = HandshakeError::NotAHandshake("Unsupported WebSocket version, expected 13");

/// Whether the request is a WebSocket handshake that can be answered.
///
/// # Errors
/// `NotAHandshake` with what is missing.
pub fn check_handshake(request: &HttpRequest) -> Result<(), HandshakeError> {
    // the framework would accept drafts 7 and 8, too
    let version = request.headers().get(header::SEC_WEBSOCKET_VERSION);
    ws::handshake(request).map_err(|error| match error {
        NotAHandshake::UnsupportedVersion | NotAHandshake::NoVersionHeader => OTHER_VERSION,
        NotAHandshake::BadWebsocketKey => HandshakeError::NotAHandshake("Sec-WebSocket-Key is missing"),
        _ => NO_HANDSHAKE,
    })?;
    if version.is_none_or(|version| version != "13") {
        return Err(OTHER_VERSION);
    }
    // only for this value does the framework pass on the bytes after the request
    let protocol = request.headers().get(header::UPGRADE).and_then(|protocol| protocol.to_str().ok());
    if !protocol.is_some_and(|protocol| protocol.trim().eq_ignore_ascii_case("websocket")) {
        return Err(HandshakeError::NotAHandshake("Upgrade must name websocket alone"));
    }
    Ok(())
}

/// Answers a handshake and starts its session, which reads the payload. The payload is taken last: if the handshake is
/// refused, it is the unread body of a request.
///
/// # Errors
/// The handshake is refused.
pub async fn accept(
    request: &HttpRequest,
    take_payload: impl FnOnce() -> Payload,
    broker: web::Data<Broker>,
    dialect: Dialect,
    identity: Option<Authenticated>,
) -> Result<HttpResponse, HandshakeError> {
    check_handshake(request)?;
    let permit = broker.relays.admit().ok_or(HandshakeError::TooManySockets)?;
    let socket =
        request.conn_data::<ConnectionSocket>().map(|socket| socket.0.clone()).ok_or(HandshakeError::NoSocket)?;
    let limits = match identity {
        Some(_) => broker.relays.outbox_limits(),
        None => broker.relays.anonymous_outbox_limits(),
    };
    let outbox = delivery::insert(|worker, key| {
        Outbox::new(SessionHandle::new(worker, key, broker.clock.now()), socket, limits, dialect.label())
    });
    let mut session = Session {
        broker: broker.clone(),
        outbox: outbox.clone(),
        dialect,
        assembling: None,
        bad_frames: 0,
        unsettled: Unsettled::default(),
        forwards: Rc::default(),
        handed_over_in: None,
        counted: OpenConnection::new(dialect.label()),
        _permit: permit,
    };
    // checked now that the session is registered: a drain that began earlier did not close it
    if broker.is_draining() {
        return Err(HandshakeError::Draining);
    }
    if let Some(identity) = identity {
        if let Some((room, ..)) = dialect.room() {
            // `ask` below decides. This check comes first, since a client that is refused there was connected for a moment,
            // which ends its subscriptions
            broker.rooms.check_join(room, identity.account.id).await?;
        }
        let account = identity.account.clone();
        let expires_at = join(&broker, &outbox, dialect, identity).await?;
        if let Some((room, attachment, wanted)) = dialect.room() {
            let join = RoomChange::Join { room, who: account.participant(), wanted };
            broker.rooms.ask(join, Some((outbox.handle().clone(), attachment))).await.map_err(RoomError::from)?;
        }
        session.adopt(dialect, expires_at);
    }
    if dialect == Dialect::Status {
        broker.gateways.watch(outbox.handle().clone());
    }
    let mut response = ws::handshake(request).map_err(|_| NO_HANDSHAKE)?;
    session.counted.opened();
    let frame_bytes = broker.settings.load().limits.frame_bytes;
    let codec = Codec::new().max_size(if frame_bytes == 0 { usize::MAX } else { frame_bytes });
    let guard = Guard::new(take_payload(), outbox.clone(), &broker.settings.load().limits, broker.clock.clone());
    let body = Body::new(outbox.take_for_head(), WebsocketContext::with_codec(session, guard, codec));
    // runs when the connection's task has yielded, which it does only after it has written the head and the greeting
    actix::spawn(async move { outbox.head_out() });
    Ok(response.streaming(body))
}

/// Adds a session to the Registry as this client's. The greeting is queued first, so that it is the first frame. Returns when
/// the client's token expires.
pub(super) async fn join(
    broker: &Broker,
    outbox: &Rc<Outbox>,
    dialect: Dialect,
    identity: Authenticated,
) -> Result<DateTime<Utc>, JoinError> {
    let account = identity.account.clone();
    let greeting = match dialect {
        Dialect::Device => Some(outbound::connection(account.id, account.name(), broker.clock.now())),
        Dialect::Chat => Some(chat::greeting(&account)),
        _ => None,
    };
    if let Some(greeting) = greeting {
        outbox.text(&[greeting.as_bytes()]);
    }
    let session = outbox.handle().clone();
    session.exchange(identity.clone());
    let client = account.id;
    broker.clients.connect(session.clone(), dialect.kind(), account).await?;
    if dialect == Dialect::Device && broker.cluster.is_shared() {
        match broker.messages.store_socket(client, &session).await {
            Ok(Some(newest)) => {
                // what it sends would be refused, and at the other node it would not count as the newer one
                delivery::note_id(newest);
                return Err(JoinError::Outdated);
            }
            Ok(None) => {}
            // other messages than acknowledged ones need no database
            Err(error) => {
                tracing::debug!(%error, device = %client, "cannot store that a device has a new socket");
            }
        }
    }
    broker.accounts.confirm(&identity).await?;
    Ok(identity.expires_at)
}
