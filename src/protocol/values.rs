//! The values of fields: how each is written, and its JSON Schema.

use std::{borrow::Cow, fmt::Write, marker::PhantomData};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{error_code::ErrorCode, frames::DeclaredFrame};
use crate::domain::{
    gateways::{Reason, Status},
    ids::{ClientId, ClientKind, CommandId, GatewayId, MessageId, RoomId},
    messages::MessageState,
    rooms::RoomRole,
};

/// A value of a field.
pub trait FieldValue {
    /// Whether every frame has a field of this type.
    const IS_REQUIRED: bool = true;

    /// Appends the value as JSON.
    fn put(&self, out: &mut String);

    /// Whether the field is left out of this frame.
    fn is_left_out(&self) -> bool {
        false
    }

    /// Its JSON Schema.
    fn schema() -> Value;
}

/// A point in time as seconds since 1970 with microseconds, the format of `timestamp` in device frames.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp(pub DateTime<Utc>);

/// Formats a time as RFC 3339 in UTC with `Z`, the format of all other times on the wire.
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// A value that may be `null`; the field is always there.
#[derive(Debug, Clone, Copy)]
pub struct Nullable<T>(pub Option<T>);

/// The state of a message, or `unknown` where there is none.
#[derive(Debug, Clone, Copy)]
pub struct StateOrUnknown(pub Option<MessageState>);

/// A mark: the field is `true`, or left out.
#[derive(Debug, Clone, Copy)]
pub struct Mark(pub bool);

/// `true`; the field is always there.
#[derive(Debug, Clone, Copy)]
pub struct Always;

/// Any JSON, as text.
#[derive(Debug, Clone, Copy)]
pub struct AnyJson<'a>(pub &'a str);

/// Any JSON but `null`, as text.
#[derive(Debug, Clone, Copy)]
pub struct NotNull<'a>(pub &'a str);

/// A list of frames that are written already.
#[derive(Debug)]
pub struct ListOf<'a, T>(pub Cow<'a, [String]>, pub PhantomData<T>);

/// A text of at most so many characters.
#[derive(Debug, Clone, Copy)]
pub struct Chars<'a, const MOST: usize>(pub &'a str);

/// A text that is not empty.
#[derive(Debug, Clone, Copy)]
pub struct NotEmpty<'a>(pub &'a str);

/// A whole number in a range.
#[derive(Debug, Clone, Copy)]
pub struct Whole<const LEAST: i64, const MOST: i64>(pub i64);

/// A UUID in any spelling.
#[derive(Debug, Clone, Copy)]
pub struct AnyUuid(pub ClientId);

/// An id as a number, or as a text that contains the number.
#[derive(Debug, Clone, Copy)]
pub struct IdOrText(pub i64);

/// Implements values that are written as they are displayed, bare or in quotes.
macro_rules! displayed {
    ($($format:literal $type:ty = $schema:tt;)*) => {$(
        impl FieldValue for $type {
            fn put(&self, out: &mut String) {
                // writing to a String does not fail
                let _ = write!(out, $format, self);
            }

            fn schema() -> Value {
                json!($schema)
            }
        }
    )*};
}

displayed! {
    "{}" i64 = { "type": "integer" };
    "{}" RoomId = { "type": "integer" };
    "{}" MessageId = { "type": "integer" };
    "{}" GatewayId = { "type": "integer" };
    "\"{}\"" Uuid = { "type": "string", "format": "uuid" };
    "\"{}\"" ClientId = { "type": "string", "format": "uuid" };
    "\"{}\"" CommandId = { "type": "string", "format": "uuid" };
}

/// Implements values that are one of some words.
macro_rules! words {
    ($($type:ty: $all:expr;)*) => {$(
        impl $crate::protocol::values::FieldValue for $type {
            fn put(&self, out: &mut String) {
                out.push('"');
                out.push_str(self.as_str());
                out.push('"');
            }

            fn schema() -> serde_json::Value {
                let words: Vec<_> = $all.iter().map(|word| word.as_str()).collect();
                serde_json::json!({ "type": "string", "enum": words })
            }
        }
    )*};
}

pub(super) use words;

words! {
    ErrorCode: ErrorCode::ALL;
    MessageState: MessageState::ALL;
    RoomRole: [RoomRole::Member, RoomRole::Moderator, RoomRole::Owner];
    ClientKind: [ClientKind::Device, ClientKind::User];
    Status: [Status::Unknown, Status::Connected, Status::Degraded, Status::Disconnected];
    Reason: Reason::ALL;
}

