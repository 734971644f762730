//! Frames from clients. Parsing borrows from the text, without a copy: recipients get the sender's bytes as they were sent
//! (contract section 5).

use std::{borrow::Cow, fmt, sync::Arc};

use memchr::memchr;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    json::{self, Unacceptable},
    outbound::excerpt,
};
use crate::domain::ids::ClientId;

/// Longest `msgid` in characters.
pub const MSGID_CHARS: usize = 64;

/// The top-level fields of a frame that any dialect uses. Other fields are ignored.
#[derive(Debug, Default)]
#[allow(missing_docs)] // the names are the contract's
pub struct Frame<'a> {
    pub kind: Option<&'a RawValue>,
    pub to: Option<&'a RawValue>,
    pub topic_id: Option<&'a RawValue>,
    pub from: Option<&'a RawValue>,
    pub msgid: Option<&'a RawValue>,
    pub content: Option<&'a RawValue>,
    pub token: Option<&'a RawValue>,
    pub command_id: Option<&'a RawValue>,
    pub result: Option<&'a RawValue>,
    pub progress: Option<&'a RawValue>,
    pub room_id: Option<&'a RawValue>,
    pub message: Option<&'a RawValue>,
    pub message_id: Option<&'a RawValue>,
    pub since_id: Option<&'a RawValue>,
    pub client_msg_id: Option<&'a RawValue>,
    /// the first key that occurs twice
    pub duplicate: Option<Cow<'a, str>>,
    /// the reason why the JSON object is not accepted
    pub unacceptable: Option<Unacceptable>,
}

/// The reason why a text is not a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum NotAFrame {
    /// The text is not JSON.
    InvalidJson,
    /// The text is JSON, but not an object.
    NotAnObject,
}

impl<'a> Frame<'a> {
    /// Parses a frame in one pass.
    ///
    /// # Errors
    /// The text is not a JSON object.
    pub fn parse(text: &'a str) -> Result<Self, NotAFrame> {
        match serde_json::from_str::<Self>(text) {
            Ok(frame) => Ok(Self { unacceptable: json::check(text.as_bytes()).err(), ..frame }),
            // serde reports the wrong type at the first character: check that the rest is well-formed
            Err(error) if error.is_data() && serde_json::from_str::<IgnoredAny>(text).is_ok() => {
                Err(NotAFrame::NotAnObject)
            }
            Err(_) => Err(NotAFrame::InvalidJson),
        }
    }

    /// The value of `type`, if it is a text.
    pub fn kind(&self) -> Option<Cow<'a, str>> {
        self.kind.and_then(as_text)
    }

    /// Whether the frame is a message: it has one of `to`, `topic_id` and `message`, and any other fields (contract section
    /// 6).
    pub fn is_message(&self) -> bool {
        self.to.is_some() || self.topic_id.is_some() || self.message.is_some()
    }

    /// Whether the frame is a reply to a command: it is not a message, has `result` or `command_id`, and no `type` (contract
    /// section 6, loop hazard).
    pub fn is_command_reply(&self) -> bool {
        (self.command_id.is_some() || self.result.is_some()) && self.kind.is_none() && !self.is_message()
    }

    /// The value of `msgid`, if it is valid, to be repeated in an error frame.
    pub fn msgid(&self) -> Option<Cow<'a, str>> {
        self.msgid.and_then(as_text).filter(|msgid| msgid.chars().count() <= MSGID_CHARS)
    }

    /// The value of `topic_id`, if it is a text of at most `most` characters (0: any), to be repeated in an error frame.
    pub fn topic_id(&self, most: usize) -> Option<Cow<'a, str>> {
        self.topic_id.and_then(as_text).filter(|topic_id| is_within(topic_id, most))
    }
}

/// The result in a reply to a command, and whether it is an error. A string that contains JSON is decoded, a missing result
/// is `null`. An object with the key `error` is an error.
pub fn command_result(result: Option<&RawValue>) -> (Arc<str>, bool) {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(default, deserialize_with = "is_there")]
        error: bool,
    }
    fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| true)
    }
    let raw = result.map_or("null", RawValue::get);
    let decoded = result.and_then(as_text).filter(|text| json::is_acceptable(text));
    let result = decoded.as_deref().map_or(raw, str::trim);
    let failed = result.starts_with('{') && serde_json::from_str::<Probe>(result).is_ok_and(|probe| probe.error);
    (result.into(), failed)
}

