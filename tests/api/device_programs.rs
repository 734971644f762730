//! `switchboard agent` and `client`: who they are after a restart, how they come back, whom they trust.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::Connection;
use uuid::Uuid;

use crate::{
    identity::ending_at,
    support::{Broker, ChangeBroker, LossyProxy, Program, TlsProxy, get, next, own_address, post, until},
};

/// The only state file there.
fn state_file(setup: &mut ChangeBroker) -> PathBuf {
    let dir = setup.dir().join("state/switchboard");
    let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut files: Vec<_> =
        files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn state(setup: &mut ChangeBroker) -> Value {
    serde_json::from_slice(&fs::read(state_file(setup)).unwrap()).unwrap()
}

fn agent(broker: &mut Broker, arguments: &[&str]) -> Program {
    let url = broker.url.clone();
    Program::start(broker.setup(), &[&["agent", "--url", &url, "--exec", "/bin/true"], arguments].concat())
}

/// It says who it is, and has let go of its state when this is over.
async fn starts_as(mut program: Program, uuid: &str) {
    program.says(uuid).await;
    program.stop().await;
}

fn client(broker: &mut Broker, name: &str) -> Program {
    let url = broker.url.clone();
    Program::start(broker.setup(), &["client", "--url", &url, "--name", name])
}

#[tokio::test]
async fn a_device_comes_back_where_the_broker_asks_for_proof() {
    let mut broker = Broker::with().set("DEVICES__REGISTRATION", "claim").start().await;
    let uuid = Uuid::new_v4().to_string();
    for _ in 0..2 {
        let mut agent = agent(&mut broker, &["--uuid", &uuid]);
        agent.says(&uuid).await;
        assert_eq!(agent.stop().await.0, Some(0));
    }
    let path = state_file(broker.setup());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // by the refresh token, and without any token by the key
    for keys in [&["access_token"][..], &["access_token", "refresh_token"]] {
        let mut state = state(broker.setup());
        let before = state.clone();
        for key in keys {
            state[key] = Value::Null;
        }
        fs::write(&path, state.to_string()).unwrap();
        starts_as(agent(&mut broker, &["--uuid", &uuid]), &uuid).await;
        let after = self::state(broker.setup());
        assert_ne!(before["refresh_token"], after["refresh_token"]);
        assert_eq!(before["uuid"], after["uuid"]);
    }
    let key = state(broker.setup())["device_key"].as_str().unwrap().to_owned();
    let elsewhere = ["--uuid", &uuid, "--state", "elsewhere/state.json"];
    let (code, said) = agent(&mut broker, &elsewhere).ended().await;
    assert!(code == Some(1) && said.contains("UUID already registered") && said.contains("--device-key"), "{said}");
    starts_as(agent(&mut broker, &[&elsewhere[..], &["--device-key", &key]].concat()), &uuid).await;
    starts_as(agent(&mut broker, &elsewhere), &uuid).await;
}

#[tokio::test]
async fn a_device_whose_registration_gets_no_answer_comes_back_by_itself() {
    let mut broker = Broker::with().set("DEVICES__REGISTRATION", "claim").start().await;
    let uuid = Uuid::new_v4().to_string();
    let proxy = LossyProxy::start(&broker).await;
    proxy.lose_next();
    let arguments = ["agent", "--url", &proxy.url, "--exec", "true", "--uuid", &uuid];
    let mut agent = Program::start(broker.setup(), &arguments);
    agent.says("trying again").await;
    assert!(proxy.has_lost());
    agent.says(&uuid).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_device_whose_registration_got_no_answer_comes_back_at_its_next_start() {
    let mut broker = Broker::with().set("DEVICES__REGISTRATION", "claim").start().await;
    let proxy = LossyProxy::start(&broker).await;
    let client =
        |broker: &mut Broker| Program::start(broker.setup(), &["client", "--url", &proxy.url, "--name", "Carol"]);
    // the first registration, then one with the key of the first
    for _ in 0..2 {
        proxy.lose_next();
        let (code, said) = client(&mut broker).ended().await;
        assert!(code == Some(1) && proxy.has_lost(), "{said}");
        let pending = state(broker.setup());
        assert!(pending["new_device_key"].is_string(), "{pending}");
        let mut carol = client(&mut broker);
        carol.says("as Carol (").await;
        carol.stop().await;
        let mut registered = state(broker.setup());
        assert_eq!(registered["uuid"], pending["uuid"]);
        assert_eq!(
            (&registered["device_key"], &registered["new_device_key"]),
            (&pending["new_device_key"], &Value::Null)
        );
        (registered["access_token"], registered["refresh_token"]) = (Value::Null, Value::Null);
        fs::write(state_file(broker.setup()), registered.to_string()).unwrap();
    }
}

#[tokio::test]
async fn a_name_has_its_uuid_on_the_same_broker_and_one_process_at_a_time() {
    let mut broker = Broker::start().await;
    let mut carol = client(&mut broker, "Carol");
    let first = carol.says("as Carol (").await;
    let (code, said) = client(&mut broker, "Carol").ended().await;
    assert!(code == Some(1) && said.contains("another switchboard is connected as this device"), "{said}");
    carol.types("/quit").await;
    assert_eq!(carol.ended().await.0, Some(0));
    assert_eq!(client(&mut broker, "Carol").says("as Carol (").await, first);
    assert_ne!(client(&mut broker, "Dave").says("as Dave (").await, first.replace("Carol", "Dave"));
    let output = broker.command(&["agent", "--exec", "true", "--state", "state/switchboard"], "");
    assert!(output.code == Some(1) && output.stderr.lines().count() == 1, "{output:?}");
}

/// Starts a command of the binary that cannot write to any file, as on a full disk.
fn on_full_disk(broker: &mut Broker, arguments: &[&str]) -> Program {
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    let shell = [&["-c", script, env!("CARGO_BIN_EXE_switchboard")], arguments].concat();
    Program::start_of(broker.setup(), "sh", &shell)
}

#[tokio::test]
async fn a_device_that_can_not_keep_its_identity_does_not_register() {
    let mut broker = Broker::with().set("DEVICES__REGISTRATION", "claim").start().await;
    let url = broker.url.clone();
    for program in [&["agent", "--exec", "true"][..], &["client", "--name", "agent"]] {
        let program = on_full_disk(&mut broker, &[program, &["--url", &url]].concat());
        let (code, said) = program.ended().await;
        assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains("cannot write the device's state") && said.contains("--state FILE"), "{said}");
    }
    assert_eq!(get(&broker.admin().await, "/devices").await.1["count"], 0);
    starts_as(agent(&mut broker, &[]), "as agent (").await;
    // with the tokens of a running device the next start needs no file
    on_full_disk(&mut broker, &["agent", "--exec", "true", "--url", &url]).says("as agent (").await;
}

#[tokio::test]
async fn a_token_from_an_operator_is_not_spent_if_its_successor_can_not_be_kept() {
    let mut broker = Broker::with().set("DEVICES__REGISTRATION", "closed").start().await;
    let (url, admin) = (broker.url.clone(), broker.admin().await);
    let uuid = Uuid::new_v4().to_string();
    let (_, device) = post(&admin, "/register", json!({ "name": "box", "uuid": uuid })).await;
    let token = ["--token", device["refresh_token"].as_str().unwrap()];
    let program = on_full_disk(&mut broker, &[&["agent", "--exec", "true", "--url", &url], &token[..]].concat());
    let (code, said) = program.ended().await;
    assert!(code == Some(1) && said.contains("cannot write the device's state"), "{said}");
    agent(&mut broker, &token).says(&uuid).await;
}

#[tokio::test]
async fn where_only_operators_register_devices_a_token_is_given() {
    let mut broker = Broker::with().set("DEVICES__REGISTRATION", "closed").start().await;
    let (code, said) = agent(&mut broker, &[]).ended().await;
    assert!(code == Some(1) && said.contains("--token"), "{said}");
    let url = broker.url.clone();
    let output = broker.command(&["demo", "--url", &url], "");
    assert!(output.code == Some(1) && output.stderr.contains("POST /register failed: 401"), "{output:?}");
    let admin = broker.admin().await;
    let uuid = Uuid::new_v4().to_string();
    let (status, device) = post(&admin, "/register", json!({ "name": "box", "uuid": uuid })).await;
    assert_eq!(status, 200, "{device}");
    let access = device["access_token"].as_str().unwrap();
    agent(&mut broker, &["--token", access]).says(&uuid).await;
    let refresh = device["refresh_token"].as_str().unwrap();
    for _ in 0..2 {
        let mut agent = agent(&mut broker, &["--token", refresh, "--state", "box.json"]);
        agent.says(&uuid).await;
        agent.stop().await;
        // the token that was given is spent by now
        let path = broker.setup().dir().join("box.json");
        let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        state["access_token"] = Value::Null;
        fs::write(&path, state.to_string()).unwrap();
    }
    let (code, said) = agent(&mut broker, &["--token", "-spent", "--state", "other.json"]).ended().await;
    assert!(code == Some(1) && said.contains("ask an operator for a new one") && !said.contains("spent"), "{said}");
}

#[tokio::test]
async fn a_device_that_was_given_a_token_stays_that_device_without_it() {
    for registration in ["closed", "open"] {
        let mut broker = Broker::with().set("DEVICES__REGISTRATION", registration).start().await;
        let admin = broker.admin().await;
        let register = async |uuid: &str| {
            let (status, device) = post(&admin, "/register", json!({ "name": "box", "uuid": uuid })).await;
            assert_eq!(status, 200, "{device}");
            device["refresh_token"].as_str().unwrap().to_owned()
        };
        for (number, identity) in [&[][..], &["--name", "my box"], &["--state", "box.json"]].into_iter().enumerate() {
            let uuid = Uuid::new_v4().to_string();
            let token = register(&uuid).await;
            starts_as(agent(&mut broker, &[identity, &["--token", &token]].concat()), &uuid).await;
            if number == 0 {
                let state = state(broker.setup());
                assert_eq!((&state["uuid"], &state["name"]), (&json!(uuid), &json!("box")));
                // the access token expires while it is away
                let mut expired = state.clone();
                expired["access_token_expires_at"] = json!(0);
                fs::write(state_file(broker.setup()), expired.to_string()).unwrap();
            }
            for _ in 0..2 {
                starts_as(agent(&mut broker, identity), &uuid).await;
            }
            // a token of another device does not replace this one
            let other = register(&Uuid::new_v4().to_string()).await;
            let (code, said) = agent(&mut broker, &[identity, &["--token", &other]].concat()).ended().await;
            assert!(code == Some(1) && said.contains("the token is of the device"), "{said}");
            starts_as(agent(&mut broker, identity), &uuid).await;
            // no registration takes the place of a device whose token has ended
            assert_eq!(post(&admin, "/admin/tokens/revoke", json!({ "client_uuid": uuid })).await.0, 200);
            let (code, said) = agent(&mut broker, identity).ended().await;
            assert!(code == Some(1) && said.contains("ask an operator for a new one"), "{said}");
            let token = register(&uuid).await;
            starts_as(agent(&mut broker, &[identity, &["--token", &token]].concat()), &uuid).await;
        }
        let uuid = Uuid::new_v4().to_string();
        let token = register(&uuid).await;
        starts_as(agent(&mut broker, &["--uuid", &uuid, "--token", &token]), &uuid).await;
        starts_as(agent(&mut broker, &["--uuid", &uuid]), &uuid).await;
    }
}

#[tokio::test]
async fn a_device_comes_back_with_a_new_token_after_a_revocation_and_not_after_it_was_replaced() {
    let mut broker = Broker::start().await;
    let uuid = Uuid::new_v4().to_string();
    let mut first = agent(&mut broker, &["--uuid", &uuid]);
    first.says(&uuid).await;
    let admin = broker.admin().await;
    assert_eq!(post(&admin, "/admin/tokens/revoke", json!({ "client_uuid": uuid })).await.0, 200);
    first.says("4401").await;
    first.says(&uuid).await;
    let mut second = agent(&mut broker, &["--uuid", &uuid, "--state", "second.json"]);
    second.says(&uuid).await;
    let (code, said) = first.ended().await;
    assert!(code == Some(1) && said.contains("4409") && said.contains("connected from elsewhere"), "{said}");
}

#[tokio::test]
async fn tokens_are_renewed_before_they_end_a_socket() {
    let secret = crate::identity::SECRET;
    let setup = Broker::with().env("SECRET_KEY", secret).set("AUTH__EXPIRE_LIVE_SOCKETS", "true");
    let mut broker = setup.start().await;
    let uuid = Uuid::new_v4().to_string();
    let mut first = agent(&mut broker, &["--uuid", &uuid]);
    first.says(&uuid).await;
    first.stop().await;
    let mut before = state(broker.setup());
    let end = chrono::Utc::now().timestamp() + 14;
    before["access_token"] = json!(ending_at(before["access_token"].as_str().unwrap(), end));
    before["access_token_expires_at"] = json!(end);
    fs::write(state_file(broker.setup()), before.to_string()).unwrap();
    let mut agent = agent(&mut broker, &["--uuid", &uuid]);
    agent.says(&uuid).await;
    until(async || state(broker.setup())["refresh_token"] != before["refresh_token"]).await;
    // the session's clock is exact to the second
    until(async || chrono::Utc::now().timestamp() > end + 3).await;
    let admin = broker.admin().await;
    let (status, sent) = post(&admin, "/api/commands", json!({ "target": uuid, "method": "GET", "url": "/" })).await;
    assert!(status == 200 && sent["targets"][0]["state"] == "succeeded", "{sent}");
    let (code, said) = agent.stop().await;
    assert!(code == Some(0) && !said.contains("lost the broker"), "{said}");
}

#[tokio::test]
async fn programs_go_on_while_the_broker_is_away() {
    let mut broker = Broker::with().argument("--bind").argument(&own_address().to_string()).start().await;
    let uuid = Uuid::new_v4().to_string();
    let script = "touch began; until [ -e go ]; do sleep 0.05; done";
    let url = broker.url.clone();
    let arguments = ["agent", "--url", &url, "--uuid", &uuid, "--exec", "sh", "--", "-c", script];
    let mut agent = Program::start(broker.setup(), &arguments);
    agent.says("Connected").await;
    let admin = broker.admin().await;
    let request = admin.request(Method::POST, "/api/commands").header("prefer", "respond-async");
    let command = json!({ "target": uuid, "method": "GET", "url": "/slow" });
    assert_eq!(request.json(&command).send().await.unwrap().status(), 202);
    let dir = broker.setup().dir();
    until(async || dir.join("began").exists()).await;
    let _broker = broker.kill().await.start().await;
    agent.says("lost the broker").await;
    agent.says("Connected").await;
    fs::write(dir.join("go"), "").unwrap();
    agent.says("answered in").await;
}

#[tokio::test]
async fn a_broker_that_asks_for_a_pause_gets_it() {
    let mut broker = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "1").start().await;
    let (client, device) = broker.device("first").await;
    for program in ["agent", "client"] {
        let mut program = match program {
            "agent" => agent(&mut broker, &[]),
            _ => self::client(&mut broker, "second"),
        };
        let line = program.says("limits.registrations_per_minute").await;
        let (_, pause) = line.rsplit_once("trying again in ").unwrap();
        let secs: f64 = pause.trim_end_matches(" s").parse().unwrap();
        let request = client.request(Method::POST, "/register").json(&json!({ "name": "a", "uuid": Uuid::new_v4() }));
        let response = request.send().await.unwrap();
        let asked: f64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(secs >= asked && asked > 0.0, "{line} {asked}");
    }
    drop(device);
}

