//! The AsyncAPI document (contract section 9): every frame of every socket, made of the declarations from which the frames are
//! written (`protocol/frames.rs`) and the table of [`channels`].

mod channels;
pub(super) mod page;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use self::channels::{Channel, Credentials, Parameter};
use super::credentials::COOKIE;
use crate::{
    metrics::labels::Label,
    protocol::{
        error_code::ErrorCode,
        frames::{Declaration, DeclaredFrame},
        outbound::frames::Error,
    },
};

/// The document.
static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

static JSON: LazyLock<String> = LazyLock::new(|| DOCUMENT.to_string());

/// The document as JSON text. Made once, at the first request.
pub(super) fn json() -> &'static str {
    &JSON
}

const ABOUT: &str = "A message broker: devices, topics, chat rooms and remote commands. \
    The HTTP side is described at [/docs](/docs).\n\n\
    `receive` is what clients send to the broker, `send` what they get from it. Frames are JSON objects in text frames, except where it says otherwise. \
    The credentials and the query of a handshake decide which of the channels with the same path it is. \
    Objects from clients may have further fields, which the broker ignores, or passes on to recipients. \
    Clients should ignore fields that they do not know.";

/// The ways to give a token with a handshake, by name. The first that is found counts.
fn security_schemes() -> Value {
    json!({
        "bearer": { "type": "http", "scheme": "bearer", "description": "`Authorization: Bearer TOKEN`" },
        "query": { "type": "httpApiKey", "in": "query", "name": "token", "description": "`?token=TOKEN`" },
        "subprotocol": {
            "type": "httpApiKey",
            "in": "header",
            "name": "Sec-WebSocket-Protocol",
            "description": "`Sec-WebSocket-Protocol: bearer, TOKEN`; in a browser `new WebSocket(url, [\"bearer\", token])`",
        },
        "cookie": {
            "type": "httpApiKey",
            "in": "cookie",
            "name": COOKIE,
            "description": "The cookie that `/auth/login` sets. Refused if it comes with a page of another origin.",
        },
    })
}

fn document() -> Value {
    let schemes = security_schemes();
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    for channel in channels::all() {
        let name = channel.dialect.as_str();
        let mut frames = Map::new();
        let mut operation = |action: &str, title: &str, declarations: Vec<(String, Declaration)>| {
            let mut references = Vec::new();
            for (component, declaration) in declarations {
                let key = declaration.name;
                frames.insert(key.to_owned(), reference("components/messages", &component));
                references.push(reference(&format!("channels/{name}/messages"), key));
                messages.insert(component, message(declaration));
            }
            if references.is_empty() {
                return;
            }
            let mut operation = json!({
                "action": action,
                "title": title,
                "channel": reference("channels", name),
                "messages": references,
            });
            if channel.credentials.are_taken() {
                let names = schemes.as_object().into_iter().flat_map(Map::keys);
                operation["security"] = names.map(|name| reference("components/securitySchemes", name)).collect();
            }
            operations.insert(format!("{name}.{action}"), operation);
        };
        let named = |declaration: &Declaration| (declaration.name.to_owned(), declaration.clone());
        operation("receive", "What clients send", channel.from_clients.iter().map(named).collect());
        let error = (format!("Error.{name}"), error(&channel.errors));
        let to_clients = channel.to_clients.iter().map(named).chain([error]).collect();
        operation("send", "What clients get", to_clients);
        channels.insert(name.to_owned(), described(&channel, frames));
    }
    json!({
        "asyncapi": "3.0.0",
        "info": { "title": "Switchboard", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT, "license": { "name": "MIT" } },
        "defaultContentType": "application/json",
        "servers": { "plain": server("ws", "localhost:8000"), "tls": server("wss", "localhost") },
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "securitySchemes": schemes },
    })
}

fn reference(place: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/{place}/{name}") })
}

fn server(protocol: &str, host: &str) -> Value {
    json!({
        "host": "{host}",
        "protocol": protocol,
        "description": if protocol == "wss" { "Behind a proxy that speaks TLS" } else { "Without TLS" },
        "variables": { "host": { "default": host, "description": "Host and port of the broker" } },
    })
}

