//! Why a message is not sent, and how its sender is told.

use std::borrow::Cow;

use actix::MailboxError;

use crate::{
    domain::{budget::OverLimit, ids::ClientId, messages::change::MessageRefusal},
    protocol::error_code::{ErrorCode, INTERNAL_ERROR},
    store::StoreError,
};

/// Why a message is not sent, or not withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The recipient of a message without acknowledgement is not connected.
    #[error("Recipient {0} not connected")]
    NotConnected(ClientId),
    /// The recipient is not connected to this node, and other nodes cannot be asked now.
    #[error("Recipient {0} is not connected to this node, and other nodes cannot be asked")]
    ClusterUnavailable(ClientId),
    /// The recipient's node has not said whether it has got the message.
    #[error("It is not known whether recipient {0} got the message: its node did not answer")]
    DeliveryUnknown(ClientId),
    /// It does not fit into the outbox of a socket, which takes so many bytes.
    #[error("Message over {0} bytes (limits.outbound_bytes)")]
    TooLarge(usize),
    /// It is not stored.
    #[error("{refusal}")]
    Refused {
        /// Why.
        refusal: MessageRefusal,
        /// The recipient.
        to: ClientId,
    },
    /// There is no such message, or it is none of the client's.
    #[error("message not found")]
    NotFound,
    /// Only its sender and operators may withdraw it.
    #[error("Only its sender and operators may withdraw a message")]
    NotTheSender,
    /// The sender has reached `limits.stored_bytes_per_minute`.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The MessageManager has stopped.
    #[error("the message manager has stopped")]
    Stopped,
}

impl From<MailboxError> for MessageError {
    fn from(_: MailboxError) -> Self {
        Self::Stopped
    }
}

impl MessageError {
    /// The key of the limit that is reached, if it is one.
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            Self::TooLarge(_) => Some("limits.outbound_bytes"),
            Self::Refused { refusal: MessageRefusal::QueueFull(key), .. } => Some(key),
            Self::Refused { refusal: MessageRefusal::TotalReached, .. } => Some("messages.total_bytes"),
            Self::OverLimit(exceeded) => Some(exceeded.limit),
            _ => None,
        }
    }

    /// The code and the text for the sender.
    pub fn told(&self) -> (ErrorCode, Cow<'static, str>) {
        match self {
            Self::NotConnected(_) => (ErrorCode::RecipientNotConnected, self.to_string().into()),
            Self::ClusterUnavailable(_) => (ErrorCode::ClusterUnavailable, self.to_string().into()),
            Self::DeliveryUnknown(_) => (ErrorCode::DeliveryUnknown, self.to_string().into()),
            Self::TooLarge(_) => (ErrorCode::MessageTooLarge, self.to_string().into()),
            Self::Refused { refusal, to } => match refusal {
                MessageRefusal::RecipientUnknown => {
                    (ErrorCode::RecipientUnknown, format!("Recipient {to} not connected").into())
                }
                MessageRefusal::MsgidReused => {
                    (ErrorCode::MsgidReused, format!("msgid was used for another message to {to}").into())
                }
                MessageRefusal::QueueFull(key) => {
                    (ErrorCode::QueueFull, format!("Queue of recipient {to} is full ({key})").into())
                }
                MessageRefusal::SocketReplaced => {
                    (ErrorCode::Forbidden, "A newer socket of this device has replaced this one".into())
                }
                MessageRefusal::SocketNotStored => {
                    let (code, text) = StoreError::late().told();
                    (code, text.into())
                }
                MessageRefusal::TotalReached => {
                    (ErrorCode::StorageFull, "The limit of stored bytes is reached (messages.total_bytes)".into())
                }
                MessageRefusal::StorageFull => {
                    let (code, text) = StoreError::NearlyFull.told();
                    (code, text.into())
                }
            },
            Self::NotFound => (ErrorCode::NotFound, "Message not found".into()),
            Self::NotTheSender => (ErrorCode::Forbidden, self.to_string().into()),
            Self::OverLimit(exceeded) => (ErrorCode::TooManyRequests, exceeded.to_string().into()),
            Self::Store(error) => {
                let (code, text) = error.told();
                (code, text.into())
            }
            Self::Stopped => (ErrorCode::InternalError, INTERNAL_ERROR.into()),
        }
    }
}