/// The value of a JSON string, borrowed if it has no escapes. `None` if the JSON is not a string.
pub fn as_text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    match memchr(b'\\', inner.as_bytes()) {
        Some(_) => serde_json::from_str(raw.get()).ok().map(Cow::Owned),
        None => Some(Cow::Borrowed(inner)),
    }
}

/// The id in a JSON value: an integer, or a text that contains one. `None` for `null`.
///
/// # Errors
/// The value is something else, or out of range.
pub fn as_id(raw: &RawValue) -> Result<Option<i64>, NotAnId> {
    match raw.get() {
        "null" => Ok(None),
        json => as_text(raw).as_deref().unwrap_or(json).parse().map(Some).map_err(|_| NotAnId),
    }
}

/// The error of [`as_id`].
#[derive(Debug, PartialEq, Eq)]
pub struct NotAnId;

impl<'de: 'a, 'a> Deserialize<'de> for Frame<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FrameVisitor)
    }
}

struct FrameVisitor;

impl<'de> Visitor<'de> for FrameVisitor {
    type Value = Frame<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Frame<'de>, A::Error> {
        let mut frame = Frame::default();
        let mut seen = None;
        while let Some(Key(key)) = map.next_key()? {
            let field = match &*key {
                "type" => Some(&mut frame.kind),
                "to" => Some(&mut frame.to),
                "topic_id" => Some(&mut frame.topic_id),
                "from" => Some(&mut frame.from),
                "msgid" => Some(&mut frame.msgid),
                "content" => Some(&mut frame.content),
                "token" => Some(&mut frame.token),
                "command_id" => Some(&mut frame.command_id),
                "result" => Some(&mut frame.result),
                "progress" => Some(&mut frame.progress),
                "room_id" => Some(&mut frame.room_id),
                "message" => Some(&mut frame.message),
                "message_id" => Some(&mut frame.message_id),
                "since_id" => Some(&mut frame.since_id),
                "client_msg_id" => Some(&mut frame.client_msg_id),
                _ => None,
            };
            let again = match field {
                Some(field) => field.replace(map.next_value()?).map(|_| key),
                None => {
                    map.next_value::<IgnoredAny>()?;
                    seen.get_or_insert_with(Seen::default).insert(key)
                }
            };
            if frame.duplicate.is_none() {
                frame.duplicate = again;
            }
        }
        Ok(frame)
    }
}

/// A key of an object, borrowed if it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// The unknown keys seen so far. The first twenty are in an array, so that usual frames need no allocation.
#[derive(Default)]
struct Seen<'a> {
    few: [Cow<'a, str>; 20],
    used: usize,
    many: std::collections::HashSet<Cow<'a, str>>,
}

impl<'a> Seen<'a> {
    /// Adds a key. Returns it if it was seen before.
    fn insert(&mut self, key: Cow<'a, str>) -> Option<Cow<'a, str>> {
        if self.few[..self.used].contains(&key) || self.many.contains(&key) {
            return Some(key);
        }
        match self.few.get_mut(self.used) {
            Some(slot) => {
                *slot = key;
                self.used += 1;
            }
            None => {
                self.many.insert(key);
            }
        }
        None
    }
}

/// A valid message to a client or topic.
#[derive(Debug)]
pub struct Message<'a, To> {
    /// The recipient: a client's UUID or a topic id.
    pub to: To,
    /// The sender's id of the message, at most [`MSGID_CHARS`] characters; the receipt repeats it.
    pub msgid: Cow<'a, str>,
    /// The first part of the text for recipients: `{"from":…,` if the sender left `from` out.
    pub prefix: Option<String>,
    /// The second part: the sender's bytes, without the opening brace if there is a prefix.
    pub rest: &'a str,
}

impl<To> Message<'_, To> {
    /// The text for recipients, as parts of one frame.
    pub fn parts(&self) -> [&[u8]; 2] {
        [self.prefix.as_deref().unwrap_or_default().as_bytes(), self.rest.as_bytes()]
    }
}

/// The reason why a message is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum BadMessage {
    /// The frame has no recipient and this unknown `type`.
    UnknownType(String),
    /// A field is missing, duplicate or of the wrong kind; the text names the field and what is expected.
    Shape(String),
    /// `from` is not the sender.
    ForeignSender,
}

