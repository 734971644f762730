//! The command line in a shell: closed pipes, exit codes, error lines.

use std::{io::pipe, process::Stdio};

use crate::support::{Broker, until, within};

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
async fn what_can_not_be_printed_is_an_error() {
    let mut broker = Broker::start().await;
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = broker.setup().command(&["user", "list"]);
    let output = command.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("cannot write to stdout"), "{stderr}");
}

#[tokio::test]
async fn a_broker_goes_on_when_nobody_reads_its_log() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
