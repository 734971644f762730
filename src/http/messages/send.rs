//! Sending over HTTP.

use std::time::Duration;

use actix_web::web;
use serde::Serialize;
use utoipa::ToSchema;

use super::info::MessageStateName;
use crate::{
    domain::{
        accounts::Account,
        ids::{ClientId, DeliveryId},
        messages::{
            MAX_TTL_SECS, MessageState, Party, Priority,
            change::{NO_SOCKET, NewMessage, RecipientPresence},
        },
    },
    http::{
        body::{Body, Checked, Fields, FromFields},
        errors::ApiError,
        extract::Identity,
        one_of::one_of,
        sent_object::SentObject,
        topics::publish::{Publication, PublicationReceipt, publish_as},
        undisturbed,
    },
    protocol::outbound::{epoch_seconds, receipt_text, rfc3339},
    state::Broker,
};

/// A message, with one of `to` and `topic_id`.
#[derive(Debug)]
pub enum OutgoingMessage {
    /// To a device.
    Device(DeviceMessage),
    /// To the subscribers of a topic.
    Topic(Publication),
}

one_of!(OutgoingMessage: DeviceMessage, Publication);

impl FromFields for OutgoingMessage {
    const IGNORES_UNKNOWN: bool = true;

    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        match (fields.has("to"), fields.has("topic_id")) {
            (true, false) => DeviceMessage::from_fields(fields).map(Self::Device),
            (false, true) => Publication::from_fields(fields).map(Self::Topic),
            _ => Err(fields.fault_of_all("value_error", "Value error, expected one of to and topic_id")),
        }
    }
}

/// A message to a device. It gets the object as it is sent, with all its other fields; a missing `from` or `msgid` is added.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"to": "123e4567-e89b-12d3-a456-426614174000", "content": {"set": 21.5}, "acknowledge": true}))]
pub struct DeviceMessage {
    #[schema(value_type = uuid::Uuid)]
    to: ClientId,
    /// The caller's id of the message; a random one if it is left out.
    msgid: Option<String>,
    /// The caller, if it is given.
    #[schema(value_type = Option<uuid::Uuid>)]
    from: Option<ClientId>,
    /// Anything but null. The object with its other fields may be as long as a frame (`limits.frame_bytes`).
    #[schema(rename = "content", value_type = serde_json::Value)]
    object: String,
    /// Whether the message is stored, and delivered until the device acknowledges it.
    acknowledge: bool,
    /// For how many seconds an acknowledged message may wait; `messages.ttl_secs` if it is left out.
    #[schema(minimum = 1, maximum = 2_592_000)]
    ttl: Option<u64>,
    /// `high`, `normal` (any other text, too) or `low`: in which order acknowledged messages go that wait.
    #[schema(value_type = Option<String>)]
    priority: Priority,
}

impl FromFields for DeviceMessage {
    const IGNORES_UNKNOWN: bool = true;

    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let to = fields.uuid("to");
        let object = SentObject::from_fields(fields);
        let acknowledge = fields.optional_bool("acknowledge")?.unwrap_or(false);
        let (mut ttl, mut priority) = (Ok(None), Ok(None));
        // without it these fields are the client's own
        if acknowledge {
            ttl = ttl_of(fields);
            priority = fields.optional_text("priority", 0..=usize::MAX);
            if fields.has("redelivered") {
                let msg = "Value error, reserved field: the broker adds it to what it sends again";
                return Err(fields.fault("value_error", "redelivered", msg));
            }
        }
        let (to, SentObject { msgid, from, text: object }, ttl) = (to?, object?, ttl?);
        let priority = priority?.as_deref().map(Priority::of_word).unwrap_or_default();
        Ok(Self { to, msgid, from, object, acknowledge, ttl, priority })
    }
}

