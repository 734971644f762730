//! Maps the errors of the other layers to those of answers, with one `From` for each error type.

use serde_json::Value;

use super::ApiError;
use crate::{
    actors::{
        command_dispatcher::CommandError, gateway_monitor::GatewayError, message_manager::MessageError,
        registry::ConnectError, room_manager::RoomError, topic_manager::TopicError,
    },
    auth::{AuthError, IdentityError, LookupError},
    domain::{
        budget::OverLimit, commands::Exceeded, rooms::RoomRefusal, subscriptions::CannotSubscribe, topics::TopicRefusal,
    },
    protocol::error_code::ErrorCode,
    services::{DeviceError, UserError},
    session::{HandshakeError, JoinError},
    store::{
        Duplicate, StoreError, UserRefusal,
        patience::{OutOfPatience, Undone},
    },
};

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::NotAuthenticated => Self::NotAuthenticated,
            AuthError::ForeignOrigin => Self::ForeignOrigin,
            AuthError::Identity(error) => error.into(),
            AuthError::IncorrectLogin => Self::IncorrectLogin,
            AuthError::IncorrectPassword => Self::IncorrectPassword,
            AuthError::InvalidRefreshToken => Self::InvalidRefreshToken,
            AuthError::UnknownToken => {
                Self::invalid("value_error", &["body", "token"], "Value error, not a token of this server", Value::Null)
            }
            AuthError::OperatorRequired => Self::Forbidden("Only operators register devices (devices.registration)"),
            AuthError::UuidClaimed => Self::UuidClaimed,
            AuthError::Duplicate(Duplicate::Username) => Self::AlreadyExists("Username already registered"),
            AuthError::Duplicate(Duplicate::Email) => Self::AlreadyExists("Email already registered"),
            AuthError::Weak(weakness) => {
                let msg = format!("Value error, {weakness}");
                Self::invalid("value_error", &["body", "new_password"], msg, Value::Null)
            }
            AuthError::NoSuchClient => Self::NotFound("Client not found"),
            AuthError::Refused(refusal) => refusal.into(),
            AuthError::OverLimit(exceeded) => exceeded.into(),
            AuthError::HashesQueued => Self::AtLimit("limits.password_hashes_queued"),
            AuthError::Store(error) => error.into(),
            AuthError::OutOfPatience(error) => error.into(),
            AuthError::Internal(cause) => Self::Internal(cause),
        }
    }
}

impl From<IdentityError> for ApiError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::InvalidCredentials => Self::InvalidCredentials,
            IdentityError::InactiveUser => Self::InactiveUser,
            IdentityError::Store(error) => error.into(),
        }
    }
}

impl From<LookupError> for ApiError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NoSuchUser => Self::NotFound("User not found"),
            LookupError::NoSuchClient => Self::NotFound("Client not found"),
            LookupError::Store(error) => error.into(),
        }
    }
}

impl From<HandshakeError> for ApiError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::NotAHandshake(why) => Self::UpgradeRequired(why),
            HandshakeError::TooManySockets => Self::AtLimit("limits.connections"),
            HandshakeError::Draining => Self::Draining,
            HandshakeError::Join(error) => error.into(),
            HandshakeError::Room(error) => error.into(),
            HandshakeError::NoSocket => Self::Internal(error.to_string()),
        }
    }
}

impl From<JoinError> for ApiError {
    fn from(error: JoinError) -> Self {
        match error {
            // a handshake is refused with another status than a request (contract section 3)
            JoinError::Identity(IdentityError::InactiveUser) => Self::InactiveAtHandshake,
            JoinError::Identity(error) => error.into(),
            JoinError::Connect(error) => error.into(),
            JoinError::Outdated => Self::Message(ErrorCode::ClusterUnavailable, error.to_string()),
        }
    }
}

impl From<OverLimit> for ApiError {
    fn from(exceeded: OverLimit) -> Self {
        Self::TooMany(exceeded)
    }
}

impl From<ConnectError> for ApiError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::OverLimit(exceeded) => exceeded.into(),
            ConnectError::Stopped(error) => error.into(),
        }
    }
}

impl From<DeviceError> for ApiError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::NotFound => Self::NotFound("Device not found"),
            DeviceError::Gateway(error) => error.into(),
            DeviceError::Rooms(error) => error.into(),
            DeviceError::OverLimit(exceeded) => exceeded.into(),
            DeviceError::Store(error) => error.into(),
            DeviceError::Stopped(error) => error.into(),
        }
    }
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Refused(refusal) => refusal.into(),
            UserError::Account(error) => error.into(),
            UserError::Rooms(error) => error.into(),
            UserError::Store(error) => error.into(),
        }
    }
}

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::Refused(refusal) => refusal.into(),
            RoomError::Lookup(error) => error.into(),
            RoomError::OverLimit(exceeded) => exceeded.into(),
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
            TopicError::TooMany => Self::too_many("limits.topics_per_client", 60),
            TopicError::ClientDeleted => Self::InvalidToken,
            TopicError::Refused(refusal) => refusal.into(),
            TopicError::NotAllowed(_) => Self::NotAllowedOnTopic(error.to_string()),
            TopicError::BadPattern(why) => Self::invalid(
                "value_error",
                &["body", "topic_id"],
                format!("Value error, there is no such topic, and {why}"),
                Value::Null,
            ),
            TopicError::ClusterUnavailable => Self::Message(ErrorCode::ClusterUnavailable, error.to_string()),
            TopicError::TotalReached => {
                let (code, text) = error.told("");
                Self::Message(code, text.into_owned())
            }
            TopicError::NoHistory => Self::NoHistory,
            TopicError::NoSize => Self::invalid("missing", &["body", "history", "size"], "Field required", Value::Null),
            // only sockets are told of these
            TopicError::OffsetBeyond(_) | TopicError::FromOffsetOfPattern | TopicError::QueueFull => {
                Self::Internal(error.to_string())
            }
            TopicError::ReservedOffset => Self::invalid(
                "value_error",
                &["body", "offset"],
                "Value error, reserved field: the broker sets it in topics with a history",
                Value::Null,
            ),
            TopicError::NotSubscribed(_) => Self::NotSubscribed(error.to_string()),
            TopicError::OverLimit(exceeded) => exceeded.into(),
            TopicError::Limit(CannotSubscribe::TooMany) => Self::too_many("limits.subscriptions_per_client", 60),
            TopicError::Limit(CannotSubscribe::TooManyWaiting) => Self::AtLimit("limits.waiting_subscriptions"),
            TopicError::Store(error) => error.into(),
            TopicError::Stopped(error) => error.into(),
        }
    }
}

