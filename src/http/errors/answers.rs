//! The status, the code and the headers of each error.

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use serde_json::json;

use super::ApiError;
use crate::{domain::rooms::RoomRefusal, metrics, protocol::error_code::ErrorCode};

impl ApiError {
    /// The constant by which programs tell errors apart. It is that of error frames with the same reason.
    pub fn code(&self) -> &'static str {
        self.status_and_code().1
    }

    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Validation(_) => (StatusCode::UNPROCESSABLE_ENTITY, "validation_error"),
            Self::NotAuthenticated => (StatusCode::UNAUTHORIZED, "not_authenticated"),
            Self::InvalidCredentials | Self::InvalidToken => {
                (StatusCode::UNAUTHORIZED, ErrorCode::InvalidCredentials.as_str())
            }
            Self::IncorrectLogin => (StatusCode::UNAUTHORIZED, "incorrect_login"),
            Self::IncorrectPassword => (StatusCode::UNAUTHORIZED, "incorrect_password"),
            Self::InvalidRefreshToken => (StatusCode::UNAUTHORIZED, "invalid_refresh_token"),
            Self::InactiveUser => (StatusCode::BAD_REQUEST, ErrorCode::InactiveUser.as_str()),
            Self::InactiveAtHandshake => (StatusCode::FORBIDDEN, ErrorCode::InactiveUser.as_str()),
            Self::Forbidden(_) | Self::Topic(_) | Self::NotAllowedOnTopic(_) => {
                (StatusCode::FORBIDDEN, ErrorCode::Forbidden.as_str())
            }
            Self::NoHistory => (StatusCode::BAD_REQUEST, ErrorCode::NoHistory.as_str()),
            Self::NotSubscribed(_) => (StatusCode::FORBIDDEN, ErrorCode::NotSubscribed.as_str()),
            Self::ForeignOrigin => (StatusCode::FORBIDDEN, "origin_not_allowed"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, ErrorCode::NotFound.as_str()),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::AlreadyExists(_) => (StatusCode::BAD_REQUEST, ErrorCode::AlreadyExists.as_str()),
            Self::Room(refusal) => (status_of_room(*refusal), ErrorCode::from(*refusal).as_str()),
            Self::CannotLeave => (StatusCode::BAD_REQUEST, ErrorCode::NotAMember.as_str()),
            Self::NotConnected(_) => (StatusCode::BAD_REQUEST, "not_connected"),
            Self::ConnectionLost => (StatusCode::BAD_REQUEST, "connection_lost"),
            Self::CommandTimeout => (StatusCode::GATEWAY_TIMEOUT, "command_timeout"),
            Self::GatewayDown(_) => (StatusCode::SERVICE_UNAVAILABLE, "gateway_down"),
            Self::CommandCancelled => (StatusCode::CONFLICT, "command_cancelled"),
            Self::IdempotencyKeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
            Self::LastAdmin(_) => (StatusCode::CONFLICT, "last_admin"),
            Self::UuidClaimed => (StatusCode::CONFLICT, "uuid_claimed"),
            Self::Message(code, _) => (status_of_message(*code), code.as_str()),
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::CommandTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "command_too_large"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::UnsupportedMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::UpgradeRequired(_) => (StatusCode::UPGRADE_REQUIRED, "upgrade_required"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests.as_str()),
            Self::AtLimit(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::AtLimit.as_str()),
            Self::DatabaseUnavailable => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::DatabaseUnavailable.as_str()),
            Self::StorageFull => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::StorageFull.as_str()),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::InternalError.as_str()),
        }
    }

    /// The key of the limit that is reached, if it is one.
    fn limit(&self) -> Option<&'static str> {
        match self {
            Self::TooMany(exceeded) => Some(exceeded.limit),
            Self::AtLimit(key) => Some(key),
            Self::BodyTooLarge(_) => Some("limits.body_bytes"),
            Self::CommandTooLarge(_) => Some("limits.outbound_bytes"),
            Self::Room(RoomRefusal::TooManyRooms | RoomRefusal::TheyHaveTooManyRooms) => Some("limits.rooms_per_user"),
            _ => None,
        }
    }

    /// Seconds until the client should try again.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooMany(exceeded) => Some(exceeded.retry_after),
            Self::Room(RoomRefusal::TooManyRooms | RoomRefusal::TheyHaveTooManyRooms | RoomRefusal::StorageFull)
            | Self::StorageFull => Some(60),
            Self::GatewayDown(_) | Self::Message(ErrorCode::QueueFull, _) => Some(10),
            Self::Message(ErrorCode::StorageFull, _) => Some(60),
            Self::Draining => Some(5),
            Self::AtLimit(_)
            | Self::DatabaseUnavailable
            | Self::Room(RoomRefusal::DatabaseUnavailable)
            | Self::Message(ErrorCode::ClusterUnavailable, _) => Some(1),
            _ => None,
        }
    }
}

