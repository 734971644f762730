//! The answers to errors of the actors' handles.

use crate::{
    actors::{
        registry::{ConnectError, DeviceError},
        room_manager::RoomError,
        topic_manager::TopicError,
    },
    domain::{subscriptions::CannotSubscribe, topics::TopicRefusal},
    error::ApiError,
};

impl From<ConnectError> for ApiError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::TooMany => Self::TooMany { limit: "limits.connections_per_identity", retry_after: 1 },
            ConnectError::Stopped(error) => error.into(),
        }
    }
}

impl From<DeviceError> for ApiError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::NotFound => Self::NotFound("Device not found"),
            DeviceError::Rooms(error) => error.into(),
            DeviceError::Store(error) => error.into(),
            DeviceError::Stopped(error) => error.into(),
        }
    }
}

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::Refused(refusal) => refusal.into(),
            RoomError::Store(error) => error.into(),
            RoomError::Stopped(error) => error.into(),
            RoomError::OtherOutcome => Self::Internal(error.to_string()),
        }
    }
}

impl From<TopicError> for ApiError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::NotFound => Self::NotFound("Topic not found"),
            TopicError::NameTaken => Self::AlreadyExists("Topic already exists"),
            TopicError::TooMany => Self::TooMany { limit: "limits.topics_per_client", retry_after: 60 },
            TopicError::Refused(refusal) => refusal.into(),
            TopicError::Limit(CannotSubscribe::TooMany) => {
                Self::TooMany { limit: "limits.subscriptions_per_client", retry_after: 60 }
            }
            TopicError::Limit(CannotSubscribe::TooManyWaiting) => Self::AtLimit("limits.waiting_subscriptions"),
            TopicError::Store(error) => error.into(),
            TopicError::Stopped(error) => error.into(),
        }
    }
}

impl From<TopicRefusal> for ApiError {
    fn from(refusal: TopicRefusal) -> Self {
        Self::Forbidden(refusal.text())
    }
}
