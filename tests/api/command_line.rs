//! The sub-commands that talk to a running broker.

use serde_json::{Value, json};
use switchboard::client::Connection;
use uuid::Uuid;

use crate::support::{Broker, Program, delete, get, next, own_address, post, until};

/// A running `switchboard agent` that answers by this shell script.
async fn agent(broker: &mut Broker, uuid: Uuid, script: &str) -> Program {
    let path = broker.data_dir().join(format!("answer-{uuid}")).display().to_string();
    std::fs::write(&path, script).unwrap();
    let (url, uuid) = (broker.url.clone(), uuid.to_string());
    let arguments = ["agent", "--url", &url, "--name", "box", "--uuid", &uuid, "--exec", "/bin/sh", "--", &path];
    let mut agent = Program::start(broker.setup(), &arguments);
    agent.says("Connected to").await;
    agent
}

/// Runs `switchboard send` as the first admin.
fn send(broker: &mut Broker, arguments: &[&str]) -> (Option<i32>, String) {
    let url = broker.url.clone();
    let mut all = vec!["send", "--url", &url];
    all.extend(arguments);
    let output = broker.command(&all, "");
    (output.code, output.stdout + &output.stderr)
}

#[tokio::test]
async fn an_agent_answers_commands_with_what_its_program_prints() {
    let mut broker = Broker::start().await;
    let uuid = Uuid::new_v4();
    let script = r#"read command; case "$command" in */fail*) exit 3;; */text*) echo plain;;
        */deep*) printf '%0100d' 0 | tr 0 '['; printf '%0100d' 0 | tr 0 ']';;
        */reserved*) echo '{"$serde_json::private::RawValue": "1"}';;
        *) echo '{"ok": true}';; esac"#;
    let mut agent = agent(&mut broker, uuid, script).await;
    let target = uuid.to_string();
    let (code, output) = send(&mut broker, &[&target, "GET", "/status", "--json"]);
    assert_eq!(code, Some(0), "{output}");
    let command: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((&command["state"], &command["targets"][0]["result"]), (&json!("finished"), &json!({ "ok": true })));
    agent.says("answered").await;
    // what the broker would refuse as JSON arrives as a text
    for (url, expected) in [
        ("/deep", format!("{}{}", "[".repeat(100), "]".repeat(100))),
        ("/reserved", r#"{"$serde_json::private::RawValue": "1"}"#.to_owned()),
    ] {
        let (code, output) = send(&mut broker, &[&target, "GET", url, "--json"]);
        let command: Value = serde_json::from_str(&output).unwrap();
        assert_eq!((code, &command["targets"][0]["result"]), (Some(0), &json!(expected)));
    }
    let (code, output) = send(&mut broker, &[&target, "GET", "/text"]);
    assert!(code == Some(0) && output.contains("plain"), "{output}");
    let (code, output) = send(&mut broker, &[&target, "GET", "/fail"]);
    assert!(code == Some(2) || code == Some(3), "{code:?} {output}");
    assert!(output.contains("failed") && output.contains("exit status: 3"), "{output}");
}

#[tokio::test]
async fn the_exit_code_of_send_tells_how_it_went() {
    let mut broker = Broker::start().await;
    let online = Uuid::new_v4();
    let _agent = agent(&mut broker, online, "echo 1").await;
    let (_, offline) = broker.device("offline").await;
    let (online, offline) = (online.to_string(), offline.uuid.to_string());
    assert_eq!(send(&mut broker, &[&online, "GET", "/"]).0, Some(0));
    assert_eq!(send(&mut broker, &[&format!("{online},{offline}"), "GET", "/"]).0, Some(2));
    assert_eq!(send(&mut broker, &[&offline, "GET", "/"]).0, Some(3));
    let (code, output) = send(&mut broker, &["nobody", "GET", "/"]);
    assert!(code == Some(1) && output.contains("no device or connected user is named \"nobody\""), "{output}");
    let (code, output) = send(&mut broker, &[&online, "GET", "/", "--data", "{"]);
    assert!(code == Some(2) && output.contains("--data"), "{output}");
}

