//! Frames from the broker, checked against `/asyncapi.json`.

use jsonschema::Validator;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{Broker, get};

/// The document, which is the same for every broker.
static DOCUMENT: OnceCell<Documented> = OnceCell::const_new();

/// The document. The first test that needs it starts a broker for it.
pub async fn documented() -> &'static Documented {
    let read = || async { tokio::task::spawn_blocking(read).await.unwrap() };
    DOCUMENT.get_or_init(read).await
}

/// On a runtime of its own, since tasks that move between threads wait for it.
fn read() -> Documented {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let broker = Broker::with().alone("the document is the same everywhere").start().await;
        let (status, document) = get(&broker.client(), "/asyncapi.json").await;
        assert_eq!(status, 200, "{document}");
        Documented::read(document)
    })
}

/// The frames of all channels.
pub struct Documented {
    pub document: Value,
    pub frames: Vec<Documentation>,
}

/// A frame of a channel.
pub struct Documentation {
    pub channel: String,
    pub name: String,
    pub is_from_broker: bool,
    pub payload: Value,
    pub examples: Vec<Value>,
    /// The words in `type`; none if there is no `type`.
    kinds: Vec<String>,
    validator: Validator,
}

impl Documented {
    fn read(document: Value) -> Self {
        let mut frames = Vec::new();
        for operation in document["operations"].as_object().unwrap().values() {
            let is_from_broker = operation["action"] == "send";
            let channel = operation["channel"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            for reference in operation["messages"].as_array().unwrap() {
                let message = resolve(&document, resolve(&document, reference));
                let mut schema = message["payload"].clone();
                if is_from_broker {
                    close(&mut schema);
                }
                let examples = message["examples"].as_array().unwrap();
                frames.push(Documentation {
                    channel: channel.to_owned(),
                    name: message["name"].as_str().unwrap().to_owned(),
                    is_from_broker,
                    payload: message["payload"].clone(),
                    kinds: kinds(&schema),
                    examples: examples.iter().map(|example| example["payload"].clone()).collect(),
                    validator: jsonschema::options().should_validate_formats(true).build(&schema).unwrap(),
                });
            }
        }
        Self { document, frames }
    }

    /// The channels with this path and query, of which the credentials would tell which one it is.
    fn channels(&self, path: &str) -> Vec<&str> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let path = path.trim_end_matches('/');
        let channels = self.document["channels"].as_object().unwrap().iter();
        let fits = |channel: &Value| match channel["address"].as_str().unwrap() {
            "/ws/room/{id}" => path.starts_with("/ws/room/"),
            address => path == address,
        };
        let needs_room = |channel: &Value| channel["bindings"]["ws"]["query"]["properties"].get("chat_id").is_some();
        let has_room = query.contains("chat_id=");
        let mut names: Vec<_> = channels
            .filter(|(_, channel)| fits(channel) && needs_room(channel) == has_room)
            .map(|(name, _)| name.as_str())
            .collect();
        if names.contains(&"public") {
            // after an `auth` frame
            names.push("chat");
        }
        names
    }

    /// The frames that the broker may send on a socket with this path, and of which this is one.
    pub fn found(&self, path: &str, frame: &Value) -> Vec<&Documentation> {
        let channels = self.channels(path);
        let frames = self.frames.iter().filter(|one| one.is_from_broker && channels.contains(&one.channel.as_str()));
        frames.filter(|one| one.is(frame)).collect()
    }

    /// Asserts that the broker may send this frame on a socket with this path.
    #[track_caller]
    pub fn check(&self, path: &str, frame: &Value) {
        // anything may come back from an echo
        let is_documented = path.starts_with("/ws/echo") || !self.found(path, frame).is_empty();
        assert!(is_documented, "/asyncapi.json has no such frame at {path}: {frame}");
    }
}

impl Documentation {
    /// Whether this is such a frame.
    pub fn is(&self, frame: &Value) -> bool {
        // most are told apart by their `type`, without a look at the rest
        let may_be = || frame["type"].as_str().is_some_and(|kind| self.kinds.iter().any(|word| word == kind));
        (self.kinds.is_empty() || !self.is_from_broker || may_be()) && self.validator.is_valid(frame)
    }

    /// The words in `type`; an empty one if there is no `type`.
    pub fn kinds(&self) -> Vec<&str> {
        if self.kinds.is_empty() { vec![""] } else { self.kinds.iter().map(String::as_str).collect() }
    }
}

fn kinds(schema: &Value) -> Vec<String> {
    let kind = &schema["properties"]["type"];
    let words = kind.get("const").into_iter().chain(kind["enum"].as_array().into_iter().flatten());
    words.map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// What a reference names.
pub fn resolve<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let place = reference["$ref"].as_str().unwrap();
    document.pointer(&place[1..]).unwrap_or_else(|| panic!("{place} is not there"))
}

/// Allows no fields but those that are documented, unless the document says that there may be any.
fn close(schema: &mut Value) {
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
        schema["additionalProperties"] = json!(false);
    }
    if let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        fields.values_mut().for_each(close);
    }
    if let Some(elements) = schema.get_mut("items") {
        close(elements);
    }
}
