//! Why somebody is not let in, or an account is not created or changed.

use crate::{
    domain::{budget::OverLimit, passwords::Weakness},
    protocol::error_code::ErrorCode,
    store::{
        Duplicate, StoreError, UserRefusal,
        patience::{OutOfPatience, Undone},
    },
};

/// Why an access token identifies nobody. The text is that of HTTP answers and error frames.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It is malformed, expired or revoked, or its client is deleted.
    #[error("Could not validate credentials")]
    InvalidCredentials,
    /// The user is disabled.
    #[error("Inactive user")]
    InactiveUser,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why there is no account for a client that a request names.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// There is no user with this integer id.
    #[error("user not found")]
    NoSuchUser,
    /// There is no client with this UUID.
    #[error("client not found")]
    NoSuchClient,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IdentityError {
    /// The code and the text of the error frame.
    pub fn told(&self) -> (ErrorCode, String) {
        match self {
            Self::InvalidCredentials => (ErrorCode::InvalidCredentials, self.to_string()),
            Self::InactiveUser => (ErrorCode::InactiveUser, self.to_string()),
            Self::Store(error) => {
                let (code, text) = error.told();
                (code, text.to_owned())
            }
        }
    }
}

/// Why somebody is not let in, or an account is not created or changed.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// There are no credentials where they are needed.
    #[error("no credentials")]
    NotAuthenticated,
    /// A cookie came with a page of another origin.
    #[error("a cookie from a page of another origin")]
    ForeignOrigin,
    /// The credentials identify nobody, or a user who is disabled.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The username or the password is wrong.
    #[error("wrong username or password")]
    IncorrectLogin,
    /// The old password is wrong.
    #[error("wrong password")]
    IncorrectPassword,
    /// The refresh token is unknown, expired or used.
    #[error("invalid refresh token")]
    InvalidRefreshToken,
    /// What should be revoked is no token of this server.
    #[error("not a token of this server")]
    UnknownToken,
    /// Only operators register devices (`devices.registration = "closed"`).
    #[error("only operators register devices")]
    OperatorRequired,
    /// The UUID belongs to another client.
    #[error("the UUID belongs to another client")]
    UuidClaimed,
    /// The username or email belongs to another user.
    #[error("the {0:?} belongs to another user")]
    Duplicate(Duplicate),
    /// The new password breaks a rule.
    #[error(transparent)]
    Weak(#[from] Weakness),
    /// There is no client with this UUID.
    #[error("no such client")]
    NoSuchClient,
    /// The user can't be changed in this way.
    #[error(transparent)]
    Refused(#[from] UserRefusal),
    /// A limit per address or name is reached.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// Too many passwords wait to be hashed (`limits.password_hashes_queued`).
    #[error("too many passwords wait to be hashed")]
    HashesQueued,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The request has waited for the database for as long as it may.
    #[error(transparent)]
    OutOfPatience(#[from] OutOfPatience),
    /// A fault of the server.
    #[error("{0}")]
    Internal(String),
}

impl From<Undone> for AuthError {
    fn from(undone: Undone) -> Self {
        match undone {
            Undone::OutOfPatience(error) => Self::OutOfPatience(error),
            Undone::Panicked => Self::Internal(undone.to_string()),
        }
    }
}
