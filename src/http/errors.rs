//! The errors of HTTP answers (contract section 2). `answers` has their statuses, codes and headers; `layers` turns the errors of
//! the layers below into them.

mod answers;
mod fault;
mod layers;

use serde_json::Value;

pub use self::fault::Fault;
use crate::{
    auth::IdentityError,
    domain::{budget::OverLimit, rooms::RoomRefusal, topics::TopicRefusal},
    protocol::error_code::{ErrorCode, INTERNAL_ERROR},
    store::UserRefusal,
};

/// Why a request is refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// All faults of the input.
    #[error("validation error")]
    Validation(Vec<Fault>),
    /// The route needs credentials, and there are none.
    #[error("Not authenticated")]
    NotAuthenticated,
    /// The token is malformed, expired or revoked, or its client is deleted.
    #[error("{}", IdentityError::InvalidCredentials)]
    InvalidCredentials,
    /// The same with the text of the topic routes (contract section 5).
    #[error("Invalid token")]
    InvalidToken,
    #[error("Incorrect username or password")]
    IncorrectLogin,
    /// The old password is wrong.
    #[error("Incorrect password")]
    IncorrectPassword,
    /// The refresh token is unknown, expired or used.
    #[error("Invalid refresh token")]
    InvalidRefreshToken,
    /// The user is disabled.
    #[error("{}", IdentityError::InactiveUser)]
    InactiveUser,
    /// The same at a handshake, which has another status (contract section 3).
    #[error("{}", IdentityError::InactiveUser)]
    InactiveAtHandshake,
    /// The client may not do this; the text says why.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The token is in a cookie, and the request comes from a page of another origin.
    #[error("Origin not allowed")]
    ForeignOrigin,
    /// The text says what does not exist.
    #[error("{0}")]
    NotFound(&'static str),
    /// The path has other methods: the value of `Allow`.
    #[error("Method Not Allowed")]
    MethodNotAllowed(String),
    /// The text says what exists already.
    #[error("{0}")]
    AlreadyExists(&'static str),
    /// A request about a topic is refused.
    #[error(transparent)]
    Topic(TopicRefusal),
    /// The rules of the configuration refuse it; the text says for which topic.
    #[error("{0}")]
    NotAllowedOnTopic(String),
    /// The topic has no history.
    #[error("Topic has no history")]
    NoHistory,
    /// The client is not subscribed to the topic; the text says to which.
    #[error("{0}")]
    NotSubscribed(String),
    /// A request about a room is refused.
    #[error(transparent)]
    Room(RoomRefusal),
    /// A client that is not a member wants to leave a room. Another status than for other requests (contract section 7).
    #[error("{}", RoomRefusal::NotAMember)]
    CannotLeave,
    /// The target of a command is not connected; the text says whether it is a device or a user.
    #[error("{0}")]
    NotConnected(&'static str),
    /// The socket of the target was lost before it answered.
    #[error("Connection lost while waiting for command response.")]
    ConnectionLost,
    /// The target did not answer in time.
    #[error("Timeout waiting for command response.")]
    CommandTimeout,
    /// The target is behind a gateway with this name, which is down.
    #[error("Gateway {0} is down")]
    GatewayDown(String),
    #[error("Command was cancelled")]
    CommandCancelled,
    #[error("Idempotency-Key was used for another request")]
    IdempotencyKeyReused,
    /// After the change, nobody could administer users.
    #[error("{0}")]
    LastAdmin(UserRefusal),
    /// The UUID is bound to another client.
    #[error("UUID already registered")]
    UuidClaimed,
    /// A message is refused; error frames say the same.
    #[error("{1}")]
    Message(ErrorCode, String),
    #[error("Request body over {0} bytes (limits.body_bytes)")]
    BodyTooLarge(usize),
    /// The command is too large for the sockets of its targets.
    #[error("Command over {0} bytes (half of limits.outbound_bytes)")]
    CommandTooLarge(usize),
    #[error("The request body did not arrive in time")]
    BodyTimeout,
    /// The body has another content type than this.
    #[error("Unsupported content type, expected {0}")]
    UnsupportedMediaType(&'static str),
    /// The path is a WebSocket endpoint, and the request is no handshake that it accepts.
    #[error("{0}")]
    UpgradeRequired(&'static str),
    /// The client, or its address, has reached a limit of its own.
    #[error(transparent)]
    TooMany(OverLimit),
    /// The server has reached the limit with this key.
    #[error("Server is at its limit ({0})")]
    AtLimit(&'static str),
    /// The database is unavailable, locked or too slow, or its answer was lost.
    #[error("Database unavailable")]
    DatabaseUnavailable,
    /// No space is left, or less than `storage.min_free_bytes`.
    #[error("Storage is nearly full")]
    StorageFull,
    #[error("Server is shutting down")]
    Draining,
    /// The server failed. This cause is only in the log.
    #[error("{INTERNAL_ERROR}")]
    Internal(String),
}

impl ApiError {
    /// A single fault of the input.
    pub fn invalid(kind: &'static str, loc: &[&str], msg: impl Into<String>, input: Value) -> Self {
        let loc = loc.iter().map(|&part| part.to_owned()).collect();
        Self::Validation(vec![Fault::new(kind, loc, msg, &input)])
    }

    /// The client has reached the limit with this key, and should try again after so many seconds.
    pub fn too_many(limit: &'static str, retry_after: u64) -> Self {
        Self::TooMany(OverLimit { limit, retry_after })
    }
}
