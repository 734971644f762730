//! Frames from the server, as JSON text. They are declared in [`frames`].

pub mod frames;

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use self::frames::{ClientChange, GatewayChange};
pub use super::values::rfc3339;
use super::{
    error_code::ErrorCode,
    frames::DeclaredFrame,
    json::behind_brace,
    values::{AnyJson, Nullable, StateOrUnknown, Timestamp},
};
use crate::domain::{
    commands::Command,
    gateways::GatewayState,
    ids::{ClientId, ClientKind, CommandId, RoomId, TopicId},
    messages::{MessageState, change::MessageUpdate},
};

/// A point in time as seconds since 1970, as a number for JSON that is written elsewhere.
pub fn epoch_seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp_micros() as f64 / 1e6
}

/// The greeting of a device socket (contract section 5).
pub fn connection(uuid: ClientId, name: &str, now: DateTime<Utc>) -> String {
    let message = "Connected successfully";
    frames::Connection { message, uuid, name, timestamp: Timestamp(now) }.text()
}

/// The greeting of a chat socket (contract section 7). For a device, `user_id` is `null` and `uuid` is added.
pub fn connection_established(user_id: Option<i64>, username: &str, socket: Uuid, uuid: ClientId) -> String {
    let uuid = user_id.is_none().then_some(uuid);
    frames::ConnectionEstablished { user_id: Nullable(user_id), username, client_id: socket, uuid }.text()
}

/// The receipt of a direct message.
pub fn sent(msgid: &str, now: DateTime<Utc>) -> String {
    frames::Sent { message: "Message delivered", msgid, timestamp: Timestamp(now) }.text()
}

/// The receipt of a topic message, with its offset if the topic has a history.
pub fn topic_sent(topic: &str, subscribers: usize, msgid: &str, offset: Option<i64>, now: DateTime<Utc>) -> String {
    let message = &topic_receipt_text(subscribers);
    frames::TopicSent { message, topic_id: topic, msgid, offset, timestamp: Timestamp(now) }.text()
}

/// What the receipt of a topic message says that has reached so many subscribers.
pub fn topic_receipt_text(subscribers: usize) -> String {
    format!("Message sent to {subscribers} subscribers")
}

