//! Devices as a resource (contract section 4), and the command line for devices and gateways.

use std::process::Stdio;

use chrono::{DateTime, FixedOffset};
use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::Client;
use tokio::io::{AsyncBufReadExt, BufReader};
use uuid::Uuid;

use crate::support::{
    Broker, answer, close_code, delete, faults, get, next_of_type, nothing_came, own_address, post, refusal, until,
    within,
};

async fn put(client: &Client, path: &str, body: Value) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::PUT, path).json(&body)).await;
    (status.as_u16(), body)
}

fn names(list: &Value) -> Vec<&str> {
    list["devices"].as_array().unwrap().iter().map(|device| device["name"].as_str().unwrap()).collect()
}

fn time(value: &Value) -> Option<DateTime<FixedOffset>> {
    let text = value.as_str()?;
    assert!(text.ends_with('Z'), "{text}");
    DateTime::parse_from_rfc3339(text).ok()
}

fn text_error(status: u16, detail: &str, code: &str) -> (u16, Value) {
    (status, json!({ "detail": detail, "code": code }))
}

#[tokio::test]
async fn devices_are_listed_by_name_a_page_at_a_time_and_searched() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    for name in ["delta", "alpha", "Charlie 100%", "bravo_1", "Ümlaut", "echo"] {
        broker.device(name).await;
    }
    let (mut client, uuid) = (broker.client(), Uuid::parse_str("c0ffee00-0000-4000-8000-000000000001").unwrap());
    client.register_device("", uuid).await.unwrap();
    let (status, all) = get(&operator, "/devices").await;
    assert_eq!((status, &all["count"], &all["total"]), (200, &json!(7), &json!(7)));
    let mut sorted = names(&all);
    // upper and lower case are ordered as the database does it
    sorted.sort_unstable();
    assert_eq!(sorted, ["", "Charlie 100%", "alpha", "bravo_1", "delta", "echo", "Ümlaut"]);
    let mut paged = Vec::new();
    for skip in [0, 3, 6, 9] {
        let (_, page) = get(&operator, &format!("/devices/?skip={skip}&limit=3")).await;
        assert_eq!((&page["count"], &page["total"]), (&json!(names(&page).len()), &json!(7)));
        paged.extend(names(&page).into_iter().map(str::to_owned));
    }
    assert_eq!(paged, names(&all));
    let table = [
        ("al", vec!["alpha"]),
        ("ALPHA", vec!["alpha"]),
        ("charlie", vec!["Charlie 100%"]),
        ("%25", vec!["Charlie 100%"]),
        ("_", vec!["bravo_1"]),
        ("%C3%9Cm", vec!["Ümlaut"]),
        ("%5C", vec![]),
        ("'", vec![]),
        ("c0ff", vec![""]),
        ("C0FFEE00-0000", vec![""]),
        ("c0ffee00-0000-4000-8000-000000000001", vec![""]),
        ("c0ffee00-0000-4000-8000-000000000002", vec![]),
    ];
    for (search, expected) in table {
        let (_, found) = get(&operator, &format!("/devices?search={search}")).await;
        assert_eq!(names(&found), expected, "{search}");
    }
    for query in ["limit=0", "limit=1001", "skip=-1", "limit=x", "gateway_id=x"] {
        assert_eq!(get(&operator, &format!("/devices?{query}")).await.0, 422, "{query}");
    }
}

