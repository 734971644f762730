//! The fields of a JSON object, form or query string, read and checked one by one: `texts` and `values` have a method for each
//! kind of field.

mod texts;
mod values;

use std::cell::RefCell;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::limits::Limit;
use crate::{
    domain::passwords::PasswordRules,
    http::errors::{ApiError, Fault},
    settings::{Limits, Settings},
};

/// Most unknown fields that an answer names.
const MAX_UNKNOWN: usize = 20;

/// Most characters of an unknown field's name in an answer.
const MAX_UNKNOWN_CHARS: usize = 100;

/// The error of a check. The fault itself is in [`Fields`].
#[derive(Debug)]
pub struct Invalid;

/// A field's value, or a fault that has been noted.
pub type Checked<T> = Result<T, Invalid>;

/// A body or query string that can be read from its fields. Read all fields before the first `?`, so that the answer has all
/// faults.
pub trait FromFields: Sized + 'static {
    /// Whether unknown fields are allowed, since clients of the earlier systems send more (contract section 2).
    const IGNORES_UNKNOWN: bool = false;

    /// Reads and checks the fields.
    ///
    /// # Errors
    /// A field is invalid; `fields` has the faults.
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self>;
}

/// The fields of an object from a client, and the faults found so far. Each method that reads a field notes its faults here.
#[derive(Debug)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// the JSON text of the object; none for forms and query strings
    text: Option<&'a str>,
    part: &'static str,
    faults: Vec<Fault>,
    /// the fields that were read; all others are unknown
    known: RefCell<Vec<&'a str>>,
    /// the limits of the fields that were read, only for [`Fields::limits_of`]
    pub(super) noted: Option<Vec<(String, Limit)>>,
    /// `[limits]` of the settings.
    pub limits: &'a Limits,
    /// The rules for new passwords.
    pub passwords: PasswordRules,
    /// The time of the request.
    pub now: DateTime<Utc>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(
        object: &'a Map<String, Value>,
        text: Option<&'a str>,
        part: &'static str,
        settings: &'a Settings,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            object,
            text,
            part,
            faults: Vec::new(),
            known: RefCell::default(),
            noted: None,
            limits: &settings.limits,
            passwords: settings.auth.password_rules(),
            now,
        }
    }

    /// Reads a whole object.
    ///
    /// # Errors
    /// All faults.
    pub fn read<T: FromFields>(
        object: &'a Map<String, Value>,
        text: Option<&'a str>,
        part: &'static str,
        settings: &'a Settings,
        now: DateTime<Utc>,
    ) -> Result<T, ApiError> {
        let mut fields = Self::of(object, text, part, settings, now);
        let read = T::from_fields(&mut fields);
        if read.is_ok() && part == "body" && !T::IGNORES_UNKNOWN {
            fields.note_unknown();
        }
        match read {
            Ok(content) if fields.faults.is_empty() => Ok(content),
            _ => Err(ApiError::Validation(fields.faults)),
        }
    }

    fn note_unknown(&mut self) {
        let known = self.known.take();
        let unknown = self.object.keys().filter(|name| !known.contains(&name.as_str()));
        // without the values: a misspelt field may hold a password
        let fault = |name: &String| Fault {
            kind: "extra_forbidden",
            loc: vec![self.part.to_owned(), name.chars().take(MAX_UNKNOWN_CHARS).collect()],
            msg: "Extra inputs are not permitted".to_owned(),
            input: Value::Null,
        };
        self.faults = unknown.take(MAX_UNKNOWN).map(fault).collect();
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        let object: &'a Map<String, Value> = self.object;
        let (name, value) = object.get_key_value(name)?;
        self.known.borrow_mut().push(name);
        Some(value)
    }

    /// Whether the field is there, with any value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The object as the client spelled it; nothing for forms and query strings.
    pub fn json_text(&self) -> &'a str {
        self.text.unwrap_or_default()
    }

    /// Notes a fault of a field.
    pub fn fault(&mut self, kind: &'static str, name: &str, msg: impl Into<String>) -> Invalid {
        // secrets are not repeated even to their sender, since proxies may log answers
        let is_secret = name.contains("password") || name.contains("token") || name.contains("device_key");
        let input = self.object.get(name).filter(|_| !is_secret).unwrap_or(&Value::Null);
        self.faults.push(Fault::new(kind, vec![self.part.to_owned(), name.to_owned()], msg, input));
        Invalid
    }

    /// Notes a fault of a field of an object that is a field.
    pub fn fault_in(&mut self, kind: &'static str, outer: &str, name: &str, msg: impl Into<String>) -> Invalid {
        let loc = vec![self.part.to_owned(), outer.to_owned(), name.to_owned()];
        self.faults.push(Fault { kind, loc, msg: msg.into(), input: Value::Null });
        Invalid
    }

    /// Notes a fault of the object itself.
    pub fn fault_of_all(&mut self, kind: &'static str, msg: impl Into<String>) -> Invalid {
        self.faults.push(Fault { kind, loc: vec![self.part.to_owned()], msg: msg.into(), input: Value::Null });
        Invalid
    }

    fn value(&mut self, name: &str) -> Checked<&'a Value> {
        match self.get(name) {
            Some(value) => Ok(value),
            None => Err(self.missing(name)),
        }
    }

    fn missing(&mut self, name: &str) -> Invalid {
        let fault = Fault {
            kind: "missing",
            loc: vec![self.part.to_owned(), name.to_owned()],
            msg: "Field required".to_owned(),
            input: Value::Null,
        };
        self.faults.push(fault);
        Invalid
    }
}
