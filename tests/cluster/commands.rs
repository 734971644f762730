//! Commands that are given at one node for devices at others.

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use uuid::Uuid;

use crate::{
    api::support::{Broker, answer, close_code, delete, get, next, nothing_came, post, posting, reply, until, within},
    nodes::{Shared, at, connect, device, listed},
    proxy::Way,
};

pub const PATH: &str = "/api/commands";

/// A command to these targets that may wait for so long.
pub fn order(targets: &[Uuid], deliver_within_secs: u32) -> Value {
    json!({ "targets": targets, "method": "GET", "url": "/status", "deliver_within_secs": deliver_within_secs })
}

/// Gives a command without waiting for its end. Returns its id.
pub async fn give(operator: &Client, body: &Value) -> String {
    let request = operator.request(Method::POST, PATH).header("Prefer", "respond-async").json(body);
    let (status, command) = answer(request).await;
    assert_eq!(status, 202, "{command}");
    command["id"].as_str().unwrap().to_owned()
}

/// Answers a command with this result.
pub async fn send_result(socket: &mut Connection, command: &str, result: Value) {
    let frame = json!({ "command_id": command, "result": result });
    socket.send_text(frame.to_string()).await.unwrap();
}

pub async fn show(operator: &Client, id: &str) -> Value {
    let (status, command) = get(operator, &format!("{PATH}/{id}")).await;
    assert_eq!(status, 200, "{command}");
    command
}

/// The states of a command's targets, in the order of their names.
pub fn states(command: &Value) -> Vec<&str> {
    command["targets"].as_array().unwrap().iter().map(|target| target["state"].as_str().unwrap()).collect()
}

/// Waits until a command's targets have these states. Returns it.
pub async fn until_states(operator: &Client, id: &str, expected: &[&str]) -> Value {
    let mut command = Value::Null;
    until(async || {
        command = show(operator, id).await;
        states(&command) == expected
    })
    .await;
    command
}

/// Waits for the next command. Returns its id.
pub async fn command_id(socket: &mut Connection) -> String {
    let frame = next(socket).await;
    assert_eq!(frame["url"], "/status", "{frame}");
    frame["command_id"].as_str().unwrap().to_owned()
}

/// The names and states of the events of a command, up to its end.
async fn events(operator: &Client, id: &str) -> Vec<(String, Value)> {
    let request = operator.request(Method::GET, &format!("{PATH}/{id}/events"));
    let text = within(within(request.send()).await.unwrap().text()).await.unwrap();
    let mut events = Vec::new();
    for block in text.split("\n\n") {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
            let data: Value = serde_json::from_str(&data).unwrap();
            events.push((name, data["target"]["state"].clone()));
        }
    }
    events
}

#[tokio::test]
async fn a_command_reaches_a_device_at_another_node_and_its_answer_the_caller() {
    let shared = Shared::start().await;
    let ([one, two, three], operator) = shared.nodes().await;
    let (_, there, mut socket) = device("there", &two).await;
    let path = format!("/send-command/{}", there.uuid);
    let request = json!({ "method": "GET", "url": "/status" });
    for number in 0..20 {
        let asking = posting(&at(&operator, &one), &path, &request);
        let command = reply(&mut socket, json!({ "number": number })).await;
        let (status, body) = within(asking).await.unwrap();
        assert_eq!((status, &body["response"]), (200, &json!({ "number": number })), "{body}");
        // at once at another node, also in the list
        let id = command["command_id"].as_str().unwrap();
        assert_eq!(states(&show(&at(&operator, &three), id).await), ["succeeded"]);
        let (_, list) = get(&at(&operator, &two), &format!("{PATH}?limit=1")).await;
        assert_eq!(list["commands"][0]["id"], id, "{list}");
    }
    // one that is not finished, with progress, and followed at a third node
    let id = give(&operator, &order(&[there.uuid], 0)).await;
    assert_eq!(command_id(&mut socket).await, id);
    until_states(&at(&operator, &three), &id, &["sent"]).await;
    let (follower, followed) = (at(&operator, &three), id.clone());
    let following = tokio::spawn(async move { events(&follower, &followed).await });
    let progress = json!({ "type": "progress", "command_id": id, "progress": 50 });
    socket.send_text(progress.to_string()).await.unwrap();
    until(async || show(&at(&operator, &two), &id).await["targets"][0]["progress"][0]["progress"] == 50).await;
    send_result(&mut socket, &id, json!(true)).await;
    let events = within(following).await.unwrap();
    let last: Vec<_> = events.iter().rev().take(2).rev().cloned().collect();
    assert_eq!(last, [("state".to_owned(), json!("succeeded")), ("finished".to_owned(), Value::Null)], "{events:?}");
    assert!(events.contains(&("progress".to_owned(), json!("in_progress"))), "{events:?}");
    // nobody is there any more
    socket.close().await.unwrap();
    until(async || listed(&one.client()).await.is_empty()).await;
    let (status, refused) = post(&operator, &path, request).await;
    assert_eq!((status, &refused["detail"]), (400, &json!("Client is not connected")), "{refused}");
}

