//! The errors of the HTTP side and their only mapping to answers (contract section 2).

use std::io::{self, Write};

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    domain::rooms::RoomRefusal,
    store::{
        StoreError, UserRefusal,
        patience::{OutOfPatience, Undone},
    },
};

/// Why a request is refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Input of the wrong shape; every fault that was found.
    #[error("validation error")]
    Validation(Vec<Fault>),
    /// No credentials where they are needed.
    #[error("Not authenticated")]
    NotAuthenticated,
    /// Credentials that are bad, expired, revoked, or of nobody.
    #[error("Could not validate credentials")]
    InvalidCredentials,
    /// As above, in the words of the topic routes.
    #[error("Invalid token")]
    InvalidToken,
    /// Wrong username or password.
    #[error("Incorrect username or password")]
    IncorrectLogin,
    /// A wrong old password.
    #[error("Incorrect password")]
    IncorrectPassword,
    /// A refresh token that is unknown, expired or used.
    #[error("Invalid refresh token")]
    InvalidRefreshToken,
    /// A disabled user.
    #[error("Inactive user")]
    InactiveUser,
    /// The same at a handshake, where the contract asks for another status.
    #[error("Inactive user")]
    InactiveAtHandshake,
    /// The right identity without the right; the text says which one it lacks.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A cookie that came with a page of another origin.
    #[error("Origin not allowed")]
    ForeignOrigin,
    /// No such thing; the text names it.
    #[error("{0}")]
    NotFound(&'static str),
    /// The path is there, the method is not; the value of `Allow`.
    #[error("Method Not Allowed")]
    MethodNotAllowed(String),
    /// Something of that name is there already; the text says what.
    #[error("{0}")]
    AlreadyExists(&'static str),
    /// Somebody wants something of a room without being a member.
    #[error("You are not a member of this room")]
    NotAMember,
    /// Somebody wants to leave a room without being a member.
    #[error("You are not a member of this room")]
    CannotLeave,
    /// The target of a command has no socket; the text says what it is.
    #[error("{0}")]
    NotConnected(&'static str),
    /// The target's socket went before it answered.
    #[error("Connection lost while waiting for command response.")]
    ConnectionLost,
    /// The target did not answer in time.
    #[error("Timeout waiting for command response.")]
    CommandTimeout,
    /// The target is behind a gateway that is down; its name.
    #[error("Gateway {0} is down")]
    GatewayDown(String),
    /// Somebody called the command off.
    #[error("Command was cancelled")]
    CommandCancelled,
    /// An idempotency key that stands for another request.
    #[error("Idempotency-Key was used for another request")]
    IdempotencyKeyReused,
    /// A change that would leave nobody to administer users.
    #[error("{0}")]
    LastAdmin(UserRefusal),
    /// A UUID that is bound to another device.
    #[error("UUID already registered")]
    UuidClaimed,
    /// A body over `limits.body_bytes`.
    #[error("Request body over {0} bytes (limits.body_bytes)")]
    BodyTooLarge(usize),
    /// A command that is too large for the sockets of its targets.
    #[error("Command over {0} bytes (half of limits.outbound_bytes)")]
    CommandTooLarge(usize),
    /// A body that did not come in time.
    #[error("The request body did not arrive in time")]
    BodyTimeout,
    /// A body of another content type than the route takes.
    #[error("Unsupported content type, expected {0}")]
    UnsupportedMediaType(&'static str),
    /// A WebSocket path without a WebSocket handshake, or one of another version.
    #[error("{0}")]
    UpgradeRequired(&'static str),
    /// A limit of the client's own was hit; its key, and when to try again.
    #[error("Too many requests ({limit})")]
    TooMany {
        /// The key under `[limits]`.
        limit: &'static str,
        /// Seconds.
        retry_after: u64,
    },
    /// A client that is to be added to a room is in as many as it may.
    #[error("The new member has been added to as many rooms as it may without joining them (limits.rooms_per_user)")]
    NewMemberAtLimit,
    /// A limit of the server's was hit; its key.
    #[error("Server is at its limit ({0})")]
    AtLimit(&'static str),
    /// The database is away, locked or too slow, or its answer was lost.
    #[error("Database unavailable")]
    DatabaseUnavailable,
    /// There is no space left, or less than `storage.min_free_bytes`.
    #[error("Storage is nearly full")]
    StorageFull,
    /// The server is stopping.
    #[error("Server is shutting down")]
    Draining,
    /// The server failed; the cause is in the log alone.
    #[error("Internal server error")]
    Internal(String),
}

/// One fault in the input, in FastAPI's shape.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Fault {
    /// FastAPI's name for it.
    #[serde(rename = "type")]
    #[schema(example = "missing")]
    pub kind: &'static str,
    /// Where it is: `body`, `query` or `path`, then the field.
    #[schema(value_type = Vec<String>, example = json!(["body", "topic_id"]))]
    pub loc: Vec<String>,
    /// What is wrong.
    #[schema(example = "Field required")]
    pub msg: String,
    /// What was given; of more than a KiB, its beginning as a text.
    #[schema(value_type = serde_json::Value)]
    pub input: Value,
}

/// Bytes of what was given that a fault shows.
const SHOWN: usize = 1024;

impl Fault {
    /// At `loc`; what was given there is shown as far as it is short.
    pub fn new(kind: &'static str, loc: Vec<String>, msg: impl Into<String>, input: &Value) -> Self {
        Self { kind, loc, msg: msg.into(), input: shown(input) }
    }
}

/// A value, or the beginning of its text: an answer must not be as large as what it refuses.
fn shown(input: &Value) -> Value {
    let mut beginning = Beginning(Vec::new());
    let is_whole = match input {
        Value::String(text) => beginning.write_all(text.as_bytes()).is_ok(),
        other => serde_json::to_writer(&mut beginning, other).is_ok(),
    };
    if is_whole {
        return input.clone();
    }
    // the last character may be cut
    let text = beginning.0.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    format!("{text}…").into()
}

/// Takes [`SHOWN`] bytes and refuses more.
struct Beginning(Vec<u8>);

impl Write for Beginning {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(SHOWN - self.0.len());
        self.0.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ApiError {
    /// One fault, as an error.
    pub fn invalid(kind: &'static str, loc: &[&str], msg: impl Into<String>, input: Value) -> Self {
        let loc = loc.iter().map(|&part| part.to_owned()).collect();
        Self::Validation(vec![Fault::new(kind, loc, msg, &input)])
    }

    /// Logs what the answer does not tell.
    pub fn log(&self) {
        if let Self::Internal(cause) = self {
            tracing::error!(%cause, "request failed");
        }
    }

    /// The constant that programs can tell errors by.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Validation(_) => "validation_error",
            Self::NotAuthenticated => "not_authenticated",
            Self::InvalidCredentials | Self::InvalidToken => "invalid_credentials",
            Self::IncorrectLogin => "incorrect_login",
            Self::IncorrectPassword => "incorrect_password",
            Self::InvalidRefreshToken => "invalid_refresh_token",
            Self::InactiveUser | Self::InactiveAtHandshake => "inactive_user",
            Self::Forbidden(_) => "forbidden",
            Self::ForeignOrigin => "origin_not_allowed",
            Self::NotFound(_) => "not_found",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::AlreadyExists(_) => "already_exists",
            Self::NotAMember | Self::CannotLeave => "not_a_member",
            Self::NotConnected(_) => "not_connected",
            Self::ConnectionLost => "connection_lost",
            Self::CommandTimeout => "command_timeout",
            Self::GatewayDown(_) => "gateway_down",
            Self::CommandCancelled => "command_cancelled",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::LastAdmin(_) => "last_admin",
            Self::UuidClaimed => "uuid_claimed",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::CommandTooLarge(_) => "command_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::UnsupportedMediaType(_) => "unsupported_media_type",
            Self::UpgradeRequired(_) => "upgrade_required",
            Self::TooMany { .. } | Self::NewMemberAtLimit => "too_many_requests",
            Self::AtLimit(_) => "at_limit",
            Self::DatabaseUnavailable => "database_unavailable",
            Self::StorageFull => "storage_full",
            Self::Draining => "draining",
            Self::Internal(_) => "internal_error",
        }
    }
}

impl From<RoomRefusal> for ApiError {
    fn from(refusal: RoomRefusal) -> Self {
        match refusal {
            RoomRefusal::NoSuchRoom | RoomRefusal::NoSuchMember | RoomRefusal::NoSuchMessage => {
                Self::NotFound(refusal.text())
            }
            RoomRefusal::NameTaken => Self::AlreadyExists(refusal.text()),
            RoomRefusal::NotAMember => Self::NotAMember,
            RoomRefusal::NotTheAuthor
            | RoomRefusal::ModeratorRequired
            | RoomRefusal::HigherRoleRequired
            | RoomRefusal::OwnerStays
            | RoomRefusal::OwnerRequired => Self::Forbidden(refusal.text()),
            RoomRefusal::TooManyRooms => Self::TooMany { limit: "limits.rooms_per_user", retry_after: 60 },
            RoomRefusal::TheyHaveTooManyRooms => Self::NewMemberAtLimit,
            RoomRefusal::DatabaseUnavailable => Self::DatabaseUnavailable,
            RoomRefusal::StorageFull => Self::StorageFull,
        }
    }
}

impl From<UserRefusal> for ApiError {
    fn from(refusal: UserRefusal) -> Self {
        match refusal {
            UserRefusal::NoSuchUser => Self::NotFound("User not found"),
            UserRefusal::PasswordChanged => Self::IncorrectPassword,
            UserRefusal::LastAdmin => Self::LastAdmin(refusal),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            // the log has been told when it began
            StoreError::Unavailable(_) => Self::DatabaseUnavailable,
            StoreError::Full(_) | StoreError::NearlyFull => Self::StorageFull,
            error => Self::Internal(error.to_string()),
        }
    }
}

impl From<OutOfPatience> for ApiError {
    fn from(_: OutOfPatience) -> Self {
        Self::DatabaseUnavailable
    }
}

impl From<Undone> for ApiError {
    fn from(undone: Undone) -> Self {
        match undone {
            Undone::OutOfPatience(error) => error.into(),
            Undone::Failed(error) => Self::Internal(error.to_string()),
        }
    }
}

impl From<actix::MailboxError> for ApiError {
    fn from(error: actix::MailboxError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Validation(_) | Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotAuthenticated
            | Self::InvalidCredentials
            | Self::InvalidToken
            | Self::IncorrectLogin
            | Self::IncorrectPassword
            | Self::InvalidRefreshToken => StatusCode::UNAUTHORIZED,
            Self::InactiveUser
            | Self::AlreadyExists(_)
            | Self::CannotLeave
            | Self::NotConnected(_)
            | Self::ConnectionLost => StatusCode::BAD_REQUEST,
            Self::CommandTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::InactiveAtHandshake | Self::Forbidden(_) | Self::NotAMember | Self::ForeignOrigin => {
                StatusCode::FORBIDDEN
            }
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::UuidClaimed | Self::CommandCancelled | Self::LastAdmin(_) => StatusCode::CONFLICT,
            Self::BodyTooLarge(_) | Self::CommandTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UpgradeRequired(_) => StatusCode::UPGRADE_REQUIRED,
            Self::TooMany { .. } | Self::NewMemberAtLimit => StatusCode::TOO_MANY_REQUESTS,
            Self::AtLimit(_)
            | Self::DatabaseUnavailable
            | Self::StorageFull
            | Self::Draining
            | Self::GatewayDown(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        match self {
            Self::Internal(_) => self.log(),
            Self::NotAuthenticated
            | Self::InvalidCredentials
            | Self::InvalidToken
            | Self::IncorrectLogin
            | Self::IncorrectPassword
            | Self::InvalidRefreshToken => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
            }
            Self::MethodNotAllowed(allow) => {
                response.insert_header((header::ALLOW, allow.as_str()));
            }
            Self::UpgradeRequired(_) => {
                response.insert_header((header::UPGRADE, "websocket"));
                response.insert_header((header::SEC_WEBSOCKET_VERSION, "13"));
            }
            Self::TooMany { retry_after, .. } => {
                response.insert_header((header::RETRY_AFTER, *retry_after));
            }
            Self::NewMemberAtLimit => {
                response.insert_header((header::RETRY_AFTER, 60));
            }
            Self::AtLimit(_) | Self::DatabaseUnavailable => {
                response.insert_header((header::RETRY_AFTER, 1));
            }
            Self::StorageFull => {
                response.insert_header((header::RETRY_AFTER, 60));
            }
            Self::GatewayDown(_) => {
                response.insert_header((header::RETRY_AFTER, 10));
            }
            Self::Draining => {
                response.insert_header((header::RETRY_AFTER, 5));
            }
            _ => {}
        }
        let detail = match self {
            Self::Validation(faults) => json!(faults),
            other => json!(other.to_string()),
        };
        response.json(json!({ "detail": detail, "code": self.code() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_shows_what_is_short_and_the_beginning_of_what_is_long() {
        for short in [json!(null), json!(5), json!("x".repeat(SHOWN)), json!({ "a": [1, "b"] })] {
            assert_eq!(shown(&short), short);
        }
        assert_eq!(shown(&json!("x".repeat(SHOWN + 1))), format!("{}…", "x".repeat(SHOWN)));
        // no half characters
        assert_eq!(shown(&json!(format!("x{}", "ü".repeat(SHOWN)))), format!("x{}…", "ü".repeat(SHOWN / 2 - 1)));
        for long in [json!(["y".repeat(SHOWN)]), json!(vec![1; SHOWN]), json!({ "a": "ü".repeat(SHOWN) })] {
            let Value::String(text) = shown(&long) else { panic!("a text") };
            assert!(text.len() <= SHOWN + 3 && long.to_string().starts_with(text.trim_end_matches('…')), "{text}");
        }
    }
}
