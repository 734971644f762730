//! The protocols of the servers under test: messages to the server, and the meaning of its frames.

mod nats;

use std::borrow::Cow;

use clap::ValueEnum;
use serde::Deserialize;
use uuid::Uuid;

use super::frames::Opcode;
pub(super) use nats::OPCODE as NATS_OPCODE;

/// The protocol of the server under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Protocol {
    /// Switchboard's protocol
    Switchboard,
    /// NATS over WebSocket, to measure a nats-server with the same client
    Nats,
}

/// The meaning of a frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    /// The first frame after the handshake.
    Greeting,
    /// The answer to the bytes of [`Protocol::after_greeting`].
    Settled,
    /// A ping of the server's own protocol, to be answered with [`Protocol::pong`].
    Ping,
    /// A message of another client, or the result of a command.
    Message(&'a [u8]),
    /// The sender's own message was accepted.
    Receipt,
    /// The recipient's acknowledgement was accepted.
    AckReceived,
    /// The sender's own message was acknowledged.
    Acknowledged(&'a [u8]),
    /// A command, with the id or subject for its answer.
    Command(&'a [u8]),
    /// An error frame, with its text.
    Error(Cow<'a, str>),
    /// Any other frame; it is ignored.
    Other,
}

/// The recipient of a message.
#[derive(Debug, Clone, Copy)]
pub(super) enum To<'a> {
    /// The subscribers of a topic.
    Topic(&'a str),
    /// A client.
    Client(Uuid),
    /// The members of a room.
    Room(i64),
}

impl Protocol {
    /// The opcode of clients' frames.
    pub(super) fn opcode(self) -> Opcode {
        match self {
            Self::Switchboard => Opcode::Text,
            Self::Nats => NATS_OPCODE,
        }
    }

    /// The handshake request for a socket.
    pub(super) fn upgrade(self, host: &str, path: &str, token: Option<&str>) -> Vec<u8> {
        let path = if self == Self::Nats { "/" } else { path };
        let key: [u8; 16] = rand::random();
        let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key);
        let authorization = match token {
            Some(token) if self == Self::Switchboard => format!("Authorization: Bearer {token}\r\n"),
            _ => String::new(),
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        .into_bytes()
    }

    /// The frame to send after the greeting. `None` for Switchboard, where subscriptions are made over HTTP.
    pub(super) fn after_greeting(self, token: Option<&str>, subjects: &[String]) -> Option<Vec<u8>> {
        (self == Self::Nats).then(|| nats::connect(token, subjects))
    }

    /// The answer to a ping of the server's own protocol.
    pub(super) fn pong(self) -> &'static [u8] {
        nats::PONG
    }

    /// A message of the protocol with this content.
    pub(super) fn message(self, from: Uuid, to: To<'_>, content: &str) -> String {
        // 36 characters, like the UUID of a usual client
        let msgid = "00000000-0000-4000-8000-000000000000";
        match (self, to) {
            (Self::Switchboard, To::Topic(topic)) => {
                format!(r#"{{"topic_id":"{topic}","from":"{from}","msgid":"{msgid}","content":"{content}"}}"#)
            }
            (Self::Switchboard, To::Client(to)) => {
                format!(r#"{{"to":"{to}","from":"{from}","msgid":"{msgid}","content":"{content}"}}"#)
            }
            (Self::Switchboard, To::Room(room)) => {
                format!(r#"{{"type":"message","room_id":{room},"content":"{content}"}}"#)
            }
            (Self::Nats, To::Topic(topic)) => nats::publish(topic, content),
            (Self::Nats, To::Client(to)) => nats::publish(&nats::direct(to), content),
            (Self::Nats, To::Room(room)) => nats::publish(&format!("room.{room}"), content),
        }
    }

    /// A direct message that asks for an acknowledgement. Switchboard's protocol only.
    pub(super) fn acknowledged_message(from: Uuid, to: Uuid, msgid: &str, content: &str) -> String {
        format!(r#"{{"to":"{to}","from":"{from}","msgid":"{msgid}","acknowledge":true,"content":"{content}"}}"#)
    }

    /// The acknowledgement of the message with this id. Switchboard's protocol only.
    pub(super) fn acknowledgement(msgid: &str) -> String {
        format!(r#"{{"type":"ack","msgid":"{msgid}"}}"#)
    }

    /// The subjects to which a client must subscribe to get its own messages and commands; empty for Switchboard.
    pub(super) fn own_subject(self, client: Uuid) -> Vec<String> {
        match self {
            Self::Switchboard => Vec::new(),
            Self::Nats => vec![nats::direct(client)],
        }
    }

    /// A request from `caller` to `target`: an HTTP request for Switchboard, a message for NATS.
    pub(super) fn request(self, host: &str, token: &str, caller: Uuid, target: Uuid, content: &str) -> Vec<u8> {
        match self {
            Self::Switchboard => {
                let body = format!(r#"{{"method":"GET","url":"/status","data":"{content}"}}"#);
                format!(
                    "POST /send-command/{target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .into_bytes()
            }
            Self::Nats => nats::request(caller, target, content).into_bytes(),
        }
    }

    /// The answer to a command.
    pub(super) fn reply(self, command: &[u8]) -> Vec<u8> {
        let result = r#"{"status":"ok","value":21.375,"unit":"C"}"#;
        let name = String::from_utf8_lossy(command);
        match self {
            Self::Switchboard => format!(r#"{{"command_id":"{name}","result":{result}}}"#).into_bytes(),
            Self::Nats => nats::publish(&name, result).into_bytes(),
        }
    }

    /// Parses a frame and calls `each` for its messages. With NATS a frame may contain several messages or a part of one;
    /// incomplete bytes stay in `rest`.
    #[inline]
    pub(super) fn read(self, rest: &mut Vec<u8>, payload: &[u8], mut each: impl FnMut(Incoming<'_>)) {
        match self {
            Self::Switchboard => each(switchboard(payload)),
            Self::Nats => nats::read(rest, payload, each),
        }
    }
}

#[inline]
fn switchboard(frame: &[u8]) -> Incoming<'_> {
    // recipients get the sender's bytes, so messages begin as this client writes them
    let beginnings: [&[u8]; 3] = [br#"{"topic_id":"#, br#"{"to":"#, br#"{"offset":"#];
    if beginnings.iter().any(|beginning| frame.starts_with(beginning)) {
        return Incoming::Message(frame);
    }
    if frame.starts_with(br#"{"type":"topic_sent""#) || frame.starts_with(br#"{"type":"sent""#) {
        return Incoming::Receipt;
    }
    if frame.starts_with(br#"{"type":"message","#) {
        return Incoming::Message(frame);
    }
    by_fields(frame)
}

/// The fields that distinguish frames.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    command_id: Option<&'a str>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
}

fn by_fields(frame: &[u8]) -> Incoming<'_> {
    let Ok(Fields { kind, command_id, message, status }) = serde_json::from_slice(frame) else {
        return Incoming::Other;
    };
    match (kind.as_deref(), command_id) {
        (None, Some(id)) => Incoming::Command(id.as_bytes()),
        (Some("connection" | "connection_established" | "message_history"), _) => Incoming::Greeting,
        (Some("error"), _) => Incoming::Error(message.unwrap_or_default()),
        (Some("sent" | "topic_sent"), _) => Incoming::Receipt,
        (Some("message"), _) => Incoming::Message(frame),
        (Some("ack_received"), _) if status.as_deref() == Some("delivered") => Incoming::AckReceived,
        (Some("delivery_update"), _) if status.as_deref() == Some("delivered") => Incoming::Acknowledged(frame),
        (Some(kind @ ("ack_received" | "delivery_update")), _) => {
            Incoming::Error(format!("{kind}: {}", status.unwrap_or_default()).into())
        }
        _ => Incoming::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_apart() {
        let message = Protocol::Switchboard.message(Uuid::nil(), To::Topic("t"), "x");
        assert_eq!(switchboard(message.as_bytes()), Incoming::Message(message.as_bytes()));
        let message = Protocol::Switchboard.message(Uuid::nil(), To::Client(Uuid::nil()), "x");
        assert_eq!(switchboard(message.as_bytes()), Incoming::Message(message.as_bytes()));
        let kept = br#"{"offset":7,"topic_id":"t"}"#;
        assert_eq!(switchboard(kept), Incoming::Message(kept));
        let message = Protocol::acknowledged_message(Uuid::nil(), Uuid::nil(), "1", "x");
        assert_eq!(switchboard(message.as_bytes()), Incoming::Message(message.as_bytes()));
        let update = br#"{"type":"delivery_update","msgid":"1","status":"delivered"}"#;
        assert_eq!(switchboard(update), Incoming::Acknowledged(update));
        let expired = br#"{"type":"delivery_update","msgid":"1","status":"expired"}"#;
        assert_eq!(switchboard(expired), Incoming::Error("delivery_update: expired".into()));
        assert_eq!(switchboard(br#"{"type":"ack_received","status":"delivered"}"#), Incoming::AckReceived);
        assert_eq!(switchboard(br#"{"type":"sent","msgid":"1"}"#), Incoming::Receipt);
        assert_eq!(switchboard(br#"{"msgid":"1","type":"topic_sent"}"#), Incoming::Receipt);
        assert_eq!(switchboard(br#"{"command_id":"7","method":"GET","url":"/","data":null}"#), Incoming::Command(b"7"));
        assert_eq!(switchboard(br#"{"type":"cancel","command_id":"7"}"#), Incoming::Other);
        assert_eq!(switchboard(br#"{"type":"connection","uuid":"u"}"#), Incoming::Greeting);
        assert_eq!(switchboard(br#"{"type":"error","message":"no"}"#), Incoming::Error("no".into()));
        assert_eq!(switchboard(b"no JSON"), Incoming::Other);
    }
}
