//! What a newcomer sees first: the banner, and which database a command works on (contract section 1).

use std::process::Stdio;

use serde_json::Value;

use crate::support::{Broker, ChangeBroker, Output};

const PRODUCTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/production.toml");
const SECRET: &str = "a secret of the tests that is long enough";
const CREATE: [&str; 7] = ["user", "create", "--username", "root", "--role", "admin", "--password-stdin"];

/// Runs a line of the banner in a shell, where the broker was started.
fn shell(setup: &mut ChangeBroker, line: &str, stdin: &str) -> Output {
    output_of(setup.command_of("sh", &["-c", line]), stdin)
}

/// Runs a command to its end.
fn output_of(mut command: std::process::Command, stdin: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a shell");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output { stdout: text(output.stdout), stderr: text(output.stderr), code: output.status.code() }
}

/// The rest of the banner's line that begins like this.
fn line_of<'a>(banner: &'a str, word: &str) -> &'a str {
    banner.lines().find_map(|line| line.trim_start().strip_prefix(word)).unwrap_or_else(|| panic!("{banner}")).trim()
}

#[tokio::test]
async fn the_commands_of_the_banner_work_as_printed() {
    let mut broker =
        Broker::with().alone("the banner of one node").argument("--bind").argument("0.0.0.0:0").start().await;
    let banner = broker.banner().to_owned();
    assert!(banner.lines().next().unwrap().contains("http://0.0.0.0:"), "{banner}");
    let output = shell(broker.setup(), line_of(&banner, "try it"), "");
    assert!(output.code == Some(0) && output.stdout.contains("All of it worked."), "{output:?}");
    let docs = line_of(&banner, "docs");
    assert!(reqwest::get(docs).await.unwrap().status().is_success(), "{docs}");
}

#[tokio::test]
async fn the_banner_tells_how_to_make_the_first_account() {
    let setup = Broker::with()
        .alone("the banner of one node")
        .env("SECRET_KEY", SECRET)
        .argument("--config")
        .argument(PRODUCTION);
    let mut broker = setup.argument("--data-dir").argument("data").start().await;
    let banner = broker.banner().to_owned();
    assert!(banner.contains("accounts  none yet"), "{banner}");
    let command = banner.lines().find(|line| line.contains(" user create ")).unwrap().trim().replace("NAME", "root");
    assert!(command.contains(PRODUCTION), "{command}");
    let output = shell(broker.setup(), &format!("{command} --password-stdin"), "hush-hush hush-hush\n");
    assert_eq!(output.code, Some(0), "{output:?}");
    broker.login("root", "hush-hush hush-hush").await;
    let broker = broker.kill().await.start().await;
    assert!(!broker.banner().contains("accounts"), "{}", broker.banner());
}