impl From<MessageError> for ApiError {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::NotConnected(_)
            | MessageError::ClusterUnavailable(_)
            | MessageError::DeliveryUnknown(_)
            | MessageError::TooLarge(_)
            | MessageError::Refused { .. } => {
                let (code, text) = error.told();
                Self::Message(code, text.into_owned())
            }
            MessageError::NotFound => Self::NotFound("Message not found"),
            MessageError::NotTheSender => Self::Forbidden("Only its sender and operators may withdraw a message"),
            MessageError::OverLimit(exceeded) => exceeded.into(),
            MessageError::Store(error) => error.into(),
            MessageError::Stopped => Self::Internal(error.to_string()),
        }
    }
}

impl From<TopicRefusal> for ApiError {
    fn from(refusal: TopicRefusal) -> Self {
        Self::Topic(refusal)
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::NotFound => Self::NotFound("Command not found"),
            CommandError::TooManyTargets { .. } => {
                Self::invalid("too_long", &["body", "targets"], error.to_string(), Value::Null)
            }
            CommandError::NoMatch => Self::NotFound("No matching clients"),
            CommandError::Lookup(error) => error.into(),
            CommandError::NotAllowed => Self::Forbidden("Operator role required to command others"),
            CommandError::GatewayDown(gateway) => Self::GatewayDown(gateway),
            CommandError::TooLarge(bytes) => Self::CommandTooLarge(bytes),
            CommandError::OverLimit(exceeded) => exceeded.into(),
            CommandError::Limit(exceeded) => limit(exceeded),
            CommandError::KeyReused => Self::IdempotencyKeyReused,
            // the statement that failed may be about records of other callers
            CommandError::NotRecorded(None | Some(StoreError::Database(_))) => Self::DatabaseUnavailable,
            CommandError::NotRecorded(Some(failure)) => failure.into(),
            CommandError::ClusterUnavailable => Self::Message(ErrorCode::ClusterUnavailable, error.to_string()),
            CommandError::Stopping => Self::Draining,
            CommandError::Store(error) => error.into(),
            CommandError::OutOfPatience(error) => error.into(),
            CommandError::ActorEnded => Self::Internal(error.to_string()),
        }
    }
}

fn limit(exceeded: Exceeded) -> ApiError {
    match exceeded {
        Exceeded::Pending => ApiError::AtLimit("limits.pending_commands"),
        Exceeded::PendingPerIdentity => ApiError::too_many("limits.pending_commands_per_identity", 1),
        Exceeded::Queued => ApiError::AtLimit("limits.queued_commands"),
        Exceeded::QueuedPerIdentity => ApiError::too_many("limits.queued_commands_per_identity", 60),
        Exceeded::QueuedPerTarget => ApiError::too_many("limits.queued_commands_per_target", 60),
        Exceeded::Bytes => ApiError::AtLimit("limits.command_bytes"),
        Exceeded::BytesPerIdentity => ApiError::too_many("limits.command_bytes_per_identity", 10),
    }
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::NotFound => Self::NotFound("Gateway not found"),
            GatewayError::ParentNotFound => Self::NotFound("Parent gateway not found"),
            GatewayError::BehindItself(parent) => {
                let msg = "Value error, the gateway would be behind itself";
                Self::invalid("value_error", &["body", "parent_id"], msg, parent.0.into())
            }
            GatewayError::Configured => {
                Self::Forbidden("Gateway is from the configuration and can be changed there alone")
            }
            GatewayError::IdTaken => Self::AlreadyExists("Gateway id already exists"),
            GatewayError::NoIdLeft => {
                Self::AlreadyExists("The highest gateway id has been used: give an id that is free")
            }
            GatewayError::TooMany => Self::too_many("limits.gateways", 60),
            GatewayError::Store(error) => error.into(),
            GatewayError::Busy(error) => error.into(),
            GatewayError::Stopped(error) => error.into(),
        }
    }
}

impl From<RoomRefusal> for ApiError {
    fn from(refusal: RoomRefusal) -> Self {
        match refusal {
            RoomRefusal::ClientDeleted => Self::InvalidCredentials,
            refusal => Self::Room(refusal),
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
            // logged where it began
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
            Undone::Panicked => Self::Internal(undone.to_string()),
        }
    }
}

impl From<actix::MailboxError> for ApiError {
    fn from(error: actix::MailboxError) -> Self {
        Self::Internal(error.to_string())
    }
}