#[tokio::test]
async fn a_device_reads_and_changes_itself_and_operators_all_of_them() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    let user = broker.user("ulla", "user").await;
    let (alice, device, mut socket) = broker.connected("Alice").await;
    let (bob, _) = broker.device("Bob").await;
    let nobody = broker.client();
    let path = format!("/devices/{}", device.uuid);
    for (method, path) in
        [(Method::GET, path.as_str()), (Method::PUT, &path), (Method::DELETE, &path), (Method::GET, "/devices")]
    {
        for (client, expected) in [(&nobody, 401), (&user, 403), (&bob, 403)] {
            assert_eq!(
                answer(client.request(method.clone(), path).json(&json!({}))).await.0,
                expected,
                "{method} {path}"
            );
        }
    }
    for (method, path) in [(Method::GET, "/devices"), (Method::DELETE, &path)] {
        assert_eq!(answer(alice.request(method, path)).await.0, 403);
    }
    let (status, shown) = get(&alice, &path).await;
    assert_eq!(
        (status, &shown["uuid"], &shown["name"], &shown["metadata"]),
        (200, &json!(device.uuid), &json!("Alice"), &json!({}))
    );
    assert_eq!((&shown["online"], &shown["gateway_id"]), (&json!(true), &Value::Null));

    let id =
        post(&operator, "/api/gateways", json!({ "name": "g", "address": "tcp://127.0.0.1:1" })).await.1["id"].clone();
    let metadata = json!({ "model": "x", "version": 1.50, "nested": { "a": [1, null] } });
    let (status, changed) =
        put(&alice, &path, json!({ "name": "Alicia", "metadata": metadata, "gateway_id": id })).await;
    assert_eq!(
        (status, &changed["name"], &changed["metadata"], &changed["gateway_id"]),
        (200, &json!("Alicia"), &metadata, &id)
    );
    assert_eq!(get(&operator, &path).await.1["metadata"], metadata);
    assert_eq!(get(&nobody, "/clients").await.1["clients"][device.uuid.to_string()], "Alicia");
    assert_eq!(get(&operator, &format!("/devices?gateway_id={id}")).await.1["count"], 1);
    // what is left out stays, null is none
    let (_, changed) =
        put(&operator, &path.to_uppercase().replace("/DEVICES/", "/devices/"), json!({ "gateway_id": null })).await;
    assert_eq!(
        (&changed["name"], &changed["metadata"], &changed["gateway_id"]),
        (&json!("Alicia"), &metadata, &Value::Null)
    );
    assert_eq!(put(&alice, &path, json!({})).await.0, 200);
    assert_eq!(
        put(&alice, &path, json!({ "gateway_id": 99 })).await,
        text_error(404, "Gateway not found", "not_found")
    );
    assert_eq!(put(&alice, &path, json!({ "metadata": null })).await.1["metadata"], json!({}));
    let faulty = json!({ "name": "x".repeat(201), "metadata": { "x": "x".repeat(4096) }, "gateway_id": "x" });
    let expected = ["string_too_long body.name", "value_error body.metadata", "int_parsing body.gateway_id"];
    assert_eq!(faults(&put(&alice, &path, faulty).await.1), expected);
    assert_eq!(faults(&put(&alice, &path, json!({ "metadata": [] })).await.1), ["dict_type body.metadata"]);
    assert_eq!(faults(&get(&operator, "/devices/x").await.1), ["uuid_parsing path.device_id"]);
    let unknown = format!("/devices/{}", Uuid::new_v4());
    for (method, body) in [(Method::GET, json!({})), (Method::PUT, json!({})), (Method::DELETE, json!({}))] {
        let (status, body) = answer(operator.request(method, &unknown).json(&body)).await;
        assert_eq!((status.as_u16(), body), text_error(404, "Device not found", "not_found"));
    }
    // a gateway that goes leaves its devices behind none
    assert_eq!(put(&alice, &path, json!({ "gateway_id": id })).await.0, 200);
    assert_eq!(delete(&operator, &format!("/api/gateways/{id}")).await.0, 200);
    assert_eq!(get(&alice, &path).await.1["gateway_id"], Value::Null);
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn a_device_was_last_seen_when_it_was_last_connected() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (alice, device) = broker.device("Alice").await;
    let path = format!("/devices/{}", device.uuid);
    let shown = get(&operator, &path).await.1;
    assert_eq!((&shown["online"], &shown["last_seen"]), (&json!(false), &Value::Null));
    let socket = within(alice.connect("/ws")).await.unwrap();
    let online = get(&operator, &path).await.1;
    assert_eq!(online["online"], true);
    let seen = time(&online["last_seen"]).unwrap();
    assert_eq!(get(&operator, "/devices").await.1["devices"][0]["online"], true);
    socket.close().await.unwrap();
    until(async || {
        let shown = get(&operator, &path).await.1;
        shown["online"] == false && time(&shown["last_seen"]).is_some_and(|last| last >= seen)
    })
    .await;
    // also when it was the broker that went
    let _socket = within(alice.connect("/ws")).await.unwrap();
    let before = time(&get(&operator, &path).await.1["last_seen"]).unwrap();
    broker.signal("TERM");
    assert_eq!(broker.ended().await, Some(0));
    let mut broker = broker.kill().await.start().await;
    let shown = get(&broker.admin().await, &path).await.1;
    assert!(time(&shown["last_seen"]).unwrap() >= before, "{shown} {before}");
}

