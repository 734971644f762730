//! Rooms: create, list, join, leave, who is there (contract section 7).

pub mod members;
pub mod messages;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Confirmation,
    body::{Body, Checked, Fields, FromFields, QueryOf, path_int},
    paging::{Next, PAGE_BYTES, Paging, Part, fit, part_of},
};
use crate::{
    actors::room_manager::RoomError,
    domain::{
        ids::{ClientId, MessageId, RoomId},
        rooms::{Participant, RoomRefusal},
    },
    http::Admission,
    http::errors::ApiError,
    http::extract::Identity,
    protocol::outbound::rfc3339,
    state::Broker,
    store::RoomView,
};

/// A room to be created.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"name": "lobby", "description": "For everyone"}))]
pub struct CreateRoom {
    /// 1 to 100 characters.
    #[schema(example = "lobby")]
    name: String,
    /// At most 4096 characters.
    description: Option<String>,
    /// Only members know that it exists, and only the owner lets others in.
    private: Option<bool>,
}

impl FromFields for CreateRoom {
    const IGNORES_UNKNOWN: bool = true;

    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        // a longer one would not fit into PostgreSQL's index
        let most = if fields.limits.room_name_chars == 0 { 500 } else { fields.limits.room_name_chars.min(500) };
        let name = fields.limited_text("name", most, "limits.room_name_chars").and_then(|name| {
            let blank = name.trim().is_empty();
            if blank { Err(fields.fault("value_error", "name", "Value error, must not be blank")) } else { Ok(name) }
        });
        let description = fields.optional_text("description", 0..=4096);
        let private = fields.optional_bool("private");
        Ok(Self { name: name?, description: description?, private: private? })
    }
}

/// A room, seen from outside.
#[derive(Serialize, ToSchema)]
pub struct RoomInfo {
    name: String,
    description: Option<String>,
    id: i64,
    #[schema(example = "2026-01-31T12:00:00Z")]
    created_at: String,
    private: bool,
    /// The caller's role: `owner`, `moderator`, `member`; null: not a member.
    role: Option<&'static str>,
    /// How many messages of others the caller has not marked as read, up to 1000; null: not a member.
    unread_count: Option<u64>,
}

impl From<RoomView> for RoomInfo {
    fn from(RoomView { room, membership }: RoomView) -> Self {
        Self {
            name: room.name,
            description: room.description,
            id: room.id.0,
            created_at: rfc3339(room.created_at),
            private: room.is_private,
            role: membership.as_ref().map(|(member, _)| member.role.as_str()),
            unread_count: membership.map(|(_, unread)| unread),
        }
    }
}

/// A client with sockets in a room.
#[derive(Serialize, ToSchema)]
pub struct PresentInfo {
    #[serde(flatten)]
    who: ParticipantInfo,
    /// How many.
    sockets: usize,
}

/// A participant: a user has an id, a device its UUID instead.
#[derive(Serialize, ToSchema)]
pub struct ParticipantInfo {
    user_id: Option<i64>,
    username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    uuid: Option<ClientId>,
}

impl From<&Participant> for ParticipantInfo {
    fn from(who: &Participant) -> Self {
        let uuid = who.user_id.is_none().then_some(who.client);
        Self { user_id: who.user_id, username: who.username.to_string(), uuid }
    }
}

/// Who is in a room with open sockets.
#[derive(Serialize, ToSchema)]
pub struct PresenceInfo {
    room_id: i64,
    /// On this page.
    count: usize,
    users: Vec<PresentInfo>,
    /// On all pages.
    total: usize,
    #[serde(flatten)]
    next: Next,
}

fn room_id(text: &str) -> Result<RoomId, ApiError> {
    path_int("room_id", text).map(RoomId)
}

/// Create a room. Its creator becomes a member, and its owner.
#[utoipa::path(post, path = "/api/rooms/", tag = "rooms", request_body = CreateRoom, responses((status = 200, body = RoomInfo), (status = 400, description = "Room name already exists"), (status = 429, description = "limits.rooms_per_user")), security(("bearer" = [])))]
pub async fn create(
    broker: web::Data<Broker>,
    identity: Identity,
    body: Body<CreateRoom>,
) -> Result<web::Json<RoomInfo>, ApiError> {
    let CreateRoom { name, description, private } = body.content;
    let (creator, is_private) = (identity.account.participant(), private.unwrap_or(false));
    Ok(web::Json(broker.rooms.create(creator, name, description, is_private).await?.into()))
}

