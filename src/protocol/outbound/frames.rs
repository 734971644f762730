//! The frames of devices, agents and public sockets. Those of chat are in [`crate::protocol::chat::frames`].

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::{
    domain::{
        gateways::{Reason, Status},
        ids::{ClientId, ClientKind, CommandId, GatewayId, RoomId, TopicId},
        messages::MessageState,
    },
    protocol::{
        error_code::ErrorCode,
        examples::{client, command, sender, time, uuid},
        frames::{Declaration, DeclaredFrame, Object, frames},
        values::{AnyJson, Mark, Nullable, StateOrUnknown, Timestamp, words},
    },
};

frames! {
    /// The greeting: always the first frame on a device's socket.
    Connection<'a> "connection" {
        /// For people.
        message: &'a str = "Connected successfully",
        /// The device.
        uuid: ClientId = client(),
        /// The device's name.
        name: &'a str = "Alice",
        /// When the broker wrote this frame, in seconds since 1970.
        timestamp: Timestamp = Timestamp(time()),
    }

    /// The greeting of a chat socket.
    ConnectionEstablished<'a> "connection_established" {
        /// The user's id; `null` for a device.
        user_id: Nullable<i64> = Nullable(Some(2)),
        /// The user's username, or the device's name.
        username: &'a str = "alice",
        /// The socket's own id, new for each socket.
        client_id: Uuid = uuid(0x9f1c_7a52_3b0e_4d6f_8a21_5d4e_0c9b_7f33),
        /// The device; users have a `user_id` instead.
        uuid: Option<ClientId> = None,
    }

    /// The receipt of a direct message: the broker has accepted it for the recipient's open socket.
    Sent<'a> "sent" {
        /// For people.
        message: &'a str = "Message delivered",
        /// The id that the sender gave the message.
        msgid: &'a str = "m-1",
        /// When the broker wrote this frame, in seconds since 1970.
        timestamp: Timestamp = Timestamp(time()),
    }

    /// The receipt of a message with `acknowledge`: it is stored, and will be delivered until it is acknowledged or expires.
    Accepted<'a> "sent" {
        /// For people.
        message: &'a str = "Recipient offline - message queued for delivery",
        /// The id that the sender gave the message.
        msgid: &'a str = "m-2",
        /// What has become of the message. Of a new one it is `pending_ack` or `queued_offline`; another one if the same message was sent before.
        status: MessageState = MessageState::QueuedOffline,
        /// When the message ends if nobody has acknowledged it.
        expires_at: DateTime<Utc> = time(),
        /// When the broker wrote this frame, in seconds since 1970.
        timestamp: Timestamp = Timestamp(time()),
    }

    /// The receipt of a publication.
    TopicSent<'a> "topic_sent" {
        /// For people; it says how many connected subscribers got the publication.
        message: &'a str = "Message sent to 3 subscribers",
        /// The topic.
        topic_id: &'a str = "weather",
        /// The id that the sender gave the publication.
        msgid: &'a str = "m-3",
        /// Its number in the topic's history, if the topic has one.
        offset: Option<i64> = Some(17),
        /// When the broker wrote this frame, in seconds since 1970.
        timestamp: Timestamp = Timestamp(time()),
    }

    /// What the broker adds to a direct message: the recipient gets the sender's object as it was sent, with all its fields.
    AddedToMessage {
        /// The message was sent before, on an earlier socket or because the recipient could not take it. Only on messages with `acknowledge`.
        redelivered: Mark = Mark(false),
        /// The sender. The broker adds it if the sender left it out.
        from: ClientId = sender(),
    }

    /// What the broker adds to a publication: subscribers get the publisher's object as it was sent, with all its fields.
    AddedToPublication {
        /// Its number in the topic's history: 1, 2, 3 … without gaps. Only of topics that have a history.
        offset: Option<i64> = Some(17),
        /// The publisher. The broker adds it if the publisher left it out.
        from: ClientId = sender(),
    }

    /// What the subscriber missed is no longer in the topic's history.
    TopicGap<'a> "topic_gap" {
        /// The topic.
        topic_id: &'a str = "weather",
        /// The oldest offset that is kept, or the next one to come.
        first_offset: i64 = 12,
    }

    /// A message with `acknowledge` has ended. Its sender is told at once, or when it connects.
    DeliveryUpdate<'a> "delivery_update" {
        /// The id that the sender gave the message.
        msgid: &'a str = "m-2",
        /// The recipient.
        to: ClientId = client(),
        /// How it has ended: `delivered`, `rejected`, `failed`, `expired` or `cancelled`.
        status: MessageState = MessageState::Delivered,
        /// When the broker wrote this frame, in seconds since 1970.
        timestamp: Timestamp = Timestamp(time()),
    }

    /// The answer to an `ack`.
    AckReceived<'a> "ack_received" {
        /// The message.
        msgid: &'a str = "m-2",
        /// The message's state now; `unknown` if there is no such message.
        status: StateOrUnknown = StateOrUnknown(Some(MessageState::Delivered)),
        /// When the broker wrote this frame, in seconds since 1970.
        timestamp: Timestamp = Timestamp(time()),
    }

    /// The answer to `subscribe`.
    Subscribed<'a> "subscribed" {
        /// The topic or pattern.
        topic_id: &'a str = "weather",
        /// The newest offset of a topic with a history.
        offset: Option<i64> = Some(17),
        /// When the broker wrote this frame, in seconds since 1970.
        timestamp: Timestamp = Timestamp(time()),
    }

    /// The answer to `unsubscribe`, also if the client was not subscribed.
    Unsubscribed<'a> "unsubscribed" {
        /// The topic or pattern.
        topic_id: &'a str = "weather",
        /// When the broker wrote this frame, in seconds since 1970.
        timestamp: Timestamp = Timestamp(time()),
    }

    /// A topic that the client was subscribed to was deleted.
    TopicDeleted<'a> "topic_deleted" {
        /// The topic.
        topic_id: &'a str = "weather",
    }

    /// The answer to `ping`.
    Pong "pong" {
        /// When the broker wrote this frame, in seconds since 1970.
        timestamp: Timestamp = Timestamp(time()),
    }

    /// Shows that the connection works, every `sessions.heartbeat_secs`. The answer `pong` is not required.
    Heartbeat "heartbeat" {}

    /// The socket continues with the token of an `auth` frame.
    Authenticated "authenticated" {
        /// The client.
        uuid: ClientId = client(),
        /// When the new token expires.
        expires_at: DateTime<Utc> = time(),
    }

    /// What the client sent, as text.
    Echo<'a> "echo" {
        /// `Received: ` and the text.
        content: &'a str = "Received: {\"a\":1}",
    }

    /// A command. The target answers with a command reply, which has the same `command_id`.
    Command<'a> {
        /// The command.
        command_id: CommandId = command(),
        /// What is to be done, such as `GET`.
        method: &'a str = "GET",
        /// With what it is to be done.
        url: &'a str = "/status",
        /// What the caller sends with it, any JSON.
        data: AnyJson<'a> = AnyJson("null"),
    }

    /// A command that was sent to this target was cancelled. No answer is expected.
    Cancel "cancel" {
        /// The command.
        command_id: CommandId = command(),
    }

    /// A publication to `$status`: a gateway became reachable or unreachable.
    GatewayEvent<'a> {
        /// What has happened.
        event: GatewayChange = GatewayChange::Disconnected,
        /// Always `$status`.
        topic_id: &'a str = TopicId::STATUS,
        /// The gateway.
        gateway_id: GatewayId = GatewayId(1),
        /// The gateway's name.
        name: &'a str = "Plant north",
        /// Its address.
        address: &'a str = "192.0.2.1",
        /// Its status now.
        status: Status = Status::Disconnected,
        /// Why it is not simply connected.
        reason: Nullable<Reason> = Nullable(Some(Reason::Timeout)),
        /// When the probes found the change.
        at: DateTime<Utc> = time(),
    }

    /// A publication to `$status`: a client came online or went offline.
    ClientEvent<'a> {
        /// What has happened.
        event: ClientChange = ClientChange::Connected,
        /// Always `$status`.
        topic_id: &'a str = TopicId::STATUS,
        /// The client.
        uuid: ClientId = client(),
        /// A device's name, a user's username.
        name: &'a str = "Alice",
        /// Whether it is a device or a user.
        kind: ClientKind = ClientKind::Device,
        /// When its first socket connected or its last one closed.
        at: DateTime<Utc> = time(),
    }

    /// A frame of the client was refused.
    Error<'a> "error" {
        /// Why, for people.
        message: &'a str = "Recipient 123e4567-e89b-12d3-a456-426614174000 not connected",
        /// The same text.
        content: &'a str = "Recipient 123e4567-e89b-12d3-a456-426614174000 not connected",
        /// Why, for programs.
        code: ErrorCode = ErrorCode::RecipientNotConnected,
        /// When the broker wrote this frame, in seconds since 1970.
        timestamp: Timestamp = Timestamp(time()),
        /// The message that was refused, if it is known.
        msgid: Option<&'a str> = Some("m-1"),
        /// The topic that it is about, if it is about one.
        topic_id: Option<&'a str> = None,
        /// The room that it is about, if it is about one.
        room_id: Option<RoomId> = None,
    }
}

