//! Commands as a resource: whom they go to, what becomes of them, and who gets to know.

use std::collections::HashSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use switchboard::client::{Client, Connection, Device};
use uuid::Uuid;

use crate::support::{
    Broker, PERIODS, answer, everywhere, faults, get, is_listed, next, next_of_type, no_command_is_left, nothing_came,
    post, posting, reply, until, within,
};

const PATH: &str = "/api/commands";

/// A command to these targets.
fn request(targets: impl serde::Serialize) -> Value {
    json!({ "targets": targets, "method": "GET", "url": "/status" })
}

/// Gives a command without waiting for its end; its id.
async fn give(operator: &Client, body: &Value) -> String {
    let request = operator.request(Method::POST, PATH).header("Prefer", "respond-async").json(body);
    let response = within(request.send()).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let command: Value = within(response.json()).await.unwrap();
    assert_eq!(status, StatusCode::ACCEPTED, "{command}");
    let id = command["id"].as_str().unwrap().to_owned();
    assert_eq!(headers["location"], format!("{PATH}/{id}"));
    id
}

async fn show(client: &Client, id: &str) -> Value {
    let (status, command) = get(client, &format!("{PATH}/{id}")).await;
    assert_eq!(status, 200, "{command}");
    command
}

async fn cancel(client: &Client, id: &str) -> Value {
    let (status, command) = answer(client.request(Method::DELETE, &format!("{PATH}/{id}"))).await;
    assert_eq!(status, StatusCode::OK, "{command}");
    command
}

/// What became of a command's targets, by their names.
fn states(command: &Value) -> Value {
    let targets = command["targets"].as_array().unwrap();
    targets.iter().map(|target| (target["name"].as_str().unwrap().to_owned(), target["state"].clone())).collect()
}

async fn until_states(operator: &Client, id: &str, expected: Value) -> Value {
    let mut command = Value::Null;
    until(async || {
        command = show(operator, id).await;
        states(&command) == expected
    })
    .await;
    command
}

async fn progress(socket: &mut Connection, command: &Value, progress: Value) {
    let frame = json!({ "type": "progress", "command_id": command["command_id"], "progress": progress });
    socket.send_text(frame.to_string()).await.unwrap();
}

async fn send_result(socket: &mut Connection, command: &Value, result: Value) {
    let frame = json!({ "command_id": command["command_id"], "result": result });
    socket.send_text(frame.to_string()).await.unwrap();
}

/// The device's socket, open and greeted.
async fn reconnect(broker: &Broker, device: &Device) -> Connection {
    let client = broker.client().with_token(&device.access_token);
    let mut socket = within(client.connect("/ws")).await.unwrap();
    next_of_type(&mut socket, "connection").await;
    socket
}

/// An event of a command.
#[derive(Debug)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

/// A stream of events, read as a browser does.
struct Events {
    response: reqwest::Response,
    buffer: String,
}

impl Events {
    async fn open(client: &Client, id: &str, last: Option<&str>) -> Self {
        let mut request = client.request(Method::GET, &format!("{PATH}/{id}/events"));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = within(request.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: String::new() }
    }

    /// None: the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                let field = |name: &str| {
                    let values = block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    values.collect::<Vec<_>>().join("\n")
                };
                let data = field("data");
                if !data.is_empty() {
                    let data = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {block}"));
                    return Some(Event { id: field("id"), name: field("event"), data });
                }
            }
            let chunk = within(self.response.chunk()).await.unwrap()?;
            self.buffer += std::str::from_utf8(&chunk).unwrap();
        }
    }

    /// All up to the end of the stream.
    async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