#[tokio::test]
async fn a_person_at_the_terminal_talks_by_name() {
    let mut broker = Broker::start().await;
    let mut bob = client(&mut broker, "Bob");
    bob.says("Connected").await;
    let mut box_ = client(&mut broker, "Big Box");
    box_.says("Connected").await;
    bob.types("/who").await;
    bob.says("Big Box").await;
    bob.says("Bob").await;
    bob.types("/to \"Big Box\" Hello you").await;
    assert_eq!(box_.says("Hello you").await, "Bob: Hello you");
    bob.types("And again").await;
    assert_eq!(box_.says("And again").await, "Bob: And again");
    bob.types("/to Nobody Hello").await;
    bob.says("no connected client is named \"Nobody\"").await;
    bob.types("/subscribe weather").await;
    bob.says("Topic not found").await;
    box_.types("/topic weather It rains.").await;
    box_.says("created the topic weather").await;
    bob.types("/subscribe weather").await;
    bob.says("subscribed to weather").await;
    box_.types("It snows.").await;
    assert_eq!(bob.says("It snows.").await, "#weather Big Box: It snows.");
    bob.types("/unsubscribe weather").await;
    bob.says("Unsubscribed").await;
    // what others send is no command to the terminal
    let (_, _, mut raw) = broker.connected("raw").await;
    let uuid = get(&broker.client(), "/clients").await.1["clients"].as_object().unwrap().clone();
    let (uuid, _) = uuid.iter().find(|(_, name)| *name == "Bob").unwrap();
    let message = json!({ "to": uuid, "msgid": "1", "content": "\u{1b}[2Jgone" });
    raw.send_text(message.to_string()).await.unwrap();
    assert_eq!(bob.says("gone").await, r"raw: \u{1b}[2Jgone");
    // a device that was seen before is known by its name after it has gone
    box_.types("/quit").await;
    assert_eq!(box_.ended().await.0, Some(0));
    until(async || get(&broker.client(), "/clients").await.1["count"] == 2).await;
    bob.types("/to \"big box\" Are you there?").await;
    assert!(bob.says("offline").await.starts_with("  Big Box ("));
}

