//! The WebSocket endpoints: who may open which socket, and its dialect.

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::header::{self, HeaderValue},
    web,
};

use super::{
    body::{Checked, Fields, FromFields, QueryOf, path_int},
    credentials::{self, BEARER_PROTOCOL},
    request_body::RequestBody,
};
use crate::{
    domain::{
        accounts::Authenticated,
        ids::{ClientKind, MessageId, RoomId},
        rooms::Wanted,
    },
    http::errors::ApiError,
    session::{self, Dialect, JoinError},
    state::Broker,
};

/// The room of `/ws?chat_id=`.
#[derive(Debug)]
pub struct ChatId(Option<i64>);

impl FromFields for ChatId {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        fields.optional_id("chat_id").map(Self)
    }
}

/// `/ws`: the credentials decide whether it is the socket of a device, of an agent, or a public one. With `chat_id` it is a
/// user's socket in a room.
pub async fn ws(
    request: HttpRequest,
    broker: web::Data<Broker>,
    chat: QueryOf<ChatId>,
) -> Result<HttpResponse, ApiError> {
    let identity = identity(&request, &broker).await?;
    if let Some(room) = chat.0.0 {
        let identity = identity.ok_or(ApiError::NotAuthenticated)?;
        if identity.account.kind() == ClientKind::Device {
            return Err(ApiError::Forbidden("chat_id is for users, not for devices; devices use /ws/room/{id}"));
        }
        return accept(&request, broker, Dialect::Plain(RoomId(room)), Some(identity)).await;
    }
    let dialect = match identity.as_ref().map(|identity| identity.account.kind()) {
        Some(ClientKind::Device) => Dialect::Device,
        Some(ClientKind::User) => Dialect::Agent,
        None if broker.settings.load().http.public_sockets => Dialect::Public,
        None => return Err(ApiError::NotAuthenticated),
    };
    accept(&request, broker, dialect, identity).await
}

/// `/ws/auth`: chat, with credentials.
pub async fn auth(request: HttpRequest, broker: web::Data<Broker>) -> Result<HttpResponse, ApiError> {
    let identity = identity(&request, &broker).await?.ok_or(ApiError::NotAuthenticated)?;
    accept(&request, broker, Dialect::Chat, Some(identity)).await
}

/// The query of `/ws/room/{id}`.
#[derive(Debug)]
pub struct RoomOptions {
    wanted: Wanted,
}

impl FromFields for RoomOptions {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let since = fields.optional_id("since_id")?;
        Ok(Self { wanted: since.map_or(Wanted::Recent, |since| Wanted::Since(MessageId(since))) })
    }
}

/// `/ws/room/{id}`: chat in one room.
pub async fn room(
    request: HttpRequest,
    broker: web::Data<Broker>,
    path: web::Path<String>,
    options: QueryOf<RoomOptions>,
) -> Result<HttpResponse, ApiError> {
    let identity = identity(&request, &broker).await?.ok_or(ApiError::NotAuthenticated)?;
    let dialect = Dialect::Room { room: RoomId(path_int("room_id", &path)?), wanted: options.0.wanted };
    accept(&request, broker, dialect, Some(identity)).await
}

/// The query of `/ws/echo`.
#[derive(Debug)]
pub struct EchoOptions {
    raw: bool,
}

impl FromFields for EchoOptions {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let raw = fields.optional_text("raw", 0..=5)?;
        match raw.as_deref() {
            Some("true" | "1") => Ok(Self { raw: true }),
            None | Some("false" | "0") => Ok(Self { raw: false }),
            Some(_) => Err(fields.fault("bool_parsing", "raw", "Input should be a valid boolean, true or false")),
        }
    }
}

/// `/ws/echo`: returns what it gets.
pub async fn echo(
    request: HttpRequest,
    broker: web::Data<Broker>,
    options: QueryOf<EchoOptions>,
) -> Result<HttpResponse, ApiError> {
    // invalid credentials are refused, although none are needed
    if identity(&request, &broker).await?.is_none() && !broker.settings.load().http.public_sockets {
        return Err(ApiError::NotAuthenticated);
    }
    accept(&request, broker, Dialect::Echo { raw: options.0.raw }, None).await
}

/// `/ws/status`: the state of the gateways, now and at each change.
pub async fn status(request: HttpRequest, broker: web::Data<Broker>) -> Result<HttpResponse, ApiError> {
    let identity = identity(&request, &broker).await?;
    if identity.is_none() && !broker.settings.load().http.public_reads {
        return Err(ApiError::NotAuthenticated);
    }
    accept(&request, broker, Dialect::Status, identity).await
}

/// Answers the handshake, and passes the bytes that follow it to the session.
async fn accept(
    request: &HttpRequest,
    broker: web::Data<Broker>,
    dialect: Dialect,
    identity: Option<Authenticated>,
) -> Result<HttpResponse, ApiError> {
    let body = request.extensions_mut().remove::<RequestBody>();
    let body = body.ok_or_else(|| ApiError::Internal("the handshake has no stream to read".to_owned()))?;
    let mut response = session::accept(request, || body.take(), broker, dialect, identity).await?;
    // the framework would only look at the first line of the list
    if credentials::offers_bearer(request) {
        let chosen = HeaderValue::from_static(BEARER_PROTOCOL);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    Ok(response)
}

async fn identity(request: &HttpRequest, broker: &Broker) -> Result<Option<Authenticated>, ApiError> {
    // before the credentials: a request that is no handshake gets 426
    session::check_handshake(request)?;
    let Some(token) = credentials::token(request, &broker.settings.load().http)? else { return Ok(None) };
    let identity = broker.accounts.authenticate(&token).await.map_err(JoinError::from)?;
    Ok(Some(identity))
}