/// A publication with its number in the topic's history, as its first field: in two parts.
pub fn with_offset(publication: &str, offset: i64) -> (String, &str) {
    // the object has fields, so that a comma follows
    (format!(r#"{{"offset":{offset},"#), behind_brace(publication))
}

/// Tells a subscriber that what it missed is no longer in the history, which now begins with this offset.
pub fn topic_gap(topic: &str, first_offset: i64) -> String {
    frames::TopicGap { topic_id: topic, first_offset }.text()
}

/// The receipt of an acknowledged message (contract section 11).
pub fn accepted(msgid: &str, state: MessageState, expires_at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let message = receipt_text(state);
    frames::Accepted { message, msgid, status: state, expires_at, timestamp: Timestamp(now) }.text()
}

/// What the receipt of a message in this state says.
pub fn receipt_text(state: MessageState) -> &'static str {
    match state {
        MessageState::QueuedOffline => "Recipient offline - message queued for delivery",
        MessageState::PendingAck | MessageState::Delivered => "Message delivered",
        MessageState::Rejected => "Message rejected",
        MessageState::Failed => "Message failed",
        MessageState::Expired => "Message expired",
        MessageState::Cancelled => "Message cancelled",
    }
}

/// An acknowledged message that was sent before, with a field that says so as its first: in two parts.
pub fn redelivered(object: &str) -> (&'static str, &str) {
    // the object has fields, so that a comma follows
    (REDELIVERED, behind_brace(object))
}

/// What a message begins with that was sent before.
pub const REDELIVERED: &str = r#"{"redelivered":true,"#;

/// Tells a sender how its message has ended (contract section 11).
pub fn delivery_update(update: &MessageUpdate, now: DateTime<Utc>) -> String {
    let MessageUpdate { to, msgid, state, .. } = update;
    frames::DeliveryUpdate { msgid, to: *to, status: *state, timestamp: Timestamp(now) }.text()
}

/// The answer to an acknowledgement: the state of the message that it names, if there is one (contract section 11).
pub fn ack_received(msgid: &str, state: Option<MessageState>, now: DateTime<Utc>) -> String {
    frames::AckReceived { msgid, status: StateOrUnknown(state), timestamp: Timestamp(now) }.text()
}

/// The answer to a `subscribe` or `unsubscribe` frame of a device (contract section 12). `offset` is the newest one of a topic
/// with a history.
pub fn subscription(topic: &str, is_subscribed: bool, offset: Option<i64>, now: DateTime<Utc>) -> String {
    let timestamp = Timestamp(now);
    if is_subscribed {
        frames::Subscribed { topic_id: topic, offset, timestamp }.text()
    } else {
        frames::Unsubscribed { topic_id: topic, timestamp }.text()
    }
}

/// Tells a subscriber that a topic was deleted, with all its subscriptions.
pub fn topic_deleted(topic: &str) -> String {
    frames::TopicDeleted { topic_id: topic }.text()
}

/// The answer to a ping on sockets of devices and agents.
pub fn pong(now: DateTime<Utc>) -> String {
    frames::Pong { timestamp: Timestamp(now) }.text()
}

/// The periodic frame that agent sockets get.
pub fn heartbeat() -> String {
    frames::Heartbeat {}.text()
}

/// The answer to an `auth` frame on a socket that is authenticated already.
pub fn authenticated(uuid: ClientId, expires_at: DateTime<Utc>) -> String {
    frames::Authenticated { uuid, expires_at }.text()
}

/// The answer of a public socket to JSON that is neither `ping` nor `auth`.
pub fn echo(text: &str) -> String {
    frames::Echo { content: &format!("Received: {text}") }.text_of(text.len())
}

/// The frame in which a target gets a command (contract section 6).
pub fn command(command: &Command) -> String {
    let data = command.data.as_deref().unwrap_or("null");
    let Command { id, method, url, .. } = command;
    frames::Command { command_id: *id, method, url, data: AnyJson(data) }.text_of(data.len())
}

/// Tells a target that a command sent to it was cancelled.
pub fn cancel(command: CommandId) -> String {
    frames::Cancel { command_id: command }.text()
}

/// A change of state that is published to the subscribers of `$status`. Its frame has no `method`, so that no client takes
/// it for a command.
#[derive(Debug, Clone)]
pub enum StatusEvent {
    /// A gateway became reachable or unreachable.
    Gateway {
        /// The gateway and its new state.
        known: GatewayState,
        /// When the probes found the change.
        at: DateTime<Utc>,
    },
    /// A client came online or went offline.
    Client {
        /// The client's UUID.
        id: ClientId,
        /// Whether it is a device or a user.
        kind: ClientKind,
        /// A device's name, a user's username.
        name: String,
        /// Whether it came online.
        is_connected: bool,
        /// When its first socket connected or its last one closed.
        at: DateTime<Utc>,
    },
}

impl StatusEvent {
    /// The client of the event; `None` for a gateway's event.
    pub fn client(&self) -> Option<ClientId> {
        match self {
            Self::Gateway { .. } => None,
            Self::Client { id, .. } => Some(*id),
        }
    }
}

/// The frame of an event for subscribers of `$status`.
pub fn status_event(event: &StatusEvent) -> String {
    let topic_id = TopicId::STATUS;
    match event {
        StatusEvent::Gateway { known, at } => frames::GatewayEvent {
            event: GatewayChange::of(known.status.is_up() == Some(true)),
            topic_id,
            gateway_id: known.gateway.id,
            name: &known.gateway.name,
            address: known.gateway.address.as_str(),
            status: known.status,
            reason: Nullable(known.reason),
            at: *at,
        }
        .text(),
        StatusEvent::Client { id, kind, name, is_connected, at } => {
            let event = ClientChange::of(*is_connected);
            frames::ClientEvent { event, topic_id, uuid: *id, name, kind: *kind, at: *at }.text()
        }
    }
}

/// The message, topic or room that an error refers to, where known.
#[derive(Debug, Default, Clone, Copy)]
#[allow(missing_docs)] // the names are the contract's
pub struct About<'a> {
    pub msgid: Option<&'a str>,
    pub topic_id: Option<&'a str>,
    pub room_id: Option<RoomId>,
}

/// Longest part of a client's name for something that an error text repeats, in characters.
const EXCERPT_CHARS: usize = 100;

/// Shortens a name that a client chose, for an error text: an error frame contains its text twice.
pub fn excerpt(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]).into(),
        None => name.into(),
    }
}

/// The error frame (contract section 8). `message` and `content` hold the same text, since existing clients read either.
pub fn error(code: ErrorCode, text: &str, about: About<'_>, now: DateTime<Utc>) -> String {
    let About { msgid, topic_id, room_id } = about;
    frames::Error { message: text, content: text, code, timestamp: Timestamp(now), msgid, topic_id, room_id }.text()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_text_is_escaped() {
        let nasty = "a\"b\\c\n\u{1}é";
        let (uuid, now) = (ClientId::random(), DateTime::UNIX_EPOCH);
        let about = About { msgid: Some(nasty), topic_id: Some(nasty), room_id: Some(RoomId(1)) };
        for frame in [
            connection(uuid, nasty, now),
            sent(nasty, now),
            topic_sent(nasty, 1, nasty, Some(1), now),
            ack_received(nasty, None, now),
            accepted(nasty, MessageState::QueuedOffline, now, now),
            topic_deleted(nasty),
            error(ErrorCode::InvalidMessage, nasty, about, now),
            echo(nasty),
        ] {
            let value: Value = serde_json::from_str(&frame).unwrap();
            assert!(frame.contains("\\u0001"), "{frame}");
            assert!(value["type"].is_string());
        }
    }

    #[test]
    fn a_timestamp_is_a_float_of_seconds() {
        let frame = pong(DateTime::from_timestamp_micros(5_000_042).unwrap());
        assert_eq!(frame, r#"{"type":"pong","timestamp":5.000042}"#);
        assert_eq!(pong(DateTime::UNIX_EPOCH), r#"{"type":"pong","timestamp":0.000000}"#);
    }
}