#[tokio::test]
async fn a_command_names_each_of_its_targets_with_its_end_its_result_and_its_times() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    let (_, good, mut good_socket) = broker.connected("good").await;
    let (_, bad, mut bad_socket) = broker.connected("bad").await;
    let (_, leaver, mut leaver_socket) = broker.connected("leaver").await;
    let (_, silent, mut silent_socket) = broker.connected("silent").await;
    let (_, absent) = broker.device("absent").await;
    let user = broker.user("ulla", "user").await;
    let (_, me) = get(&user, "/api/users/me").await;
    let mut agent = within(user.connect("/ws")).await.unwrap();
    nothing_came(&mut agent).await;
    let upper = leaver.uuid.to_string().to_uppercase();
    // twice is once
    let targets = json!([good.uuid, bad.uuid, upper, absent.uuid, me["id"], me["uuid"], good.uuid]);
    let body =
        json!({ "targets": targets, "method": "POST", "url": "/x", "data": {"b": 1.0, "a": []}, "timeout_secs": 300 });
    let asking = posting(&operator, "/api/commands/", &body);
    let command = reply(&mut good_socket, json!({ "n": 1 })).await;
    assert_eq!((&command["method"], &command["url"]), (&json!("POST"), &json!("/x")));
    assert_eq!(command["data"].to_string(), r#"{"b":1.0,"a":[]}"#);
    reply(&mut bad_socket, json!({ "error": "no" })).await;
    reply(&mut agent, json!("[1]")).await;
    next(&mut leaver_socket).await;
    within(leaver_socket.close()).await.unwrap();
    let (status, answered) = within(asking).await.unwrap();
    assert_eq!(status, 200, "{answered}");
    let expected = json!({
        "good": "succeeded", "bad": "failed", "leaver": "disconnected", "absent": "offline", "ulla": "succeeded",
    });
    assert_eq!(states(&answered), expected);
    let shown = show(&operator, command["command_id"].as_str().unwrap()).await;
    assert_eq!(states(&shown), expected);
    for command in [&answered, &shown] {
        assert_eq!((&command["state"], &command["requester"]), (&json!("finished"), &json!("olga")));
        assert_eq!((&command["timeout_secs"], &command["method"]), (&json!(300), &json!("POST")));
        assert_eq!(command["data"].to_string(), r#"{"b":1.0,"a":[]}"#);
        assert!(command["created_at"].as_str() <= command["finished_at"].as_str(), "{command}");
        assert_eq!(command["targets"].as_array().unwrap().len(), 5);
        for target in command["targets"].as_array().unwrap() {
            let (name, asked) = (target["name"].as_str().unwrap(), target["state"] != "offline");
            assert_eq!(target["sent_at"].is_string(), asked, "{target}");
            assert!(target["ended_at"].as_str().unwrap().ends_with('Z'), "{target}");
            let result = match name {
                "good" => json!({ "n": 1 }),
                "bad" => json!({ "error": "no" }),
                "ulla" => json!([1]),
                _ => Value::Null,
            };
            assert_eq!(target["result"], result, "{target}");
            let is_user = name == "ulla";
            assert_eq!(target["kind"], if is_user { "user" } else { "device" });
            assert_eq!(target["user_id"], if is_user { me["id"].clone() } else { Value::Null });
        }
    }
    // one that is silent keeps nobody waiting for longer than it may
    let mut body = request([silent.uuid]);
    body["timeout_secs"] = json!(1);
    let (status, answered) = post(&operator, PATH, body).await;
    assert_eq!((status, states(&answered)), (200, json!({ "silent": "timed_out" })));
    let target = &answered["targets"][0];
    assert!(target["sent_at"].is_string() && target["ended_at"].is_string() && target["result"].is_null(), "{target}");
    next(&mut silent_socket).await;
    // one target, by integer id
    let asking = posting(&operator, PATH, &json!({ "target": me["id"], "method": "GET", "url": "/" }));
    reply(&mut agent, json!(1)).await;
    assert_eq!(states(&within(asking).await.unwrap().1), json!({ "ulla": "succeeded" }));
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_selection_takes_those_who_are_connected_and_fulfil_every_condition() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let mut sockets = Vec::new();
    for (name, topic) in [("pump 1", true), ("pump 2", false), ("valve 1", true)] {
        let (client, _, socket) = broker.connected(name).await;
        if topic {
            post(&client, "/topics/create", json!({ "topic_id": "t" })).await;
            client.subscribe("t").await.unwrap();
        }
        sockets.push(socket);
    }
    let (offline, _) = broker.device("pump 3").await;
    offline.subscribe("t").await.unwrap();
    let user = broker.user("pumpkin", "user").await;
    let mut agent = within(user.connect("/ws")).await.unwrap();
    nothing_came(&mut agent).await;
    sockets.push(agent);
    // each answers until the end
    for mut socket in sockets {
        tokio::spawn(async move {
            loop {
                reply(&mut socket, json!(1)).await;
            }
        });
    }
    let table = [
        (json!({}), vec!["pump 1", "pump 2", "pumpkin", "valve 1"]),
        (json!({ "kind": "user" }), vec!["pumpkin"]),
        (json!({ "kind": "device" }), vec!["pump 1", "pump 2", "valve 1"]),
        (json!({ "topic": "t" }), vec!["pump 1", "valve 1"]),
        (json!({ "name_prefix": "pump" }), vec!["pump 1", "pump 2", "pumpkin"]),
        (json!({ "name_prefix": "pump ", "topic": "t" }), vec!["pump 1"]),
        (json!({ "name_prefix": "pump", "kind": "device", "topic": null }), vec!["pump 1", "pump 2"]),
    ];
    for (select, expected) in table {
        let (status, command) = post(&operator, PATH, json!({ "select": select, "method": "GET", "url": "/" })).await;
        assert_eq!(status, 200, "{command}");
        let expected: Value = expected.into_iter().map(|name| (name.to_owned(), json!("succeeded"))).collect();
        assert_eq!(states(&command), expected, "{select}");
    }
    for select in [
        json!({ "topic": "unknown" }),
        json!({ "name_prefix": "Pump" }),
        json!({ "kind": "user", "topic": "t" }),
        json!({ "room": 1 }),
    ] {
        let (status, body) = post(&operator, PATH, json!({ "select": select, "method": "GET", "url": "/" })).await;
        let expected = json!({ "detail": "No matching clients", "code": "not_found" });
        assert_eq!((status, body), (404, expected), "{select}");
    }
    let (status, _) = post(&user, PATH, json!({ "select": { "kind": "user" }, "method": "GET", "url": "/" })).await;
    assert_eq!(status, 403);
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn every_fault_of_a_command_is_told() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (device_client, device, mut socket) = broker.connected("device").await;
    let user = broker.user("ulla", "user").await;
    let id = device.uuid;
    let with = |more: Value| {
        let mut body = json!({ "method": "GET", "url": "/" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let table = [
        (json!({}), vec!["missing body.method", "missing body.url", "value_error body"]),
        (with(json!({})), vec!["value_error body"]),
        (with(json!({ "target": id, "targets": [id] })), vec!["value_error body"]),
        (with(json!({ "target": id, "select": {} })), vec!["value_error body"]),
        (with(json!({ "target": null, "targets": null, "select": null })), vec!["value_error body"]),
        (with(json!({ "target": "nobody" })), vec!["value_error body.target"]),
        (with(json!({ "target": 1.5 })), vec!["value_error body.target"]),
        (with(json!({ "target": [id] })), vec!["value_error body.target"]),
        (with(json!({ "targets": [] })), vec!["value_error body.targets"]),
        (with(json!({ "targets": id })), vec!["value_error body.targets"]),
        (with(json!({ "targets": [id, true] })), vec!["value_error body.targets"]),
        (with(json!({ "select": "all" })), vec!["value_error body.select"]),
        (with(json!({ "select": { "kind": "room" } })), vec!["value_error body.select"]),
        (with(json!({ "select": { "topic": 1 } })), vec!["value_error body.select"]),
        (with(json!({ "select": { "room": "1" } })), vec!["value_error body.select"]),
        (with(json!({ "select": { "name": "x" } })), vec!["value_error body.select"]),
        (json!({ "target": id, "method": 1, "url": [] }), vec!["string_type body.method", "string_type body.url"]),
        (with(json!({ "target": id, "timeout_secs": 0 })), vec!["greater_than_equal body.timeout_secs"]),
        (with(json!({ "target": id, "timeout_secs": 301 })), vec!["less_than_equal body.timeout_secs"]),
        (with(json!({ "target": id, "timeout_secs": 1.5 })), vec!["int_parsing body.timeout_secs"]),
        (with(json!({ "target": id, "timeout_secs": true })), vec!["int_parsing body.timeout_secs"]),
        (with(json!({ "target": id, "deliver_within_secs": -1 })), vec!["greater_than_equal body.deliver_within_secs"]),
        (
            with(json!({ "target": id, "deliver_within_secs": 604_801 })),
            vec!["less_than_equal body.deliver_within_secs"],
        ),
    ];
    for (body, expected) in table {
        let (status, answer) = post(&operator, PATH, body.clone()).await;
        assert_eq!(status, 422, "{body}: {answer}");
        assert_eq!(
            faults(&answer).into_iter().collect::<HashSet<_>>(),
            expected.into_iter().map(str::to_owned).collect()
        );
    }
    for key in [String::new(), "x".repeat(256), "é".to_owned()] {
        let posted = operator.request(Method::POST, PATH).header("Idempotency-Key", key).json(&request([id]));
        assert_eq!(answer(posted).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    }
    // whom it is for
    for (target, detail) in
        [(json!([id, 999_999]), "User not found"), (json!([Uuid::new_v4(), id]), "Client not found")]
    {
        let (status, body) = post(&operator, PATH, request(target)).await;
        assert_eq!((status, body), (404, json!({ "detail": detail, "code": "not_found" })));
    }
    // who may
    let (_, me) = get(&user, "/api/users/me").await;
    assert_eq!(post(&user, PATH, request([json!(id)])).await.0, 403);
    assert_eq!(post(&user, PATH, request([me["id"].clone(), json!(id)])).await.0, 403);
    assert_eq!(post(&user, PATH, request([me["id"].clone()])).await.0, 200);
    let one = show(&operator, get(&operator, PATH).await.1["commands"][0]["id"].as_str().unwrap()).await;
    for client in [&device_client, &broker.client()] {
        let status = if client.token().is_some() { 403 } else { 401 };
        assert_eq!(post(client, PATH, request([id])).await.0, status);
        assert_eq!(get(client, PATH).await.0, status);
        assert_eq!(get(client, &format!("{PATH}/{}", one["id"].as_str().unwrap())).await.0, status);
    }
    for query in ["state=bogus", "target=nobody", "since=yesterday", "limit=0", "limit=1001", "limit=x", "cursor=x"] {
        let (status, body) = get(&operator, &format!("{PATH}?{query}")).await;
        assert_eq!((status, faults(&body).len()), (422, 1), "{query}: {body}");
    }
    for path in [format!("{PATH}/{}", Uuid::new_v4()), format!("{PATH}/{}/events", Uuid::new_v4())] {
        let expected = json!({ "detail": "Command not found", "code": "not_found" });
        assert_eq!(get(&operator, &path).await, (404, expected));
    }
    assert_eq!(get(&operator, &format!("{PATH}/nothing")).await.0, 422);
    nothing_came(&mut socket).await;
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_gather_is_answered_when_the_last_of_its_targets_is_known() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (mut ids, mut sockets) = (Vec::new(), Vec::new());
    for n in 0..30 {
        let (_, device, socket) = broker.connected(&format!("device {n:02}")).await;
        ids.push(device.uuid);
        sockets.push(socket);
    }
    let asking = posting(&operator, PATH, &request(&ids));
    for (n, socket) in sockets.iter_mut().enumerate().skip(1) {
        reply(socket, json!(n)).await;
    }
    let first = next(&mut sockets[0]).await;
    // all but one are known
    until(async || {
        let command = show(&operator, first["command_id"].as_str().unwrap()).await;
        assert_eq!(command["state"], "pending");
        states(&command).as_object().unwrap().values().filter(|state| *state == "succeeded").count() == 29
    })
    .await;
    assert!(!asking.is_finished());
    send_result(&mut sockets[0], &first, json!(0)).await;
    let (status, command) = within(asking).await.unwrap();
    assert_eq!((status, &command["state"]), (200, &json!("finished")));
    for target in command["targets"].as_array().unwrap() {
        assert_eq!(target["name"], format!("device {:02}", target["result"].as_u64().unwrap()));
        let n = usize::try_from(target["result"].as_u64().unwrap()).unwrap();
        assert_eq!((&target["uuid"], &target["state"]), (&json!(ids[n]), &json!("succeeded")));
    }
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn who_prefers_not_to_wait_is_told_where_to_look() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let id = give(&operator, &request([device.uuid])).await;
    let command = next(&mut socket).await;
    assert_eq!(command["command_id"], id);
    let shown = show(&operator, &id).await;
    assert_eq!((&shown["state"], &shown["finished_at"]), (&json!("pending"), &Value::Null));
    assert_eq!(states(&shown), json!({ "device": "sent" }));
    send_result(&mut socket, &command, json!(1)).await;
    let shown = until_states(&operator, &id, json!({ "device": "succeeded" })).await;
    assert_eq!((&shown["state"], &shown["targets"][0]["result"]), (&json!("finished"), &json!(1)));
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_retry_with_the_same_key_is_the_same_command_however_many_come_at_once() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let other = broker.user("olga", "operator").await;
    let (_, device, mut socket) = broker.connected("device").await;
    let mut body = request([device.uuid]);
    body["data"] = json!({ "a": -0.5, "b": [1] });
    let keyed = |client: &Client, key: &str, body: &Value| {
        client.request(Method::POST, PATH).header("Idempotency-Key", key).json(body)
    };
    for round in 0..10 {
        let key = format!("key {round}");
        let asking: Vec<_> = (0..10).map(|_| tokio::spawn(answer(keyed(&operator, &key, &body)))).collect();
        let id = reply(&mut socket, json!(round)).await["command_id"].clone();
        for asking in asking {
            let (status, command) = within(asking).await.unwrap();
            // each has waited for the end
            assert_eq!((status, &command["id"]), (StatusCode::OK, &id), "{command}");
            assert_eq!(command["targets"][0]["result"], round);
        }
        nothing_came(&mut socket).await;
    }
    assert_eq!(get(&operator, PATH).await.1["count"], 10);

    // the same request spelled otherwise is the same
    let text = format!(
        r#"{{ "url":"\u002fstatus", "method":"GET", "targets" : ["{}"], "data":{{"b":[1e0],"a":-0.50}} }}"#,
        device.uuid
    );
    let again = operator.request(Method::POST, PATH).header("Idempotency-Key", "key 1");
    let (status, first) = answer(again.header("content-type", "application/json").body(text)).await;
    assert_eq!((status, &first["targets"][0]["result"]), (StatusCode::OK, &json!(1)));
    // another is none
    for (field, value) in
        [("url", json!("/other")), ("data", json!({ "a": -0.5, "b": ["1"] })), ("timeout_secs", json!(9))]
    {
        let mut changed = body.clone();
        changed[field] = value;
        let (status, refused) = answer(keyed(&operator, "key 1", &changed)).await;
        assert_eq!((status, &refused["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("idempotency_key_reused")));
    }
    // of somebody else it is another command
    let asking = tokio::spawn(answer(keyed(&other, "key 1", &body)));
    assert_ne!(reply(&mut socket, json!("other")).await["command_id"], first["id"]);
    assert_eq!(within(asking).await.unwrap().1["targets"][0]["result"], "other");

    let mut broker = broker.kill().await.start().await;
    let operator = broker.admin().await;
    let mut socket = reconnect(&broker, &device).await;
    let (status, again) = answer(keyed(&operator, "key 1", &body)).await;
    assert_eq!((status, &again), (StatusCode::OK, &show(&operator, first["id"].as_str().unwrap()).await));
    assert_eq!(again["id"], first["id"]);
    nothing_came(&mut socket).await;
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_stored_command_that_nobody_sees_to_ends_when_it_is_asked_for_again_or_cancelled() {
    let mut broker = Broker::with().alone("the rows are those of a node that has ended").start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let key = |key: &str| {
        let mut body = request([device.uuid]);
        if key == "may wait" {
            body["deliver_within_secs"] = json!(3600);
        }
        operator.request(Method::POST, PATH).header("Idempotency-Key", key).json(&body)
    };
    for name in ["may wait", "must not wait"] {
        let asking = tokio::spawn(answer(key(name)));
        reply(&mut socket, json!("done")).await;
        assert_eq!(within(asking).await.unwrap().0, StatusCode::OK);
    }
    within(socket.close()).await.unwrap();
    everywhere(async || !is_listed(&operator, device.uuid).await).await;
    // as if they had been stored, and whoever stored them had never learned it
    broker.execute("UPDATE commands SET finished_at = NULL, version = 0").await;
    broker.execute("UPDATE command_targets SET state = 'queued', result = NULL, ended_at = NULL, version = 0").await;
    let (status, retried) = answer(key("must not wait")).await;
    assert_eq!((status, &retried["targets"][0]["state"]), (StatusCode::OK, &json!("disconnected")), "{retried}");
    let (status, waits) = answer(key("may wait").header("Prefer", "respond-async")).await;
    assert_eq!((status, &waits["targets"][0]["state"]), (StatusCode::ACCEPTED, &json!("queued")), "{waits}");
    let path = format!("{PATH}/{}", waits["id"].as_str().unwrap());
    let (_, cancelled) = crate::support::delete(&operator, &path).await;
    assert_eq!(cancelled["targets"][0]["state"], "cancelled", "{cancelled}");

    broker.execute("UPDATE commands SET finished_at = NULL, version = 0").await;
    broker.execute("UPDATE command_targets SET state = 'queued', ended_at = NULL, version = 0").await;
    let (status, cancelled) = crate::support::delete(&operator, &path).await;
    assert_eq!((status, &cancelled["targets"][0]["state"]), (200, &json!("cancelled")), "{cancelled}");
}

#[tokio::test]
async fn a_retry_finds_its_command_also_when_it_could_not_be_given_again() {
    let mut broker = Broker::with().set("LIMITS__PENDING_COMMANDS", "1").start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let body = json!({ "select": { "kind": "device" }, "method": "GET", "url": "/" });
    let keyed = || operator.request(Method::POST, PATH).header("Idempotency-Key", "once").json(&body);
    let asking = tokio::spawn(answer(keyed()));
    let command = next(&mut socket).await;
    // at the limit
    let (status, same) = answer(keyed().header("Prefer", "respond-async")).await;
    assert_eq!((status, &same["id"]), (StatusCode::ACCEPTED, &command["command_id"]), "{same}");
    send_result(&mut socket, &command, json!(1)).await;
    assert_eq!(within(asking).await.unwrap().0, StatusCode::OK);
    // nobody fits any more
    within(socket.close()).await.unwrap();
    everywhere(async || !is_listed(&operator, device.uuid).await).await;
    let (status, same) = answer(keyed()).await;
    assert_eq!((status, &same["id"]), (StatusCode::OK, &command["command_id"]), "{same}");
    assert_eq!(same["targets"][0]["result"], 1);
}

#[tokio::test]
async fn a_command_waits_for_its_target_in_order_and_survives_the_servers_death() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device) = broker.device("device").await;
    let (_, connected, mut connected_socket) = broker.connected("connected").await;
    let mut ids = Vec::new();
    for n in 0..10 {
        let body = json!({
            "targets": [device.uuid, connected.uuid], "method": "GET", "url": format!("/{n}"), "deliver_within_secs": 600,
        });
        ids.push(give(&operator, &body).await);
        // one of the targets has answered, another was at work
        let command = next(&mut connected_socket).await;
        if n % 2 == 0 {
            send_result(&mut connected_socket, &command, json!(n)).await;
        }
    }
    let before = |n: usize| if n.is_multiple_of(2) { "succeeded" } else { "sent" };
    for (n, id) in ids.iter().enumerate() {
        let command = until_states(&operator, id, json!({ "device": "queued", "connected": before(n) })).await;
        assert!(command["deliver_until"].is_string(), "{command}");
    }

    let mut broker = broker.kill().await.start().await;
    let operator = broker.admin().await;
    let after = |n: usize| if n.is_multiple_of(2) { "succeeded" } else { "disconnected" };
    for (n, id) in ids.iter().enumerate() {
        until_states(&operator, id, json!({ "device": "queued", "connected": after(n) })).await;
    }
    let mut connected_socket = reconnect(&broker, &connected).await;
    let mut socket = reconnect(&broker, &device).await;
    for (n, id) in ids.iter().enumerate() {
        let command = reply(&mut socket, json!(n)).await;
        assert_eq!((&command["command_id"], &command["url"]), (&json!(id), &json!(format!("/{n}"))));
    }
    for (n, id) in ids.iter().enumerate() {
        let command = until_states(&operator, id, json!({ "device": "succeeded", "connected": after(n) })).await;
        assert_eq!(command["state"], "finished");
    }
    // once is enough
    within(socket.close()).await.unwrap();
    nothing_came(&mut reconnect(&broker, &device).await).await;
    nothing_came(&mut connected_socket).await;
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_queue_of_any_size_reaches_its_device() {
    let mut broker = Broker::with().alone("commands that were given at different nodes have no order").start().await;
    let operator = broker.admin().await;
    let (_, device) = broker.device("device").await;
    // together more than may wait for a socket at a time
    let body = json!({
        "target": device.uuid, "method": "PUT", "url": "/", "data": "x".repeat(60_000), "deliver_within_secs": 600,
    });
    for _ in 0..40 {
        give(&operator, &body).await;
    }
    let mut socket = reconnect(&broker, &device).await;
    for n in 0..40 {
        reply(&mut socket, json!(n)).await;
    }
    no_command_is_left(&operator).await;
    // pages end at a mebibyte
    let (mut commands, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, list) = get(&operator, &format!("{PATH}?state=succeeded{cursor}")).await;
        commands.extend_from_slice(list["commands"].as_array().unwrap());
        let Some(next) = list["cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(commands.len(), 40);
    // the newest come first
    for (n, command) in commands.iter().rev().enumerate() {
        assert_eq!(command["targets"][0]["result"], n);
    }
}

#[tokio::test]
async fn a_command_that_waited_in_vain_expires_also_while_the_server_is_away() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device) = broker.device("device").await;
    let body = json!({ "target": device.uuid, "method": "GET", "url": "/", "deliver_within_secs": 1 });
    let (status, command) = post(&operator, PATH, body.clone()).await;
    assert_eq!((status, states(&command)), (200, json!({ "device": "expired" })));
    assert_eq!(command["targets"][0]["sent_at"], Value::Null);
    let id = give(&operator, &body).await;
    let broker = broker.kill().await;
    // a second goes by somehow
    let began = std::time::Instant::now();
    until(async || began.elapsed().as_secs() >= 1).await;
    let mut broker = broker.start().await;
    let mut socket = reconnect(&broker, &device).await;
    nothing_came(&mut socket).await;
    let operator = broker.admin().await;
    assert_eq!(states(&show(&operator, &id).await), json!({ "device": "expired" }));
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn progress_is_kept_and_a_result_after_the_timeout_is_kept_as_late() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let id = give(&operator, &request([device.uuid])).await;
    let command = next(&mut socket).await;
    for n in 1..=150 {
        progress(&mut socket, &command, json!({ "percent": n, "x": 1.0 })).await;
    }
    let mut shown = Value::Null;
    until(async || {
        shown = show(&operator, &id).await;
        shown["targets"][0]["progress"].as_array().is_some_and(|all| all.last().unwrap()["progress"]["percent"] == 150)
    })
    .await;
    let target = &shown["targets"][0];
    assert_eq!((&target["state"], target["in_progress_at"].is_string()), (&json!("in_progress"), true));
    let reports = target["progress"].as_array().unwrap();
    assert_eq!(reports.len(), 100);
    for (report, n) in reports.iter().zip(51..) {
        assert_eq!(report["progress"].to_string(), format!(r#"{{"percent":{n},"x":1.0}}"#));
        assert!(report["at"].is_string());
    }
    send_result(&mut socket, &command, json!("done")).await;
    let shown = until_states(&operator, &id, json!({ "device": "succeeded" })).await;
    assert_eq!(shown["targets"][0]["progress"].as_array().unwrap().len(), 100);
    // too late for that
    progress(&mut socket, &command, json!("late")).await;
    nothing_came(&mut socket).await;
    assert_eq!(show(&operator, &id).await, shown);

    let mut timed_out = Value::Null;
    for secs in PERIODS {
        let mut body = request([device.uuid]);
        body["timeout_secs"] = json!(secs);
        let asking = posting(&operator, PATH, &body);
        let command = next(&mut socket).await;
        progress(&mut socket, &command, Value::Null).await;
        (_, timed_out) = within(asking).await.unwrap();
        assert_eq!(states(&timed_out), json!({ "device": "timed_out" }));
        // unless it was late, too
        if timed_out["targets"][0]["in_progress_at"].is_string() {
            break;
        }
    }
    let command = json!({ "command_id": timed_out["id"] });
    for n in 0..3 {
        send_result(&mut socket, &command, json!(format!("[{n}]"))).await;
        nothing_came(&mut socket).await;
    }
    let id = timed_out["id"].as_str().unwrap();
    let mut shown = Value::Null;
    until(async || {
        shown = show(&operator, id).await;
        !shown["targets"][0]["late_result"].is_null()
    })
    .await;
    // the first counts, and nothing else has changed
    assert_eq!(shown["targets"][0]["late_result"], json!([0]));
    let mut expected = timed_out.clone();
    expected["targets"][0]["late_result"] = json!([0]);
    let report = shown["targets"][0]["progress"].clone();
    assert_eq!(report[0]["progress"], Value::Null);
    expected["targets"][0]["progress"] = report;
    assert_eq!(shown, expected);
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_command_that_is_called_off_ends_and_who_was_asked_is_told() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, done, mut done_socket) = broker.connected("done").await;
    let (_, asked, mut asked_socket) = broker.connected("asked").await;
    let (_, working, mut working_socket) = broker.connected("working").await;
    let (_, absent) = broker.device("absent").await;
    let mut body = request([done.uuid, asked.uuid, working.uuid, absent.uuid]);
    body["deliver_within_secs"] = json!(600);
    let asking = posting(&operator, PATH, &body);
    let command = reply(&mut done_socket, json!(1)).await;
    let id = command["command_id"].as_str().unwrap();
    next(&mut asked_socket).await;
    next(&mut working_socket).await;
    progress(&mut working_socket, &command, json!(1)).await;
    let expected = json!({ "done": "succeeded", "asked": "sent", "working": "in_progress", "absent": "queued" });
    until_states(&operator, id, expected).await;
    let cancelled = cancel(&operator, id).await;
    let expected = json!({ "done": "succeeded", "asked": "cancelled", "working": "cancelled", "absent": "cancelled" });
    assert_eq!((states(&cancelled), &cancelled["state"]), (expected.clone(), &json!("finished")));
    let (status, answered) = within(asking).await.unwrap();
    assert_eq!((status, states(&answered)), (200, expected.clone()));
    for socket in [&mut asked_socket, &mut working_socket] {
        assert_eq!(next(socket).await, json!({ "type": "cancel", "command_id": id }));
        // it changes nothing any more
        send_result(socket, &command, json!("too late")).await;
        nothing_came(socket).await;
    }
    nothing_came(&mut done_socket).await;
    nothing_came(&mut reconnect(&broker, &absent).await).await;
    // twice is once
    assert_eq!(cancel(&operator, id).await, cancelled);
    nothing_came(&mut asked_socket).await;
    let shown = show(&operator, id).await;
    assert_eq!(states(&shown), expected);
    assert!(shown["targets"].as_array().unwrap().iter().all(|target| target["late_result"].is_null()), "{shown}");
    // whoever waits for it in the old way is told, too
    let asking = posting(&operator, &format!("/send-command/{}", asked.uuid), &body);
    let command = next(&mut asked_socket).await;
    cancel(&operator, command["command_id"].as_str().unwrap()).await;
    assert_eq!(within(asking).await.unwrap().1["code"], "command_cancelled");
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn commands_are_listed_newest_first_by_state_target_and_time_page_by_page() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let (_, absent) = broker.device("absent").await;
    let user = broker.user("ulla", "user").await;
    let (_, me) = get(&user, "/api/users/me").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let asking = posting(&operator, PATH, &request([device.uuid, absent.uuid]));
        reply(&mut socket, if n % 2 == 0 { json!(n) } else { json!({ "error": n }) }).await;
        ids.push(within(asking).await.unwrap().1["id"].clone());
    }
    let (_, own) = post(&user, PATH, request([me["id"].clone()])).await;
    ids.push(own["id"].clone());
    ids.reverse();
    let listed = async |client: &Client, query: &str| {
        let (status, list) = get(client, &format!("{PATH}/?{query}")).await;
        assert_eq!(status, 200, "{list}");
        let ids: Vec<_> = list["commands"].as_array().unwrap().iter().map(|command| command["id"].clone()).collect();
        assert_eq!(list["count"], ids.len());
        (ids, list["cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(listed(&operator, "").await, (ids.clone(), None));
    assert_eq!(listed(&operator, "state=succeeded").await.0, [&ids[1], &ids[3], &ids[5]].map(Clone::clone));
    assert_eq!(listed(&operator, "state=failed").await.0, [&ids[2], &ids[4]].map(Clone::clone));
    assert_eq!(listed(&operator, "state=offline").await.0, ids);
    assert_eq!(listed(&operator, "state=expired").await.0, Vec::<Value>::new());
    assert_eq!(listed(&operator, &format!("target={}", me["id"])).await.0, ids[..1]);
    assert_eq!(listed(&operator, &format!("target={}", device.uuid)).await.0, ids[1..]);
    let both = |state| format!("target={}&state={state}", device.uuid);
    assert_eq!(listed(&operator, &both("failed")).await.0.len(), 2);
    assert_eq!(listed(&operator, &both("offline")).await.0.len(), 0);
    let since = show(&operator, ids[2].as_str().unwrap()).await["created_at"].as_str().unwrap().to_owned();
    assert_eq!(listed(&operator, &format!("since={since}")).await.0, ids[..3]);
    assert_eq!(listed(&operator, "since=2999-01-01T00:00:00%2B02:00").await.0.len(), 0);
    for limit in 1..=4 {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let (page, next) = listed(&operator, &format!("state=offline&limit={limit}{cursor}")).await;
            assert!(page.len() <= limit, "{page:?}");
            all.extend(page);
            let Some(next) = next else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(all, ids);
    }

    // a user sees its own alone
    assert_eq!(listed(&user, "").await.0, ids[..1]);
    assert_eq!(listed(&user, &format!("target={}", device.uuid)).await.0.len(), 0);
    assert_eq!(show(&user, ids[0].as_str().unwrap()).await["requested_by"], me["uuid"]);
    let foreign = format!("{PATH}/{}", ids[1].as_str().unwrap());
    for (method, path) in [
        (Method::GET, foreign.clone()),
        (Method::DELETE, foreign.clone()),
        (Method::GET, format!("{foreign}/events")),
        (Method::GET, format!("{foreign}/events/")),
    ] {
        let (status, body) = answer(user.request(method, &path)).await;
        assert_eq!(
            (status, body),
            (StatusCode::NOT_FOUND, json!({ "detail": "Command not found", "code": "not_found" }))
        );
    }
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_command_can_be_followed_and_taken_up_again_where_one_stopped() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, first, mut first_socket) = broker.connected("first").await;
    let (_, second) = broker.device("second").await;
    let mut body = request([first.uuid, second.uuid]);
    body["deliver_within_secs"] = json!(600);
    let id = give(&operator, &body).await;
    let command = next(&mut first_socket).await;
    let mut events = Events::open(&operator, &id, None).await;
    let seen = async |events: &mut Events| {
        let event = events.next().await.expect("an event");
        assert_eq!(event.data["command_id"], id);
        let target = &event.data["target"];
        let told = (event.name.clone(), target["name"].as_str().unwrap().to_owned(), target["state"].clone());
        (event, told)
    };
    let told = |event: &str, name: &str, state: &str| (event.to_owned(), name.to_owned(), json!(state));
    assert_eq!(seen(&mut events).await.1, told("state", "first", "sent"));
    progress(&mut first_socket, &command, json!({ "percent": 1.0 })).await;
    let (event, what) = seen(&mut events).await;
    assert_eq!(what, told("progress", "first", "in_progress"));
    assert_eq!(event.data["progress"].to_string(), r#"{"percent":1.0}"#);
    let last = event.id;
    drop(events);

    progress(&mut first_socket, &command, json!(2)).await;
    progress(&mut first_socket, &command, json!(3)).await;
    send_result(&mut first_socket, &command, json!("done")).await;
    until_states(&operator, &id, json!({ "first": "succeeded", "second": "queued" })).await;
    let mut events = Events::open(&operator, &id, Some(&last)).await;
    for n in [2, 3] {
        let (event, _) = seen(&mut events).await;
        assert_eq!((event.name.as_str(), &event.data["progress"]), ("progress", &json!(n)));
    }
    let (event, what) = seen(&mut events).await;
    assert_eq!(what, told("state", "first", "succeeded"));
    assert_eq!(event.data["target"]["result"], "done");

    let mut second_socket = reconnect(&broker, &second).await;
    assert_eq!(seen(&mut events).await.1, told("state", "second", "sent"));
    reply(&mut second_socket, json!({ "error": "no" })).await;
    assert_eq!(seen(&mut events).await.1, told("state", "second", "failed"));
    let finished = events.next().await.unwrap();
    assert_eq!((finished.name.as_str(), &finished.data["state"]), ("finished", &json!("finished")));
    assert_eq!(states(&finished.data), json!({ "first": "succeeded", "second": "failed" }));
    assert!(events.next().await.is_none());

    // afterwards: all that is kept, with rising numbers
    let all = Events::open(&operator, &id, None).await.rest().await;
    let names: Vec<_> = all.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["progress", "progress", "progress", "state", "state", "finished"]);
    let numbers: Vec<u64> = all.iter().map(|event| event.id.parse().unwrap()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    // whoever has seen all but the end gets the end
    let rest = Events::open(&operator, &id, Some(&finished.id)).await.rest().await;
    assert_eq!(rest.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["finished"]);
    for last in ["x", "", "1.5"] {
        let request = operator.request(Method::GET, &format!("{PATH}/{id}/events")).header("Last-Event-ID", last);
        let (status, body) = answer(request).await;
        assert!(status == 422 && body["detail"][0]["type"] == "int_parsing", "{last:?} {body}");
    }
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn an_event_is_whole_also_when_the_json_in_it_has_line_breaks() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let id = give(&operator, &request([device.uuid])).await;
    next(&mut socket).await;
    let pretty = "{\n\n  \"a\": [\r\n1.0]\n}";
    let mut events = Events::open(&operator, &id, None).await;
    assert_eq!(events.next().await.unwrap().data["target"]["state"], "sent");
    let text = format!(r#"{{"type":"progress","command_id":"{id}","progress":{pretty}}}"#);
    socket.send_text(text).await.unwrap();
    let event = events.next().await.unwrap();
    assert_eq!((event.name.as_str(), &event.data["progress"]), ("progress", &json!({ "a": [1.0] })));
    // in a string, as Python clients send it
    socket.send_text(json!({ "command_id": id, "result": pretty }).to_string()).await.unwrap();
    let event = events.next().await.unwrap();
    assert_eq!(event.data["target"]["result"], json!({ "a": [1.0] }));
    let finished = events.next().await.unwrap();
    assert_eq!(finished.data["targets"][0]["result"], json!({ "a": [1.0] }));
}

#[tokio::test]
async fn whoever_follows_a_command_misses_nothing_of_a_restart() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, working, mut working_socket) = broker.connected("working").await;
    let (_, absent) = broker.device("absent").await;
    let mut body = request([working.uuid, absent.uuid]);
    body["deliver_within_secs"] = json!(600);
    let id = give(&operator, &body).await;
    let command = next(&mut working_socket).await;
    let mut events = Events::open(&operator, &id, None).await;
    events.next().await.unwrap();
    let mut last = String::new();
    for n in 0..5 {
        progress(&mut working_socket, &command, json!(n)).await;
        last = events.next().await.unwrap().id;
    }
    // what is shown is written
    show(&operator, &id).await;

    let mut broker = broker.kill().await.start().await;
    let operator = broker.admin().await;
    let mut socket = reconnect(&broker, &absent).await;
    let command = next(&mut socket).await;
    progress(&mut socket, &command, json!("second")).await;
    send_result(&mut socket, &command, json!(1)).await;
    until_states(&operator, &id, json!({ "working": "disconnected", "absent": "succeeded" })).await;
    let events = Events::open(&operator, &id, Some(&last)).await.rest().await;
    let told: Vec<_> = events
        .iter()
        .map(|event| format!("{} {} {}", event.name, event.data["target"]["name"], event.data["target"]["state"]))
        .collect();
    // a report is of its own time, without what came after it
    let report = &events[1].data["target"];
    assert!(report["result"].is_null() && report["ended_at"].is_null(), "{report}");
    let expected = [
        r#"state "working" "disconnected""#,
        r#"progress "absent" "in_progress""#,
        r#"state "absent" "succeeded""#,
        "finished null null",
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_queue_keeps_its_order_while_its_device_connects() {
    let mut broker = Broker::with().alone("commands that were given at different nodes have no order").start().await;
    let operator = broker.admin().await;
    for round in 0..30 {
        let (_, device) = broker.device("device").await;
        let body =
            |n| json!({ "target": device.uuid, "method": "GET", "url": format!("/{n}"), "deliver_within_secs": 600 });
        for n in 0..3 {
            give(&operator, &body(n)).await;
        }
        let more = async {
            for n in 3..10 {
                give(&operator, &body(n)).await;
            }
        };
        let (mut socket, ()) = tokio::join!(reconnect(&broker, &device), more);
        let mut urls = Vec::new();
        for _ in 0..10 {
            urls.push(reply(&mut socket, json!(1)).await["url"].as_str().unwrap().to_owned());
        }
        assert_eq!(urls, (0..10).map(|n| format!("/{n}")).collect::<Vec<_>>(), "round {round}");
    }
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn whoever_begins_to_follow_in_the_middle_is_told_everything_once() {
    // whoever comes late comes with all others
    let mut broker = Broker::with().set("LIMITS__READS_PER_IDENTITY", "0").start().await;
    let operator = broker.admin().await;
    let (_, first, mut first_socket) = broker.connected("first").await;
    let (_, second, mut second_socket) = broker.connected("second").await;
    for _ in 0..10 {
        let id = give(&operator, &request([first.uuid, second.uuid])).await;
        let command = next(&mut first_socket).await;
        next(&mut second_socket).await;
        let mut watchers = Vec::new();
        for n in 0..60 {
            progress(&mut first_socket, &command, json!(n)).await;
            progress(&mut second_socket, &command, json!(n)).await;
            if n % 6 == 0 {
                let (operator, id) = (operator.clone(), id.clone());
                watchers.push(tokio::spawn(async move { Events::open(&operator, &id, None).await.rest().await }));
            }
        }
        for socket in [&mut first_socket, &mut second_socket] {
            send_result(socket, &command, json!(1)).await;
        }
        for watcher in watchers {
            let events = within(watcher).await.unwrap();
            for name in ["first", "second"] {
                let of_target = events.iter().filter(|event| event.data["target"]["name"] == name);
                let reports: Vec<_> = of_target
                    .filter(|event| event.name == "progress")
                    .map(|event| event.data["progress"].as_u64().unwrap())
                    .collect();
                assert_eq!(reports, (0..60).collect::<Vec<_>>(), "{name}");
            }
            let ends: Vec<_> = events.iter().filter(|event| event.data["target"]["state"] == "succeeded").collect();
            assert!(ends.len() >= 2, "{ends:?}");
            assert_eq!(events.last().unwrap().name, "finished");
        }
    }
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_server_that_stops_lets_its_callers_and_watchers_go() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device) = broker.device("device").await;
    let mut body = request([device.uuid]);
    body["deliver_within_secs"] = json!(600);
    let id = give(&operator, &body).await;
    let mut events = Events::open(&operator, &id, None).await;
    assert_eq!(states(&show(&operator, &id).await), json!({ "device": "queued" }));
    let asking = tokio::spawn(operator.request(Method::POST, PATH).json(&body).send());
    until(async || get(&operator, &format!("{PATH}?state=queued")).await.1["count"] == 2).await;
    let (_, connected, mut socket) = broker.connected("connected").await;
    let one = json!({ "method": "GET", "url": "/" });
    let sending =
        tokio::spawn(operator.request(Method::POST, &format!("/send-command/{}", connected.uuid)).json(&one).send());
    next(&mut socket).await;
    let gathering = posting(&operator, PATH, &request([connected.uuid]));
    next(&mut socket).await;
    broker.signal("TERM");
    // told where to look, or to come again
    let response = within(asking).await.unwrap().unwrap();
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let waiting: Value = within(response.json()).await.unwrap();
    assert_eq!(location, format!("{PATH}/{}", waiting["id"].as_str().unwrap()));
    assert_eq!(within(gathering).await.unwrap().0, 202);
    let response = within(sending).await.unwrap().unwrap();
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(
        (response.status().as_u16(), within(response.json::<Value>()).await.unwrap()["code"].clone()),
        (503, json!("draining"))
    );
    assert_eq!(broker.ended().await, Some(0));
    while let Ok(Some(_)) = within(events.response.chunk()).await {}
}

#[tokio::test]
async fn an_answer_after_its_socket_was_lost_counts_as_late_from_any_socket_of_the_same_client() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let (_, _, mut stranger) = broker.connected("stranger").await;
    let asking = posting(&operator, PATH, &request([device.uuid]));
    let command = next(&mut socket).await;
    progress(&mut socket, &command, json!(1)).await;
    drop(socket);
    // the caller is told at once
    let (status, lost) = within(asking).await.unwrap();
    assert_eq!((status, states(&lost)), (200, json!({ "device": "disconnected" })));
    let id = lost["id"].as_str().unwrap();
    let mut socket = reconnect(&broker, &device).await;
    send_result(&mut stranger, &command, json!("foreign")).await;
    nothing_came(&mut stranger).await;
    for result in ["own", "again"] {
        send_result(&mut socket, &command, json!(result)).await;
        nothing_came(&mut socket).await;
    }
    until(async || show(&operator, id).await["targets"][0]["late_result"] == "own").await;
    assert_eq!(states(&show(&operator, id).await), json!({ "device": "disconnected" }));

    // also after a restart
    let asking = posting(&operator, PATH, &request([device.uuid]));
    let command = next(&mut socket).await;
    let mut broker = broker.kill().await.start().await;
    let _ = within(asking).await;
    let operator = broker.admin().await;
    let mut socket = reconnect(&broker, &device).await;
    send_result(&mut socket, &command, json!("after all")).await;
    let id = command["command_id"].as_str().unwrap();
    until(async || show(&operator, id).await["targets"][0]["late_result"] == "after all").await;
    assert_eq!(states(&show(&operator, id).await), json!({ "device": "disconnected" }));
}
