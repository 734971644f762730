//! Direct messages and topic messages (contract section 5).

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{Frame, MSGID_CHARS, as_text, is_within};
use crate::{
    domain::ids::ClientId,
    protocol::{json::behind_brace, outbound::excerpt},
};

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
    message(frame, text, sender, || topic_id(frame, most))
}

pub(super) fn topic_id<'a>(frame: &Frame<'a>, most: usize) -> Result<Cow<'a, str>, BadMessage> {
    let topic = as_text(frame.topic_id.ok_or_else(|| missing("topic_id"))?)
        .ok_or_else(|| shape("topic_id: expected a text"))?;
    if !is_within(&topic, most) {
        return Err(shape(&format!("topic_id: over {most} characters (limits.topic_id_chars)")));
    }
    Ok(topic)
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
        let prefix = Some(format!(r#"{{"from":"{sender}","#));
        return Ok(Message { to, msgid, prefix, rest: behind_brace(text) });
    };
    check_from(from, sender)?;
    Ok(Message { to, msgid, prefix: None, rest: text })
}

pub(super) fn msgid<'a>(frame: &Frame<'a>) -> Result<Cow<'a, str>, BadMessage> {
    as_text(frame.msgid.ok_or_else(|| missing("msgid"))?)
        .filter(|msgid| msgid.len() <= MSGID_CHARS || msgid.chars().count() <= MSGID_CHARS)
        .ok_or_else(|| shape("msgid: expected a text of at most 64 characters"))
}

pub(super) fn check_from(from: &RawValue, sender: ClientId) -> Result<(), BadMessage> {
    let from = as_text(from).ok_or_else(|| shape("from: expected a UUID"))?;
    if ClientId::parse(&from) == Some(sender) { Ok(()) } else { Err(BadMessage::ForeignSender) }
}

pub(super) fn shape(why: &str) -> BadMessage {
    BadMessage::Shape(why.to_owned())
}

pub(super) fn missing(field: &str) -> BadMessage {
    BadMessage::Shape(format!("missing field `{field}`"))
}
