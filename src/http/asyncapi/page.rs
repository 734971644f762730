//! The page at `/docs/frames`: the AsyncAPI document for people, as HTML without scripts.

use std::{
    fmt::{self, Display},
    sync::LazyLock,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::DOCUMENT;

const STYLE: &str = include_str!("page.css");

/// The page. Made once, at the first request.
pub(in crate::http) static PAGE: LazyLock<String> = LazyLock::new(|| page(&DOCUMENT));

/// The source of its style sheet for a content security policy: the digest of the one that is in the page.
pub(in crate::http) static STYLE_SOURCE: LazyLock<String> =
    LazyLock::new(|| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(STYLE))));

/// A text of the document in HTML; what is in backticks becomes code.
struct Prose<'a>(&'a str);

impl Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, part) in self.0.split('`').enumerate() {
            match place % 2 {
                0 => write!(f, "{}", Plain(part))?,
                _ => write!(f, "<code>{}</code>", Plain(part))?,
            }
        }
        Ok(())
    }
}

/// A text in HTML.
struct Plain<'a>(&'a str);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = self.0.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        f.write_str(&escaped)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What a reference names.
fn resolved<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    document.pointer(text(&reference["$ref"]).trim_start_matches('#')).unwrap_or(&Value::Null)
}

fn page(document: &Value) -> String {
    let info = &document["info"];
    let channels: Vec<_> = entries(&document["channels"]).collect();
    let links = channels.iter().map(|(name, channel)| {
        let (title, path) = (Plain(text(&channel["title"])), Plain(text(&channel["address"])));
        format!("<li><a href=\"#{name}\">{title}</a> <code>{path}</code></li>")
    });
    let schemes = entries(&document["components"]["securitySchemes"]);
    let schemes = schemes.map(|(_, scheme)| format!("<li>{}</li>", Prose(text(&scheme["description"]))));
    let sections = channels.iter().map(|(name, channel)| section(document, name, channel));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Frames · {title}</title><style>{STYLE}</style></head><body>\n\
         <nav><strong>{title} {version}</strong><ul>{links}</ul>\
         <p><a href=\"/docs\">HTTP routes</a><br><a href=\"/asyncapi.json\">asyncapi.json</a></p></nav>\n<main>\
         <h1>Frames</h1>\
         <p>What clients and the broker send each other over WebSockets. The credentials and the query of a handshake decide which of the sockets with the same path it is.</p>\
         <p>Frames are JSON objects in text frames, except where it says otherwise. Objects from clients may have further fields; clients should ignore fields that they do not know. \
         Programs can read all of this at <a href=\"/asyncapi.json\">/asyncapi.json</a> (AsyncAPI {specification}).</p>\
         <p>A token is given in one of these ways; the first that is found counts:</p><ul>{schemes}</ul>\n{sections}</main></body></html>\n",
        title = Plain(text(&info["title"])),
        version = Plain(text(&info["version"])),
        specification = Plain(text(&document["asyncapi"])),
        links = links.collect::<String>(),
        schemes = schemes.collect::<String>(),
        sections = sections.collect::<String>(),
    )
}

fn section(document: &Value, name: &str, channel: &Value) -> String {
    let about = Prose(text(&channel["description"])).to_string();
    let mut section = format!(
        "<section id=\"{name}\"><h2>{} <code>{}</code></h2><p>{about}</p>",
        Plain(text(&channel["title"])),
        Plain(text(&channel["address"])),
    );
    let query = &channel["bindings"]["ws"]["query"];
    if query.is_object() {
        section += &format!("<h3>Query</h3>{}", fields(query));
    }
    for (action, title) in [("receive", "Clients send"), ("send", "Clients get")] {
        let messages = &document["operations"][format!("{name}.{action}")]["messages"];
        let frames: String = elements(messages)
            .map(|reference| resolved(document, resolved(document, reference)))
            .map(|message| frame(name, message))
            .collect();
        if !frames.is_empty() {
            section += &format!("<h3>{title}</h3>{frames}");
        }
    }
    let codes = |key: &str, columns: &[&str]| table(columns, elements(&channel[key]), columns);
    section += &format!("<h3>Codes of error frames</h3>{}", codes("x-error-codes", &["code", "because"]));
    section += &format!("<h3>Close codes</h3>{}", codes("x-close-codes", &["code", "because", "reconnect"]));
    section += &format!("<h3>Refused handshakes</h3>{}", codes("x-refusals", &["status", "because"]));
    section + "</section>\n"
}

