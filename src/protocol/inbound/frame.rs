//! The fields of a frame, found in one pass over its text.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{MSGID_CHARS, as_text, is_within};
use crate::protocol::json::{self, Unacceptable};

macro_rules! fields {
    ($($field:ident $(= $key:literal)?,)*) => {
        /// The top-level fields of a frame that any dialect uses. Other fields are ignored.
        #[derive(Debug, Default)]
        #[allow(missing_docs)] // the names are the contract's
        pub struct Frame<'a> {
            $(pub $field: Option<&'a RawValue>,)*
            /// the first key that occurs twice
            pub duplicate: Option<Cow<'a, str>>,
            /// the reason why the JSON object is not accepted
            pub unacceptable: Option<Unacceptable>,
        }

        impl<'a> Frame<'a> {
            /// The names of all fields that any dialect uses.
            #[cfg(test)]
            pub const FIELDS: &'static [&'static str] = &[$(fields!(@key $field $($key)?),)*];

            /// The place of the field with this name.
            fn field(&mut self, key: &str) -> Option<&mut Option<&'a RawValue>> {
                $(if key == fields!(@key $field $($key)?) {
                    return Some(&mut self.$field);
                })*
                None
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
}

fields! {
    kind = "type",
    to,
    topic_id,
    from,
    msgid,
    content,
    token,
    command_id,
    result,
    progress,
    room_id,
    message,
    message_id,
    since_id,
    client_msg_id,
    offset,
    since_offset,
    last,
    acknowledge,
    ttl,
    priority,
    redelivered,
    status,
    sender,
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
            let again = match frame.field(&key) {
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
    many: HashSet<Cow<'a, str>>,
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
