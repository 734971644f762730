//! Limits of fields for the OpenAPI document, found out by running the checks.

use std::ops::{Bound, RangeInclusive};

use chrono::DateTime;
use serde_json::Value;

use super::fields::{Fields, FromFields};
use crate::settings::Settings;

/// A limit of a field, as far as a schema can express it.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// Characters of a text.
    Chars(RangeInclusive<usize>),
    /// Elements of a list.
    Items(RangeInclusive<usize>),
    /// A whole number.
    Integer(RangeInclusive<u64>),
    /// Any number.
    Number(Bound<f64>, Bound<f64>),
    /// One of these words.
    Words(Vec<&'static str>),
}

impl Fields<'_> {
    /// The limits of the fields with these names: `T` reads an object of nulls, and each check notes its limit.
    pub fn limits_of<T: FromFields>(names: &[&str], settings: &Settings) -> Vec<(String, Limit)> {
        let object = names.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
        let mut fields = Fields::of(&object, None, "body", settings, DateTime::UNIX_EPOCH);
        fields.noted = Some(Vec::new());
        // the nulls are invalid
        let _ = T::from_fields(&mut fields);
        fields.noted.unwrap_or_default()
    }

    pub(super) fn note(&mut self, name: &str, limit: Limit) {
        if let Some(limits) = &mut self.noted
            && limits.iter().all(|(noted, _)| noted != name)
        {
            limits.push((name.to_owned(), limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::{super::Checked, *};
    use crate::settings::{self, Flags};

    struct Sample;

    impl FromFields for Sample {
        fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
            let name = fields.text("name", 1..=20);
            let count = fields.optional_number("count", 0..=9);
            let role = fields.has("role").then(|| fields.one_of("role", &[("one", 1), ("other", 2)])).transpose();
            let email = fields.optional_value("email").map(|_| fields.email("email")).transpose();
            let list = fields.optional_list("list", 1..=3, Value::as_u64, "numbers");
            let _all = (name?, count?, role?, email?, list?);
            Ok(Self)
        }
    }

    #[test]
    fn limits_are_those_that_are_checked() {
        let settings = settings::load(&Flags::default()).unwrap();
        let limits = Fields::limits_of::<Sample>(&["name", "count", "role", "email", "list"], &settings);
        let expected = [
            ("name", Limit::Chars(1..=20)),
            ("count", Limit::Integer(0..=9)),
            ("role", Limit::Words(vec!["one", "other"])),
            ("email", Limit::Chars(0..=254)),
            ("list", Limit::Items(1..=3)),
        ];
        assert_eq!(limits, expected.map(|(name, limit)| (name.to_owned(), limit)));
        let object = json!({ "name": "x", "list": [1, 2, 3], "role": "other" });
        let read =
            |object: &Map<String, Value>| Fields::read::<Sample>(object, None, "body", &settings, DateTime::UNIX_EPOCH);
        read(object.as_object().unwrap()).unwrap();
        for bad in [json!({ "list": [1, 2, 3, 4] }), json!({ "list": [] }), json!({ "role": "third" })] {
            let mut object = object.as_object().unwrap().clone();
            object.extend(bad.as_object().unwrap().clone());
            assert!(read(&object).is_err(), "{bad}");
        }
    }
}