/// Words for what has happened to something that is connected or not.
macro_rules! changes {
    ($($(#[doc = $about:literal])+ $name:ident: $connected:literal, $disconnected:literal;)*) => {$(
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy)]
        #[allow(missing_docs)] // the names say it
        pub enum $name {
            Connected,
            Disconnected,
        }

        impl $name {
            /// The word for whether it is connected now.
            pub fn of(is_connected: bool) -> Self {
                if is_connected { Self::Connected } else { Self::Disconnected }
            }

            fn as_str(self) -> &'static str {
                match self {
                    Self::Connected => $connected,
                    Self::Disconnected => $disconnected,
                }
            }
        }

        words! {
            $name: [Self::Connected, Self::Disconnected];
        }
    )*};
}

changes! {
    /// What has happened to a gateway.
    GatewayChange: "gateway_connected", "gateway_disconnected";
    /// What has happened to a client.
    ClientChange: "client_connected", "client_disconnected";
}

/// The states of all gateways that have been probed: by id, whether it is connected.
#[derive(Debug)]
pub struct GatewayStates(pub Vec<(GatewayId, bool)>);

impl DeclaredFrame for GatewayStates {
    const TYPE: Option<&'static str> = None;

    fn put(&self, out: &mut String) {
        let mut object = Object::begin(out, Self::TYPE);
        for (id, is_connected) in &self.0 {
            object.put(&id.to_string(), &if *is_connected { CONNECTED } else { DISCONNECTED });
        }
        object.end();
    }

    fn declaration() -> Declaration {
        let about = "The state of each gateway by its id: at once, then every five seconds, and at every change. Gateways that have not been probed yet are left out.";
        let words = json!({ "type": "string", "enum": [CONNECTED, DISCONNECTED] });
        let schema = json!({ "type": "object", "additionalProperties": words });
        let example = Self(vec![(GatewayId(1), true), (GatewayId(2), false)]);
        Declaration { name: "GatewayStates", about: about.to_owned(), schema, examples: Vec::new() }
            .with_example(&example.text())
    }
}

const CONNECTED: &str = "connected";
const DISCONNECTED: &str = "disconnected";
