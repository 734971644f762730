//! Frames from the server, as JSON text.

use std::{
    borrow::Cow,
    fmt::{self, Display, Write},
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{error_code::ErrorCode, json::behind_brace};
use crate::domain::{
    commands::Command,
    gateways::GatewayState,
    ids::{ClientId, ClientKind, CommandId, RoomId, TopicId},
    messages::{MessageState, change::MessageUpdate},
};

/// A point in time as seconds since 1970 with microseconds, the format of `timestamp` in device frames.
#[derive(Debug, Clone, Copy)]
struct Timestamp(DateTime<Utc>);

impl Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.timestamp(), self.0.timestamp_subsec_micros())
    }
}

/// A point in time as seconds since 1970, as a number for JSON that is written elsewhere.
pub fn epoch_seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp_micros() as f64 / 1e6
}

/// Formats a time as RFC 3339 in UTC with `Z`, the format of all other times on the wire.
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Displays a text as a JSON string.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
            f.write_str(&serde_json::to_string(self.0).map_err(|_| fmt::Error)?)
        } else {
            write!(f, "\"{}\"", self.0)
        }
    }
}

/// The greeting of a device socket (contract section 5).
pub fn connection(uuid: ClientId, name: &str, now: DateTime<Utc>) -> String {
    format!(
        r#"{{"type":"connection","message":"Connected successfully","uuid":"{uuid}","name":{},"timestamp":{}}}"#,
        Quoted(name),
        Timestamp(now)
    )
}

/// The greeting of a chat socket (contract section 7). For a device, `user_id` is `null` and `uuid` is added.
pub fn connection_established(user_id: Option<i64>, username: &str, socket: Uuid, uuid: ClientId) -> String {
    let mut frame = json!({
        "type": "connection_established", "user_id": user_id, "username": username, "client_id": socket.to_string(),
    });
    if user_id.is_none() {
        frame["uuid"] = json!(uuid);
    }
    frame.to_string()
}

/// The receipt of a direct message.
pub fn sent(msgid: &str, now: DateTime<Utc>) -> String {
    format!(
        r#"{{"type":"sent","message":"Message delivered","msgid":{},"timestamp":{}}}"#,
        Quoted(msgid),
        Timestamp(now)
    )
}

