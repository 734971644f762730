//! The README's walks, done word by word, and twice.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::json;

use crate::support::{Broker, ChangeBroker, Program, get, post};

const README: &str = include_str!("../../README.md");

/// A part of the README under one heading.
fn section(heading: &str) -> &'static str {
    section_of(README, heading)
}

/// A part of a document under one heading.
pub fn section_of<'a>(document: &'a str, heading: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

/// The lines of a section of the README that are to be typed into a shell.
fn shell_lines(heading: &str) -> Vec<&'static str> {
    shell_lines_of(README, heading)
}

/// The same of any document.
pub fn shell_lines_of<'a>(document: &'a str, heading: &str) -> Vec<&'a str> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in section_of(document, heading).lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if let Some(line) = line.strip_prefix("    ")
            && !is_code
        {
            lines.push(line);
        }
    }
    assert!(!lines.is_empty(), "{heading}");
    lines
}

/// A directory with a Python that has what the README tells to install.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(install_python)
}

fn install_python() -> PathBuf {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme-venv");
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?} {}", String::from_utf8_lossy(&output.stderr));
    };
    let has_it = Command::new(venv.join("bin/python3")).args(["-c", "import websockets"]).output();
    if !has_it.is_ok_and(|output| output.status.success()) {
        run(Path::new("python3"), &["-m", "venv", "--clear", &venv.display().to_string()]);
        run(&venv.join("bin/python3"), &["-m", "pip", "install", "--quiet", "websockets"]);
    }
    venv.join("bin")
}

/// Runs a script where the broker has its data, with Python and `switchboard` on the PATH.
fn bash(broker: &mut Broker, script: &str) -> String {
    bash_in(broker.setup(), script)
}

/// The same, whether or not a broker runs there.
pub fn bash_in(setup: &mut ChangeBroker, script: &str) -> String {
    let dir = setup.dir();
    let bin = dir.join("bin");
    if !bin.exists() {
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_switchboard"), bin.join("switchboard")).unwrap();
    }
    let path = format!("{}:{}:{}", python().display(), bin.display(), std::env::var("PATH").unwrap());
    let mut command = setup.command_of("bash", &["-euo", "pipefail", "-c", script]);
    let output = command.env("PATH", path).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}\n{script}", output.status);
    out
}

/// What is printed here is read by a script: what goes on for ever goes on beside it until it has said this.
pub fn in_the_background(line: &str, until: &str) -> String {
    format!(
        "rm -f beside.log; {line} > beside.log 2>&1 & beside=$!\nuntil grep -q '{until}' beside.log; do kill -0 $beside; sleep 0.05; done"
    )
}

#[tokio::test]
async fn the_walks_work_as_printed_and_once_more() {
    let mut broker = Broker::start().await;
    let (_, example) = section("A walk of five minutes").split_once("```python\n").unwrap();
    std::fs::write(broker.setup().dir().join("walk.py"), local(&broker, example.split("```").next().unwrap())).unwrap();
    let mut script = String::new();
    let headings = ["A walk of five minutes", "Commands", "Devices and gateways"];
    for line in headings.into_iter().flat_map(shell_lines) {
        let line = match line {
            _ if line.contains("switchboard client ") => format!("{line} <<< /quit"),
            _ if line.contains("switchboard agent ") => in_the_background(line, "Connected to"),
            _ if line.contains("gateways watch") => in_the_background(line, "Plant north") + "\nkill $beside",
            _ => line.to_owned(),
        };
        script += &local(&broker, &line);
        script += "\n";
    }
    script += "kill $(jobs -p)\n";
    for _ in 0..2 {
        let printed = bash(&mut broker, &script);
        for expected in [
            "\"topic_id\"",
            "Hello Bob!",
            "It rains.",
            "\"role\":\"admin\"",
            "load average",
            "succeeded",
            "\"state\":",
            "Plant north",
        ] {
            assert!(printed.contains(expected), "{expected}\n{printed}\n{script}");
        }
    }
}

/// With this broker and binary in place of those of the README.
fn local(broker: &Broker, text: &str) -> String {
    let address = broker.url.trim_start_matches("http://");
    text.replace("localhost:8000", address)
        .replace("./target/release/switchboard demo", &format!("switchboard demo --url {}", broker.url))
        .replace("./target/release/switchboard", &format!("SWITCHBOARD_URL={} switchboard", broker.url))
}

#[tokio::test]
async fn the_walk_of_production_keeps_its_secret_and_its_first_admin() {
    let lines = shell_lines("In production");
    let create = lines.iter().position(|line| line.contains(" user create ")).unwrap();
    let serve: String = lines[..create].join("\n");
    let serve =
        serve.rsplit_once("switchboard serve").map(|(before, rest)| format!("{before}exec switchboard serve{rest}"));
    let serve = serve.expect("it starts the broker");
    // a broker that has nothing to do with it lends its directory
    let mut other = Broker::with().alone("starts a broker of its own with the same environment").start().await;
    let home = other.setup().dir();
    bash(&mut other, "true");
    let path = format!("{}:{}", home.join("bin").display(), std::env::var("PATH").unwrap());
    let script = format!("cd {}\n{serve}", env!("CARGO_MANIFEST_DIR"));
    let script = format!(
        "export HOME={} PATH={path} SWITCHBOARD__HTTP__BIND=127.0.0.1:0; unset DATABASE_URL\n{script}",
        home.display()
    );
    let mut tokens = Vec::new();
    let mut secrets = Vec::new();
    for round in 0..2 {
        let mut program = Program::start_of(other.setup(), "bash", &["-euc", &script]);
        let line = program.says("listens on").await;
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
        let client = switchboard::client::Client::new(url).unwrap();
        if round == 0 {
            program.says("accounts  none yet").await;
            let create = format!(
                "export HOME={}; unset DATABASE_URL; cd ~/broker\n{} --password-stdin <<< 'Bright-Lamp-42'",
                home.display(),
                lines[create]
            );
            let printed = bash(&mut other, &create);
            assert!(printed.contains("created admin root"), "{printed}");
        }
        let mut admin = client.clone();
        admin.login("root", "Bright-Lamp-42").await.unwrap();
        tokens.push(admin.token().unwrap().to_owned());
        // those of before are good: the secret is the same
        for token in &tokens {
            assert_eq!(get(&client.with_token(token), "/api/users/me").await.0, 200);
        }
        assert_eq!(
            post(&client, "/register", json!({ "name": "A", "uuid": uuid::Uuid::nil() })).await.0 == 200,
            round == 0
        );
        let env = home.join("broker/.env");
        secrets.push(std::fs::read_to_string(&env).unwrap());
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&env).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(program.stop().await.0, Some(0));
    }
    assert_eq!(secrets[0], secrets[1]);
}

#[tokio::test]
async fn the_systemd_unit_names_what_there_is() {
    let unit = include_str!("../../docs/deploy/systemd/switchboard.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=switchboard ")).expect("a line");
    // whatever is unknown is found before it comes to the help
    let arguments: Vec<_> = start.split_whitespace().chain(["--help"]).collect();
    let output = Broker::with().run(&arguments, "");
    assert!(output.code == Some(0) && output.stdout.contains("--config"), "{output:?}");
}