/// Reads a direct message.
///
/// # Errors
/// The frame is not a message, a field is missing, duplicate or of the wrong kind, or `from` is not `sender`.
pub fn direct<'a>(frame: &Frame<'a>, text: &'a str, sender: ClientId) -> Result<Message<'a, ClientId>, BadMessage> {
    message(frame, text, sender, || {
        let to = frame.to.ok_or_else(|| match frame.kind() {
            Some(kind) if kind != "message" && !frame.is_message() => BadMessage::UnknownType(kind.into_owned()),
            _ => missing("to"),
        })?;
        as_text(to).and_then(|to| ClientId::parse(&to)).ok_or_else(|| shape("to: expected a UUID"))
    })
}

/// Reads a topic message. `most` is the most characters of a topic id (`limits.topic_id_chars`; 0: any).
///
/// # Errors
/// As for [`direct`], or the topic id is too long.
pub fn topic<'a>(
    frame: &Frame<'a>,
    text: &'a str,
    sender: ClientId,
    most: usize,
) -> Result<Message<'a, Cow<'a, str>>, BadMessage> {
    message(frame, text, sender, || {
        let topic = as_text(frame.topic_id.ok_or_else(|| missing("topic_id"))?)
            .ok_or_else(|| shape("topic_id: expected a text"))?;
        if !is_within(&topic, most) {
            return Err(shape(&format!("topic_id: over {most} characters (limits.topic_id_chars)")));
        }
        Ok(topic)
    })
}

/// Whether a text has at most `most` characters (0: any).
fn is_within(text: &str, most: usize) -> bool {
    most == 0 || text.len() <= most || text.chars().count() <= most
}

fn message<'a, To>(
    frame: &Frame<'a>,
    text: &'a str,
    sender: ClientId,
    to: impl FnOnce() -> Result<To, BadMessage>,
) -> Result<Message<'a, To>, BadMessage> {
    if let Some(key) = &frame.duplicate {
        return Err(shape(&format!("duplicate field `{}`", excerpt(key))));
    }
    let to = to()?;
    let msgid = msgid(frame)?;
    if frame.content.is_none_or(|content| content.get() == "null") {
        return Err(missing("content"));
    }
    let Some(from) = frame.from else {
        // `from` becomes the first field; the object has others, so a comma follows
        let brace = text.find('{').unwrap_or_default();
        let prefix = Some(format!(r#"{{"from":"{sender}","#));
        return Ok(Message { to, msgid, prefix, rest: &text[brace + 1..] });
    };
    check_from(from, sender)?;
    Ok(Message { to, msgid, prefix: None, rest: text })
}

/// Reads an acknowledgement (contract section 11). Returns its `msgid`.
///
/// # Errors
/// `msgid` is missing or of the wrong kind, or `from` is given and is not `sender`.
pub fn ack<'a>(frame: &Frame<'a>, sender: ClientId) -> Result<Cow<'a, str>, BadMessage> {
    let msgid = msgid(frame)?;
    // existing clients send all fields of a message, with null for those that are not set
    if let Some(from) = frame.from.filter(|from| from.get() != "null") {
        check_from(from, sender)?;
    }
    Ok(msgid)
}

fn msgid<'a>(frame: &Frame<'a>) -> Result<Cow<'a, str>, BadMessage> {
    as_text(frame.msgid.ok_or_else(|| missing("msgid"))?)
        .filter(|msgid| msgid.len() <= MSGID_CHARS || msgid.chars().count() <= MSGID_CHARS)
        .ok_or_else(|| shape("msgid: expected a text of at most 64 characters"))
}

fn check_from(from: &RawValue, sender: ClientId) -> Result<(), BadMessage> {
    let from = as_text(from).ok_or_else(|| shape("from: expected a UUID"))?;
    if ClientId::parse(&from) == Some(sender) { Ok(()) } else { Err(BadMessage::ForeignSender) }
}

fn shape(why: &str) -> BadMessage {
    BadMessage::Shape(why.to_owned())
}