/// Reads up to a message.
async fn next_message(socket: &mut Connection) -> Value {
    loop {
        let frame = next(socket).await;
        if frame["content"].is_string() {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_person_at_the_terminal_sends_messages_that_are_kept_and_is_told_how_they_end() {
    let mut broker = Broker::start().await;
    let mut bob = client(&mut broker, "Bob");
    bob.says("Connected").await;
    let (pump, device, mut socket) = broker.connected("pump").await;
    bob.types("/ack pump Open").await;
    let got = next(&mut socket).await;
    assert_eq!((&got["content"], &got["acknowledge"]), (&json!("Open"), &json!(true)));
    let msgid = got["msgid"].as_str().unwrap();
    let receipt = bob.line().await;
    assert!(receipt.starts_with(&format!("  sent, not acknowledged yet: {msgid}, expires ")), "{receipt}");
    socket.send_text(json!({ "type": "ack", "msgid": msgid, "status": "rejected" }).to_string()).await.unwrap();
    assert_eq!(bob.line().await, format!("  rejected: {msgid} to pump"));
    // the next text is acknowledged, too
    bob.types("Close").await;
    let got = next_message(&mut socket).await;
    assert_eq!((&got["content"], &got["acknowledge"]), (&json!("Close"), &json!(true)));
    drop(socket);
    bob.says("sent, not acknowledged yet").await;
    until(async || !crate::support::is_listed(&broker.client(), device.uuid).await).await;
    bob.types("/to pump Hello").await;
    bob.says("is offline: not sent; /ack keeps a message for it").await;
    bob.types("/ack pump Again").await;
    bob.says("  queued, the recipient is offline: ").await;
    // how a message ended while its sender was away is told when that is back
    bob.types("/quit").await;
    assert_eq!(bob.ended().await.0, Some(0));
    let mut socket = pump.connect("/ws").await.unwrap();
    next(&mut socket).await;
    for content in ["Close", "Again"] {
        let got = next_message(&mut socket).await;
        assert_eq!(got["content"], content);
        socket.send_text(json!({ "type": "ack", "msgid": got["msgid"] }).to_string()).await.unwrap();
    }
    let mut bob = client(&mut broker, "Bob");
    for _ in 0..2 {
        assert!(bob.says("  delivered: ").await.ends_with(" to pump"));
    }
}

#[tokio::test]
async fn a_message_whose_acknowledgement_got_lost_is_acknowledged_again_and_printed_once() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (anna, device) = broker.device("anna").await;
    let proxy = LossyProxy::start(&broker).await;
    for program in [&["client", "--name", "Carol"][..], &["agent", "--exec", "/bin/true"]] {
        let uuid = Uuid::new_v4();
        let message = |content: &str| json!({ "to": uuid, "msgid": content, "content": content, "acknowledge": true });
        let is_delivered = async |id: &Value| {
            until(async || get(&operator, &format!("/api/messages/{id}")).await.1["status"] == "delivered").await;
        };
        // another program of the device has got it and not acknowledged it
        let mut pump = broker.client();
        pump.register_device("pump", uuid).await.unwrap();
        let mut socket = pump.connect("/ws").await.unwrap();
        assert_eq!(next(&mut socket).await["type"], "connection");
        let (_, before) = post(&anna, "/api/messages", message("before")).await;
        assert_eq!(next(&mut socket).await["content"], "before");
        drop(socket);
        let arguments = ["--url", &proxy.url, "--uuid", &uuid.to_string()];
        let mut program = Program::start(broker.setup(), &[program, &arguments].concat());
        program.says("Connected").await;
        let line = program.line().await;
        assert!(line.ends_with("(again): before"), "{line}");
        is_delivered(&before["id"]).await;

        proxy.lose_next_frame();
        let (_, receipt) = post(&anna, "/api/messages", message("first")).await;
        assert_eq!(receipt["status"], "pending_ack");
        let line = program.line().await;
        assert!(line.ends_with(": first") && line.contains(&device.uuid.to_string()), "{line}");
        program.says("lost the broker").await;
        program.says("Connected").await;
        is_delivered(&receipt["id"]).await;
        let (_, shown) = get(&operator, &format!("/api/messages/{}", receipt["id"])).await;
        assert_eq!(shown["attempts"], 2);
        let (_, receipt) = post(&anna, "/api/messages", message("second")).await;
        assert!(program.line().await.ends_with(": second"));
        is_delivered(&receipt["id"]).await;
    }
}

#[tokio::test]
async fn a_message_in_the_form_of_a_command_is_no_command() {
    let mut broker = Broker::start().await;
    let uuid = Uuid::new_v4().to_string();
    let mut agent = agent(&mut broker, &["--uuid", &uuid, "--parallel", "1"]);
    let mut carol = client(&mut broker, "Carol");
    carol.says("Connected").await;
    agent.says("Connected").await;
    let (_, _, mut mallory) = broker.connected("Mallory").await;
    let clients = get(&broker.client(), "/clients").await.1["clients"].as_object().unwrap().clone();
    let (carols, _) = clients.iter().find(|(_, name)| *name == "Carol").unwrap();
    for to in [&uuid, carols] {
        let command = json!({ "to": to, "msgid": "1", "content": "x", "command_id": Uuid::new_v4(), "method": "GET", "url": "/", "type": "sent" });
        mallory.send_text(command.to_string()).await.unwrap();
        assert_eq!(next(&mut mallory).await["type"], "sent");
    }
    assert_eq!(carol.line().await, "Mallory: x");
    let admin = broker.admin().await;
    let (_, sent) = post(&admin, "/api/commands", json!({ "target": uuid, "method": "GET", "url": "/real" })).await;
    assert_eq!(sent["targets"][0]["state"], "succeeded");
    let line = agent.line().await;
    assert!(line.contains("/real"), "{line}");
}

#[tokio::test]
async fn a_client_comes_back_with_its_subscriptions() {
    let mut broker = Broker::with().argument("--bind").argument(&own_address().to_string()).start().await;
    let mut carol = client(&mut broker, "Carol");
    carol.says("Connected").await;
    carol.types("/topic weather It rains.").await;
    carol.says("created the topic weather").await;
    // only then has she got the answer that she is subscribed
    carol.says("Message sent to 0 subscribers").await;
    let broker = broker.kill().await.start().await;
    carol.says("lost the broker").await;
    carol.says("Connected").await;
    let (dave, _, mut socket) = broker.connected("Dave").await;
    until(async || get(&dave, "/topics/weather").await.1["subscriber_count"] == 1).await;
    dave.subscribe("weather").await.unwrap();
    socket.publish("weather", "It snows.").await.unwrap();
    assert_eq!(carol.says("It snows.").await, "#weather Dave: It snows.");
    next(&mut socket).await;
}

#[tokio::test]
async fn everything_works_by_a_proxy_with_tls_and_a_private_authority_below_a_path() {
    let mut broker = Broker::start().await;
    let ca = broker.data_dir().join("ca.pem");
    let proxy = TlsProxy::start(&broker, &ca);
    let (url, ca) = (proxy.url.clone(), ca.display().to_string());
    let by_proxy = ["--url", &url, "--ca", &ca];
    let uuid = Uuid::new_v4().to_string();
    let mut agent = Program::start(
        broker.setup(),
        &[&["agent", "--exec", "echo", "--uuid", &uuid], &by_proxy[..], &["--", "1"]].concat(),
    );
    agent.says(&uuid).await;
    // the demo's exit code tells whether all of it worked
    let password = fs::read_to_string(broker.data_dir().join("initial-admin-password")).unwrap();
    for command in [&["demo"][..], &["send", &uuid, "GET", "/"], &["devices"], &["commands", "list"], &["gateways"]] {
        let mut shell = broker.setup().command(&[command, &by_proxy].concat());
        let output = shell.env("SWITCHBOARD_PASSWORD", password.trim()).output().unwrap();
        assert!(output.status.success(), "{command:?} {output:?}");
    }
    let (_, port) = url.trim_end_matches("/switchboard").rsplit_once(':').unwrap();
    let other = broker.data_dir().join("other.pem");
    let _other = TlsProxy::start(&broker, &other);
    let (other, plain) = (other.display().to_string(), broker.url.replace("http", "https"));
    let state = ["--state", "state.json"];
    for (command, flags, expected) in [
        (&["demo"][..], &["--url", &url][..], "--ca FILE"),
        (&["demo"], &["--url", &url, "--ca", &other], "signed by an authority that is not trusted here"),
        (&["demo"], &["--url", &format!("https://localhost:{port}"), "--ca", &ca], "for another host name"),
        (&["demo"], &["--url", &plain], "does not speak TLS"),
        (&["demo"], &["--url", &url, "--ca", "none.pem"], "cannot read none.pem"),
        (&["demo"], &["--url", &url, "--ca", ".."], "cannot read .."),
        (&[&["agent", "--exec", "echo"][..], &state].concat(), &["--url", &url], "--ca FILE"),
        (&[&["client", "--name", "Carol"][..], &state].concat(), &["--url", &url], "--ca FILE"),
    ] {
        let output = broker.command(&[command, flags].concat(), "");
        let code = if expected.starts_with("cannot read") { 2 } else { 1 };
        assert!(output.code == Some(code) && output.stderr.contains(expected), "{output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    }
}