#[tokio::test]
async fn with_json_logs_nothing_but_json_is_printed() {
    let mut broker = Broker::with()
        .alone("the banner of one node")
        .set("LOG__FORMAT", "json")
        .env("SWITCHBOARD_PORT", "tcp://x")
        .start()
        .await;
    let banner: Value = serde_json::from_str(broker.banner()).unwrap();
    assert_eq!(banner["fields"]["url"], broker.url.as_str());
    assert!(banner["fields"]["initial_admin_password"].as_str().unwrap().contains("initial-admin-password"));
    let second = broker.command(&["serve", "--bind", "127.0.0.1:0"], "");
    assert_eq!((second.code, second.stdout.as_str()), (Some(1), ""));
    assert!(second.stderr.contains("another broker"), "{second:?}");
    broker.signal("TERM");
    assert_eq!(broker.ended().await, Some(0));
    let log = broker.log() + &second.stderr;
    assert!(log.contains("SWITCHBOARD_PORT"), "{log}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line:?} in {log}"));
        assert!(line["fields"]["message"].is_string() && line["level"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn a_weak_secret_and_variables_that_are_no_settings_are_warned_of() {
    let mut broker = Broker::with().env("SECRET_KEY", "weak").env("SWITCHBOARD_BIND", "0.0.0.0:1").start().await;
    let log = broker.log();
    assert!(log.contains("SECRET_KEY") && !log.contains("weak\""), "{log}");
    assert!(log.contains("SWITCHBOARD_BIND") && log.contains("two underscores"), "{log}");
    let broker = Broker::with().env("SECRET_KEY", SECRET).start().await;
    let mut broker = broker;
    assert!(!broker.log().contains("SECRET_KEY"));
    let output = Broker::with().env("SWITCHBOARD_HTTP_BIND", "0.0.0.0:1").run(&["serve"], "");
    assert!(output.code == Some(1) && output.stderr.contains("expected SWITCHBOARD__HTTP__BIND"), "{output:?}");
}

/// What a refused command says; it must have created nothing.
fn refused(setup: &mut ChangeBroker, arguments: &[&str]) -> String {
    let files = |setup: &mut ChangeBroker| {
        let mut files: Vec<_> = std::fs::read_dir(setup.dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.extend(
            std::fs::read_dir(setup.dir().join("data")).into_iter().flatten().map(|entry| entry.unwrap().path()),
        );
        files.sort();
        files
    };
    let before = files(setup);
    let output = setup.run(arguments, "hush-hush hush-hush\n");
    assert!(output.code == Some(1) && output.stderr.lines().count() == 1, "{output:?}");
    assert_eq!(files(setup), before);
    output.stderr
}

#[tokio::test]
async fn no_account_is_created_in_a_database_that_no_broker_reads() {
    // without the environment of the broker, or in another directory
    for flags in [&[][..], &["--config", PRODUCTION], &["--config", PRODUCTION, "--data-dir", "data"]] {
        let line = refused(&mut Broker::with(), &[&CREATE, flags].concat());
        assert!(line.contains("DATABASE_URL") || line.contains("SECRET_KEY"), "{line}");
    }
    let line = refused(&mut Broker::with(), &["user", "list", "--data-dir", "."]);
    assert!(line.contains("there is no database ./switchboard.db"), "{line}");
    let line = refused(&mut Broker::with().env("DATABASE_URL", "sqlite:///./mistyped.db"), &["user", "list"]);
    assert!(line.contains("there is no database ./mistyped.db"), "{line}");
    // where a broker has its data elsewhere, be there an old file or not
    let mut broker = Broker::with().env("DATABASE_URL", "sqlite:///./app.db").start().await;
    let data = broker.data_dir();
    let mut without = Broker::with();
    std::fs::create_dir(without.dir().join("data")).unwrap();
    for name in ["lock", "switchboard.db"] {
        if name == "lock" {
            std::fs::copy(data.join(name), without.dir().join("data").join(name)).unwrap();
        } else {
            std::fs::write(without.dir().join("data").join(name), "").unwrap();
        }
        let line = refused(&mut without, &CREATE);
        assert!(line.contains("uses SQLite in ./app.db: give the same DATABASE_URL"), "{line}");
    }
    let output = broker.command(&CREATE, "hush-hush hush-hush\n");
    assert!(output.code == Some(0) && output.stdout.contains("in SQLite in ./app.db"), "{output:?}");
    // for a new broker, where its data is to be must be said
    let output = Broker::with().run(&[&CREATE[..], &["--data-dir", "data"]].concat(), "hush-hush hush-hush\n");
    assert!(output.code == Some(0) && output.stdout.contains("data/switchboard.db"), "{output:?}");
}

#[tokio::test]
async fn new_passwords_keep_to_the_rules_of_the_broker_whatever_settings_the_command_has() {
    const RULES: [&str; 2] = ["AUTH__PASSWORD_MIN_CHARS", "AUTH__REFUSE_COMMON_PASSWORDS"];
    const SET: [&str; 4] = ["user", "set-password", "root", "--password-stdin"];
    let mut broker = Broker::with().set(RULES[0], "14").set(RULES[1], "true").start().await;
    // the rules were in the environment of the broker alone
    let command = |broker: &mut Broker, arguments: &[&str], password: &str, own: Option<&str>| {
        let mut command = broker.setup().command(arguments);
        for rule in RULES {
            command.env_remove(format!("SWITCHBOARD__{rule}"));
        }
        command.envs(own.map(|chars| (format!("SWITCHBOARD__{}", RULES[0]), chars)));
        output_of(command, password)
    };
    let refused = |output: Output, why: &str| {
        assert!(output.code == Some(1) && output.stderr.contains(why), "{output:?}");
    };
    refused(command(&mut broker, &CREATE, "Bright-Lamp-4", None), "at least 14 characters");
    refused(command(&mut broker, &CREATE, "administrator123", None), "too common");
    let created = command(&mut broker, &CREATE, "Bright-Lamp-42", None);
    assert_eq!(created.code, Some(0), "{created:?}");
    // also while the broker is stopped
    broker.signal("TERM");
    assert_eq!(broker.ended().await, Some(0));
    refused(command(&mut broker, &SET, "Bright-Lamp-4", None), "at least 14 characters");
    // the command's own settings may ask for more, not for less
    refused(command(&mut broker, &SET, "Bright-Lamp-42", Some("20")), "at least 20 characters");
    refused(command(&mut broker, &SET, "Bright-Lamp-4", Some("6")), "at least 14 characters");
    let changed = command(&mut broker, &SET, "Bright-Lamp-43", Some("6"));
    assert_eq!(changed.code, Some(0), "{changed:?}");
}

#[tokio::test]
async fn secrets_that_every_user_of_the_machine_can_read_are_warned_of() {
    for (mode, expected) in [(0o644, true), (0o600, false)] {
        let mut setup = Broker::with().file(".env", &format!("SECRET_KEY=\"{SECRET}\""));
        let file = setup.dir().join(".env");
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let mut broker = setup.start().await;
        assert_eq!(broker.log().contains("chmod 600 .env"), expected, "{}", broker.log());
    }
}
