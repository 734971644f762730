//! Why a request about a topic fails, and how a socket is told.

use std::borrow::Cow;

use actix::MailboxError;

use crate::{
    domain::{
        budget::OverLimit,
        ids::TopicId,
        subscriptions::CannotSubscribe,
        topics::{TopicRefusal, pattern::BadPattern},
    },
    protocol::{
        error_code::{ErrorCode, INTERNAL_ERROR},
        outbound::excerpt,
    },
    store::StoreError,
};

/// Why a request about a topic fails.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error("topic not found")]
    NotFound,
    /// Another topic has that name.
    #[error("topic already exists")]
    NameTaken,
    /// The creator has reached `limits.topics_per_client`.
    #[error("the client has created as many topics as it may")]
    TooMany,
    /// The client is deleted.
    #[error("the client is deleted")]
    ClientDeleted,
    /// The client may not do that.
    #[error(transparent)]
    Refused(#[from] TopicRefusal),
    /// The rules of the configuration do not let the client do that with this topic or pattern.
    #[error("Not allowed on topic {}", excerpt(.0.as_str()))]
    NotAllowed(TopicId),
    /// There is no such topic, and it is no pattern either.
    #[error("not a topic, nor a pattern: {0}")]
    BadPattern(#[from] BadPattern),
    /// As many publications wait to be stored as may.
    #[error("as many publications wait to be stored as may")]
    QueueFull,
    /// The limit of all bytes that are stored is reached.
    #[error("the limit of stored bytes is reached (messages.total_bytes)")]
    TotalReached,
    /// A pattern has no offsets.
    #[error("since_offset and last are for one topic, not for a pattern")]
    FromOffsetOfPattern,
    /// The topic has no history.
    #[error("topic has no history")]
    NoHistory,
    /// The history does not have the offset yet: this is the newest.
    #[error("since_offset: the newest offset is {0}")]
    OffsetBeyond(i64),
    /// A history needs a size.
    #[error("history: missing field `size`")]
    NoSize,
    /// A publication to a topic with a history has an `offset` of its own.
    #[error("reserved field `offset`")]
    ReservedOffset,
    /// The client is not subscribed to this topic, and has to be.
    #[error("Not subscribed to topic {}", excerpt(.0))]
    NotSubscribed(String),
    /// The client is connected to another node, which does not answer.
    #[error("The node that the client is connected to does not answer")]
    ClusterUnavailable,
    /// The creator has reached `limits.stored_bytes_per_minute`.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// A limit of subscriptions is reached.
    #[error(transparent)]
    Limit(#[from] CannotSubscribe),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The TopicManager has stopped.
    #[error(transparent)]
    Stopped(#[from] MailboxError),
}

impl TopicError {
    /// The key of the limit that is reached, if it is one.
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            Self::TooMany => Some("limits.topics_per_client"),
            Self::TotalReached => Some("messages.total_bytes"),
            Self::OverLimit(exceeded) => Some(exceeded.limit),
            Self::Limit(CannotSubscribe::TooMany) => Some("limits.subscriptions_per_client"),
            Self::Limit(CannotSubscribe::TooManyWaiting) => Some("limits.waiting_subscriptions"),
            _ => None,
        }
    }

    /// The code and the text of the error frame for a request about this topic.
    pub fn told(&self, topic: &str) -> (ErrorCode, Cow<'static, str>) {
        let too_many = |limit| OverLimit { limit, retry_after: 0 }.to_string().into();
        match self {
            Self::NotFound => (ErrorCode::TopicNotFound, format!("Topic {} not found", excerpt(topic)).into()),
            Self::NameTaken => (ErrorCode::AlreadyExists, "Topic already exists".into()),
            Self::TooMany => (ErrorCode::TooManyRequests, too_many("limits.topics_per_client")),
            Self::ClientDeleted => (ErrorCode::InvalidCredentials, "Could not validate credentials".into()),
            Self::Refused(refusal) => (ErrorCode::Forbidden, refusal.to_string().into()),
            Self::NotAllowed(_) => (ErrorCode::Forbidden, self.to_string().into()),
            Self::BadPattern(why) => {
                (ErrorCode::InvalidMessage, format!("Invalid topic message format: topic_id: {why}").into())
            }
            Self::ClusterUnavailable => (ErrorCode::ClusterUnavailable, self.to_string().into()),
            Self::TotalReached => {
                (ErrorCode::StorageFull, "The limit of stored bytes is reached (messages.total_bytes)".into())
            }
            Self::NoHistory => (ErrorCode::NoHistory, "Topic has no history".into()),
            Self::NoSize | Self::FromOffsetOfPattern | Self::ReservedOffset | Self::OffsetBeyond(_) => {
                (ErrorCode::InvalidMessage, format!("Invalid topic message format: {self}").into())
            }
            Self::NotSubscribed(_) => (ErrorCode::NotSubscribed, self.to_string().into()),
            Self::OverLimit(exceeded) => (ErrorCode::TooManyRequests, exceeded.to_string().into()),
            Self::Limit(CannotSubscribe::TooMany) => {
                (ErrorCode::TooManyRequests, too_many("limits.subscriptions_per_client"))
            }
            Self::QueueFull | Self::Limit(CannotSubscribe::TooManyWaiting) => {
                (ErrorCode::AtLimit, "Server is at its limit, try again later".into())
            }
            Self::Store(error) => {
                let (code, text) = error.told();
                (code, text.into())
            }
            Self::Stopped(_) => (ErrorCode::InternalError, INTERNAL_ERROR.into()),
        }
    }
}
