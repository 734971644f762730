//! Checks JSON from clients, reads stored JSON, and compares values.
//!
//! serde_json has private keys (`$serde_json::private::…`, from its features `raw_value` and `arbitrary_precision`): an
//! object that begins with one of them is read as a number, or as JSON inside a text that evades the limit on depth. Input
//! with such a key is refused. So is input nested deeper than [`MAX_DEPTH`], since it must be readable again, also as a part
//! of answers and by programs with limits of their own.

use std::fmt::Write;

use memchr::{memchr, memchr2, memchr2_iter};
use serde::de::IgnoredAny;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

/// Most levels of nested objects and arrays in JSON from clients.
pub const MAX_DEPTH: usize = 64;

const RESERVED: &str = "$serde_json::private::";

/// The reason why well-formed JSON is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// The JSON has more than [`MAX_DEPTH`] levels.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A text contains half of a surrogate pair (RFC 8259, section 8.2).
    #[error("texts must not contain half of a surrogate pair")]
    LoneSurrogate,
    /// A key begins with serde_json's private prefix.
    #[error("keys that begin with `{RESERVED}` are reserved")]
    ReservedKey,
}

/// The reason why a text is not read as JSON.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    /// The text is not JSON.
    #[error(transparent)]
    Invalid(#[from] serde_json::Error),
    /// The text is well-formed JSON that is not accepted.
    #[error(transparent)]
    Unacceptable(#[from] Unacceptable),
}

/// Checks whether well-formed JSON is accepted. For malformed text the result has no meaning.
///
/// # Errors
/// The JSON is nested too deeply or has a reserved key.
pub fn check(json: &[u8]) -> Result<(), Unacceptable> {
    // fast path for nearly all texts: few brackets, and neither `$` nor an escape that could spell a reserved key
    let brackets = memchr2_iter(b'[', b'{', json).take(MAX_DEPTH + 1).count();
    if brackets <= MAX_DEPTH && memchr2(b'$', b'\\', json).is_none() { Ok(()) } else { scan(json) }
}

fn scan(json: &[u8]) -> Result<(), Unacceptable> {
    let (mut depth, mut at) = (0, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Unacceptable::TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                // a string without an end is malformed JSON, which the parser reports
                let Some(end) = string_end(json, at) else { return Ok(()) };
                if is_reserved(&json[at..=end]) && is_key(&json[end + 1..]) {
                    return Err(Unacceptable::ReservedKey);
                }
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The position of the closing quote of the string that begins at `start`.
fn string_end(json: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Whether a string, given with its quotes, begins with the reserved prefix, also if it is spelled with escapes.
fn is_reserved(quoted: &[u8]) -> bool {
    let inner = &quoted[1..quoted.len() - 1];
    match inner.first() {
        Some(b'$' | b'\\') if inner.contains(&b'\\') => {
            serde_json::from_slice::<String>(quoted).is_ok_and(|text| text.starts_with(RESERVED))
        }
        Some(b'$') => inner.starts_with(RESERVED.as_bytes()),
        _ => false,
    }
}

/// Whether the string before `rest` is a key: a colon follows.
fn is_key(rest: &[u8]) -> bool {
    rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':')
}

/// Checks whether well-formed JSON can be embedded in other JSON for strict readers: it is accepted, and its texts contain
/// no half of a surrogate pair.
///
/// # Errors
/// The JSON cannot be embedded.
pub fn check_embeddable(json: &[u8]) -> Result<(), Unacceptable> {
    check(json)?;
    let mut at = 0;
    while let Some(start) = json.get(at..).and_then(|rest| memchr(b'"', rest)).map(|offset| at + offset) {
        let Some(end) = string_end(json, start) else { break };
        let quoted = &json[start..=end];
        if memchr(b'\\', quoted).is_some() && serde_json::from_slice::<String>(quoted).is_err() {
            return Err(Unacceptable::LoneSurrogate);
        }
        at = end + 1;
    }
    Ok(())
}

/// Whether a text is JSON that can be embedded in other JSON.
pub fn is_acceptable(text: &str) -> bool {
    check_embeddable(text.as_bytes()).is_ok() && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Parses JSON from a client.
///
/// # Errors
/// The text is not JSON, or JSON that is not accepted.
pub fn parse(json: &[u8]) -> Result<Value, NotRead> {
    if let Err(unacceptable) = check(json) {
        // malformed JSON takes precedence
        serde_json::from_slice::<IgnoredAny>(json)?;
        return Err(unacceptable.into());
    }
    Ok(serde_json::from_slice(json)?)
}

/// Parses a stored object. Returns an empty object if that fails, so that one bad row does not make a list unreadable.
pub fn stored_object(text: &str) -> Value {
    match parse(text.as_bytes()) {
        Ok(object @ Value::Object(_)) => object,
        other => {
            tracing::warn!(cause = ?other.err(), bytes = text.len(), "stored object cannot be read, shown as empty");
            Value::Object(Map::new())
        }
    }
}

/// Stored JSON to be embedded in an answer. If it cannot be embedded, returns it as a JSON string.
pub fn stored(text: &str) -> Box<RawValue> {
    if check_embeddable(text.as_bytes()).is_ok()
        && let Ok(raw) = RawValue::from_string(text.to_owned())
    {
        return raw;
    }
    // does not fail: every text can be written as a JSON string
    to_raw_value(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The canonical text of an object, equal for all spellings of the same value: keys are sorted, numbers are written as exact
/// decimals (`1`, `1.0` and `1e0` are equal, and so are `0.1` and `0.10`, without rounding), escapes in texts are resolved.
pub fn canonical_object(object: &Map<String, Value>) -> String {
    let mut out = String::new();
    put_canonical_object(&mut out, object);
    out
}

/// Whether two texts are spellings of the same object.
pub fn is_same_object(one: &[u8], other: &[u8]) -> bool {
    let canonical = |text| match parse(text) {
        Ok(Value::Object(object)) => Some(canonical_object(&object)),
        _ => None,
    };
    // most repetitions are spelled as before
    one == other || canonical(one).is_some_and(|one| canonical(other) == Some(one))
}

fn put_canonical(out: &mut String, value: &Value) {
    match value {
        Value::Number(number) => put_decimal(out, number.as_str()),
        Value::Array(items) => {
            out.push('[');
            for item in items {
                put_canonical(out, item);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(fields) => put_canonical_object(out, fields),
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

fn put_canonical_object(out: &mut String, fields: &Map<String, Value>) {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_unstable_by_key(|(key, _)| *key);
    out.push('{');
    for (key, value) in fields {
        // writing to a String does not fail
        let _ = write!(out, "{}:", Value::from(key.as_str()));
        put_canonical(out, value);
        out.push(',');
    }
    out.push('}');
}

/// Appends a number as its digits, without zeros at either end, and a power of ten.
fn put_decimal(out: &mut String, number: &str) {
    let (sign, rest) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    // a number whose exponent exceeds an i64 is kept as it is spelled
    let Ok(exponent) = exponent.parse::<i64>() else { return out.push_str(number) };
    if significant.is_empty() {
        return out.push('0');
    }
    let zeros = digits.len() - digits.trim_end_matches('0').len();
    let exponent = i128::from(exponent) - fraction.len() as i128 + zeros as i128;
    let _ = write!(out, "{sign}{significant}e{exponent}");
}

/// The text of an object behind its opening brace, so that fields can be put before its own.
pub fn behind_brace(object: &str) -> &str {
    object.find('{').map_or(object, |brace| &object[brace + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn depth_is_counted_outside_of_texts_alone() {
        assert_eq!(check(nested(64).as_bytes()), Ok(()));
        assert_eq!(check(nested(65).as_bytes()), Err(Unacceptable::TooDeep));
        assert_eq!(check(nested(100_000).as_bytes()), Err(Unacceptable::TooDeep));
        let in_text = format!(r#"{{"a": "\"{}", "b\\": [{}]}}"#, "[{".repeat(100), nested(62));
        assert_eq!(check(in_text.as_bytes()), Ok(()));
        let wide = format!("[{}[]]", "[],".repeat(1000));
        assert_eq!(check(wide.as_bytes()), Ok(()));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65));
        assert_eq!(check(objects.as_bytes()), Err(Unacceptable::TooDeep));
    }

    #[test]
    fn a_reserved_key_is_found_however_it_is_spelled_and_a_text_may_say_anything() {
        for json in [
            r#"{"$serde_json::private::Number": "1"}"#,
            r#"{"$serde_json::private::RawValue": "[[["}"#,
            r#"[{"a": {"$serde_json::private::RawValue"
                : "1"}}]"#,
            r#"{"\u0024serde_json::private::Number":"1"}"#,
            r#"{"$serde_json::privat\u0065::RawV\u0061lue":"1"}"#,
            r#"{"a\\":1,"\u0024\u0073erde_json::private::Later":1}"#,
        ] {
            assert_eq!(check(json.as_bytes()), Err(Unacceptable::ReservedKey), "{json}");
            assert!(matches!(parse(json.as_bytes()), Err(NotRead::Unacceptable(_))), "{json}");
        }
        for json in [
            r#"{"a": "$serde_json::private::Number"}"#,
            r#"["$serde_json::private::Number", ":"]"#,
            r#"{"$": 1, "\u0024serde_json": 2, "x$serde_json::private::Number": 3}"#,
            r#"{"a": "\"$serde_json::private::Number\":"}"#,
        ] {
            assert_eq!(check(json.as_bytes()), Ok(()), "{json}");
            assert!(parse(json.as_bytes()).is_ok(), "{json}");
        }
    }

    #[test]
    fn what_is_not_json_is_told_as_that() {
        let deep = "[".repeat(1000);
        for json in ["", "[[[", r#"{"$serde_json::private::Number": "#, r#"{"a"#, r#""\"#, &deep] {
            assert!(matches!(parse(json.as_bytes()), Err(NotRead::Invalid(_))), "{json}");
        }
    }

    #[test]
    fn what_was_stored_is_read_or_replaced() {
        assert_eq!(stored_object(r#"{"a":1.50}"#).to_string(), r#"{"a":1.50}"#);
        assert_eq!(stored(r#"{"a": 1.50}"#).get(), r#"{"a": 1.50}"#);
        let deep = nested(20_000);
        for lone in [r#""\ud800""#, r#"{"\udc00": 1}"#, r#"["a\\", "\ud800\u0041"]"#] {
            assert_eq!(check_embeddable(lone.as_bytes()), Err(Unacceptable::LoneSurrogate), "{lone}");
            assert!(!is_acceptable(lone), "{lone}");
            assert_eq!(serde_json::from_str::<String>(stored(lone).get()).unwrap(), lone);
        }
        assert!(is_acceptable(r#"{"a": "\ud83d\ude00 \\ud800"}"#));
        for bad in [r#"{"$serde_json::private::RawValue":"[[["}"#, "nope", "", &deep] {
            assert_eq!(stored_object(bad), serde_json::json!({}));
            assert_eq!(serde_json::from_str::<String>(stored(bad).get()).unwrap(), bad);
        }
        assert_eq!(stored_object("[1]"), serde_json::json!({}));
    }

    #[test]
    fn spellings_of_one_value_are_the_same() {
        let canonical = |json: &str| {
            let mut out = String::new();
            put_canonical(&mut out, &parse(json.as_bytes()).unwrap());
            out
        };
        for same in [
            ["1", "1.0"],
            ["1e0", "10e-1"],
            ["100", "1E+2"],
            ["0", "-0.00e7"],
            ["0.1", "0.10"],
            ["-120.50", "-1205e-1"],
            [r#"{"a": 1, "b": [true, null]}"#, "{\"b\":[true,\n null],\"a\":1.0}"],
            [r#""é/""#, r#""\u00e9\/""#],
            [r#"{"a":1,"a":2}"#, r#"{"a":2}"#],
        ] {
            assert_eq!(canonical(same[0]), canonical(same[1]), "{same:?}");
        }
        for different in [
            ["1", "-1"],
            ["1", "10"],
            ["1", r#""1""#],
            ["9007199254740993", "9007199254740992"],
            ["0.1", "0.1000000000000000055511151231257827"],
            ["1e400", "1e401"],
            ["1e99999999999999999999", "1"],
            ["null", r#""null""#],
            ["[1,2]", "[2,1]"],
            ["[12]", "[1,2]"],
            [r#"{"a":1}"#, r#"{"a":1,"b":null}"#],
            [r#"{"a":"b"}"#, r#"["a","b"]"#],
        ] {
            assert_ne!(canonical(different[0]), canonical(different[1]), "{different:?}");
        }
    }
}