#[tokio::test]
async fn a_command_gathers_the_answers_of_devices_at_three_nodes() {
    let shared = Shared::start().await;
    let (nodes, operator) = shared.nodes::<3>().await;
    let mut devices = Vec::new();
    for number in 0..12 {
        devices.push(device(&format!("device {number:02}"), &nodes[number % 3]).await);
    }
    let uuids: Vec<_> = devices.iter().map(|(_, device, _)| device.uuid).collect();
    let selected = json!({ "select": { "name_prefix": "device" }, "method": "GET", "url": "/status" });
    for (node, body) in nodes.iter().zip([order(&uuids, 0), order(&uuids, 60), selected]) {
        let asking = posting(&at(&operator, node), PATH, &body);
        for (_, device, socket) in &mut devices {
            reply(socket, json!(device.uuid)).await;
        }
        let (status, command) = within(asking).await.unwrap();
        assert_eq!(status, 200, "{command}");
        let results: Vec<_> =
            command["targets"].as_array().unwrap().iter().map(|target| target["result"].clone()).collect();
        assert_eq!(results, uuids.iter().map(|uuid| json!(uuid)).collect::<Vec<_>>());
    }
    // also those that subscribe to a topic somewhere, and all that are connected
    let topic = json!({ "topic_id": "plant" });
    assert_eq!(post(&devices[0].0, "/topics/create", topic.clone()).await.0, 200);
    for (client, _, _) in &devices[1..3] {
        assert_eq!(post(client, "/topics/subscribe", topic.clone()).await.0, 200);
    }
    let selected = json!({ "select": { "topic": "plant" }, "method": "GET", "url": "/status" });
    until(async || get(&operator, "/topics/plant").await.1["subscriber_count"] == 2).await;
    let asking = posting(&operator, PATH, &selected);
    for (_, _, socket) in &mut devices[1..3] {
        reply(socket, json!(1)).await;
    }
    assert_eq!(states(&within(asking).await.unwrap().1), ["succeeded"; 2]);
    let asking = posting(&at(&operator, &nodes[2]), "/broadcast-command", &json!({ "method": "GET", "url": "/all" }));
    for (_, _, socket) in &mut devices {
        reply(socket, json!(2)).await;
    }
    let (_, all) = within(asking).await.unwrap();
    assert_eq!(all["results"].as_object().unwrap().len(), 12, "{all}");
}

#[tokio::test]
async fn what_waits_for_a_device_is_sent_in_order_when_it_connects_to_another_node() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (client, late) = two.device("late").await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(give(&at(&operator, &one), &order(&[late.uuid], 600)).await);
    }
    assert_eq!(states(&show(&at(&operator, &two), &ids[49]).await), ["queued"]);
    let mut socket = connect(&client, &two).await;
    for id in &ids {
        assert_eq!(&command_id(&mut socket).await, id);
    }
    for id in &ids {
        send_result(&mut socket, id, json!(id)).await;
    }
    for id in &ids {
        let command = until_states(&at(&operator, &two), id, &["succeeded"]).await;
        assert_eq!(command["targets"][0]["result"], json!(id));
        assert!(command["targets"][0]["sent_at"].is_string(), "{command}");
    }
}

#[tokio::test]
async fn a_command_is_cancelled_at_any_node_and_its_target_is_told() {
    let shared = Shared::start().await;
    let ([one, two, three], operator) = shared.nodes().await;
    let (_, there, mut socket) = device("there", &two).await;
    let (_, absent) = two.device("zz absent").await;
    let id = give(&at(&operator, &one), &order(&[there.uuid, absent.uuid], 600)).await;
    assert_eq!(command_id(&mut socket).await, id);
    let (status, command) = delete(&at(&operator, &three), &format!("{PATH}/{id}")).await;
    assert_eq!((status, states(&command)), (200, vec!["cancelled"; 2]), "{command}");
    assert_eq!(next(&mut socket).await, json!({ "type": "cancel", "command_id": id }));
    // an answer counts no more, and again nothing happens
    send_result(&mut socket, &id, json!(1)).await;
    let (status, command) = delete(&at(&operator, &two), &format!("{PATH}/{id}")).await;
    assert_eq!((status, states(&command)), (200, vec!["cancelled"; 2]), "{command}");
    nothing_came(&mut socket).await;
    let missing = Uuid::new_v4();
    assert_eq!(delete(&at(&operator, &three), &format!("{PATH}/{missing}")).await.0, 404);
}

