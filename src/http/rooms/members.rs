//! Members of a room: list, add, give roles, remove.

use actix_web::web;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Confirmation, ParticipantInfo, room_id};
use crate::{
    domain::{
        ids::{ClientId, ClientRef, RoomId},
        rooms::{Member, RoomRole},
    },
    http::errors::ApiError,
    http::{
        body::{Body, Checked, Fields, FromFields, QueryOf},
        extract::Identity,
        paging::{Next, Paging, fit},
    },
    protocol::outbound::rfc3339,
    state::Broker,
};

/// A member, seen from outside.
#[derive(Serialize, ToSchema)]
pub struct MemberInfo {
    #[serde(flatten)]
    who: ParticipantInfo,
    #[schema(example = "member")]
    role: &'static str,
    #[schema(example = "2026-01-31T12:00:00Z")]
    joined_at: String,
    /// The newest message that the member has marked as read; 0 if none.
    last_read_id: i64,
}

impl From<&Member> for MemberInfo {
    fn from(member: &Member) -> Self {
        Self {
            who: (&member.who).into(),
            role: member.role.as_str(),
            joined_at: rfc3339(member.joined_at),
            last_read_id: member.last_read.0,
        }
    }
}

/// A page of members.
#[derive(Serialize, ToSchema)]
pub struct Members {
    /// On this page.
    count: usize,
    #[schema(value_type = Vec<MemberInfo>)]
    members: Vec<Box<RawValue>>,
    /// On all pages.
    total: u64,
    #[serde(flatten)]
    next: Next,
}

/// Who is to be added, as a user or as a device.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"user_id": 2}))]
pub struct AddMember {
    /// A user's integer id.
    user_id: Option<i64>,
    /// The UUID of a user or device.
    #[schema(value_type = Option<uuid::Uuid>)]
    uuid: Option<ClientId>,
    /// `member` or `moderator`; `member` if left out.
    #[schema(value_type = Option<String>)]
    role: Option<RoomRole>,
}

impl FromFields for AddMember {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let user_id = fields.optional_id("user_id");
        let uuid = fields.optional_value("uuid").map(|_| fields.uuid("uuid")).transpose();
        let role = role(fields);
        let (user_id, uuid) = (user_id?, uuid?);
        if user_id.is_some() == uuid.is_some() {
            return Err(fields.fault_of_all("value_error", "Value error, expected one of user_id and uuid"));
        }
        Ok(Self { user_id, uuid, role: role? })
    }
}

/// A role to be given.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"role": "moderator"}))]
pub struct SetRole {
    /// `member` or `moderator`.
    #[schema(value_type = String, example = "moderator")]
    role: RoomRole,
}

impl FromFields for SetRole {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        match role(fields)? {
            Some(role) => Ok(Self { role }),
            None => Err(fields.fault("missing", "role", "Field required")),
        }
    }
}

fn role(fields: &mut Fields<'_>) -> Checked<Option<RoomRole>> {
    // a room has one owner; the role only changes hands when the owner leaves
    fields.one_of("role", &[RoomRole::Member, RoomRole::Moderator].map(|role| (role.as_str(), role)))
}

/// The member of a path: the integer id of a user, or the UUID of any client.
async fn member(broker: &Broker, room: RoomId, by: ClientId, text: &str) -> Result<ClientRef, ApiError> {
    if let Some(whose) = ClientRef::parse(text) {
        return Ok(whose);
    }
    // first, so that a caller who may not see the room gets the same answer for any path
    broker.rooms.check_member(room, by).await?;
    let why = "Input should be a user's integer id or a UUID";
    Err(ApiError::invalid("value_error", &["path", "user_id"], why, text.into()))
}

/// The members of a room, those who came first before the others. For its members.
#[utoipa::path(get, path = "/api/rooms/{room_id}/members", tag = "rooms", params(("room_id" = i64, Path), ("skip" = Option<u64>, Query, description = "Entries to pass over"), ("limit" = Option<u64>, Query, description = "0 to 1000"), ("cursor" = Option<String>, Query, description = "From an earlier answer, in place of skip", max_length = 1024)), responses((status = 200, body = Members), (status = 403, description = "You are not a member of this room"), (status = 404, description = "Chat room not found")), security(("bearer" = [])))]
pub async fn list(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
    paging: QueryOf<Paging<(DateTime<Utc>, ClientId), 0>>,
) -> Result<web::Json<Members>, ApiError> {
    let (room, Paging { after, skip, limit }) = (room_id(&path)?, paging.0);
    let (members, total) = broker.rooms.members(room, identity.account.id, after, skip, limit + 1).await?;
    let members = members.iter().map(|member| ((member.joined_at, member.who.client), MemberInfo::from(member)));
    let (members, next) = fit(members, limit)?;
    Ok(web::Json(Members { count: members.len(), members, total, next }))
}

/// Add a member: the only way into a private room. For the owner.
#[utoipa::path(post, path = "/api/rooms/{room_id}/members", tag = "rooms", params(("room_id" = i64, Path)), request_body = AddMember, responses((status = 200, description = "Member added, or a member already", body = Confirmation), (status = 403, description = "Not the owner"), (status = 404, description = "Chat room not found, User not found, Client not found"), (status = 429, description = "limits.rooms_per_user of the new member")), security(("bearer" = [])))]
pub async fn add(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
    body: Body<AddMember>,
) -> Result<web::Json<Confirmation>, ApiError> {
    let (room, by) = (room_id(&path)?, identity.account.id);
    let AddMember { user_id, uuid, role } = body.content;
    let who = user_id.map(ClientRef::User).or(uuid.map(ClientRef::Client));
    let who = who.ok_or(ApiError::NotFound("User not found"))?;
    let newly = broker.rooms.add(room, by, who, role.unwrap_or(RoomRole::Member)).await?;
    Ok(Confirmation::of(if newly { "Member added" } else { "Already a member of this room" }))
}

/// Give a member another role. For the owner.
#[utoipa::path(patch, path = "/api/rooms/{room_id}/members/{user_id}", tag = "rooms", params(("room_id" = i64, Path), ("user_id" = String, Path, description = "a user's integer id, or the UUID of a user or device")), request_body = SetRole, responses((status = 200, description = "Role set", body = Confirmation), (status = 403, description = "Not the owner"), (status = 404, description = "Chat room not found, Member not found")), security(("bearer" = [])))]
pub async fn set_role(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<SetRole>,
) -> Result<web::Json<Confirmation>, ApiError> {
    let (room, by) = (room_id(&path.0)?, identity.account.id);
    let whose = member(&broker, room, by, &path.1).await?;
    broker.rooms.set_role(room, by, whose, body.content.role).await?;
    Ok(Confirmation::of("Role set"))
}

/// Remove a member; its sockets leave the room at once. Moderators remove members, the owner everyone else.
#[utoipa::path(delete, path = "/api/rooms/{room_id}/members/{user_id}", tag = "rooms", params(("room_id" = i64, Path), ("user_id" = String, Path, description = "a user's integer id, or the UUID of a user or device")), responses((status = 200, description = "Member removed", body = Confirmation), (status = 403, description = "Neither the owner nor a moderator, or the other's role is as high"), (status = 404, description = "Chat room not found, Member not found")), security(("bearer" = [])))]
pub async fn remove(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<(String, String)>,
) -> Result<web::Json<Confirmation>, ApiError> {
    let (room, by) = (room_id(&path.0)?, identity.account.id);
    let whose = member(&broker, room, by, &path.1).await?;
    broker.rooms.remove(room, by, whose).await?;
    Ok(Confirmation::of("Member removed"))
}
