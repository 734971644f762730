//! Acknowledged messages, seen from outside.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::{
    ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use crate::{
    actors::message_manager::MessageView,
    domain::{
        ids::{ClientId, DeliveryId},
        messages::{MessageRecord, MessageState},
    },
    http::paging::Next,
    protocol::{inbound::Frame, outbound::rfc3339},
    store::QueueSummary,
};

/// The state of a message.
pub struct MessageStateName;

impl utoipa::PartialSchema for MessageStateName {
    fn schema() -> RefOr<Schema> {
        let words = MessageState::ALL.map(MessageState::as_str);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
    }
}

impl ToSchema for MessageStateName {}

/// An acknowledged message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AcknowledgedMessage)]
pub struct MessageInfo {
    #[schema(value_type = i64)]
    id: DeliveryId,
    /// The sender's id of it.
    msgid: String,
    #[schema(value_type = uuid::Uuid)]
    from: ClientId,
    #[schema(value_type = uuid::Uuid)]
    to: ClientId,
    #[schema(value_type = MessageStateName)]
    status: &'static str,
    /// `high`, `normal` or `low`.
    priority: &'static str,
    #[schema(example = "2026-01-31T12:00:00Z")]
    created_at: String,
    /// When it last went to its recipient; null: it has not.
    sent_at: Option<String>,
    /// How often it went to its recipient.
    attempts: u32,
    /// null: it has not ended.
    ended_at: Option<String>,
    expires_at: String,
    /// For its sender and its recipient.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    content: Option<Box<RawValue>>,
}

impl MessageInfo {
    pub(super) fn of(view: MessageView) -> Self {
        let MessageView { message, object } = view;
        let content = object.as_deref().and_then(|object| Frame::parse(object).ok()?.content.map(ToOwned::to_owned));
        Self {
            id: message.id,
            msgid: message.msgid,
            from: message.from.client,
            to: message.to.client,
            status: message.state.as_str(),
            priority: message.priority.as_str(),
            created_at: rfc3339(message.created_at),
            sent_at: message.sent_at.map(rfc3339),
            attempts: message.attempts,
            ended_at: message.ended_at.map(rfc3339),
            expires_at: rfc3339(message.expires_at),
            content,
        }
    }
}

/// A page of acknowledged messages, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AcknowledgedMessages)]
pub struct MessageList {
    /// On this page.
    pub(super) count: usize,
    pub(super) messages: Vec<MessageInfo>,
    #[serde(flatten)]
    pub(super) next: Next,
}

/// The state of a message, as clients of an earlier system ask for it.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageStatus {
    #[schema(value_type = i64)]
    id: DeliveryId,
    msgid: String,
    #[schema(value_type = MessageStateName)]
    status: &'static str,
    #[schema(value_type = uuid::Uuid)]
    recipient: ClientId,
    #[schema(value_type = uuid::Uuid)]
    sender: ClientId,
    /// How often it went to its recipient.
    attempts: u32,
    /// Always true: other messages are not stored.
    ack_required: bool,
}

impl MessageStatus {
    pub(super) fn of(message: MessageRecord) -> Self {
        Self {
            id: message.id,
            msgid: message.msgid,
            status: message.state.as_str(),
            recipient: message.to.client,
            sender: message.from.client,
            attempts: message.attempts,
            ack_required: true,
        }
    }
}

/// What waits for a device.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeviceQueue {
    /// Of all messages.
    count: usize,
    /// Of all messages.
    bytes: usize,
    /// When the oldest was accepted; null: there is none.
    oldest_at: Option<String>,
    messages: Vec<MessageInfo>,
    #[serde(flatten)]
    next: Next,
}

impl DeviceQueue {
    pub(super) fn of(queue: &QueueSummary, messages: impl Iterator<Item = MessageInfo>, next: Next) -> Self {
        Self {
            count: queue.depth.messages,
            bytes: queue.depth.bytes,
            oldest_at: queue.oldest_at.map(rfc3339),
            messages: messages.collect(),
            next,
        }
    }
}