#[tokio::test]
async fn a_deleted_device_is_nobody_until_it_registers_again() {
    let mut broker = Broker::with().set("DEVICES__REGISTRATION", "claim").start().await;
    let operator = broker.user("olga", "operator").await;
    let (alice, device, mut socket) = broker.connected("Alice").await;
    let path = format!("/devices/{}", device.uuid);
    alice.create_topic("weather").await.unwrap();
    alice.subscribe("weather").await.unwrap();
    assert_eq!(put(&alice, &path, json!({ "metadata": { "a": 1 } })).await.0, 200);
    let mut chat = within(alice.connect("/ws/auth")).await.unwrap();
    assert_eq!(delete(&operator, &path).await, (200, json!({ "message": "Device deleted" })));
    assert_eq!((close_code(&mut socket).await, close_code(&mut chat).await), (4401, 4401));
    assert_eq!(get(&operator, "/clients").await.1, json!({ "count": 0, "clients": {} }));
    assert_eq!(get(&operator, "/topics/weather").await.1["subscriber_count"], 0);
    let bad = text_error(401, "Could not validate credentials", "invalid_credentials");
    assert_eq!(get(&alice, &path).await, bad);
    assert_eq!(refusal(within(alice.connect("/ws")).await).0, 401);
    let refresh = json!({ "refresh_token": device.refresh_token });
    assert_eq!(post(&broker.client(), "/auth/refresh", refresh).await.0, 401);
    assert_eq!(get(&operator, &path).await.0, 404);
    assert_eq!(delete(&operator, &path).await.0, 404);
    assert_eq!(get(&operator, "/devices").await.1["count"], 0);
    let send = format!("/send-command/{}", device.uuid);
    let command = json!({ "method": "GET", "url": "/x" });
    assert_eq!(post(&operator, &send, command).await, text_error(404, "Client not found", "not_found"));

    // whoever comes first has it now; what was said and known of the old one is gone, its tokens and key as well
    let mut again = broker.client();
    let registered = again.register_device("Anna", device.uuid).await.unwrap();
    assert_eq!(get(&alice, &path).await, bad);
    let (_, shown) = get(&again, &path).await;
    assert_eq!((&shown["name"], &shown["metadata"], &shown["last_seen"]), (&json!("Anna"), &json!({}), &Value::Null));
    let proof = json!({ "name": "Alice", "uuid": device.uuid, "token": device.access_token });
    assert_eq!(post(&broker.client(), "/register", proof).await.0, 409);
    let mut socket = within(again.connect("/ws")).await.unwrap();
    next_of_type(&mut socket, "connection").await;
    nothing_came(&mut socket).await;
    assert_eq!(registered.name, "Anna");
}