fn missing(field: &str) -> BadMessage {
    BadMessage::Shape(format!("missing field `{field}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "123e4567-e89b-12d3-a456-426614174000";
    const YOU: &str = "00000000-0000-4000-8000-000000000001";

    fn me() -> ClientId {
        ClientId::parse(ME).unwrap()
    }

    fn forwarded<To>(message: &Message<'_, To>) -> String {
        String::from_utf8(message.parts().concat()).unwrap()
    }

    fn direct_error(text: &str) -> String {
        match direct(&Frame::parse(text).unwrap(), text, me()).unwrap_err() {
            BadMessage::UnknownType(kind) => format!("unknown type {kind}"),
            BadMessage::Shape(why) => why,
            BadMessage::ForeignSender => "foreign sender".to_owned(),
        }
    }

    #[test]
    fn a_message_with_from_is_forwarded_byte_for_byte() {
        let text = format!(
            r#" {{ "to":"{YOU}", "from":"{}", "timestamp":1.50e3, "msgid":"m\u0031", "content":"x", "extra":[1,{{"a":2}}] }} "#,
            ME.to_uppercase()
        );
        let frame = Frame::parse(&text).unwrap();
        let message = direct(&frame, &text, me()).unwrap();
        assert_eq!(forwarded(&message), text);
        assert_eq!(message.msgid, "m1");
        assert_eq!(message.to.to_string(), YOU);
    }

    #[test]
    fn a_missing_from_is_added_and_nothing_else_changes() {
        let text = r#"{"topic_id":"t","msgid":"1","content":{"b":1,"a":2.0}}"#;
        let frame = Frame::parse(text).unwrap();
        let message = topic(&frame, text, me(), 100).unwrap();
        assert_eq!(forwarded(&message), format!(r#"{{"from":"{ME}",{}"#, &text[1..]));
        assert_eq!(message.to, "t");
    }

    #[test]
    fn texts_that_are_no_frames_are_told_apart() {
        for text in
            ["", "{", "nope", r#"{"a":}"#, r#"{"to":1} x"#, r#"{"to":1,}"#, "\u{0}", "[[[", "1 2", r#""x"#, "[1}"]
        {
            assert_eq!(Frame::parse(text).unwrap_err(), NotAFrame::InvalidJson, "{text}");
        }
        for text in ["[]", "1", r#""x""#, "null", "true"] {
            assert_eq!(Frame::parse(text).unwrap_err(), NotAFrame::NotAnObject, "{text}");
        }
    }

    #[test]
    fn every_wrong_shape_is_named() {
        let long = "x".repeat(65);
        let table = [
            (r#"{"msgid":"1","content":"x"}"#.to_owned(), "missing field `to`"),
            (format!(r#"{{"to":"{YOU}","content":"x"}}"#), "missing field `msgid`"),
            (format!(r#"{{"to":"{YOU}","msgid":"1"}}"#), "missing field `content`"),
            (format!(r#"{{"to":"{YOU}","msgid":"1","content":null}}"#), "missing field `content`"),
            (r#"{"to":"nobody","msgid":"1","content":"x"}"#.to_owned(), "to: expected a UUID"),
            (r#"{"to":7,"msgid":"1","content":"x"}"#.to_owned(), "to: expected a UUID"),
            (
                format!(r#"{{"to":"{YOU}","msgid":"{long}","content":"x"}}"#),
                "msgid: expected a text of at most 64 characters",
            ),
            (format!(r#"{{"to":"{YOU}","msgid":1,"content":"x"}}"#), "msgid: expected a text of at most 64 characters"),
            (format!(r#"{{"to":"{YOU}","msgid":"1","content":"x","from":null}}"#), "from: expected a UUID"),
            (format!(r#"{{"to":"{YOU}","msgid":"1","content":"x","from":"{YOU}"}}"#), "foreign sender"),
            (format!(r#"{{"to":"{YOU}","msgid":"1","content":"x","from":"me"}}"#), "foreign sender"),
            (format!(r#"{{"to":"{YOU}","msgid":"1","content":"x","to":"{YOU}"}}"#), "duplicate field `to`"),
            (format!(r#"{{"to":"{YOU}","msgid":"1","content":"x","a":1,"\u0061":2}}"#), "duplicate field `a`"),
        ];
        for (text, expected) in table {
            assert_eq!(direct_error(&text), expected, "{text}");
        }
    }

    #[test]
    fn keys_may_repeat_below_the_top_level() {
        let text = format!(r#"{{"to":"{YOU}","msgid":"1","content":{{"a":1,"a":2}}}}"#);
        assert!(direct(&Frame::parse(&text).unwrap(), &text, me()).is_ok());
    }

    #[test]
    fn a_duplicate_among_very_many_keys_is_found() {
        let mut text = format!(r#"{{"to":"{YOU}","msgid":"1","content":"x""#);
        for key in 0..100 {
            text += &format!(r#","k{key}":{key}"#);
        }
        let unique = format!("{text}}}");
        assert!(direct(&Frame::parse(&unique).unwrap(), &unique, me()).is_ok());
        assert_eq!(direct_error(&format!(r#"{text},"k99":0}}"#)), "duplicate field `k99`");
    }

    #[test]
    fn a_frame_with_a_result_and_no_type_is_a_command_reply_whatever_else_it_has() {
        for (text, expected) in [
            (r#"{"command_id":"x","result":1}"#, true),
            (r#"{"result":{"error":"no method"}}"#, true),
            (r#"{"command_id":"x","type":"progress"}"#, false),
            (r#"{"type":"ping"}"#, false),
            (r#"{"command_id":"x","result":1,"to":null}"#, false),
            (r#"{"result":1,"topic_id":"t"}"#, false),
            (r#"{"command_id":"x","message":"m"}"#, false),
        ] {
            assert_eq!(Frame::parse(text).unwrap().is_command_reply(), expected, "{text}");
        }
    }

    #[test]
    fn a_result_is_decoded_if_it_is_json_in_a_string() {
        let table = [
            (r#"{"result":{"a":1}}"#, r#"{"a":1}"#, false),
            (r#"{"result":"{\"a\": 1}"}"#, r#"{"a": 1}"#, false),
            (r#"{"result":"plain text"}"#, r#""plain text""#, false),
            (r#"{"result":"42"}"#, "42", false),
            (r#"{"command_id":"x"}"#, "null", false),
            (r#"{"result":null}"#, "null", false),
            (r#"{"result":{"error":"no"}}"#, r#"{"error":"no"}"#, true),
            (r#"{"result":"{\"error\":null}"}"#, r#"{"error":null}"#, true),
            (r#"{"result":[{"error":"no"}]}"#, r#"[{"error":"no"}]"#, false),
        ];
        for (text, expected, failed) in table {
            let frame = Frame::parse(text).unwrap();
            assert_eq!(command_result(frame.result), (expected.into(), failed), "{text}");
        }
    }

    #[test]
    fn nesting_as_deep_as_a_frame_can_hold_is_no_danger() {
        let nested = |depth| format!(r#"{{"content":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(Frame::parse(&nested(63)).unwrap().unacceptable, None);
        for depth in [64, 32_000] {
            assert_eq!(Frame::parse(&nested(depth)).unwrap().unacceptable, Some(Unacceptable::TooDeep));
        }
        assert_eq!(Frame::parse(&"[".repeat(64_000)).unwrap_err(), NotAFrame::InvalidJson);
    }

    #[test]
    fn json_in_a_string_that_is_not_accepted_stays_a_string() {
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        for text in [deep.as_str(), r#"{"$serde_json::private::Number":"1"}"#] {
            let result = serde_json::to_string(text).unwrap();
            let frame = format!(r#"{{"result":{result}}}"#);
            assert_eq!(command_result(Frame::parse(&frame).unwrap().result), (result.into(), false));
        }
    }

    #[test]
    fn an_acknowledgement_names_a_message_and_comes_from_the_client_itself() {
        for (text, expected) in [
            (r#"{"type":"ack","msgid":"1"}"#.to_owned(), Ok("1")),
            (format!(r#"{{"type":"ack","msgid":"1","from":"{}"}}"#, ME.to_uppercase()), Ok("1")),
            (r#"{"type":"ack","msgid":"1","from":null,"sender":null,"status":"received"}"#.to_owned(), Ok("1")),
            (r#"{"type":"ack"}"#.to_owned(), Err(missing("msgid"))),
            (format!(r#"{{"type":"ack","msgid":"1","from":"{YOU}"}}"#), Err(BadMessage::ForeignSender)),
        ] {
            assert_eq!(ack(&Frame::parse(&text).unwrap(), me()), expected.map(Cow::Borrowed), "{text}");
        }
    }
}
