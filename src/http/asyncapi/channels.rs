//! The table of channels: one for each dialect of the sockets, with the frames of both directions. A new frame is added to
//! its channels here.

use serde_json::{Value, json};

use crate::{
    metrics::labels::Dialect,
    protocol::{
        chat::frames::*,
        close_code::CloseCode,
        error_code::ErrorCode,
        frames::{Declaration, DeclaredFrame},
        inbound::frames::*,
        outbound::frames::*,
    },
};

/// Whose credentials a handshake needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credentials {
    Device,
    User,
    DeviceOrUser,
    /// They are needed where this setting is off.
    Unless(&'static str),
    /// There must be none.
    Without(&'static str),
}

/// A parameter of the query.
pub(super) struct Parameter {
    pub name: &'static str,
    pub about: &'static str,
    pub schema: Value,
    pub is_required: bool,
}

/// The sockets of one dialect.
pub(super) struct Channel {
    pub dialect: Dialect,
    pub path: &'static str,
    pub title: &'static str,
    pub about: &'static str,
    pub credentials: Credentials,
    pub query: Vec<Parameter>,
    /// The frames that clients send.
    pub from_clients: Vec<Declaration>,
    /// The frames that clients get, but error frames.
    pub to_clients: Vec<Declaration>,
    /// The codes of error frames.
    pub errors: Vec<ErrorCode>,
    /// The codes with which the broker closes such a socket.
    pub closes: Vec<CloseCode>,
}

/// The declarations of these types.
macro_rules! declared {
    ($($name:ident),* $(,)?) => { vec![$($name::declaration()),*] };
}

/// The error codes of every dialect that reads JSON and can renew its token.
const WITH_TOKENS: [ErrorCode; 9] = [
    ErrorCode::InvalidJson,
    ErrorCode::InvalidMessage,
    ErrorCode::UnknownType,
    ErrorCode::Forbidden,
    ErrorCode::InvalidCredentials,
    ErrorCode::InactiveUser,
    ErrorCode::RateLimited,
    ErrorCode::TooManyRequests,
    ErrorCode::DatabaseUnavailable,
];

/// The error codes of the dialects of chat.
const OF_CHAT: [ErrorCode; 6] = [
    ErrorCode::MissingField,
    ErrorCode::MessageTooLarge,
    ErrorCode::NotFound,
    ErrorCode::NotAMember,
    ErrorCode::StorageFull,
    ErrorCode::InternalError,
];

/// The error codes of subscriptions.
const OF_SUBSCRIPTIONS: [ErrorCode; 5] = [
    ErrorCode::SenderMismatch,
    ErrorCode::TopicNotFound,
    ErrorCode::NoHistory,
    ErrorCode::AtLimit,
    ErrorCode::ClusterUnavailable,
];

/// The error codes of messages and publications.
const OF_MESSAGES: [ErrorCode; 9] = [
    ErrorCode::MessageTooLarge,
    ErrorCode::RecipientNotConnected,
    ErrorCode::RecipientUnknown,
    ErrorCode::MsgidReused,
    ErrorCode::QueueFull,
    ErrorCode::NotSubscribed,
    ErrorCode::StorageFull,
    ErrorCode::DeliveryUnknown,
    ErrorCode::InternalError,
];

/// The close codes of every socket.
const ALWAYS: [CloseCode; 7] = [
    CloseCode::GoingAway,
    CloseCode::Protocol,
    CloseCode::InvalidPayload,
    CloseCode::TooBig,
    CloseCode::Silent,
    CloseCode::SlowConsumer,
    CloseCode::RateLimited,
];

/// The close codes of sockets that read JSON.
const OF_JSON: [CloseCode; 2] = [CloseCode::Unsupported, CloseCode::TooManyBadFrames];

/// The close codes of sockets with an identity.
const OF_IDENTITIES: [CloseCode; 2] = [CloseCode::Unauthorized, CloseCode::Forbidden];

/// The codes of these lists, in the order of the README.
fn closes(lists: &[&[CloseCode]]) -> Vec<CloseCode> {
    let is_in = |code: &CloseCode| lists.iter().any(|list| list.contains(code));
    CloseCode::ALL.iter().copied().filter(is_in).collect()
}

/// The codes of these lists, in the order of the README.
fn errors(lists: &[&[ErrorCode]]) -> Vec<ErrorCode> {
    let is_in = |code: &ErrorCode| lists.iter().any(|list| list.contains(code));
    ErrorCode::ALL.iter().copied().filter(is_in).collect()
}

/// A direct message as its recipient gets it.
fn delivered() -> Declaration {
    DirectMessage::declaration().forwarded::<AddedToMessage>("DeliveredMessage")
}

/// A publication as subscribers get it.
fn publication() -> Declaration {
    TopicMessage::declaration().forwarded::<AddedToPublication>("Publication")
}

/// A declaration of plain text.
fn text(name: &'static str, about: &str, schema: Value, example: &str) -> Declaration {
    Declaration { name, about: about.to_owned(), schema, examples: vec![example.into()] }
}

/// All channels.
pub(super) fn all() -> Vec<Channel> {
    vec![device(), agent(), public(), chat(), room(), plain(), status(), echo()]
}

fn device() -> Channel {
    let mut to_clients = declared![Connection, Sent, Accepted, TopicSent, DeliveryUpdate, AckReceived];
    to_clients.extend([delivered(), publication()]);
    to_clients.extend(declared![Subscribed, Unsubscribed, TopicGap, TopicDeleted, Command, Cancel]);
    to_clients.extend(declared![Pong, Authenticated]);
    Channel {
        dialect: Dialect::Device,
        path: "/ws",
        title: "Devices",
        about: "A device sends and gets messages and publications, and gets commands. A second socket of the same device replaces the first.",
        credentials: Credentials::Device,
        query: Vec::new(),
        from_clients: declared![
            DirectMessage,
            AcknowledgedMessage,
            Ack,
            TopicMessage,
            Subscribe,
            Unsubscribe,
            CommandReply,
            Progress,
            Ping,
            ClientPong,
            Auth
        ],
        to_clients,
        errors: errors(&[&WITH_TOKENS, &OF_SUBSCRIPTIONS, &OF_MESSAGES]),
        closes: closes(&[
            &ALWAYS,
            &OF_JSON,
            &OF_IDENTITIES,
            &[CloseCode::ServerError, CloseCode::TryAgainLater, CloseCode::Replaced],
        ]),
    }
}

fn agent() -> Channel {
    Channel {
        dialect: Dialect::Agent,
        path: "/ws",
        title: "Agents",
        about: "A user gets commands. There is no greeting. A second such socket of the same user replaces the first, which is closed with 1001.",
        credentials: Credentials::User,
        query: Vec::new(),
        from_clients: declared![CommandReply, Progress, Ping, ClientPong, Auth],
        to_clients: declared![Command, Cancel, GatewayEvent, ClientEvent, Heartbeat, Pong, Authenticated],
        errors: errors(&[&WITH_TOKENS, &[ErrorCode::InternalError]]),
        closes: closes(&[&ALWAYS, &OF_JSON, &OF_IDENTITIES]),
    }
}

fn public() -> Channel {
    Channel {
        dialect: Dialect::Public,
        path: "/ws",
        title: "Without credentials",
        about: "JSON comes back as text. After an `auth` frame the socket is one of `/ws/auth`, and gets the greeting of those; a bad token closes it.",
        credentials: Credentials::Without("http.public_sockets"),
        query: Vec::new(),
        from_clients: {
            let schema = json!({ "type": ["object", "array", "string", "number", "boolean", "null"] });
            let example = json!({ "a": 1 });
            let about = "Any other JSON. It comes back as text.".to_owned();
            let any = Declaration { name: "AnyJson", about, schema, examples: vec![example] };
            vec![Ping::declaration(), any, Auth::declaration()]
        },
        to_clients: declared![Echo, ChatPong],
        errors: errors(&[&[
            ErrorCode::InvalidJson,
            ErrorCode::InvalidMessage,
            ErrorCode::InvalidCredentials,
            ErrorCode::InactiveUser,
            ErrorCode::RateLimited,
            ErrorCode::TooManyRequests,
            ErrorCode::DatabaseUnavailable,
            ErrorCode::InternalError,
        ]]),
        closes: closes(&[&ALWAYS, &OF_JSON, &OF_IDENTITIES, &[CloseCode::ServerError, CloseCode::TryAgainLater]]),
    }
}

fn chat() -> Channel {
    let mut from_clients = vec![ChatMessage::declaration().without_required("type")];
    from_clients.extend(declared![JoinRoom, LeaveRoom, Read, Typing, Subscribe, Unsubscribe, Ping, ClientPong, Auth]);
    let mut to_clients = declared![ConnectionEstablished, Message, RoomJoined, MessageHistory, RoomLeft];
    to_clients.extend(declared![UserEvent, UserRead, RoleChanged, ChatSubscribed, ChatUnsubscribed]);
    to_clients.push(publication());
    to_clients.extend(declared![TopicGap, TopicDeleted, GatewayEvent, ClientEvent, ChatPong, Authenticated]);
    // of what the client has sent over HTTP
    to_clients.extend(declared![DeliveryUpdate]);
    Channel {
        dialect: Dialect::Chat,
        path: "/ws/auth",
        title: "Chat",
        about: "Chat in any number of rooms, and topics.",
        credentials: Credentials::DeviceOrUser,
        query: Vec::new(),
        from_clients,
        to_clients,
        errors: errors(&[&WITH_TOKENS, &OF_CHAT, &OF_SUBSCRIPTIONS]),
        closes: closes(&[&ALWAYS, &OF_JSON, &OF_IDENTITIES, &[CloseCode::ServerError, CloseCode::TryAgainLater]]),
    }
}

fn room() -> Channel {
    let mut from_clients = vec![RoomMessage::declaration().without_required("type")];
    from_clients.extend(declared![RoomRead, RoomTyping, Ping, ClientPong, Auth]);
    Channel {
        dialect: Dialect::Room,
        path: "/ws/room/{id}",
        title: "Chat in one room",
        about: "The client joins the room with the handshake, and gets its history as the first frame. When the membership ends, the socket is closed with 4403.",
        credentials: Credentials::DeviceOrUser,
        query: vec![Parameter {
            name: "since_id",
            about: "Begin the history after this message, instead of with the newest ones.",
            schema: json!({ "type": "integer" }),
            is_required: false,
        }],
        from_clients,
        to_clients: declared![MessageHistory, Message, UserEvent, UserRead, RoleChanged, ChatPong, Authenticated],
        errors: errors(&[&WITH_TOKENS, &OF_CHAT]),
        closes: closes(&[&ALWAYS, &OF_JSON, &OF_IDENTITIES, &[CloseCode::TryAgainLater]]),
    }
}

fn plain() -> Channel {
    Channel {
        dialect: Dialect::Plain,
        path: "/ws",
        title: "Chat in one room, messages only",
        about: "The client joins the room with the handshake, and gets the messages of others. There is no greeting and no history. When the membership ends, the socket is closed with 4403.",
        credentials: Credentials::User,
        query: vec![Parameter {
            name: "chat_id",
            about: "The room.",
            schema: json!({ "type": "integer" }),
            is_required: true,
        }],
        from_clients: declared![PlainPost, RoomRead, RoomTyping, Ping, ClientPong, Auth],
        to_clients: declared![PlainMessage, ChatPong, Authenticated],
        errors: errors(&[&WITH_TOKENS, &OF_CHAT]),
        closes: closes(&[&ALWAYS, &OF_JSON, &OF_IDENTITIES, &[CloseCode::TryAgainLater]]),
    }
}

fn status() -> Channel {
    Channel {
        dialect: Dialect::Status,
        path: "/ws/status",
        title: "State of the gateways",
        about: "Frames from the client are ignored.",
        credentials: Credentials::Unless("http.public_reads"),
        query: Vec::new(),
        from_clients: Vec::new(),
        to_clients: declared![GatewayStates],
        errors: vec![ErrorCode::RateLimited],
        closes: closes(&[&ALWAYS, &OF_IDENTITIES]),
    }
}

fn echo() -> Channel {
    let any = || json!({ "type": "string" });
    let sent = "Any text. With `raw=true` also any binary frame.";
    let answer = "`Echo: ` and the text. With `raw=true` text and binary frames come back unchanged.";
    Channel {
        dialect: Dialect::Echo,
        path: "/ws/echo",
        title: "Echo",
        about: "Returns what it gets.",
        credentials: Credentials::Unless("http.public_sockets"),
        query: vec![Parameter {
            name: "raw",
            about: "Return text and binary frames unchanged. Without it, a binary frame closes the socket with 1003.",
            schema: json!({ "type": "boolean", "default": false }),
            is_required: false,
        }],
        from_clients: vec![text("AnyText", sent, any(), "Hello!")],
        to_clients: vec![text("EchoedText", answer, any(), "Echo: Hello!")],
        errors: vec![ErrorCode::RateLimited],
        closes: closes(&[&ALWAYS, &[CloseCode::Unsupported]]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{http::routes::WEBSOCKETS, metrics::labels::Label, protocol::inbound::Frame};

    #[test]
    fn every_dialect_has_a_channel_and_every_path_a_route() {
        let dialects: Vec<_> = all().iter().map(|channel| channel.dialect.as_str()).collect();
        assert_eq!(dialects.len(), Dialect::ALL.len());
        assert!(Dialect::ALL.iter().all(|dialect| dialects.contains(&dialect.as_str())), "{dialects:?}");
        let paths: BTreeSet<_> = all().iter().map(|channel| channel.path).collect();
        assert_eq!(paths, WEBSOCKETS.iter().map(|(path, _)| *path).collect());
    }

    #[test]
    fn the_fields_that_are_read_are_those_that_clients_are_told_to_send() {
        let channels = all();
        let frames = channels.iter().flat_map(|channel| &channel.from_clients);
        let fields = frames.flat_map(|frame| frame.schema["properties"].as_object().into_iter().flatten());
        let mut told: BTreeSet<_> = fields.map(|(name, _)| name.as_str()).collect();
        // only the broker sets them
        told.extend(["offset", "redelivered"]);
        assert_eq!(told, Frame::FIELDS.iter().copied().collect());
    }

    #[test]
    fn every_error_code_and_close_code_belongs_to_a_channel() {
        let channels = all();
        let errors: Vec<_> = channels.iter().flat_map(|channel| &channel.errors).collect();
        let missing: Vec<_> = ErrorCode::ALL.iter().filter(|code| !errors.contains(code)).collect();
        // rooms are created over HTTP alone
        assert_eq!(missing, [&ErrorCode::AlreadyExists]);
        let closes: Vec<_> = channels.iter().flat_map(|channel| &channel.closes).collect();
        assert!(CloseCode::ALL.iter().all(|code| closes.contains(&code)));
    }
}
