//! How errors of the actors are answered.

use crate::{
    actors::{
        registry::{ConnectError, DeviceError},
        room_manager::RoomError,
    },
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
        }
    }
}
