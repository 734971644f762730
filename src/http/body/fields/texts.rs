//! Fields that are texts.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::{Checked, Fields};
use crate::{
    domain::{ids::ClientId, passwords, usernames},
    http::body::limits::Limit,
};

/// Longest text that is compared with the words of a field. A longer one gets the error of other texts that are too long.
const MAX_WORD_CHARS: usize = 20;

impl Fields<'_> {
    /// A text with this number of characters.
    ///
    /// # Errors
    /// The field is invalid.
    pub fn text(&mut self, name: &str, chars: RangeInclusive<usize>) -> Checked<String> {
        self.text_within(name, chars, "")
    }

    /// A text of at least one and at most `most` characters (0: any). `limit` is the key that sets `most`.
    ///
    /// # Errors
    /// The field is invalid.
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
            // PostgreSQL can't store it
            return Err(self.fault("value_error", name, "Value error, must not contain NUL characters"));
        }
        Ok(text.clone())
    }

    /// A text that may be left out or null.
    ///
    /// # Errors
    /// The field is invalid.
    pub fn optional_text(&mut self, name: &str, chars: RangeInclusive<usize>) -> Checked<Option<String>> {
        self.note(name, Limit::Chars(chars.clone()));
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.text(name, chars).map(Some),
        }
    }

    /// The content of a chat message: a text of at least one character and at most `limits.message_bytes`.
    ///
    /// # Errors
    /// The field is invalid.
    pub fn content(&mut self, name: &str) -> Checked<String> {
        let most = self.limits.message_bytes;
        // a character has at least one byte
        self.note(name, Limit::Chars(1..=if most == 0 { usize::MAX } else { most }));
        let text = self.text(name, 1..=usize::MAX)?;
        if most > 0 && text.len() > most {
            let msg = format!("String should have at most {most} bytes (limits.message_bytes)");
            return Err(self.fault("string_too_long", name, msg));
        }
        Ok(text)
    }

    /// A new password for a user with these names.
    ///
    /// # Errors
    /// The field is invalid.
    pub fn new_password(&mut self, name: &str, names: &[&str]) -> Checked<String> {
        let rules = self.passwords;
        let password = self.text(name, rules.min_chars..=passwords::MAX_CHARS)?;
        match rules.check(&password, names) {
            Ok(()) => Ok(password),
            Err(weakness) => Err(self.fault("value_error", name, format!("Value error, {weakness}"))),
        }
    }

    /// A text that has the shape of an email address.
    ///
    /// # Errors
    /// The field is invalid.
    pub fn email(&mut self, name: &str) -> Checked<String> {
        let email = self.text(name, 0..=usernames::MAX_EMAIL_CHARS)?;
        if usernames::is_email(&email) {
            Ok(email)
        } else {
            Err(self.fault("value_error", name, "value is not a valid email address"))
        }
    }

    /// A UUID in any spelling.
    ///
    /// # Errors
    /// The field is invalid.
    pub fn uuid(&mut self, name: &str) -> Checked<ClientId> {
        let value = self.value(name)?;
        value.as_str().and_then(ClientId::parse).ok_or_else(|| {
            self.fault("uuid_parsing", name, "Input should be a valid UUID, in any of the usual spellings")
        })
    }

    /// A text that `parse` accepts, or left out.
    ///
    /// # Errors
    /// The field is invalid.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        expected: &str,
    ) -> Checked<Option<T>> {
        self.parsed_within(name, 4096, parse, expected)
    }

    fn parsed_within<T>(
        &mut self,
        name: &str,
        most: usize,
        parse: impl FnOnce(&str) -> Option<T>,
        expected: &str,
    ) -> Checked<Option<T>> {
        let Some(text) = self.optional_text(name, 0..=most)? else { return Ok(None) };
        match parse(&text) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(self.fault("value_error", name, format!("Value error, expected {expected}"))),
        }
    }

    /// One of these words, or left out.
    ///
    /// # Errors
    /// The field is invalid.
    pub fn one_of<T: Copy>(&mut self, name: &str, words: &[(&'static str, T)]) -> Checked<Option<T>> {
        let expected: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        self.note(name, Limit::Words(expected.clone()));
        let expected = match expected.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        };
        let parse = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        self.parsed_within(name, MAX_WORD_CHARS, parse, &expected)
    }
}
