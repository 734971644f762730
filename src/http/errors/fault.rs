//! A fault of a request body, a query or a path.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

/// One fault in the input, in FastAPI's shape.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Fault {
    /// FastAPI's name for it.
    #[serde(rename = "type")]
    #[schema(example = "missing")]
    pub kind: &'static str,
    /// Where it is: `body`, `query` or `path`, then the field.
    #[schema(value_type = Vec<String>, example = json!(["body", "topic_id"]))]
    pub loc: Vec<String>,
    /// What is wrong.
    #[schema(example = "Field required")]
    pub msg: String,
    /// What was given; of more than a KiB, its beginning as a text.
    #[schema(value_type = serde_json::Value)]
    pub input: Value,
}

/// Most bytes of the input that a fault repeats.
const SHOWN: usize = 1024;

impl Fault {
    /// A fault at `loc`. A long input is cut.
    pub fn new(kind: &'static str, loc: Vec<String>, msg: impl Into<String>, input: &Value) -> Self {
        Self { kind, loc, msg: msg.into(), input: shown(input) }
    }
}

/// A value, or the beginning of its text if it is long, so that an answer stays small.
fn shown(input: &Value) -> Value {
    let mut beginning = Beginning(Vec::new());
    let is_whole = match input {
        Value::String(text) => beginning.write_all(text.as_bytes()).is_ok(),
        other => serde_json::to_writer(&mut beginning, other).is_ok(),
    };
    if is_whole {
        return input.clone();
    }
    // the last character may be cut
    let text = beginning.0.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    format!("{text}…").into()
}

/// A writer that takes [`SHOWN`] bytes and fails on more.
struct Beginning(Vec<u8>);

impl Write for Beginning {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(SHOWN - self.0.len());
        self.0.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_shows_what_is_short_and_the_beginning_of_what_is_long() {
        for short in [json!(null), json!(5), json!("x".repeat(SHOWN)), json!({ "a": [1, "b"] })] {
            assert_eq!(shown(&short), short);
        }
        assert_eq!(shown(&json!("x".repeat(SHOWN + 1))), format!("{}…", "x".repeat(SHOWN)));
        // no half characters
        assert_eq!(shown(&json!(format!("x{}", "ü".repeat(SHOWN)))), format!("x{}…", "ü".repeat(SHOWN / 2 - 1)));
        for long in [json!(["y".repeat(SHOWN)]), json!(vec![1; SHOWN]), json!({ "a": "ü".repeat(SHOWN) })] {
            let Value::String(text) = shown(&long) else { panic!("a text") };
            assert!(text.len() <= SHOWN + 3 && long.to_string().starts_with(text.trim_end_matches('…')), "{text}");
        }
    }
}
