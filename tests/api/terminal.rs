//! The command line in a shell: closed pipes, exit codes, error lines.

use std::{io::pipe, process::Stdio};

use crate::support::{Broker, own_address, until, within};

/// Runs a command whose stdout nobody reads; its exit code and what it printed to stderr.
fn unread(broker: &mut Broker, arguments: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut command = broker.setup().command(arguments);
    let output = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn a_command_ends_quietly_when_nobody_reads_what_it_prints() {
    let mut broker = Broker::start().await;
    let (_, device) = broker.device("box").await;
    let (url, uuid) = (broker.url.clone(), device.uuid.to_string());
    let remote = ["--url", url.as_str()];
    for arguments in [
        &["--help"][..],
        &["send", "--help"],
        &["--version"],
        &["user", "list"],
        &["migrate", "status"],
        &[&["commands", "list"], &remote[..]].concat(),
        &[&["commands", "list", "--json"], &remote[..]].concat(),
        &[&["devices"], &remote[..]].concat(),
        &[&["devices", "show", &uuid], &remote[..]].concat(),
        &[&["gateways"], &remote[..]].concat(),
        &[&["gateways", "watch"], &remote[..]].concat(),
        &[&["demo"], &remote[..]].concat(),
        &["bench", "direct", "--duration", "0.1", "--json"],
    ] {
        let (code, stderr) = unread(&mut broker, arguments);
        assert!(code == Some(0) && stderr.is_empty(), "{arguments:?} {code:?} {stderr}");
    }
}

#[tokio::test]
async fn a_device_is_shown_by_its_name_if_no_other_has_the_same() {
    let mut broker = Broker::start().await;
    let ((_, press), (_, first), (_, second)) =
        tokio::join!(broker.device("press"), broker.device("twin"), broker.device("twin"));
    let url = broker.url.clone();
    let mut show = |name: &str| broker.command(&["devices", "show", name, "--url", &url], "");
    let shown = show("press");
    assert!(shown.code == Some(0) && shown.stdout.contains(&press.uuid.to_string()), "{shown:?}");
    let refused = show("twin");
    assert!(refused.code == Some(1) && refused.stdout.is_empty(), "{refused:?}");
    for uuid in [first.uuid, second.uuid] {
        let shown = show(&uuid.to_string());
        assert!(shown.code == Some(0) && shown.stdout.contains("twin"), "{shown:?}");
    }
}

#[tokio::test]
async fn what_can_not_be_printed_is_an_error() {
    let mut broker = Broker::start().await;
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = broker.setup().command(&["user", "list"]);
    let output = command.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("cannot write to stdout"), "{stderr}");
}