impl FieldValue for Timestamp {
    fn put(&self, out: &mut String) {
        // writing to a String does not fail
        let _ = write!(out, "{}.{:06}", self.0.timestamp(), self.0.timestamp_subsec_micros());
    }

    fn schema() -> Value {
        json!({ "type": "number" })
    }
}

impl FieldValue for &str {
    fn put(&self, out: &mut String) {
        if self.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
            // a text is always valid JSON
            out.push_str(&serde_json::to_string(self).unwrap_or_default());
        } else {
            out.push('"');
            out.push_str(self);
            out.push('"');
        }
    }

    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

impl FieldValue for DateTime<Utc> {
    fn put(&self, out: &mut String) {
        out.push('"');
        out.push_str(&rfc3339(*self));
        out.push('"');
    }

    fn schema() -> Value {
        json!({ "type": "string", "format": "date-time" })
    }
}

impl<T: FieldValue> FieldValue for Option<T> {
    const IS_REQUIRED: bool = false;

    fn put(&self, out: &mut String) {
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn is_left_out(&self) -> bool {
        self.is_none()
    }

    fn schema() -> Value {
        T::schema()
    }
}

impl<T: FieldValue> FieldValue for Nullable<T> {
    fn put(&self, out: &mut String) {
        match &self.0 {
            Some(value) => value.put(out),
            None => out.push_str("null"),
        }
    }

    fn schema() -> Value {
        let mut schema = T::schema();
        schema["type"] = json!([schema["type"], "null"]);
        if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
            words.push(Value::Null);
        }
        schema
    }
}

impl FieldValue for StateOrUnknown {
    fn put(&self, out: &mut String) {
        self.0.map_or("unknown", MessageState::as_str).put(out);
    }

    fn schema() -> Value {
        let words: Vec<_> = MessageState::ALL.iter().map(|state| state.as_str()).chain(["unknown"]).collect();
        json!({ "type": "string", "enum": words })
    }
}

impl FieldValue for Mark {
    const IS_REQUIRED: bool = false;

    fn put(&self, out: &mut String) {
        out.push_str("true");
    }

    fn is_left_out(&self) -> bool {
        !self.0
    }

    fn schema() -> Value {
        json!({ "type": "boolean", "const": true })
    }
}

impl FieldValue for Always {
    fn put(&self, out: &mut String) {
        out.push_str("true");
    }

    fn schema() -> Value {
        Mark::schema()
    }
}

impl FieldValue for AnyJson<'_> {
    fn put(&self, out: &mut String) {
        out.push_str(self.0);
    }

    fn schema() -> Value {
        json!({})
    }
}

impl FieldValue for NotNull<'_> {
    fn put(&self, out: &mut String) {
        out.push_str(self.0);
    }

    fn schema() -> Value {
        json!({ "type": ["string", "number", "boolean", "object", "array"] })
    }
}

impl<T: DeclaredFrame> FieldValue for ListOf<'_, T> {
    fn put(&self, out: &mut String) {
        out.push('[');
        for (place, frame) in self.0.iter().enumerate() {
            if place > 0 {
                out.push(',');
            }
            out.push_str(frame);
        }
        out.push(']');
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": T::declaration().schema })
    }
}

impl<const MOST: usize> FieldValue for Chars<'_, MOST> {
    fn put(&self, out: &mut String) {
        self.0.put(out);
    }

    fn schema() -> Value {
        json!({ "type": "string", "maxLength": MOST })
    }
}

impl FieldValue for NotEmpty<'_> {
    fn put(&self, out: &mut String) {
        self.0.put(out);
    }

    fn schema() -> Value {
        json!({ "type": "string", "minLength": 1 })
    }
}

impl<const LEAST: i64, const MOST: i64> FieldValue for Whole<LEAST, MOST> {
    fn put(&self, out: &mut String) {
        self.0.put(out);
    }

    fn schema() -> Value {
        let mut schema = json!({ "type": "integer", "minimum": LEAST });
        if MOST < i64::MAX {
            schema["maximum"] = MOST.into();
        }
        schema
    }
}

impl FieldValue for AnyUuid {
    fn put(&self, out: &mut String) {
        self.0.put(out);
    }

    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

impl FieldValue for IdOrText {
    fn put(&self, out: &mut String) {
        self.0.put(out);
    }

    fn schema() -> Value {
        json!({ "type": ["integer", "string"], "pattern": "^-?[0-9]+$" })
    }
}
