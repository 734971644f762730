//! Frames from clients. Parsing borrows from the text, without a copy: recipients get the sender's bytes as they were sent
//! (contract section 5).

mod acknowledged;
mod frame;
pub mod frames;
mod message;
mod subscription;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use memchr::memchr;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;

pub use self::{
    acknowledged::{Ack, Delivery, ack, delivery, is_ack, is_acknowledged},
    frame::{Frame, NotAFrame},
    message::{BadMessage, Message, direct, topic},
    subscription::{Subscription, is_subscription, subscription},
};
use super::json;

/// Longest `msgid` in characters.
pub const MSGID_CHARS: usize = 64;

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

/// Whether a text has at most `most` characters (0: any).
fn is_within(text: &str, most: usize) -> bool {
    most == 0 || text.len() <= most || text.chars().count() <= most
}
