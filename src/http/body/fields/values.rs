//! Fields that are numbers, lists, objects, or any JSON.

use std::{
    borrow::Cow,
    collections::HashMap,
    ops::{RangeBounds, RangeInclusive},
};

use serde_json::{Map, Value, value::RawValue};

use super::{Checked, Fault, Fields, Invalid};
use crate::{http::body::limits::Limit, protocol::json};

impl<'a> Fields<'a> {
    /// True or false, or left out.
    ///
    /// # Errors
    /// The field is invalid.
    pub fn optional_bool(&mut self, name: &str) -> Checked<Option<bool>> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.fault("bool_type", name, "Input should be a valid boolean")),
        }
    }

    /// A list with this number of elements, each of which `read` accepts, or left out.
    ///
    /// # Errors
    /// The field is invalid.
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

    /// A field that must be there, with any value but null.
    ///
    /// # Errors
    /// The field is invalid.
    pub fn not_null(&mut self, name: &str) -> Checked<()> {
        if self.optional_value(name).is_some() { Ok(()) } else { Err(self.missing(name)) }
    }

    /// A field of any value; null counts as left out.
    pub fn optional_value(&self, name: &str) -> Option<&'a Value> {
        self.get(name).filter(|value| !value.is_null() || self.noted.is_some())
    }

    /// The JSON text of a field as the client wrote it, on one line; null counts as left out.
    pub fn optional_json(&self, name: &str) -> Option<String> {
        self.optional_value(name)?;
        let fields: HashMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(self.text?).ok()?;
        // in JSON, line breaks occur only between tokens
        fields.get(name).map(|raw| raw.get().replace(['\n', '\r'], ""))
    }

    /// The canonical JSON of the whole object, which is the same for all its spellings.
    pub fn canonical(&self) -> String {
        json::canonical_object(self.object)
    }

    /// An object of at most `bytes` bytes of JSON (0: any); `{}` if left out or null. `limit` is the key that sets `bytes`.
    ///
    /// # Errors
    /// The field is invalid.
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

    /// An integer id, as a number or as a text of digits.
    ///
    /// # Errors
    /// The field is invalid.
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
    /// The field is invalid.
    pub fn optional_id(&mut self, name: &str) -> Checked<Option<i64>> {
        match self.optional_value(name) {
            None => Ok(None),
            Some(_) => self.id(name).map(Some),
        }
    }

    /// A number, or left out or null.
    ///
    /// # Errors
    /// The field is invalid.
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
    /// The field is invalid.
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