/// A table of objects, with one column for each of the keys.
fn table<'a>(heads: &[&str], rows: impl Iterator<Item = &'a Value>, keys: &[&str]) -> String {
    let heads: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
    let cell = |(place, value): (usize, &Value)| match value.as_str() {
        Some(text) if place > 0 => format!("<td>{}</td>", Prose(text)),
        Some(text) => format!("<td><code>{}</code></td>", Plain(text)),
        None => format!("<td><code>{value}</code></td>"),
    };
    let cells = |row: &Value| keys.iter().map(|key| &row[*key]).enumerate().map(cell).collect::<String>();
    let rows = rows.map(|row| format!("<tr>{}</tr>", cells(row)));
    format!("<table><thead><tr>{heads}</tr></thead><tbody>{}</tbody></table>", rows.collect::<String>())
}

fn frame(channel: &str, message: &Value) -> String {
    let (name, payload) = (text(&message["name"]), &message["payload"]);
    let kind = &payload["properties"]["type"];
    let kinds: Vec<_> = kind.get("const").into_iter().chain(elements(&kind["enum"])).map(text).collect();
    let kinds = kinds.iter().map(|kind| format!(" <code>{}</code>", Plain(kind))).collect::<String>();
    let examples = elements(&message["examples"]).map(|example| match &example["payload"] {
        Value::String(text) => format!("<pre>{}</pre>", Plain(text)),
        json => format!("<pre>{}</pre>", Plain(&serde_json::to_string_pretty(json).unwrap_or_default())),
    });
    format!(
        "<article id=\"{channel}-{name}\"><h4><a href=\"#{channel}-{name}\">{name}</a>{kinds}</h4><p>{}</p><div><div>{}</div><div>{}</div></div></article>",
        Prose(text(&message["summary"])),
        fields(payload),
        examples.collect::<String>(),
    )
}

/// The fields of an object, as a table; of a list also those of its elements.
fn fields(schema: &Value) -> String {
    let mut rows = String::new();
    add_fields(&mut rows, "", schema);
    if rows.is_empty() {
        return String::new();
    }
    format!("<table><thead><tr><th>field</th><th>value</th><th>meaning</th></tr></thead><tbody>{rows}</tbody></table>")
}

fn add_fields(rows: &mut String, prefix: &str, schema: &Value) {
    for (name, field) in entries(&schema["properties"]) {
        let is_required = elements(&schema["required"]).any(|one| one == name);
        let optional = if is_required { "" } else { " <em>optional</em>" };
        let (about, kind) = (Prose(text(&field["description"])), kind(field));
        let name = format!("{prefix}{}", Plain(name));
        *rows += &format!("<tr><td><code>{name}</code>{optional}</td><td>{kind}</td><td>{about}</td></tr>");
        add_fields(rows, &format!("{name}[]."), &field["items"]);
    }
    let others = &schema["additionalProperties"];
    if others.is_object() {
        *rows += &format!("<tr><td><em>each id</em></td><td>{}</td><td></td></tr>", kind(others));
    }
}

/// What a value may be.
fn kind(schema: &Value) -> String {
    let code = |value: &Value| format!("<code>{}</code>", Plain(&value.to_string()));
    if let Some(only) = schema.get("const") {
        return code(only);
    }
    if schema["enum"].is_array() {
        return elements(&schema["enum"]).map(code).collect::<Vec<_>>().join(" ");
    }
    let mut kind = match &schema["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        _ => "any JSON".to_owned(),
    };
    if let Some(format) = schema["format"].as_str() {
        kind = format!("{kind} ({format})");
    }
    if let Some(most) = schema["maxLength"].as_u64() {
        kind += &format!(", at most {most} characters");
    }
    match (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
        (Some(least), Some(most)) => kind += &format!(" from {least} to {most}"),
        (Some(least), None) => kind += &format!(" from {least}"),
        _ => {}
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        assert_eq!(Prose("a<b `c&d` \"e\"").to_string(), "a&lt;b <code>c&amp;d</code> &quot;e&quot;");
    }
}