/// The receipt of a topic message, with its offset if the topic has a history.
pub fn topic_sent(topic: &str, subscribers: usize, msgid: &str, offset: Option<i64>, now: DateTime<Utc>) -> String {
    let offset = offset.map(|offset| format!(r#""offset":{offset},"#)).unwrap_or_default();
    format!(
        r#"{{"type":"topic_sent","message":"{}","topic_id":{},"msgid":{},{offset}"timestamp":{}}}"#,
        topic_receipt_text(subscribers),
        Quoted(topic),
        Quoted(msgid),
        Timestamp(now)
    )
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
    format!(r#"{{"type":"topic_gap","topic_id":{},"first_offset":{first_offset}}}"#, Quoted(topic))
}

/// The receipt of an acknowledged message (contract section 11).
pub fn accepted(msgid: &str, state: MessageState, expires_at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!(
        r#"{{"type":"sent","message":"{}","msgid":{},"status":"{}","expires_at":"{}","timestamp":{}}}"#,
        receipt_text(state),
        Quoted(msgid),
        state.as_str(),
        rfc3339(expires_at),
        Timestamp(now)
    )
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
    format!(
        r#"{{"type":"delivery_update","msgid":{},"to":"{to}","status":"{}","timestamp":{}}}"#,
        Quoted(msgid),
        state.as_str(),
        Timestamp(now)
    )
}

/// The answer to an acknowledgement: the state of the message that it names, if there is one (contract section 11).
pub fn ack_received(msgid: &str, state: Option<MessageState>, now: DateTime<Utc>) -> String {
    let status = state.map_or("unknown", MessageState::as_str);
    format!(r#"{{"type":"ack_received","msgid":{},"status":"{status}","timestamp":{}}}"#, Quoted(msgid), Timestamp(now))
}

/// The answer to a `subscribe` or `unsubscribe` frame of a device (contract section 12). `offset` is the newest one of a topic
/// with a history.
pub fn subscription(topic: &str, is_subscribed: bool, offset: Option<i64>, now: DateTime<Utc>) -> String {
    subscription_at(topic, is_subscribed, offset, Timestamp(now))
}

/// The same on chat sockets, with an RFC 3339 timestamp (contract section 7).
pub fn chat_subscription(topic: &str, is_subscribed: bool, offset: Option<i64>, now: DateTime<Utc>) -> String {
    subscription_at(topic, is_subscribed, offset, Quoted(&rfc3339(now)))
}

fn subscription_at(topic: &str, is_subscribed: bool, offset: Option<i64>, timestamp: impl Display) -> String {
    let kind = if is_subscribed { "subscribed" } else { "unsubscribed" };
    let offset = offset.map(|offset| format!(r#""offset":{offset},"#)).unwrap_or_default();
    format!(r#"{{"type":"{kind}","topic_id":{},{offset}"timestamp":{timestamp}}}"#, Quoted(topic))
}

/// Tells a subscriber that a topic was deleted, with all its subscriptions.
pub fn topic_deleted(topic: &str) -> String {
    format!(r#"{{"type":"topic_deleted","topic_id":{}}}"#, Quoted(topic))
}

/// The answer to a ping on sockets of devices and agents.
pub fn pong(now: DateTime<Utc>) -> String {
    format!(r#"{{"type":"pong","timestamp":{}}}"#, Timestamp(now))
}

/// The answer to a ping on chat and public sockets, with an RFC 3339 timestamp (contract section 7).
pub fn chat_pong(now: DateTime<Utc>) -> String {
    format!(r#"{{"type":"pong","timestamp":"{}"}}"#, rfc3339(now))
}

/// The periodic frame that agent sockets get.
pub const HEARTBEAT: &str = r#"{"type":"heartbeat"}"#;

/// The answer to an `auth` frame on a socket that is authenticated already.
pub fn authenticated(uuid: ClientId, expires_at: DateTime<Utc>) -> String {
    json!({ "type": "authenticated", "uuid": uuid, "expires_at": rfc3339(expires_at) }).to_string()
}

/// The answer of a public socket to JSON that is neither `ping` nor `auth`.
pub fn echo(text: &str) -> String {
    json!({ "type": "echo", "content": format!("Received: {text}") }).to_string()
}

/// The frame in which a target gets a command (contract section 6).
pub fn command(command: &Command) -> String {
    format!(
        r#"{{"command_id":"{}","method":{},"url":{},"data":{}}}"#,
        command.id,
        Quoted(&command.method),
        Quoted(&command.url),
        command.data.as_deref().unwrap_or("null")
    )
}

/// Tells a target that a command sent to it was cancelled.
pub fn cancel(command: CommandId) -> String {
    format!(r#"{{"type":"cancel","command_id":"{command}"}}"#)
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
    let word = |subject: &str, is_up: bool| format!("{subject}_{}", if is_up { "connected" } else { "disconnected" });
    let frame = match event {
        StatusEvent::Gateway { known, at } => json!({
            "event": word("gateway", known.status.is_up() == Some(true)),
            "topic_id": TopicId::STATUS,
            "gateway_id": known.gateway.id,
            "name": known.gateway.name,
            "address": known.gateway.address.as_str(),
            "status": known.status.as_str(),
            "reason": known.reason.map(|reason| reason.as_str()),
            "at": rfc3339(*at),
        }),
        StatusEvent::Client { id, kind, name, is_connected, at } => json!({
            "event": word("client", *is_connected),
            "topic_id": TopicId::STATUS,
            "uuid": id,
            "name": name,
            "kind": kind.as_str(),
            "at": rfc3339(*at),
        }),
    };
    frame.to_string()
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
    let text = Quoted(text).to_string();
    let mut frame =
        format!(r#"{{"type":"error","message":{text},"content":{text},"code":"{code}","timestamp":{}"#, Timestamp(now));
    for (key, value) in [("msgid", about.msgid), ("topic_id", about.topic_id)] {
        if let Some(value) = value {
            // writing to a String does not fail
            let _ = write!(frame, r#","{key}":{}"#, Quoted(value));
        }
    }
    if let Some(room) = about.room_id {
        let _ = write!(frame, r#","room_id":{room}"#);
    }
    frame.push('}');
    frame
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
