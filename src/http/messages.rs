//! Messages to devices and topics over HTTP, and acknowledged messages as a resource (contract section 11).

mod info;
pub mod send;

use actix_web::web;
use chrono::{DateTime, Utc};

use self::info::{DeviceQueue, MessageInfo, MessageList, MessageStateName, MessageStatus};
use super::{
    body::{Checked, Fields, FromFields, QueryOf, path_int, path_uuid},
    paging::{self, Key, MOST, Next, PAGE_BYTES, Part, USUAL},
    undisturbed,
};
use crate::{
    domain::{
        ids::{ClientId, DeliveryId},
        messages::{MessageState, Priority},
    },
    http::{Admission, errors::ApiError, extract::Identity},
    state::Broker,
    store::MessageFilter,
};

/// Which messages to list.
#[derive(Debug)]
pub struct ListQuery(MessageFilter);

impl FromFields for ListQuery {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let state = fields.one_of("state", &MessageState::ALL.map(|state| (state.as_str(), state)));
        let (to, from) = (client(fields, "to"), client(fields, "from"));
        let time = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc));
        let since = fields.parsed("since", time, "a time such as 2026-01-31T12:00:00Z");
        let limit = fields.optional_number("limit", 1..=MOST);
        let before = paging::cursor(fields);
        Ok(Self(MessageFilter {
            state: state?,
            to: to?,
            from: from?,
            since: since?,
            limit: limit?.unwrap_or(USUAL),
            before: before?.map(DeliveryId),
            ..MessageFilter::default()
        }))
    }
}

fn client(fields: &mut Fields<'_>, name: &str) -> Checked<Option<ClientId>> {
    fields.parsed(name, ClientId::parse, "a UUID")
}

/// Acknowledged messages, newest first: those that the caller has sent or gets, for operators all. A page may have fewer than
/// there are, and a cursor. The content is for the sender and the recipient.
#[utoipa::path(get, path = "/api/messages", tag = "messaging", params(("state" = Option<MessageStateName>, Query, description = "Only those in this state"), ("to" = Option<uuid::Uuid>, Query, description = "The recipient"), ("from" = Option<uuid::Uuid>, Query, description = "The sender"), ("since" = Option<String>, Query, description = "RFC 3339: those accepted then or later", max_length = 64), ("limit" = Option<u64>, Query, description = "1 to 1000; left out: 100"), ("cursor" = Option<String>, Query, description = "From an earlier answer", max_length = 1024)), responses((status = 200, body = MessageList)), security(("bearer" = [])))]
pub async fn list(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    identity: Identity,
    query: QueryOf<ListQuery>,
) -> Result<web::Json<MessageList>, ApiError> {
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let (messages, more) = broker.messages.list(query.0.0, &identity.account, PAGE_BYTES).await?;
    let messages: Vec<_> = messages.into_iter().map(MessageInfo::of).collect();
    let next = Next::after(more.map(|id| id.0).as_ref(), true);
    Ok(web::Json(MessageList { count: messages.len(), messages, next }))
}

/// An acknowledged message. For its sender, its recipient and operators.
#[utoipa::path(get, path = "/api/messages/{id}", tag = "messaging", params(("id" = i64, Path)), responses((status = 200, body = MessageInfo), (status = 404, description = "Message not found")), security(("bearer" = [])))]
pub async fn show(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
) -> Result<web::Json<MessageInfo>, ApiError> {
    let id = path_int("id", &path).map(DeliveryId)?;
    Ok(web::Json(MessageInfo::of(broker.messages.view(id, &identity.account).await?)))
}

/// Withdraw an acknowledged message that has not ended. For its sender and operators. A recipient that has got it already is
/// not told.
#[utoipa::path(delete, path = "/api/messages/{id}", tag = "messaging", params(("id" = i64, Path)), responses((status = 200, description = "As it stands now: cancelled, unless it had ended before", body = MessageInfo), (status = 403, description = "Only its sender and operators may withdraw a message"), (status = 404, description = "Message not found")), security(("bearer" = [])))]
pub async fn withdraw(
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
) -> Result<web::Json<MessageInfo>, ApiError> {
    let id = path_int("id", &path).map(DeliveryId)?;
    let account = identity.account.clone();
    undisturbed(async move { Ok(web::Json(MessageInfo::of(broker.messages.withdraw(id, &account).await?))) }).await
}

/// The state of the newest message with this `msgid` that the caller has sent or gets; for operators, of all.
#[utoipa::path(get, path = "/messages/{msgid}/status", tag = "messaging", params(("msgid" = String, Path)), responses((status = 200, body = MessageStatus), (status = 404, description = "Message not found")), security(("bearer" = [])))]
pub async fn status(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    identity: Identity,
    path: web::Path<String>,
) -> Result<web::Json<MessageStatus>, ApiError> {
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let message = broker.messages.with_msgid(&path, &identity.account).await?;
    Ok(web::Json(MessageStatus::of(message)))
}

/// The place of a message in a queue.
#[derive(Debug)]
pub struct QueueKey(Priority, DeliveryId);

impl Key for QueueKey {
    fn to_text(&self) -> String {
        format!("{} {}", self.0.as_str(), self.1)
    }

    fn from_text(text: &str) -> Option<Self> {
        let (priority, id) = text.split_once(' ')?;
        Some(Self(Priority::of_word(priority), DeliveryId(id.parse().ok()?)))
    }
}

/// What waits for a device, in the order in which it gets it. For the device, with the content, and for operators.
#[utoipa::path(get, path = "/devices/{device_id}/queue", tag = "messaging", params(("device_id" = uuid::Uuid, Path), ("limit" = Option<u64>, Query, description = "1 to 1000; left out: 100"), ("cursor" = Option<String>, Query, description = "From an earlier answer", max_length = 1024)), responses((status = 200, body = DeviceQueue), (status = 403, description = "Neither the device nor an operator"), (status = 404, description = "Device not found")), security(("bearer" = [])))]
pub async fn queue(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    identity: Identity,
    path: web::Path<String>,
    part: QueryOf<Part<QueueKey>>,
) -> Result<web::Json<DeviceQueue>, ApiError> {
    let device = path_uuid("device_id", &path)?;
    if device != identity.account.id && !identity.account.is_active_operator() {
        return Err(ApiError::Forbidden("Only the device and operators may see its queue"));
    }
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    broker.devices.get(device).await?;
    let Part { after, limit, bytes } = part.0;
    // without a limit it would be the complete list
    let limit = if limit > MOST { USUAL } else { limit };
    let after = after.map(|QueueKey(priority, id)| (priority, id));
    let (queue, messages, more) =
        broker.messages.queue(device, &identity.account, after, limit, bytes.min(PAGE_BYTES)).await?;
    let last = messages.last().map(|view| QueueKey(view.message.priority, view.message.id));
    let next = Next::after(last.as_ref(), more);
    Ok(web::Json(DeviceQueue::of(&queue, messages.into_iter().map(MessageInfo::of), next)))
}