#[tokio::test]
async fn a_device_that_another_process_deleted_is_nobody_soon() {
    let mut broker = Broker::with().set("AUTH__RECHECK_SECS", "1").start().await;
    let (alice, device, mut socket) = broker.connected("Alice").await;
    let (bert, other, mut still_open) = broker.connected("Bert").await;
    // its look finds both as they were registered, and nothing is new about them
    broker.store().await.delete_device(device.uuid.into()).await.unwrap().unwrap();
    assert_eq!(close_code(&mut socket).await, 4401);
    let bad = text_error(401, "Could not validate credentials", "invalid_credentials");
    assert_eq!(get(&alice, "/clients").await, bad);
    assert_eq!(get(&bert, &format!("/devices/{}", other.uuid)).await.0, 200);
    nothing_came(&mut still_open).await;
}

#[tokio::test]
async fn what_waits_for_a_device_ends_with_it() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (alice, device) = broker.device("Alice").await;
    alice.create_topic("weather").await.unwrap();
    alice.subscribe("weather").await.unwrap();
    let body = json!({ "target": device.uuid, "method": "GET", "url": "/x", "deliver_within_secs": 600 });
    let request = operator.request(Method::POST, "/api/commands").header("prefer", "respond-async").json(&body);
    let (status, command) = answer(request).await;
    assert_eq!((status.as_u16(), &command["targets"][0]["state"]), (202, &json!("queued")));
    assert_eq!(delete(&operator, &format!("/devices/{}", device.uuid)).await.0, 200);
    let (_, command) = get(&operator, &format!("/api/commands/{}", command["id"].as_str().unwrap())).await;
    assert_eq!((&command["state"], &command["targets"][0]["state"]), (&json!("finished"), &json!("offline")));
    assert_eq!(get(&operator, "/topics/weather").await.1["subscriber_count"], 0);
    let mut again = broker.client();
    again.register_device("Anna", device.uuid).await.unwrap();
    let mut socket = within(again.connect("/ws")).await.unwrap();
    next_of_type(&mut socket, "connection").await;
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn the_command_line_lists_adds_shows_and_removes() {
    let mut broker = Broker::with().set("PROBES__PERIOD_SECS", "1").start().await;
    let url = broker.url.clone();
    let (alice, device) = broker.device("Alice").await;
    let uuid = device.uuid.to_string();
    assert_eq!(put(&alice, &format!("/devices/{uuid}"), json!({ "metadata": { "model": "x1" } })).await.0, 200);
    let mut run = |arguments: &[&str]| {
        let output = broker.command(&[arguments, &["--url", &url]].concat(), "");
        (output.code, output.stdout, output.stderr)
    };
    let (code, added, _) = run(&[
        "gateways",
        "add",
        "Plant north",
        "tcp://127.0.0.1:1",
        "--id",
        "4",
        "--max-rtt-ms",
        "2.5",
        "--max-loss-percent",
        "10",
    ]);
    assert!(code == Some(0) && added.contains("Plant north") && added.contains("tcp://127.0.0.1:1"), "{added}");
    let (_, added, _) = run(&["gateways", "add", "Behind", "localhost", "--parent", "4", "--json"]);
    let added: Value = serde_json::from_str(&added).unwrap();
    assert_eq!((&added["id"], &added["parent_id"]), (&json!(5), &json!(4)));
    for arguments in [&["gateways"][..], &["gateways", "list"]] {
        let (code, table, _) = run(arguments);
        let lines: Vec<_> = table.lines().collect();
        assert!(
            code == Some(0) && lines.len() == 3 && lines[0].contains("STATUS") && lines[1].contains("Plant north"),
            "{table}"
        );
    }
    let (_, list, _) = run(&["gateways", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap()["count"], 2);
    let (code, _, error) = run(&["gateways", "add", "x", "a;b"]);
    assert!(code == Some(2) && error.contains("<ADDRESS>") && error.contains("tcp://host:port"), "{error}");
    let (code, removed, _) = run(&["gateways", "rm", "5"]);
    assert_eq!((code, removed.as_str()), (Some(0), "Gateway deleted\n"));
    let (code, _, error) = run(&["gateways", "rm", "5"]);
    assert!(code == Some(1) && error.contains("Gateway not found"), "{error}");

    let (code, table, _) = run(&["devices"]);
    assert!(code == Some(0) && table.contains(&uuid) && table.contains("Alice"), "{table}");
    let (_, list, _) = run(&["devices", "list", "--search", "lic", "--limit", "1", "--json"]);
    assert_eq!(names(&serde_json::from_str(&list).unwrap()), ["Alice"]);
    let (_, shown, _) = run(&["devices", "show", &uuid]);
    assert!(shown.contains("Alice") && shown.contains("\"model\": \"x1\""), "{shown}");
    let (code, removed, _) = run(&["devices", "rm", &uuid]);
    assert_eq!((code, removed.as_str()), (Some(0), "Device deleted\n"));
    let (code, _, error) = run(&["devices", "show", &uuid]);
    assert!(code == Some(1) && error.contains("Device not found"), "{error}");
}

#[tokio::test]
async fn the_command_line_follows_gateways_as_they_change() {
    let mut broker = Broker::with().set("PROBES__PERIOD_SECS", "1").start().await;
    let operator = broker.admin().await;
    let listener = std::net::TcpListener::bind(own_address()).unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let (_, gateway) = post(&operator, "/api/gateways", json!({ "name": "Plant north", "address": address })).await;
    let path = format!("/api/gateways/{}", gateway["id"]);
    until(async || get(&operator, &path).await.1["status"] == "connected").await;
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_switchboard"))
        .args(["gateways", "watch", "--url", &broker.url])
        .env("SWITCHBOARD_TOKEN", operator.token().unwrap())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut says = async |what: &[&str]| {
        let line = within(lines.next_line()).await.unwrap().expect("it goes on");
        assert!(what.iter().all(|one| line.contains(one)), "{line}");
    };
    says(&["ID", "STATUS"]).await;
    says(&["Plant north", "connected"]).await;
    drop(listener);
    says(&["Plant north", "disconnected", "refused"]).await;
    assert_eq!(delete(&operator, &path).await.0, 200);
    says(&["removed"]).await;
}

#[tokio::test]
async fn a_deleted_device_leaves_its_rooms_and_no_user_can_be_deleted_as_a_device() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    let (mut device, registered) = broker.device("box").await;
    let (_, room) = post(&operator, "/api/rooms/", json!({ "name": "lobby" })).await;
    let members = format!("/api/rooms/{}/members", room["id"]);
    assert_eq!(post(&device, &format!("/api/rooms/{}/join", room["id"]), json!({})).await.0, 200);
    assert_eq!(get(&operator, &members).await.1["count"], 2);

    let (_, me) = get(&operator, "/api/users/me").await;
    let path = format!("/devices/{}", me["uuid"].as_str().unwrap());
    assert_eq!(delete(&operator, &path).await, text_error(404, "Device not found", "not_found"));
    assert_eq!(get(&operator, &members).await.1["count"], 2);

    assert_eq!(delete(&operator, &format!("/devices/{}", registered.uuid)).await.0, 200);
    let (_, left) = get(&operator, &members).await;
    assert_eq!((&left["count"], &left["members"][0]["username"]), (&json!(1), &json!("olga")));
    device.register_device("box", registered.uuid).await.unwrap();
    assert_eq!(get(&device, &members).await.0, 403);
}

#[tokio::test]
async fn who_watches_the_broker_is_told_to_nobody() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    assert_eq!(post(&operator, "/topics/subscribe", json!({ "topic_id": "$status" })).await.0, 200);
    let (status, topic) = get(&broker.client(), "/topics/$status").await;
    assert_eq!((status, &topic["subscriber_count"], &topic["subscribers"]), (200, &json!(1), &json!([])));
}
