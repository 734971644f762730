//! The fields of an object that a client gave, read and checked one by one.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::HashMap,
    ops::{RangeBounds, RangeInclusive},
};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, value::RawValue};

use super::limits::Limit;
use crate::{
    domain::{
        ids::ClientId,
        passwords::{self, PasswordRules},
    },
    http::errors::{ApiError, Fault},
    protocol::json,
    settings::{Limits, Settings},
};

/// Unknown fields that are told at most.
const UNKNOWN_TOLD: usize = 20;

/// Characters of an unknown field's name that are told at most.
const UNKNOWN_CHARS: usize = 100;

/// A fault was found and noted; see [`Fields`].
#[derive(Debug)]
pub struct Invalid;

/// A field's value, or a fault that has been noted.
pub type Checked<T> = Result<T, Invalid>;

/// A body that can be read from its fields. Read all fields before the first `?`, so that all faults are told.
pub trait FromFields: Sized + 'static {
    /// Whether fields that are not read are let pass: the clients of the systems before send more (contract section 2).
    const IGNORES_UNKNOWN: bool = false;

    /// Reads and checks the fields.
    ///
    /// # Errors
    /// After a fault has been noted in `fields`.
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self>;
}

/// The fields of an object as a client gave them, and the faults found so far.
#[derive(Debug)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// the text that the object was read from, if it was JSON
    text: Option<&'a str>,
    part: &'static str,
    faults: Vec<Fault>,
    /// the fields that were read or asked for; others are unknown
    known: RefCell<Vec<&'a str>>,
    /// the limits of what is read, noted by [`Fields::limits_of`] alone
    pub(super) noted: Option<Vec<(String, Limit)>>,
    /// The limits that apply.
    pub limits: &'a Limits,
    /// What passwords must be.
    pub passwords: PasswordRules,
    /// When the request is read.
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
        // a name may be a slip, and what is behind it a password
        let fault = |name: &String| Fault {
            kind: "extra_forbidden",
            loc: vec![self.part.to_owned(), name.chars().take(UNKNOWN_CHARS).collect()],
            msg: "Extra inputs are not permitted".to_owned(),
            input: Value::Null,
        };
        self.faults = unknown.take(UNKNOWN_TOLD).map(fault).collect();
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        let object: &'a Map<String, Value> = self.object;
        let (name, value) = object.get_key_value(name)?;
        self.known.borrow_mut().push(name);
        Some(value)
    }

    /// Whether the field is there, whatever it holds.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Notes a fault of a field.
    pub fn fault(&mut self, kind: &'static str, name: &str, msg: impl Into<String>) -> Invalid {
        // what must not be shown is not shown to its sender either: answers are logged on the way
        let is_secret = name.contains("password") || name.contains("token") || name.contains("device_key");
        let input = self.object.get(name).filter(|_| !is_secret).unwrap_or(&Value::Null);
        self.faults.push(Fault::new(kind, vec![self.part.to_owned(), name.to_owned()], msg, input));
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

    /// A text of so many characters.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn text(&mut self, name: &str, chars: RangeInclusive<usize>) -> Checked<String> {
        self.text_within(name, chars, "")
    }

    /// A text of at least one character, and at most as many as a limit says (0: any); its key is named if it is hit.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn limited_text(&mut self, name: &str, most: usize, limit: &str) -> Checked<String> {
        let most = if most == 0 { usize::MAX } else { most };
        self.text_within(name, 1..=most, &format!(" ({limit})"))
    }

    fn text_within(&mut self, name: &str, chars: RangeInclusive<usize>, limit: &str) -> Checked<String> {
        self.note(name, Limit::Chars(chars.clone()));
        let Value::String(text) = self.value(name)? else {
            return Err(self.fault("string_type", name, "Input should be a valid string"));
        };
        let count = text.chars().count();
        if count < *chars.start() {
            let msg = format!("String should have at least {} characters", chars.start());
            return Err(self.fault("string_too_short", name, msg));
        }
        if count > *chars.end() {
            let msg = format!("String should have at most {} characters{limit}", chars.end());
            return Err(self.fault("string_too_long", name, msg));
        }
        if text.contains('\0') {
            // PostgreSQL can't store it, and nobody means it
            return Err(self.fault("value_error", name, "Value error, must not contain NUL characters"));
        }
        Ok(text.clone())
    }

    /// A text that may be left out or null.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn optional_text(&mut self, name: &str, chars: RangeInclusive<usize>) -> Checked<Option<String>> {
        self.note(name, Limit::Chars(chars.clone()));
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.text(name, chars).map(Some),
        }
    }

    /// A password that is to be set, of somebody with these names.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn new_password(&mut self, name: &str, names: &[&str]) -> Checked<String> {
        let rules = self.passwords;
        let password = self.text(name, rules.min_chars..=passwords::MAX_CHARS)?;
        match rules.check(&password, names) {
            Ok(()) => Ok(password),
            Err(weakness) => Err(self.fault("value_error", name, format!("Value error, {weakness}"))),
        }
    }

    /// An email address, as far as its shape tells.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn email(&mut self, name: &str) -> Checked<String> {
        let email = self.text(name, 0..=254)?;
        if is_email(&email) {
            Ok(email)
        } else {
            Err(self.fault("value_error", name, "value is not a valid email address"))
        }
    }

    /// A UUID in any spelling.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn uuid(&mut self, name: &str) -> Checked<ClientId> {
        let value = self.value(name)?;
        value.as_str().and_then(ClientId::parse).ok_or_else(|| {
            self.fault("uuid_parsing", name, "Input should be a valid UUID, in any of the usual spellings")
        })
    }

    /// True or false, or left out.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn optional_bool(&mut self, name: &str) -> Checked<Option<bool>> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.fault("bool_type", name, "Input should be a valid boolean")),
        }
    }

    /// A text that stands for something else, or left out.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        expected: &str,
    ) -> Checked<Option<T>> {
        let Some(text) = self.optional_text(name, 0..=4096)? else { return Ok(None) };
        match parse(&text) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(self.fault("value_error", name, format!("Value error, expected {expected}"))),
        }
    }

    /// One of some words, or left out.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn one_of<T: Copy>(&mut self, name: &str, words: &[(&'static str, T)]) -> Checked<Option<T>> {
        let expected: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        self.note(name, Limit::Words(expected.clone()));
        let expected = match expected.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        };
        self.parsed(name, |text| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value), &expected)
    }

    /// A list of so many elements that can all be read, or left out.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn optional_list<T>(
        &mut self,
        name: &str,
        items: RangeInclusive<usize>,
        read: impl Fn(&Value) -> Option<T>,
        expected: &str,
    ) -> Checked<Option<Vec<T>>> {
        self.note(name, Limit::Items(items.clone()));
        let Some(list) = self.optional_value(name) else { return Ok(None) };
        let list = list.as_array().filter(|list| list.len() >= *items.start());
        if let Some(list) = list
            && list.len() > *items.end()
        {
            let msg = format!("List should have at most {} items, not {}", items.end(), list.len());
            self.faults.push(Fault::new("too_long", vec![self.part.to_owned(), name.to_owned()], msg, &Value::Null));
            return Err(Invalid);
        }
        match list.and_then(|list| list.iter().map(read).collect()) {
            Some(read) => Ok(Some(read)),
            None => Err(self.fault("value_error", name, format!("Value error, expected {expected}"))),
        }
    }

    /// A field's JSON as it was written, spellings of numbers included, on one line; null counts as left out.
    pub fn optional_json(&self, name: &str) -> Option<String> {
        self.optional_value(name)?;
        let fields: HashMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(self.text?).ok()?;
        // line breaks stand between tokens alone
        fields.get(name).map(|raw| raw.get().replace(['\n', '\r'], ""))
    }

    /// The same text for all spellings of the same object.
    pub fn canonical(&self) -> String {
        json::canonical_object(self.object)
    }

    /// A field that may be left out, whatever it holds; null counts as left out.
    pub fn optional_value(&self, name: &str) -> Option<&'a Value> {
        self.get(name).filter(|value| !value.is_null() || self.noted.is_some())
    }

    /// An object of at most so many bytes as JSON (0: any); `{}` if left out or null.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn optional_object(&mut self, name: &str, bytes: usize, limit: &str) -> Checked<Value> {
        let value = match self.object.get(name) {
            None | Some(Value::Null) => return Ok(Value::Object(Map::new())),
            Some(value @ Value::Object(_)) => value,
            Some(_) => return Err(self.fault("dict_type", name, "Input should be a valid object")),
        };
        let json = value.to_string();
        if bytes > 0 && json.len() > bytes {
            let msg = format!("Value error, must be at most {bytes} bytes of JSON ({limit})");
            return Err(self.fault("value_error", name, msg));
        }
        if json.contains("\\u0000") {
            return Err(self.fault("value_error", name, "Value error, must not contain NUL characters"));
        }
        Ok(value.clone())
    }

    /// A text of at most so many bytes (0: any) and at least one character, such as a chat message.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn content(&mut self, name: &str) -> Checked<String> {
        let most = self.limits.message_bytes;
        // each character has a byte at least
        self.note(name, Limit::Chars(1..=if most == 0 { usize::MAX } else { most }));
        let text = self.text(name, 1..=usize::MAX)?;
        if most > 0 && text.len() > most {
            let msg = format!("String should have at most {most} bytes (limits.message_bytes)");
            return Err(self.fault("string_too_long", name, msg));
        }
        Ok(text)
    }

    /// An integer id, as a number or as a text of digits.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn id(&mut self, name: &str) -> Checked<i64> {
        let value = self.value(name)?;
        value
            .as_str()
            .map_or_else(|| value.as_i64(), |text| text.parse().ok())
            .ok_or_else(|| self.fault("int_parsing", name, "Input should be a valid integer"))
    }

    /// An integer id, or left out.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn optional_id(&mut self, name: &str) -> Checked<Option<i64>> {
        match self.optional_value(name) {
            None => Ok(None),
            Some(_) => self.id(name).map(Some),
        }
    }

    /// A number, or left out or null.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn optional_decimal(
        &mut self,
        name: &str,
        range: impl RangeBounds<f64>,
        expected: &str,
    ) -> Checked<Option<f64>> {
        self.note(name, Limit::Number(range.start_bound().cloned(), range.end_bound().cloned()));
        let Some(value) = self.optional_value(name) else { return Ok(None) };
        match value.as_f64() {
            None => Err(self.fault("float_type", name, "Input should be a valid number")),
            Some(number) if number.is_finite() && range.contains(&number) => Ok(Some(number)),
            Some(_) => Err(self.fault("value_error", name, format!("Value error, expected {expected}"))),
        }
    }

    /// A whole number in a query string, or left out.
    ///
    /// # Errors
    /// After the fault is noted.
    pub fn optional_number(&mut self, name: &str, range: RangeInclusive<u64>) -> Checked<Option<u64>> {
        self.note(name, Limit::Integer(range.clone()));
        let Some(value) = self.optional_value(name) else { return Ok(None) };
        let number = value.as_str().map_or_else(|| value.as_i64(), |text| text.parse().ok());
        let Some(number) = number else {
            return Err(self.fault("int_parsing", name, "Input should be a valid integer"));
        };
        match u64::try_from(number) {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            Ok(number) if number > *range.end() => {
                let msg = format!("Input should be less than or equal to {}", range.end());
                Err(self.fault("less_than_equal", name, msg))
            }
            _ => {
                let msg = format!("Input should be greater than or equal to {}", range.start());
                Err(self.fault("greater_than_equal", name, msg))
            }
        }
    }
}

/// Whether a text has the shape of an email address.
pub fn is_email(text: &str) -> bool {
    let plain = !text.contains(|c: char| c.is_whitespace() || c.is_control());
    plain
        && text.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && domain.contains('.') && !domain.starts_with('.') && !domain.ends_with('.')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn email_addresses_are_told_by_their_shape() {
        for good in ["a@b.co", "first.last+tag@sub.example.org", "ü@exämple.org"] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "a", "@b.co", "a@", "a@b", "a b@c.co", "a@.co", "a@b.", "a@b.co\n"] {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
