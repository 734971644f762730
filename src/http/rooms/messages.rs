//! Messages of a room over REST. The room's sockets get each change.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Confirmation, ParticipantInfo, room_id};
use crate::{
    domain::{
        ids::{MessageId, RoomId},
        rooms::{CLIENT_MSG_ID_CHARS, Message},
    },
    http::Admission,
    http::errors::ApiError,
    http::{
        body::{Body, Checked, Fields, FromFields, QueryOf, path_int},
        extract::Identity,
        paging::{self, MOST, Next, PAGE_BYTES, USUAL},
    },
    protocol::outbound::rfc3339,
    state::Broker,
    store::Page,
};

/// A message, seen from outside.
#[derive(Serialize, ToSchema)]
pub struct MessageInfo {
    /// Empty once it is deleted.
    content: String,
    room_id: i64,
    id: i64,
    #[schema(example = "2026-01-31T12:00:00Z")]
    created_at: String,
    #[serde(flatten)]
    author: ParticipantInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_msg_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_at: Option<String>,
}

impl From<&Message> for MessageInfo {
    fn from(message: &Message) -> Self {
        Self {
            content: message.content.to_string(),
            room_id: message.room.0,
            id: message.id.0,
            created_at: rfc3339(message.created_at),
            author: (&message.author).into(),
            client_msg_id: message.client_msg_id.clone(),
            edited_at: message.edited_at.map(rfc3339),
            deleted_at: message.deleted_at.map(rfc3339),
        }
    }
}

/// Which messages.
#[derive(Debug)]
pub struct Which {
    page: Page,
    limit: u64,
}

impl FromFields for Which {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let skip = fields.optional_number("skip", 0..=i64::MAX as u64);
        let limit = fields.optional_number("limit", 0..=MOST);
        let (before, after) = (fields.optional_id("before_id"), fields.optional_id("after_id"));
        let cursor = paging::cursor(fields);
        let (skip, before, after, cursor) = (skip?, before?, after?, cursor?);
        // a cursor continues in the direction of its page
        let page = match (skip, before, after) {
            (skip, None, None) => match cursor {
                Some(cursor) => Page::Before(MessageId(cursor)),
                None => Page::Newest { skip: skip.unwrap_or(0) },
            },
            (None, Some(before), None) => Page::Before(MessageId(cursor.unwrap_or(before))),
            (None, None, Some(after)) => Page::After(MessageId(cursor.unwrap_or(after))),
            _ => {
                let why = "Value error, expected at most one of skip, before_id and after_id";
                return Err(fields.fault_of_all("value_error", why));
            }
        };
        Ok(Self { page, limit: limit?.unwrap_or(USUAL) })
    }
}

/// A message to be posted.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"content": "Hello!", "room_id": 1}))]
pub struct PostMessage {
    /// At most 32 KiB.
    #[schema(example = "Hello!")]
    content: String,
    /// Required (contract section 7), but the path counts.
    #[expect(dead_code, reason = "checked and documented, not used")]
    room_id: i64,
    /// The sender's own name for the message, at most 64 characters: the same one again is the same message again.
    client_msg_id: Option<String>,
}

impl FromFields for PostMessage {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let content = fields.content("content");
        let room_id = fields.id("room_id");
        let client_msg_id = fields.optional_text("client_msg_id", 0..=CLIENT_MSG_ID_CHARS);
        Ok(Self { content: content?, room_id: room_id?, client_msg_id: client_msg_id? })
    }
}

/// Another content for a message.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"content": "Hello again!"}))]
pub struct EditMessage {
    /// At most 32 KiB.
    content: String,
}

impl FromFields for EditMessage {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        fields.content("content").map(|content| Self { content })
    }
}

fn path_ids(path: &(String, String)) -> Result<(RoomId, MessageId), ApiError> {
    Ok((room_id(&path.0)?, path_int("message_id", &path.1).map(MessageId)?))
}

