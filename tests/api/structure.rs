//! The modules of the program and what they may use (the table in `src/lib.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// The source files below `src/`.
fn sources() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    files(Path::new(SOURCES), &mut paths);
    paths
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A file's code, its tests and comments left out.
fn code(path: &Path) -> String {
    let within = path.strip_prefix(SOURCES).unwrap();
    if within.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs") {
        return String::new();
    }
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("mod tests {").next().unwrap_or_default();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    // there it is another name of the same
    if within.components().count() == 1 { code.replace("super::", "crate::") } else { code }
}

/// The top module that a file below `src/` belongs to.
fn module(path: &Path) -> String {
    let within = path.strip_prefix(SOURCES).unwrap();
    within.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The modules that code names behind a prefix as `crate::`.
fn named(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, start) in code.match_indices(prefix) {
        let rest = &code[at + start.len()..];
        match rest.strip_prefix('{') {
            None => names.extend(first_name(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut begins = true;
                for (at, character) in list.char_indices() {
                    if begins && depth == 0 && character.is_alphabetic() {
                        names.extend(first_name(&list[at..]));
                        begins = false;
                    }
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect();
    Some(name).filter(|name| name.starts_with(char::is_lowercase))
}

/// The modules in the order of the table in `src/lib.rs`, from the top down.
fn table() -> Vec<String> {
    let map = fs::read_to_string(format!("{SOURCES}/lib.rs")).unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | [`")?.split('`').next().map(str::to_owned));
    rows.collect()
}

#[test]
fn a_module_uses_only_those_below_it_in_the_table() {
    let table = table();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in sources() {
        let module = module(&path);
        if module != "lib" && module != "main" {
            uses.entry(module).or_default().extend(named(&code(&path), "crate::"));
        }
    }
    // else the code was not read
    assert!(uses["http"].contains("domain"), "{uses:?}");
    for row in &table {
        assert!(uses.contains_key(row), "{row} is in the table and not in the tree");
    }
    for (module, used) in &uses {
        let place =
            table.iter().position(|row| row == module).unwrap_or_else(|| panic!("{module} is not in the table"));
        for other in used.iter().filter(|other| *other != module) {
            let below = table.iter().position(|row| row == other);
            let is_below = below.is_some_and(|below| below > place);
            assert!(is_below, "{module} uses {other}, which is not below it");
        }
    }
}

#[test]
fn actors_use_each_other_in_one_direction() {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let folder = Path::new(SOURCES).join("actors");
    for path in sources().iter().filter(|path| path.starts_with(&folder)) {
        let within = path.strip_prefix(&folder).unwrap();
        let parents = "super::".repeat(within.components().count());
        let code = code(path).replace(&parents, "actors::");
        let actor = within.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        assert!(actor == "registry" || !code.contains("directory.put("), "{actor} is not the Registry");
        uses.entry(actor.to_owned())
            .or_default()
            .extend(named(&code, "actors::").into_iter().filter(|one| one != actor));
    }
    assert!(uses["registry"].contains("topic_manager"), "the code was not read: {uses:?}");
    // takes away what uses nothing that is left, until a circle is left or nothing
    while let Some(last) = uses.iter().find(|(_, used)| used.is_empty()).map(|(actor, _)| actor.clone()) {
        uses.remove(&last);
        uses.values_mut().for_each(|used| _ = used.remove(&last));
    }
    assert!(uses.is_empty(), "a circle: {uses:?}");
}

#[test]
fn errors_of_http_answers_are_named_in_http_alone() {
    for path in sources().iter().filter(|path| module(path) != "http") {
        let text = fs::read_to_string(path).unwrap();
        assert!(!text.contains("ApiError"), "{}: a layer has errors of its own", path.display());
    }
}

/// Programs of their own: the command line, the benchmarks and the client that both use.
const PROGRAMS: [&str; 4] = ["bench", "cli", "client", "terminal"];

#[test]
fn routes_are_registered_in_their_table_alone() {
    let table = Path::new(SOURCES).join("http/routes.rs");
    for path in sources().iter().filter(|path| **path != table) {
        let code = code(path);
        for call in ["web::resource(", "web::scope(", "web::redirect(", ".route(", ".service("] {
            assert!(!code.contains(call), "{} calls {call}: the documents would not have the route", path.display());
        }
    }
}

#[test]
fn only_the_clock_asks_the_system_for_the_time() {
    let mut paths = sources();
    paths.retain(|path| module(path) != "clock" && !PROGRAMS.contains(&module(path).as_str()));
    for path in paths {
        let code = code(&path);
        for call in ["Utc::now", "Local::now", "SystemTime::now", "UNIX_EPOCH.elapsed"] {
            assert!(!code.contains(call), "{} calls {call}: it should be given a Clock", path.display());
        }
    }
}