#[tokio::test]
async fn a_request_that_is_repeated_at_another_node_is_the_same_command_and_waits_for_its_end() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (_, there, mut socket) = device("there", &two).await;
    let asking = |node: &Broker, url: &str| {
        let body = json!({ "targets": [there.uuid], "method": "GET", "url": url });
        let request = at(&operator, node).request(Method::POST, PATH).header("Idempotency-Key", "once").json(&body);
        tokio::spawn(answer(request))
    };
    let first = asking(&one, "/status");
    let id = command_id(&mut socket).await;
    let again = asking(&two, "/status");
    let (status, refused) = within(asking(&two, "/other")).await.unwrap();
    assert_eq!((status.as_u16(), &refused["code"]), (422, &json!("idempotency_key_reused")), "{refused}");
    send_result(&mut socket, &id, json!(7)).await;
    for asking in [first, again, asking(&two, "/status")] {
        let (status, command) = within(asking).await.unwrap();
        assert_eq!((status.as_u16(), &command["id"]), (200, &json!(id)), "{command}");
        assert_eq!(command["targets"][0]["result"], 7, "{command}");
    }
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn a_socket_that_is_replaced_at_another_node_ends_what_was_sent_to_it_and_late_answers_count() {
    let shared = Shared::start().await;
    let ([one, two, three], operator) = shared.nodes().await;
    let (client, there, mut old) = device("there", &two).await;
    let id = give(&at(&operator, &one), &order(&[there.uuid], 0)).await;
    assert_eq!(command_id(&mut old).await, id);
    let waiting = {
        let mut socket = connect(&client, &three).await;
        assert_eq!(close_code(&mut old).await, 4409);
        until_states(&operator, &id, &["disconnected"]).await;
        // the answer comes through another node than the one that the command was sent by
        send_result(&mut socket, &id, json!("late")).await;
        socket
    };
    until(async || show(&at(&operator, &two), &id).await["targets"][0]["late_result"] == "late").await;
    let mut socket = waiting;
    // an answer after the timeout
    let mut body = order(&[there.uuid], 0);
    body["timeout_secs"] = json!(1);
    let id = give(&at(&operator, &one), &body).await;
    assert_eq!(command_id(&mut socket).await, id);
    until_states(&operator, &id, &["timed_out"]).await;
    send_result(&mut socket, &id, json!(2)).await;
    until(async || show(&at(&operator, &two), &id).await["targets"][0]["late_result"] == 2).await;
}

#[tokio::test]
async fn a_target_at_a_node_that_cannot_be_asked_is_offline_at_once_and_what_may_wait_arrives_later() {
    let shared = Shared::start().await;
    let ([one, two], proxy, operator) = shared.nodes_with_proxy().await;
    let (_, here, mut here_socket) = device("here", &one).await;
    let (_, there, mut there_socket) = device("there", &two).await;
    proxy.set(Way::Cut);
    until(async || get(&operator, "/readyz").await.1["redis"] == "away").await;
    let asking = posting(&operator, PATH, &order(&[here.uuid, there.uuid], 0));
    reply(&mut here_socket, json!(1)).await;
    let (status, command) = within(asking).await.unwrap();
    assert_eq!((status, states(&command)), (200, vec!["succeeded", "offline"]), "{command}");
    assert_eq!(command["targets"][1]["reason"], "node_unavailable", "{command}");
    let request = json!({ "method": "GET", "url": "/status" });
    let (status, refused) = post(&operator, &format!("/send-command/{}", there.uuid), request).await;
    assert_eq!((status, &refused["code"]), (503, &json!("cluster_unavailable")), "{refused}");
    let waiting = give(&operator, &order(&[there.uuid], 600)).await;
    assert_eq!(states(&show(&operator, &waiting).await), ["queued"]);
    proxy.set(Way::Open);
    assert_eq!(command_id(&mut there_socket).await, waiting);
    send_result(&mut there_socket, &waiting, json!(3)).await;
    until_states(&operator, &waiting, &["succeeded"]).await;
}

#[tokio::test]
async fn an_agent_at_another_node_takes_commands_and_another_of_the_user_replaces_it() {
    let shared = Shared::start().await;
    let ([mut one, two], operator) = shared.nodes().await;
    let user = one.user("agent", "user").await;
    let (_, me) = get(&user, "/api/users/me").await;
    let path = format!("/send-command/{}", me["id"]);
    let request = json!({ "method": "GET", "url": "/status" });
    let open = async |node: &Broker| {
        let mut socket = within(at(&user, node).connect("/ws")).await.unwrap();
        nothing_came(&mut socket).await;
        socket
    };
    let mut socket = open(&two).await;
    let asking = posting(&operator, &path, &request);
    reply(&mut socket, json!(1)).await;
    assert_eq!(within(asking).await.unwrap().0, 200);
    let asking = posting(&operator, &path, &request);
    next_command(&mut socket).await;
    let mut newer = open(&one).await;
    let (status, lost) = within(asking).await.unwrap();
    assert_eq!((status, &lost["code"]), (400, &json!("connection_lost")), "{lost}");
    let asking = posting(&at(&operator, &two), &path, &request);
    reply(&mut newer, json!(2)).await;
    assert_eq!(within(asking).await.unwrap().1["response"], 2);
}

/// Waits for a command, between heartbeats.
async fn next_command(socket: &mut Connection) {
    while next(socket).await["method"].is_null() {}
}