fn status_of_message(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::RecipientNotConnected | ErrorCode::RecipientUnknown => StatusCode::NOT_FOUND,
        ErrorCode::MsgidReused => StatusCode::CONFLICT,
        ErrorCode::MessageTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::QueueFull => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::DeliveryUnknown => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn status_of_room(refusal: RoomRefusal) -> StatusCode {
    match refusal {
        RoomRefusal::NoSuchRoom | RoomRefusal::NoSuchMember | RoomRefusal::NoSuchMessage => StatusCode::NOT_FOUND,
        RoomRefusal::NameTaken => StatusCode::BAD_REQUEST,
        RoomRefusal::ClientDeleted => StatusCode::UNAUTHORIZED,
        RoomRefusal::NotAMember
        | RoomRefusal::NotTheAuthor
        | RoomRefusal::ModeratorRequired
        | RoomRefusal::HigherRoleRequired
        | RoomRefusal::OwnerStays
        | RoomRefusal::OwnerRequired => StatusCode::FORBIDDEN,
        RoomRefusal::TooManyRooms | RoomRefusal::TheyHaveTooManyRooms => StatusCode::TOO_MANY_REQUESTS,
        RoomRefusal::DatabaseUnavailable | RoomRefusal::StorageFull => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status_and_code().0
    }

    fn error_response(&self) -> HttpResponse {
        if let Self::Internal(cause) = self {
            tracing::error!(%cause, "request failed");
        }
        metrics::refused_for(self.limit());
        let status = self.status_code();
        let mut response = HttpResponse::build(status);
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(seconds) = self.retry_after() {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        match self {
            Self::MethodNotAllowed(allow) => {
                response.insert_header((header::ALLOW, allow.as_str()));
            }
            Self::UpgradeRequired(_) => {
                response.insert_header((header::UPGRADE, "websocket"));
                response.insert_header((header::SEC_WEBSOCKET_VERSION, "13"));
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
    use sea_orm::DbErr;

    use super::*;
    use crate::{auth::IdentityError, domain::budget::OverLimit, store::StoreError};

    /// What HTTP says of an error: the code and the text.
    fn answer(error: impl Into<ApiError>) -> (&'static str, String) {
        let error = error.into();
        (error.code(), error.to_string())
    }

    #[test]
    fn answers_and_error_frames_say_the_same_of_a_room() {
        for (refusal, status, code, text) in [
            (RoomRefusal::NoSuchRoom, 404, "not_found", "Chat room not found"),
            (RoomRefusal::NameTaken, 400, "already_exists", "Room name already exists"),
            (RoomRefusal::NotAMember, 403, "not_a_member", "You are not a member of this room"),
            (RoomRefusal::ClientDeleted, 401, "invalid_credentials", "Could not validate credentials"),
            (RoomRefusal::NoSuchMember, 404, "not_found", "Member not found"),
            (RoomRefusal::NoSuchMessage, 404, "not_found", "Message not found"),
            (RoomRefusal::NotTheAuthor, 403, "forbidden", "Only its author may edit a message"),
            (
                RoomRefusal::ModeratorRequired,
                403,
                "forbidden",
                "Only the owner or a moderator of this room may do that",
            ),
            (
                RoomRefusal::HigherRoleRequired,
                403,
                "forbidden",
                "Only somebody of a higher role may remove this member",
            ),
            (RoomRefusal::OwnerStays, 403, "forbidden", "The owner stays the owner; leaving passes the room on"),
            (RoomRefusal::OwnerRequired, 403, "forbidden", "Only the owner of this room may do that"),
            (RoomRefusal::TooManyRooms, 429, "too_many_requests", "Too many requests (limits.rooms_per_user)"),
            (
                RoomRefusal::TheyHaveTooManyRooms,
                429,
                "too_many_requests",
                "The new member has been added to as many rooms as it may without joining them (limits.rooms_per_user)",
            ),
            (RoomRefusal::DatabaseUnavailable, 503, "database_unavailable", "Database unavailable"),
            (RoomRefusal::StorageFull, 503, "storage_full", "Storage is nearly full"),
        ] {
            assert_eq!((ErrorCode::from(refusal).as_str(), refusal.to_string()), (code, text.to_owned()));
            let error = ApiError::from(refusal);
            assert_eq!(error.status_code(), status);
            assert_eq!(error.retry_after().is_some(), matches!(status, 429 | 503), "{text}");
            assert_eq!(answer(error), (code, text.to_owned()));
        }
    }

    #[test]
    fn answers_and_error_frames_say_the_same_of_tokens_limits_and_the_database() {
        let lost = || StoreError::lost();
        let failed = || StoreError::from(DbErr::RecordNotInserted);
        for store in [lost, failed, || StoreError::NearlyFull] {
            let (code, text) = store().told();
            assert_eq!(answer(store()), (code.as_str(), text.to_owned()));
            let (code, text) = IdentityError::from(store()).told();
            assert_eq!(answer(IdentityError::from(store())), (code.as_str(), text));
        }
        for identity in [|| IdentityError::InvalidCredentials, || IdentityError::InactiveUser] {
            let (code, text) = identity().told();
            assert_eq!(answer(identity()), (code.as_str(), text));
        }
        let exceeded = OverLimit { limit: "limits.stored_bytes_per_minute", retry_after: 7 };
        let text = "Too many requests (limits.stored_bytes_per_minute)".to_owned();
        assert_eq!(exceeded.to_string(), text);
        assert_eq!(answer(exceeded), (ErrorCode::TooManyRequests.as_str(), text));
    }
}