fn message(declaration: Declaration) -> Value {
    let Declaration { name, about, schema, examples } = declaration;
    let is_text = schema["type"] == "string";
    let examples: Vec<_> = examples.into_iter().map(|example| json!({ "payload": example })).collect();
    json!({
        "name": name,
        "title": name,
        "summary": about,
        "contentType": if is_text { "text/plain" } else { "application/json" },
        "payload": schema,
        "examples": examples,
    })
}

/// The error frame, with the codes of one channel.
fn error(codes: &[ErrorCode]) -> Declaration {
    let mut declaration = Error::declaration();
    let words: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
    declaration.schema["properties"]["code"]["enum"] = json!(words);
    let example = &mut declaration.examples[0];
    if !codes.contains(&Error::example().code)
        && let Some(code) = codes.first()
    {
        let text = code.because().replace('`', "");
        example["code"] = code.as_str().into();
        example["message"] = text.as_str().into();
        example["content"] = text.into();
        if let Some(example) = example.as_object_mut() {
            example.remove("msgid");
        }
    }
    declaration
}

fn described(channel: &Channel, frames: Map<String, Value>) -> Value {
    let closes = channel.closes.iter().map(|code| {
        json!({ "code": code.code(), "reason": code.reason(), "because": code.because(), "reconnect": code.reconnect() })
    });
    let errors = channel.errors.iter().map(|code| json!({ "code": code.as_str(), "because": code.because() }));
    let refusals = refusals(channel).into_iter().map(|(status, why)| json!({ "status": status, "because": why }));
    let mut described = json!({
        "address": channel.path,
        "title": channel.title,
        "description": format!("{} {}", channel.about, channel.credentials.about()),
        "messages": frames,
        "x-credentials": channel.credentials.about(),
        "x-refusals": refusals.collect::<Vec<_>>(),
        "x-error-codes": errors.collect::<Vec<_>>(),
        "x-close-codes": closes.collect::<Vec<_>>(),
    });
    if channel.path.contains("{id}") {
        described["parameters"] = json!({ "id": { "description": "The room", "examples": ["1"] } });
    }
    described["bindings"] = json!({ "ws": { "method": "GET", "bindingVersion": "0.1.0" } });
    if !channel.query.is_empty() {
        described["bindings"]["ws"]["query"] = query(&channel.query);
    }
    described
}

fn query(parameters: &[Parameter]) -> Value {
    let properties = parameters.iter().map(|parameter| {
        let mut schema = parameter.schema.clone();
        schema["description"] = parameter.about.into();
        (parameter.name.to_owned(), schema)
    });
    let required: Vec<_> = parameters.iter().filter(|one| one.is_required).map(|one| one.name).collect();
    json!({ "type": "object", "properties": properties.collect::<Map<_, _>>(), "required": required })
}

/// The statuses of handshakes that are refused, with an answer as of any HTTP route.
fn refusals(channel: &Channel) -> Vec<(u16, &'static str)> {
    let needs_room = channel.path.contains("{id}") || channel.query.iter().any(|one| one.name == "chat_id");
    let mut refusals = vec![(401, "no credentials where they are needed, or bad ones")];
    refusals.push((403, "not allowed, the user is disabled, or a cookie that comes with a page of another origin"));
    if needs_room {
        refusals.push((404, "the room does not exist"));
    }
    if needs_room || !channel.query.is_empty() {
        refusals.push((422, "a bad parameter"));
    }
    refusals.extend([
        (426, "the request is no WebSocket handshake of version 13"),
        (429, "limits.connections_per_identity"),
        (503, "limits.connections, the database is unavailable, or the server is shutting down"),
    ]);
    refusals
}

impl Credentials {
    /// Whether a handshake may have a token.
    fn are_taken(self) -> bool {
        !matches!(self, Self::Without(_))
    }

    fn about(self) -> String {
        match self {
            Self::Device => "Needs the token of a device.".to_owned(),
            Self::User => "Needs the token of a user.".to_owned(),
            Self::DeviceOrUser => "Needs the token of a device or user.".to_owned(),
            Self::Unless(setting) => format!("Needs no credentials, unless `{setting}` is off."),
            Self::Without(setting) => {
                format!("For handshakes without credentials, which are refused where `{setting}` is off.")
            }
        }
    }
}