/// The rooms that the caller can see: all public ones, and the private ones of which the caller is a member.
#[utoipa::path(get, path = "/api/rooms/", tag = "rooms", params(("skip" = Option<u64>, Query, description = "Entries to pass over"), ("limit" = Option<u64>, Query, description = "0 to 1000"), ("cursor" = Option<String>, Query, description = "From an earlier answer, in place of skip", max_length = 1024)), responses((status = 200, body = Vec<RoomInfo>, headers(("Link" = String, description = "`<…>; rel=\"next\"`: the next page, if there is one")))), security(("bearer" = [])))]
pub async fn list(
    request: HttpRequest,
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    identity: Identity,
    paging: QueryOf<Paging<i64, 0>>,
) -> Result<HttpResponse, ApiError> {
    let Paging { after, skip, limit } = paging.0;
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let rooms = broker.rooms.list(identity.account.id, after.map(RoomId), skip, limit + 1).await?;
    let (rooms, next) = fit(rooms.into_iter().map(|view| (view.room.id.0, RoomInfo::from(view))), limit)?;
    Ok(next.of_array(&request, &rooms))
}

/// A room.
#[utoipa::path(get, path = "/api/rooms/{room_id}", tag = "rooms", params(("room_id" = i64, Path)), responses((status = 200, body = RoomInfo), (status = 404, description = "Chat room not found")), security(("bearer" = [])))]
pub async fn show(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
) -> Result<web::Json<RoomInfo>, ApiError> {
    Ok(web::Json(broker.rooms.view(room_id(&path)?, identity.account.id).await?.into()))
}

/// Become a member of a room.
#[utoipa::path(post, path = "/api/rooms/{room_id}/join", tag = "rooms", params(("room_id" = i64, Path)), responses((status = 200, description = "Successfully joined the room, or already a member of it", body = Confirmation), (status = 404, description = "Chat room not found"), (status = 429, description = "limits.rooms_per_user")), security(("bearer" = [])))]
pub async fn join(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
) -> Result<web::Json<Confirmation>, ApiError> {
    let newly = broker.rooms.join(room_id(&path)?, identity.account.participant()).await?;
    Ok(Confirmation::of(if newly { "Successfully joined the room" } else { "Already a member of this room" }))
}

/// End the caller's membership. The caller's open sockets leave the room at once.
#[utoipa::path(post, path = "/api/rooms/{room_id}/leave", tag = "rooms", params(("room_id" = i64, Path)), responses((status = 200, description = "Successfully left the room", body = Confirmation), (status = 400, description = "You are not a member of this room"), (status = 404, description = "Chat room not found")), security(("bearer" = [])))]
pub async fn leave(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
) -> Result<web::Json<Confirmation>, ApiError> {
    broker.rooms.leave(room_id(&path)?, identity.account.id).await.map_err(|error| match error {
        RoomError::Refused(RoomRefusal::NotAMember) => ApiError::CannotLeave,
        error => error.into(),
    })?;
    Ok(Confirmation::of("Successfully left the room"))
}

/// Who has open sockets in a room, by name. For its members.
#[utoipa::path(get, path = "/api/rooms/{room_id}/presence", tag = "rooms", params(("room_id" = i64, Path), ("limit" = Option<u64>, Query, description = "1 to 1000; left out: up to 10,000"), ("cursor" = Option<String>, Query, description = "From an earlier answer", max_length = 1024)), responses((status = 200, body = PresenceInfo), (status = 403, description = "You are not a member of this room"), (status = 404, description = "Chat room not found")), security(("bearer" = [])))]
pub async fn presence(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
    part: QueryOf<Part<(String, ClientId)>>,
) -> Result<web::Json<PresenceInfo>, ApiError> {
    let id = room_id(&path)?;
    let present = broker.rooms.presence(id, identity.account.id).await?;
    let total = present.len();
    let mut present: Vec<_> = present
        .iter()
        .map(|(who, sockets)| {
            ((who.username.to_string(), who.client), PresentInfo { who: who.into(), sockets: *sockets })
        })
        .collect();
    present.sort_by(|(one, _), (other, _)| one.cmp(other));
    let (users, next) = part_of(present, &part.0);
    let users: Vec<_> = users.into_iter().map(|(_, user)| user).collect();
    Ok(web::Json(PresenceInfo { room_id: id.0, count: users.len(), users, total, next }))
}

/// A read mark to be set.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"message_id": 1}))]
pub struct MarkRead {
    /// All messages up to this one are read.
    message_id: i64,
}

impl FromFields for MarkRead {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        fields.id("message_id").map(|message_id| Self { message_id })
    }
}

/// How far the caller has read in a room.
#[derive(Serialize, ToSchema)]
pub struct ReadMark {
    room_id: i64,
    message_id: i64,
}

/// Mark all messages up to this one as read. The mark never moves back.
#[utoipa::path(post, path = "/api/rooms/{room_id}/read", tag = "rooms", params(("room_id" = i64, Path)), request_body = MarkRead, responses((status = 200, description = "Where the mark is now", body = ReadMark), (status = 403, description = "You are not a member of this room"), (status = 404, description = "Chat room not found, Message not found")), security(("bearer" = [])))]
pub async fn read(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
    body: Body<MarkRead>,
) -> Result<web::Json<ReadMark>, ApiError> {
    let (room, message) = (room_id(&path)?, MessageId(body.content.message_id));
    let mark = broker.rooms.mark_read(room, message, identity.account.id).await?;
    Ok(web::Json(ReadMark { room_id: room.0, message_id: mark.0 }))
}