/// The room's messages, oldest to newest: the newest page (`skip` counts from the newest), or the page before or after a
/// message. The next page is the one before, with `after_id` the one after.
#[utoipa::path(get, path = "/api/rooms/{room_id}/messages", tag = "rooms", params(("room_id" = i64, Path), ("skip" = Option<u64>, Query, description = "Messages to pass over, from the newest; not with before_id or after_id"), ("limit" = Option<u64>, Query, description = "0 to 1000"), ("before_id" = Option<i64>, Query, description = "The page before this message"), ("after_id" = Option<i64>, Query, description = "The page after this message; not with before_id"), ("cursor" = Option<String>, Query, description = "From an earlier answer; goes on from there, with the same other parameters", max_length = 1024)), responses((status = 200, body = Vec<MessageInfo>, headers(("Link" = String, description = "`<…>; rel=\"next\"`: the next page, if there is one"))), (status = 403, description = "You are not a member of this room"), (status = 404, description = "Chat room not found")), security(("bearer" = [])))]
pub async fn list(
    request: HttpRequest,
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    identity: Identity,
    path: web::Path<String>,
    query: QueryOf<Which>,
) -> Result<HttpResponse, ApiError> {
    let room = room_id(&path)?;
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let Which { page, limit } = query.0;
    let history = broker.rooms.history(room, identity.account.id, page, limit, PAGE_BYTES).await?;
    let messages: Vec<_> = history.messages.iter().map(MessageInfo::from).collect();
    let last = if history.recent { messages.first() } else { messages.last() };
    let next = Next::after(last.map(|message| &message.id), history.truncated);
    Ok(next.of_array(&request, &messages))
}

/// Post a message to a room.
#[utoipa::path(post, path = "/api/rooms/{room_id}/messages", tag = "rooms", params(("room_id" = i64, Path)), request_body = PostMessage, responses((status = 200, body = MessageInfo), (status = 403, description = "You are not a member of this room"), (status = 404, description = "Chat room not found")), security(("bearer" = [])))]
pub async fn post(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
    body: Body<PostMessage>,
) -> Result<web::Json<MessageInfo>, ApiError> {
    let PostMessage { content, room_id: _, client_msg_id } = body.content;
    let (room, author) = (room_id(&path)?, identity.account.participant());
    let message = broker.rooms.post(room, author, content.into(), client_msg_id).await?;
    Ok(web::Json(MessageInfo::from(&*message)))
}

/// Change the content of the caller's own message.
#[utoipa::path(patch, path = "/api/rooms/{room_id}/messages/{message_id}", tag = "rooms", params(("room_id" = i64, Path), ("message_id" = i64, Path)), request_body = EditMessage, responses((status = 200, body = MessageInfo), (status = 403, description = "Not a member, or not its author"), (status = 404, description = "Chat room not found, Message not found")), security(("bearer" = [])))]
pub async fn edit(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<EditMessage>,
) -> Result<web::Json<MessageInfo>, ApiError> {
    let (room, message) = path_ids(&path)?;
    let content = body.content.content.into();
    let message = broker.rooms.edit(room, message, identity.account.id, content).await?;
    Ok(web::Json(MessageInfo::from(&*message)))
}

/// Delete the caller's own message, or as a moderator anyone's. It keeps its place and loses its content.
#[utoipa::path(delete, path = "/api/rooms/{room_id}/messages/{message_id}", tag = "rooms", params(("room_id" = i64, Path), ("message_id" = i64, Path)), responses((status = 200, description = "Message deleted", body = Confirmation), (status = 403, description = "Not a member, or neither its author nor a moderator"), (status = 404, description = "Chat room not found, Message not found")), security(("bearer" = [])))]
pub async fn delete(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<(String, String)>,
) -> Result<web::Json<Confirmation>, ApiError> {
    let (room, message) = path_ids(&path)?;
    broker.rooms.delete(room, message, identity.account.id).await?;
    Ok(Confirmation::of("Message deleted"))
}
