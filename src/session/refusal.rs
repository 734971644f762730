//! The errors of this layer. `http` has the answers to handshakes that are refused; sockets get an error frame and a close code.

use crate::{
    actors::{registry::ConnectError, room_manager::RoomError},
    auth::IdentityError,
    protocol::{
        close_code::CloseCode,
        error_code::{ErrorCode, INTERNAL_ERROR},
    },
    store::StoreError,
};

/// Why a handshake is refused.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The request is no WebSocket handshake, or one of another version.
    #[error("{0}")]
    NotAHandshake(&'static str),
    /// The server has as many sockets as it may.
    #[error("limits.connections reached")]
    TooManySockets,
    /// The server is stopping.
    #[error("the server is stopping")]
    Draining,
    /// The client may not have this socket.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The client may not join the room of the socket.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The session could not write to its connection.
    #[error("the connection has no socket to write to")]
    NoSocket,
}

/// Why a session does not become a client's.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token is not valid, or its user is disabled.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The client has as many sockets as it may.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The device had a socket at another node, with a higher stamp, of which this node did not know. The next one has a higher
    /// stamp still.
    #[error("a newer socket of this device was opened at another node: try again")]
    Outdated,
}

impl JoinError {
    /// The code and the text of the error frame.
    pub(super) fn told(&self) -> (ErrorCode, String) {
        match self {
            Self::Identity(error) => error.told(),
            Self::Connect(ConnectError::OverLimit(exceeded)) => (ErrorCode::TooManyRequests, exceeded.to_string()),
            Self::Connect(ConnectError::Stopped(_)) => (ErrorCode::InternalError, INTERNAL_ERROR.to_owned()),
            Self::Outdated => (ErrorCode::ClusterUnavailable, self.to_string()),
        }
    }

    /// The code with which the socket is closed.
    pub(super) fn close_code(&self) -> CloseCode {
        match self {
            Self::Identity(IdentityError::InvalidCredentials) => CloseCode::Unauthorized,
            Self::Identity(IdentityError::InactiveUser) => CloseCode::Forbidden,
            Self::Identity(IdentityError::Store(StoreError::Unavailable(_)))
            | Self::Connect(ConnectError::OverLimit(_))
            | Self::Outdated => CloseCode::TryAgainLater,
            Self::Identity(IdentityError::Store(_)) | Self::Connect(ConnectError::Stopped(_)) => CloseCode::ServerError,
        }
    }
}