#[tokio::test]
async fn who_watches_ends_when_nobody_reads_any_more() {
    let mut broker = Broker::start().await;
    let url = broker.url.clone();
    let (mut reader, writer) = pipe().unwrap();
    let command = broker.setup().command(&["gateways", "watch", "--url", &url]);
    let mut command = tokio::process::Command::from(command);
    let mut child = command.stdout(writer).kill_on_drop(true).spawn().expect("the binary runs");
    drop(command);
    // the heads of the columns; no change of a gateway follows
    let mut reader = tokio::task::spawn_blocking(move || {
        let mut first = [0];
        std::io::Read::read_exact(&mut reader, &mut first).unwrap();
        reader
    });
    drop(within(&mut reader).await.unwrap());
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn a_broker_goes_on_when_nobody_reads_its_log() {
    let address = own_address();
    let mut setup = Broker::with().env("RUST_LOG", "debug");
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut command = tokio::process::Command::from(setup.command(&["serve", "--bind", &address.to_string()]));
    let mut child =
        command.stdout(writer.try_clone().unwrap()).stderr(writer).kill_on_drop(true).spawn().expect("the binary runs");
    let client = switchboard::client::Client::new(&format!("http://{address}")).unwrap();
    until(async || client.get::<serde_json::Value>("/readyz").await.is_ok()).await;
    let mut device = client.clone();
    for _ in 0..3 {
        device.register_device("box", uuid::Uuid::new_v4()).await.unwrap();
        within(device.connect("/ws")).await.unwrap();
    }
    assert!(child.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn a_failed_login_is_told_with_what_to_do() {
    let mut broker = Broker::start().await;
    broker.user("dora", "user").await;
    assert_eq!(broker.command(&["user", "disable", "dora"], "").code, Some(0));
    let url = broker.url.clone();
    for (username, code, expected) in [
        (
            "carol",
            1,
            "cannot log in as carol: the username or the password is wrong (the password is SWITCHBOARD_PASSWORD",
        ),
        ("dora", 1, "the user dora is disabled: give another --username"),
        ("", 2, "--username"),
    ] {
        let mut command = broker.setup().command(&["devices", "--url", &url, "--username", username]);
        let output = command.env("SWITCHBOARD_PASSWORD", "password of dora").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && stderr.contains(expected), "{stderr}");
    }
}

#[tokio::test]
async fn an_error_is_one_line_that_says_what_was_wrong_and_what_to_do() {
    let mut broker = Broker::start().await;
    let url = broker.url.clone();
    let wrong = broker.setup().dir().join("wrong");
    std::fs::create_dir(&wrong).unwrap();
    std::fs::write(wrong.join("initial-admin-password"), "changed").unwrap();
    for (arguments, expected) in [
        (&["devices", "--url", "localhost:8000"][..], &["bad URL localhost:8000", "http://"][..]),
        (&["devices", "--url", "http://me:hush@localhost"], &["bad URL"]),
        (&["devices", "--url", "http://127.0.0.1:1"], &["no broker at http://127.0.0.1:1", "--url"]),
        (
            &["client", "--name", "x", "--url", "http://no-host.invalid"],
            &["cannot find the host of http://no-host.invalid"],
        ),
        (&["devices", "--url", &url, "--data-dir", "wrong"], &["cannot log in as admin: ", "--username"]),
        (&["devices", "--url", &url, "--data-dir", "none"], &["no credentials", "--token or --username"]),
        (&["devices", "--url", &url, "--ca", "nofile"], &["cannot read nofile: No such file"]),
        (&["devices", "--url", &url, "--token", "nonsense"], &["401", "Could not validate credentials", "--token"]),
        (&["devices", "show", "nobody", "--url", &url], &["no device or connected user is named \"nobody\""]),
        (&["commands", "show", &uuid::Uuid::nil().to_string(), "--url", &url], &["404"]),
        (
            &["demo", "--url", &format!("{url}/not/here")],
            &["POST /register failed: 404", "is the path of --url right?"],
        ),
    ] {
        let output = broker.command(arguments, "");
        let code = if expected[0].starts_with("bad URL") || expected[0].starts_with("cannot read") { 2 } else { 1 };
        assert_eq!((output.code, output.stderr.lines().count()), (Some(code), 1), "{output:?}");
        assert!(output.stderr.starts_with("switchboard: ") && !output.stderr.contains("hush"), "{output:?}");
        assert!(expected.iter().all(|part| output.stderr.contains(part)), "{expected:?} {output:?}");
    }
    for (arguments, expected) in [
        (&["agent", "--exec", "true", "--uuid", "nope"][..], "expected a UUID such as "),
        (&["client", "--name", "x", "--uuid", "nope"], "expected a UUID such as "),
        (&["commands", "show", "nope"], "expected a command's id such as "),
        (&["commands", "list", "--since", "foo"], "expected a time such as "),
        (&["commands", "list", "--limit", "many"], "expected a whole number from 1 to 1000"),
        (&["devices", "--gateway", "x"], "expected a whole number from 0 to "),
        (&["gateways", "rm", "x"], "expected a whole number from 0 to "),
        (&["send", "box", "GET", "/", "--timeout", "0"], "expected a whole number from 1 to 300"),
    ] {
        let output = broker.command(arguments, "");
        assert!(output.code == Some(2) && output.stderr.contains(expected), "{arguments:?} {output:?}");
    }
    for arguments in [&["send", "box"][..], &["nope"], &["agent"], &["devices", "--limit", "many"]] {
        let output = broker.command(arguments, "");
        assert!(output.code == Some(2) && output.stderr.contains("--help"), "{output:?}");
    }
}
