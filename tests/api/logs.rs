//! The names of fields in log lines (docs/logs.md).

use std::{collections::BTreeSet, fs, path::Path};

const PAGE: &str = include_str!("../../docs/logs.md");

/// The arguments of a macro: what stands between its parentheses, divided at commas that are in no brackets or texts.
fn arguments(code: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut is_text, mut before) = (vec![String::new()], 0, false, ' ');
    for c in code.chars() {
        match c {
            '"' if before != '\\' => is_text = !is_text,
            '(' | '[' | '{' if !is_text => depth += 1,
            ')' | ']' | '}' if !is_text && depth == 0 => break,
            ')' | ']' | '}' if !is_text => depth -= 1,
            ',' if !is_text && depth == 0 => {
                arguments.push(String::new());
                before = c;
                continue;
            }
            _ => {}
        }
        before = c;
        arguments.last_mut().unwrap().push(c);
    }
    arguments.into_iter().map(|argument| argument.trim().to_owned()).collect()
}

/// The name of a field: `name = value`, `%name`, `?name` or `name`.
fn field(argument: &str) -> Option<&str> {
    let name = argument.split(" = ").next()?.trim_start_matches(['%', '?']);
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c));
    // of `settings.load` the last part
    is_name.then(|| name.rsplit('.').next().unwrap_or(name))
}

fn collect(folder: &Path, fields: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_left_out = ["tests", "tests.rs", "bench"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && !is_left_out {
            collect(&path, fields);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_left_out {
            let text = fs::read_to_string(&path).unwrap();
            for level in ["trace", "debug", "info", "warn", "error"] {
                for begin in [format!("tracing::{level}!("), format!("tracing::{level}_span!(")] {
                    for (at, _) in text.match_indices(&begin) {
                        let arguments = arguments(&text[at + begin.len()..]);
                        fields.extend(arguments.iter().filter_map(|argument| field(argument)).map(str::to_owned));
                    }
                }
            }
        }
    }
}

#[test]
fn each_field_of_a_log_line_is_documented() {
    let mut fields = BTreeSet::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut fields);
    assert!(fields.contains("gateway") && fields.contains("correlation"), "{fields:?}");
    let unknown: Vec<_> = fields.iter().filter(|field| !PAGE.contains(&format!("`{field}`"))).collect();
    assert!(unknown.is_empty(), "not in docs/logs.md: {unknown:?}");
}