#[tokio::test]
async fn a_command_is_listed_shown_followed_and_called_off() {
    let mut broker = Broker::start().await;
    let (client, device) = broker.device("sleeper").await;
    let target = device.uuid.to_string();
    let (code, id) = send(&mut broker, &[&target, "GET", "/later", "--async", "--deliver-within", "600"]);
    assert_eq!(code, Some(0), "{id}");
    let id = id.trim().to_owned();
    let url = broker.url.clone();
    let mut commands = |action: &[&str]| {
        let mut all = vec!["commands"];
        all.extend(action);
        all.extend(["--url", &url]);
        let output = broker.command(&all, "");
        assert_eq!(output.code, Some(0), "{output:?}");
        output.stdout
    };
    assert!(commands(&["list"]).contains(&id));
    assert!(commands(&["list", "--state", "queued", "--json"]).contains(&id));
    assert!(!commands(&["list", "--state", "succeeded"]).contains(&id));
    assert!(commands(&["show", &id]).contains("queued"));
    let mut socket = client.connect("/ws").await.unwrap();
    next(&mut socket).await;
    let asked = next(&mut socket).await;
    assert_eq!((&asked["command_id"], &asked["url"]), (&json!(id), &json!("/later")));
    let cancelled = commands(&["cancel", &id]);
    assert!(cancelled.contains("cancelled") && !cancelled.contains("nothing was cancelled"), "{cancelled}");
    assert_eq!(next(&mut socket).await, json!({ "type": "cancel", "command_id": id }));
    // what is over is shown once
    assert_eq!(commands(&["watch", &id]), commands(&["show", &id]));
    assert_eq!(commands(&["watch", &id, "--json"]).lines().count(), 1);
    assert!(commands(&["cancel", &id]).contains("nothing was cancelled"));
}

#[tokio::test]
async fn an_agent_comes_back_when_the_broker_does_and_ends_the_program_of_a_command_that_is_called_off() {
    let mut broker = Broker::with().argument("--bind").argument(&own_address().to_string()).start().await;
    let uuid = Uuid::new_v4();
    let mut agent = agent(&mut broker, uuid, "exec sleep 600").await;
    let (code, id) = send(&mut broker, &[&uuid.to_string(), "GET", "/", "--async"]);
    assert_eq!(code, Some(0), "{id}");
    let url = broker.url.clone();
    let output = broker.command(&["commands", "cancel", id.trim(), "--url", &url], "");
    assert!(output.stdout.contains("cancelled"), "{output:?}");
    agent.says("cancelled").await;
    let mut broker = broker.kill().await.start().await;
    agent.says("lost the broker").await;
    agent.says("Connected to").await;
    let admin = broker.admin().await;
    until(async || get(&admin, "/clients").await.1["clients"].get(uuid.to_string()).is_some()).await;
}

/// Runs `switchboard publish` as the first admin.
fn publish(broker: &mut Broker, arguments: &[&str]) -> (Option<i32>, String) {
    let url = broker.url.clone();
    let mut all = vec!["publish", "--url", &url];
    all.extend(arguments);
    let output = broker.command(&all, "");
    (output.code, output.stdout + &output.stderr)
}