/// A number, as on sockets, and no text with one.
fn ttl_of(fields: &mut Fields<'_>) -> Checked<Option<u64>> {
    let given =
        fields.optional_value("ttl").map(|ttl| ttl.as_u64().filter(|ttl| (1..=MAX_TTL_SECS.into()).contains(ttl)));
    match given {
        Some(None) => {
            let msg = format!("Value error, ttl must be a whole number from 1 to {MAX_TTL_SECS}");
            Err(fields.fault("value_error", "ttl", msg))
        }
        ttl => Ok(ttl.flatten()),
    }
}

/// The receipt of a message to a device.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageReceipt {
    #[serde(rename = "type")]
    #[schema(example = "sent", pattern = "^sent$")]
    kind: &'static str,
    #[schema(example = "Message delivered")]
    message: &'static str,
    msgid: String,
    /// If it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    id: Option<DeliveryId>,
    /// If it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MessageStateName>)]
    status: Option<&'static str>,
    /// If it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// Seconds since 1970.
    timestamp: f64,
}

/// The receipt of a message: to a device, or to a topic.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Receipt {
    /// The message had `to`.
    Device(MessageReceipt),
    /// The message had `topic_id`.
    Topic(PublicationReceipt),
}

/// Send a message to a device, or to the subscribers of a topic as `POST /topics/publish` does.
///
/// Without `acknowledge` it reaches a device that is connected, or nobody. With it, it is stored, and goes to the device until
/// that acknowledges it. The same `msgid` to the same device again is the same message again, as long as it is kept.
#[utoipa::path(post, path = "/api/messages", tag = "messaging", request_body = OutgoingMessage, responses((status = 200, description = "Delivered, or stored", body = Receipt), (status = 403, description = "`from` is another client; for topics as for POST /topics/publish"), (status = 404, description = "Recipient not connected, or not registered; Topic not found"), (status = 409, description = "msgid was used for another message"), (status = 429, description = "limits.queued_per_device, limits.queued_bytes_per_device, limits.stored_bytes_per_minute")), security(("bearer" = [])))]
pub async fn send(
    broker: web::Data<Broker>,
    identity: Identity,
    body: Body<OutgoingMessage>,
) -> Result<web::Json<Receipt>, ApiError> {
    let (message, account) = (body.content, identity.account.clone());
    undisturbed(async move {
        Ok(web::Json(match message {
            OutgoingMessage::Device(message) => Receipt::Device(send_as(&broker, &account, message).await?),
            OutgoingMessage::Topic(publication) => Receipt::Topic(publish_as(&broker, &account, publication).await?),
        }))
    })
    .await
}

async fn send_as(broker: &Broker, account: &Account, message: DeviceMessage) -> Result<MessageReceipt, ApiError> {
    let DeviceMessage { to, msgid, from, object, acknowledge, ttl, priority } = message;
    let (msgid, object) = SentObject { msgid, from, text: object }.complete(account.id)?;
    let accepted = if acknowledge {
        let message = NewMessage {
            from: Party { client: account.id, incarnation: account.incarnation() },
            to,
            msgid: msgid.clone(),
            object: object.into(),
            priority,
            ttl: ttl.map_or(broker.messages.usual_ttl(), Duration::from_secs),
            recipient: RecipientPresence::Absent,
            recipient_socket: None,
            socket: broker.cluster.is_shared().then_some(NO_SOCKET),
        };
        Some(broker.messages.send_over_http(message).await?)
    } else {
        broker.messages.deliver_anywhere(to, account.id, &[object.as_bytes()]).await?;
        None
    };
    Ok(MessageReceipt {
        kind: "sent",
        message: receipt_text(accepted.as_ref().map_or(MessageState::PendingAck, |accepted| accepted.state)),
        msgid,
        id: accepted.as_ref().map(|accepted| accepted.id),
        status: accepted.as_ref().map(|accepted| accepted.state.as_str()),
        expires_at: accepted.map(|accepted| rfc3339(accepted.expires_at)),
        timestamp: epoch_seconds(broker.clock.now()),
    })
}
