//! Sending over HTTP.

use std::time::Duration;

use actix_web::web;
use serde::Serialize;
use utoipa::ToSchema;

use super::info::MessageStateName;
use crate::{
    domain::{
        accounts::Account,
        ids::{ClientId, DeliveryId, TopicId},
        messages::{
            MAX_TTL_SECS, MessageState, Party, Priority,
            change::{NewMessage, RecipientPresence},
        },
    },
    http::{
        body::{Body, Checked, Fields, FromFields},
        errors::ApiError,
        extract::Identity,
        sent_object::SentObject,
        topics::topic_id,
        undisturbed,
    },
    protocol::{
        outbound::{epoch_seconds, receipt_text, rfc3339, topic_receipt_text},
        wire,
    },
    state::Broker,
};

/// A message to a device or to the subscribers of a topic: one of `to` and `topic_id`. They get the object as it is sent, with
/// all its other fields; a missing `from` or `msgid` is added.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"to": "123e4567-e89b-12d3-a456-426614174000", "content": {"set": 21.5}, "acknowledge": true}))]
pub struct OutgoingMessage {
    /// The device.
    #[schema(value_type = Option<uuid::Uuid>)]
    to: Option<ClientId>,
    /// The topic.
    #[schema(value_type = Option<String>)]
    topic_id: Option<TopicId>,
    /// The caller's id of the message; a random one if it is left out.
    msgid: Option<String>,
    /// The caller, if it is given.
    #[schema(value_type = Option<uuid::Uuid>)]
    from: Option<ClientId>,
    /// Anything but null. The object with its other fields may be as long as a frame (`limits.frame_bytes`).
    #[schema(rename = "content", value_type = serde_json::Value)]
    object: String,
    /// Whether the message is stored, and delivered until the device acknowledges it. Means nothing for a topic.
    acknowledge: bool,
    /// For how many seconds an acknowledged message may wait; `messages.ttl_secs` if it is left out.
    #[schema(value_type = Option<u64>)]
    ttl: Option<u64>,
    /// `high`, `normal` (any other text, too) or `low`: in which order acknowledged messages go that wait.
    #[schema(value_type = Option<String>)]
    priority: Priority,
    #[schema(ignore)]
    has_offset: bool,
}

impl FromFields for OutgoingMessage {
    const IGNORES_UNKNOWN: bool = true;

    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let to = if fields.has("to") { fields.uuid("to").map(Some) } else { Ok(None) };
        let topic_id = if fields.has("topic_id") { topic_id(fields).map(Some) } else { Ok(None) };
        let object = SentObject::from_fields(fields);
        let acknowledge = if fields.has("topic_id") { Ok(None) } else { fields.optional_bool("acknowledge") };
        let ttl = fields.optional_number("ttl", 1..=MAX_TTL_SECS.into());
        let priority = fields.optional_text("priority", 0..=usize::MAX);
        let acknowledge = acknowledge?.unwrap_or(false);
        if acknowledge && fields.has("redelivered") {
            let msg = "Value error, reserved field: the broker adds it to what it sends again";
            return Err(fields.fault("value_error", "redelivered", msg));
        }
        let (to, topic_id, ttl) = (to?, topic_id?, ttl?);
        let priority = priority?.as_deref().map(Priority::of_word).unwrap_or_default();
        if to.is_some() == topic_id.is_some() {
            return Err(fields.fault_of_all("value_error", "Value error, expected one of to and topic_id"));
        }
        let SentObject { msgid, from, text: object } = object?;
        let has_offset = fields.has("offset");
        Ok(Self { to, topic_id, msgid, from, object, acknowledge, ttl, priority, has_offset })
    }
}

/// The receipt of a message.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageReceipt {
    #[serde(rename = "type")]
    #[schema(example = "sent")]
    kind: &'static str,
    #[schema(example = "Message delivered")]
    message: String,
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
    /// If it went to a topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_id: Option<String>,
    /// Its number in the topic's history, if that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    /// Seconds since 1970.
    timestamp: f64,
}

/// Send a message to a device, or to the subscribers of a topic as `POST /topics/publish` does.
///
/// Without `acknowledge` it reaches a device that is connected, or nobody. With it, it is stored, and goes to the device until
/// that acknowledges it. The same `msgid` to the same device again is the same message again, as long as it is kept.
#[utoipa::path(post, path = "/api/messages", tag = "messaging", request_body = OutgoingMessage, responses((status = 200, description = "Delivered, or stored", body = MessageReceipt), (status = 403, description = "`from` is another client; for topics as for POST /topics/publish"), (status = 404, description = "Recipient not connected, or not registered; Topic not found"), (status = 409, description = "msgid was used for another message"), (status = 429, description = "limits.queued_per_device, limits.queued_bytes_per_device, limits.stored_bytes_per_minute")), security(("bearer" = [])))]
pub async fn send(
    broker: web::Data<Broker>,
    identity: Identity,
    body: Body<OutgoingMessage>,
) -> Result<web::Json<MessageReceipt>, ApiError> {
    let (message, account) = (body.content, identity.account.clone());
    undisturbed(async move { send_as(&broker, &account, message).await.map(web::Json) }).await
}

async fn send_as(broker: &Broker, account: &Account, message: OutgoingMessage) -> Result<MessageReceipt, ApiError> {
    let OutgoingMessage { to, topic_id, msgid, from, object, acknowledge, ttl, priority, has_offset } = message;
    let (msgid, object) = SentObject { msgid, from, text: object }.complete(account.id)?;
    let mut receipt = MessageReceipt {
        kind: "sent",
        message: receipt_text(MessageState::PendingAck).to_owned(),
        msgid,
        id: None,
        status: None,
        expires_at: None,
        topic_id: None,
        offset: None,
        timestamp: 0.0,
    };
    match (to, topic_id) {
        (Some(to), _) if acknowledge => {
            let accepted = broker.messages.send_over_http(NewMessage {
                from: Party { client: account.id, incarnation: account.incarnation() },
                to,
                msgid: receipt.msgid.clone(),
                object: object.into(),
                priority,
                ttl: ttl.map_or(broker.messages.usual_ttl(), Duration::from_secs),
                recipient: RecipientPresence::Absent,
            });
            let accepted = accepted.await?;
            receipt.message = receipt_text(accepted.state).to_owned();
            receipt.id = Some(accepted.id);
            receipt.status = Some(accepted.state.as_str());
            receipt.expires_at = Some(rfc3339(accepted.expires_at));
        }
        (Some(to), _) => broker.messages.deliver_anywhere(to, &[object.as_bytes()]).await?,
        (None, topic) => {
            let topic = topic.unwrap_or_else(|| TopicId::from(""));
            let name = topic.as_str().to_owned();
            let frame = wire::text(&[object.as_bytes()]);
            let (reached, offset) = broker.topics.publish_over_http(account, topic, frame, has_offset).await?;
            (receipt.kind, receipt.message) = ("topic_sent", topic_receipt_text(reached));
            (receipt.topic_id, receipt.offset) = (Some(name), offset);
        }
    }
    receipt.timestamp = epoch_seconds(broker.clock.now());
    Ok(receipt)
}