#[tokio::test]
async fn a_subscriber_prints_what_was_kept_and_what_comes_and_goes_on_where_it_was_when_the_broker_comes_back() {
    let address = own_address().to_string();
    let mut broker = Broker::with().argument("--bind").argument(&address).start().await;
    let operator = broker.admin().await;
    let create = json!({ "topic_id": "news", "history": { "size": 100 } });
    assert_eq!(post(&operator, "/topics/create", create).await.0, 200);
    let kept = |topic: &str| json!({ "topic_id": topic, "history": { "size": 100 } });
    assert_eq!(post(&operator, "/topics/create", kept("quiet/a")).await.0, 200);
    publish(&mut broker, &["quiet/a", "before"]);
    assert_eq!(
        publish(&mut broker, &["news", "first"]),
        (Some(0), "Message sent to 0 subscribers, offset 1\n".to_owned())
    );
    for content in ["second", "third"] {
        publish(&mut broker, &["news", content]);
    }
    let url = broker.url.clone();
    let mut last = Program::start(broker.setup(), &["subscribe", "news", "--last", "2", "--url", &url]);
    let mut since =
        Program::start(broker.setup(), &["subscribe", "news", "--since", "2", "--json", "--name", "b", "--url", &url]);
    let mut all = Program::start(broker.setup(), &["subscribe", "#", "--name", "c", "--url", &url]);
    assert_eq!(last.line().await, "switchboard: subscribed to news");
    assert_eq!([last.line().await, last.line().await], ["news 2: second", "news 3: third"]);
    since.says("subscribed to news").await;
    let frame: Value = serde_json::from_str(&since.line().await).unwrap();
    assert_eq!((&frame["offset"], &frame["content"]), (&json!(3), &json!("third")));
    all.says("subscribed to #").await;
    let (code, receipt) = publish(&mut broker, &["news", "--data", r#"{"n": 4}"#, "--json"]);
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    assert_eq!((code, &receipt["offset"]), (Some(0), &json!(4)));
    for program in [&mut last, &mut all] {
        assert_eq!(program.line().await, r#"news 4: {"n":4}"#);
    }
    since.says(r#""offset":4"#).await;

    let mut broker = broker.kill().await.start().await;
    for program in [&mut last, &mut since, &mut all] {
        program.says("lost the broker").await;
    }
    for content in ["fifth", "sixth"] {
        publish(&mut broker, &["news", content]);
    }
    // of these it has printed nothing yet, and one of them was not there
    publish(&mut broker, &["quiet/a", "meanwhile"]);
    let operator = broker.admin().await;
    assert_eq!(post(&operator, "/topics/create", kept("quiet/b")).await.0, 200);
    publish(&mut broker, &["quiet/b", "new"]);
    last.says("news 5: fifth").await;
    assert_eq!(last.line().await, "news 6: sixth");
    let expected = ["news 5: fifth", "news 6: sixth", "quiet/a 2: meanwhile", "quiet/b 1: new"];
    let mut printed = Vec::new();
    while printed.len() < expected.len() {
        printed.push(all.line().await);
        printed.retain(|line| !line.starts_with("switchboard: "));
    }
    printed.sort();
    assert_eq!(printed, expected);
    since.says(r#""offset":5"#).await;
    assert!(since.line().await.contains(r#""offset":6"#));
}

#[tokio::test]
async fn what_cannot_be_published_or_subscribed_to_is_told() {
    let mut broker = Broker::start().await;
    let url = broker.url.clone();
    let (code, output) = publish(&mut broker, &["nowhere", "x"]);
    assert_eq!((code, output.as_str()), (Some(1), "switchboard: 404 Not Found: Topic not found\n"));
    let (code, output) = publish(&mut broker, &["nowhere"]);
    assert!(code == Some(2) && output.contains("<CONTENT>"), "{output}");
    for (arguments, code, expected) in [
        (&["nowhere"][..], 1, "switchboard: Topic nowhere not found\n"),
        (&["#/a"], 1, "switchboard: Invalid topic message format: topic_id: # must be the last level\n"),
        (&["a/#", "--last", "1"], 2, "switchboard: --last and --since are for one topic, not for a pattern\n"),
        (&["$status"], 1, "switchboard: Operator role required\n"),
    ] {
        let mut all = vec!["subscribe", "--url", &url];
        all.extend(arguments);
        let output = broker.command(&all, "");
        assert_eq!((output.code, output.stderr.as_str()), (Some(code), expected));
    }
}

/// Runs `switchboard send-message` as the first admin.
fn send_message(broker: &mut Broker, arguments: &[&str]) -> (Option<i32>, String) {
    let url = broker.url.clone();
    let mut all = vec!["send-message", "--url", &url];
    all.extend(arguments);
    let output = broker.command(&all, "");
    (output.code, output.stdout + &output.stderr)
}

#[tokio::test]
async fn a_message_is_sent_to_a_device_by_name_and_its_receipt_is_told_in_words() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, pump, mut socket) = broker.connected("pump").await;
    let (_, away) = broker.device("away").await;
    let (code, output) = send_message(&mut broker, &["pump", "hello"]);
    assert!(code == Some(0) && output.starts_with("Message delivered: msgid "), "{output}");
    let got = next(&mut socket).await;
    assert_eq!((&got["content"], got.get("acknowledge"), got.get("ttl")), (&json!("hello"), None, None));
    let (code, output) = send_message(
        &mut broker,
        &["pump", "--data", "[1.5]", "--ack", "--msgid", "m", "--priority", "high", "--json"],
    );
    let receipt: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((code, &receipt["status"], &receipt["msgid"]), (Some(0), &json!("pending_ack"), &json!("m")));
    let got = next(&mut socket).await;
    assert_eq!((&got["content"], &got["acknowledge"], &got["priority"]), (&json!([1.5]), &json!(true), &json!("high")));
    let (_, same) =
        send_message(&mut broker, &["pump", "--data", "[1.5]", "--ack", "--msgid", "m", "--priority", "high"]);
    let (id, expires) = (&receipt["id"], receipt["expires_at"].as_str().unwrap());
    assert_eq!(same, format!("sent, not acknowledged yet: id {id}, msgid m, expires {expires}\n"));
    let (code, output) =
        send_message(&mut broker, &[&away.uuid.to_string(), "x", "--ack", "--ttl", "60", "--msgid", "n"]);
    assert!(code == Some(0) && output.starts_with("queued, the recipient is offline: id "), "{output}");
    let (_, queue) = get(&operator, &format!("/devices/{}/queue", away.uuid)).await;
    let waiting = &queue["messages"][0];
    let time = |name: &str| chrono::DateTime::parse_from_rfc3339(waiting[name].as_str().unwrap()).unwrap();
    assert_eq!((&waiting["msgid"], (time("expires_at") - time("created_at")).num_seconds()), (&json!("n"), 60));

    let uuid = pump.uuid.to_string();
    for (arguments, code, expected) in [
        (&[&uuid, "y", "--ack", "--msgid", "m"][..], 1, "409 Conflict: "),
        (&["away", "x"], 1, "404 Not Found: Recipient "),
        (&["nobody", "x"], 1, "no device or connected user is named \"nobody\""),
        (&["pump"], 2, "<CONTENT>"),
        (&["pump", "x", "--ttl", "60"], 2, "--ack"),
        (&["pump", "x", "--priority", "low"], 2, "--ack"),
        (&["pump", "x", "--wait"], 2, "--ack"),
        (&["pump", "x", "--ack", "--priority", "urgent"], 2, "high, normal, low"),
        (&["pump", "x", "--ack", "--ttl", "0"], 2, "expected a whole number from 1 to 2592000"),
    ] {
        let (exit, output) = send_message(&mut broker, arguments);
        assert!(exit == Some(code) && output.contains(expected), "{arguments:?} {exit:?} {output}");
    }
}

#[tokio::test]
async fn who_waits_for_a_message_is_told_how_it_ended() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (client, device) = broker.device("pump").await;
    let (url, uuid) = (broker.url.clone(), device.uuid.to_string());
    let wait = |broker: &mut Broker, msgid: &str, arguments: &[&str]| {
        let all = ["send-message", &uuid, "x", "--ack", "--wait", "--url", &url, "--msgid", msgid];
        Program::start(broker.setup(), &[&all[..], arguments].concat())
    };
    let mut delivered = wait(&mut broker, "1", &[]);
    delivered.says("queued, the recipient is offline: id 1, msgid 1, ").await;
    let mut socket = client.connect("/ws").await.unwrap();
    assert_eq!(next(&mut socket).await["type"], "connection");
    assert_eq!(next(&mut socket).await["msgid"], "1");
    let mut rejected = wait(&mut broker, "2", &[]);
    rejected.says("sent, not acknowledged yet: id 2, msgid 2, ").await;
    let mut cancelled = wait(&mut broker, "3", &[]);
    cancelled.says("sent, not acknowledged yet: id 3, msgid 3, ").await;
    let json = wait(&mut broker, "4", &["--json"]);
    next_of_msgid(&mut socket, "4").await;
    for (msgid, status) in [("1", "received"), ("2", "rejected"), ("4", "ack")] {
        socket.send_text(json!({ "type": "ack", "msgid": msgid, "status": status }).to_string()).await.unwrap();
    }
    assert_eq!(delete(&operator, "/api/messages/3").await.1["status"], "cancelled");
    assert_eq!(delivered.ended().await, (Some(0), "delivered\n".to_owned()));
    let not = |id: u8, status: &str| (Some(1), format!("switchboard: message {id} was not delivered: {status}\n"));
    assert_eq!(rejected.ended().await, not(2, "rejected"));
    assert_eq!(cancelled.ended().await, not(3, "cancelled"));
    let (code, output) = json.ended().await;
    let message: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((code, &message["status"], &message["id"]), (Some(0), &json!("delivered"), &json!(4)));

    let mut stopped = wait(&mut broker, "5", &[]);
    stopped.says("not acknowledged yet").await;
    let _setup = broker.kill().await;
    let (code, output) = stopped.ended().await;
    assert!(code == Some(1) && output.starts_with("switchboard: stopped waiting for message 5"), "{output}");
}

/// Reads up to the message with this `msgid`.
async fn next_of_msgid(socket: &mut Connection, msgid: &str) {
    while next(socket).await["msgid"] != msgid {}
}

#[tokio::test]
async fn the_demo_works_and_says_so() {
    let mut broker = Broker::start().await;
    let url = broker.url.clone();
    for _ in 0..2 {
        let output = broker.command(&["demo", "--url", &url], "");
        assert!(output.code == Some(0) && output.stdout.contains("All of it worked."), "{output:?}");
    }
    let output = broker.command(&["demo", "--url", "http://127.0.0.1:1"], "");
    assert!(output.code == Some(1) && output.stderr.contains("no broker at http://127.0.0.1:1"), "{output:?}");
}

#[tokio::test]
async fn a_second_broker_on_the_same_data_is_refused() {
    let mut broker = Broker::start().await;
    let output = broker.command(&["serve", "--bind", "127.0.0.1:0"], "");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("another broker (process ") && output.stderr.lines().count() == 1, "{output:?}");
}

#[tokio::test]
async fn what_there_is_nothing_to_say_of_is_not_printed() {
    let mut broker = Broker::start().await;
    let (url, uuid) = (broker.url.clone(), Uuid::new_v4().to_string());
    let mut nameless = Program::start(broker.setup(), &["client", "--url", &url, "--name", "", "--uuid", &uuid]);
    let line = nameless.says("Connected").await;
    assert!(line.contains(&format!("as {uuid}. ")), "{line}");
    let show = broker.command(&["devices", "show", &uuid, "--url", &url], "");
    assert!(show.code == Some(0) && !show.stdout.contains('{'), "{show:?}");
    let list = broker.command(&["user", "list"], "").stdout;
    let rows: Vec<Vec<_>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "ROLE", "STATE", "USERNAME", "EMAIL"], "{list}");
    assert_eq!(rows[1], ["1", "admin", "active", "admin"], "{list}");
}

#[tokio::test]
async fn the_help_says_of_each_argument_what_it_is() {
    let mut setup = Broker::with();
    for command in [
        &["user", "set-role"][..],
        &["user", "set-password"],
        &["user", "delete"],
        &["user", "disable"],
        &["user", "enable"],
        &["gateways", "add"],
        &["gateways", "rm"],
        &["commands", "show"],
        &["commands", "watch"],
        &["commands", "cancel"],
        &["devices", "show"],
        &["devices", "rm"],
        &["send"],
        &["send-message"],
        &["backup"],
        &["restore"],
    ] {
        let help = setup.run(&[command, &["-h"]].concat(), "").stdout;
        let (_, arguments) = help.split_once("Arguments:\n").expect("it has some");
        let (arguments, _) = arguments.split_once("\n\n").unwrap();
        // a line per argument: its name, and what it is
        let mute: Vec<_> = arguments
            .lines()
            .filter(|line| line.trim_start().starts_with('<') && line.trim_end().ends_with('>'))
            .collect();
        assert!(mute.is_empty() && !arguments.is_empty(), "{command:?} {help}");
    }
}
