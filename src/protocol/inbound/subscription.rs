//! Frames that begin and end subscriptions (contract section 12).

use std::{borrow::Cow, ops::RangeInclusive};

use serde_json::value::RawValue;

use super::{
    BadMessage, Frame, frames,
    message::{check_from, shape, topic_id},
};
use crate::{
    domain::{
        ids::ClientId,
        topics::history::{Beginning, MAX_SIZE},
    },
    protocol::{frames::DeclaredFrame, outbound::excerpt},
};

/// A request for a topic.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// The topic's id.
    pub topic: Cow<'a, str>,
    /// Whether the client wants to be subscribed, or no longer.
    pub wanted: bool,
    /// Where in the topic's history the subscription begins, if that is given.
    pub beginning: Option<Beginning>,
}

/// Whether the frame is about a subscription: its `type` is `subscribe` or `unsubscribe`, and it has neither recipient nor
/// content. Messages to topics may have any `type`, but always have a content.
pub fn is_subscription(frame: &Frame<'_>) -> bool {
    !is_given(frame.content) && !is_given(frame.to) && frame.message.is_none() && wanted(frame).is_some()
}

fn is_given(field: Option<&RawValue>) -> bool {
    field.is_some_and(|field| field.get() != "null")
}

fn wanted(frame: &Frame<'_>) -> Option<bool> {
    match frame.kind().as_deref() {
        frames::Subscribe::TYPE => Some(true),
        frames::Unsubscribe::TYPE => Some(false),
        _ => None,
    }
}

/// Reads a request for which [`is_subscription`] holds. `most` is the most characters of a topic id
/// (`limits.topic_id_chars`; 0: any).
///
/// # Errors
/// A field is missing, duplicate or of the wrong kind, or `from` is not `sender`.
pub fn subscription<'a>(frame: &Frame<'a>, sender: ClientId, most: usize) -> Result<Subscription<'a>, BadMessage> {
    if let Some(key) = &frame.duplicate {
        return Err(shape(&format!("duplicate field `{}`", excerpt(key))));
    }
    let topic = topic_id(frame, most)?;
    if let Some(from) = frame.from.filter(|from| from.get() != "null") {
        check_from(from, sender)?;
    }
    let wanted = wanted(frame) == Some(true);
    Ok(Subscription { topic, wanted, beginning: if wanted { beginning(frame)? } else { None } })
}

fn beginning(frame: &Frame<'_>) -> Result<Option<Beginning>, BadMessage> {
    let number = |field: Option<&RawValue>, name: &str, range: RangeInclusive<i64>| {
        let Some(field) = field.filter(|field| field.get() != "null") else { return Ok(None) };
        let number = field.get().parse().ok().filter(|number| range.contains(number));
        let expected = || match range.end() {
            &i64::MAX => shape(&format!("{name}: expected a whole number from {}", range.start())),
            end => shape(&format!("{name}: expected a whole number from {} to {end}", range.start())),
        };
        number.map(Some).ok_or_else(expected)
    };
    let since = number(frame.since_offset, "since_offset", 0..=i64::MAX)?;
    let last = number(frame.last, "last", 1..=MAX_SIZE.into())?;
    match (since, last) {
        (Some(_), Some(_)) => Err(shape("only one of since_offset and last is possible")),
        (since, last) => Ok(since.map(Beginning::After).or(last.map(Beginning::Last))),
    }
}
