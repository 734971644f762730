//! Gateways: one node probes them, and all nodes show the same.

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use tempfile::TempDir;

use crate::{
    api::support::{Broker, ChangeBroker, answer, delete, get, next, next_of_type, own_address, post, until, within},
    nodes::{Shared, at, knows},
};

/// A port that takes connections, and the address that it has as a gateway.
fn listening() -> (TcpListener, SocketAddr, String) {
    let address = own_address();
    (TcpListener::bind(address).unwrap(), address, format!("tcp://{address}"))
}

/// Nodes that probe every second, and an operator of the first.
async fn nodes<const N: usize>(shared: &Shared) -> (Vec<Broker>, Client) {
    started(std::iter::repeat_with(|| quick(shared)).take(N).collect()).await
}

fn quick(shared: &Shared) -> ChangeBroker {
    shared.node().set("PROBES__PERIOD_SECS", "1")
}

async fn started(setups: Vec<ChangeBroker>) -> (Vec<Broker>, Client) {
    let mut nodes = Vec::new();
    for setup in setups {
        nodes.push(setup.start().await);
    }
    let operator = nodes[0].admin().await;
    for node in &nodes {
        knows(&at(&operator, node), nodes.len()).await;
    }
    (nodes, operator)
}

/// The same operator at each of these nodes.
fn everywhere(operator: &Client, nodes: &[Broker]) -> Vec<Client> {
    nodes.iter().map(|node| at(operator, node)).collect()
}

/// Creates a gateway and tells its id.
async fn create(operator: &Client, name: &str, address: &str) -> i64 {
    let (status, gateway) = post(operator, "/api/gateways", json!({ "name": name, "address": address })).await;
    assert_eq!(status, 200, "{gateway}");
    gateway["id"].as_i64().unwrap()
}

async fn put(client: &Client, path: &str, body: Value) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::PUT, path).json(&body)).await;
    (status.as_u16(), body)
}

async fn gateway(operator: &Client, id: i64) -> Value {
    get(operator, &format!("/api/gateways/{id}")).await.1
}

/// Waits until a gateway has this status at all nodes.
async fn have_status(operators: &[Client], id: i64, status: &str) {
    for operator in operators {
        until(async || gateway(operator, id).await["status"] == status).await;
    }
}

/// Waits until all nodes say the same of a gateway. Returns that.
async fn agreed(operators: &[Client], id: i64) -> Value {
    let mut said = Value::Null;
    until(async || {
        said = gateway(&operators[0], id).await;
        let mut is_same = true;
        for operator in &operators[1..] {
            is_same &= gateway(operator, id).await == said;
        }
        is_same
    })
    .await;
    said
}

/// The number of the node that probes, as all nodes say.
async fn prober(operators: &[Client]) -> usize {
    let mut found = None;
    until(async || {
        let mut probers = Vec::new();
        for operator in operators {
            let (_, body) = get(operator, "/api/cluster").await;
            let nodes = body["nodes"].as_array().unwrap();
            // of each node: whether it says of itself that it probes, and whom it names
            let named: Vec<_> = nodes.iter().filter(|node| node["probes_gateways"] == true).cloned().collect();
            probers.push(named);
        }
        let this = |named: &Vec<Value>| named.len() == 1 && named[0]["is_this"] == true;
        found = probers.iter().position(this);
        let incarnation = |named: &Vec<Value>| Some(named.first()?["incarnation"].clone());
        let first = incarnation(&probers[0]);
        found.is_some() && probers.iter().all(|named| named.len() == 1 && incarnation(named) == first)
    })
    .await;
    found.unwrap()
}

/// A chat socket of a new operator that gets `$status`, at a node.
async fn subscribed(node: &mut Broker, name: &str) -> Connection {
    let operator = node.user(name, "operator").await;
    let (status, body) = post(&operator, "/topics/subscribe", json!({ "topic_id": "$status" })).await;
    assert_eq!(status, 200, "{body}");
    let mut socket = within(operator.connect("/ws/auth")).await.unwrap();
    next_of_type(&mut socket, "connection_established").await;
    socket
}

/// The next event of a gateway that a socket gets: which one, and the status.
async fn event(socket: &mut Connection) -> (i64, String) {
    loop {
        let event = next(socket).await;
        if let Some(id) = event["gateway_id"].as_i64() {
            return (id, event["status"].as_str().unwrap().to_owned());
        }
    }
}

/// A `ping` that writes down that it was asked, and answers if there is a file.
fn ping(dir: &Path, answers: &Path) -> PathBuf {
    let (ping, asked) = (dir.join("ping"), dir.join("asked"));
    let (asked_text, answers) = (asked.display(), answers.display());
    let script = format!("#!/bin/sh\necho x >> {asked_text}\n[ -e {answers} ] || exit 1\necho 'time=1.25 ms'\n");
    std::fs::write(&ping, script).unwrap();
    std::fs::set_permissions(&ping, std::fs::Permissions::from_mode(0o755)).unwrap();
    asked
}

#[tokio::test]
async fn one_node_probes_and_all_show_what_it_finds() {
    let (shared, dir) = (Shared::start().await, TempDir::new().unwrap());
    let answers = dir.path().join("answers");
    let (mut setups, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut setup = quick(&shared).set("PROBES__ICMP", "ping");
        let own = setup.dir();
        asked.push(ping(&own, &answers));
        let path = format!("{}:{}", own.display(), std::env::var("PATH").unwrap());
        setups.push(setup.env("PATH", &path));
    }
    let (mut nodes, operator) = started(setups).await;
    let operators = everywhere(&operator, &nodes);
    let prober = prober(&operators).await;
    std::fs::write(&answers, "").unwrap();
    let id = create(&operators[(prober + 1) % 3], "Plant north", "192.0.2.7").await;
    have_status(&operators, id, "connected").await;
    let mut events = Vec::new();
    for (number, node) in nodes.iter_mut().enumerate() {
        events.push(subscribed(node, &format!("olga{number}")).await);
    }
    let mut statuses = within(nodes[(prober + 1) % 3].client().connect("/ws/status/")).await.unwrap();
    assert_eq!(next(&mut statuses).await, json!({ id.to_string(): "connected" }));

    std::fs::remove_file(&answers).unwrap();
    while next(&mut statuses).await != json!({ id.to_string(): "disconnected" }) {}
    have_status(&operators, id, "disconnected").await;
    let down = agreed(&operators, id).await;
    assert_eq!((&down["reason"], &down["rtt_ms"]), (&json!("timeout"), &Value::Null), "{down}");
    assert!(down["loss_percent"].as_f64().unwrap() > 0.0, "{down}");
    std::fs::write(&answers, "").unwrap();
    have_status(&operators, id, "connected").await;
    // each subscriber gets each change once
    for events in &mut events {
        for status in ["disconnected", "connected"] {
            assert_eq!(event(events).await, (id, status.to_owned()));
        }
    }
    let up = agreed(&operators, id).await;
    assert_eq!(up["rtt_ms"], 1.25, "{up}");
    for operator in &operators {
        assert_eq!(get(operator, "/device_status/").await.1, json!({ id.to_string(): "connected" }));
        assert_eq!(get(operator, "/readyz").await.1["gateways"], "ok");
    }
    let who_asked: Vec<_> = (0..3).filter(|number| asked[*number].exists()).collect();
    assert_eq!(who_asked, [prober]);

    // what keeps the prober from probing is told by all
    std::fs::remove_file(asked[prober].with_file_name("ping")).unwrap();
    for node in &nodes {
        until(async || get(&node.client(), "/readyz").await.1["status"] == "degraded").await;
    }
}

#[tokio::test]
async fn a_node_that_takes_the_probes_over_goes_on_with_what_was_known() {
    let shared = Shared::start().await;
    let (mut nodes, operator) = nodes::<3>(&shared).await;
    let operators = everywhere(&operator, &nodes);
    let (listener, _, address) = listening();
    let (closed, _, address_of_closed) = listening();
    drop(closed);
    let id = create(&operators[0], "up", &address).await;
    let down = create(&operators[1], "down", &address_of_closed).await;
    have_status(&operators, id, "connected").await;
    have_status(&operators, down, "disconnected").await;
    let before = gateway(&operators[0], down).await["since"].clone();

    // one that is killed, then one that ends in good order
    for round in 0..2 {
        let operators = everywhere(&operator, &nodes);
        let number = prober(&operators).await;
        let mut ended = nodes.remove(number);
        let mut events = Vec::new();
        for (number, node) in nodes.iter_mut().enumerate() {
            events.push(subscribed(node, &format!("olga{round}{number}")).await);
        }
        if round == 0 {
            ended.kill().await;
        } else {
            ended.signal("TERM");
            assert_eq!(ended.ended().await, Some(0));
        }
        let operators = everywhere(&operator, &nodes);
        prober(&operators).await;
        // found by the one that probes now, as the next event: nothing was told again
        let added = create(&operators[0], "added", &address).await;
        have_status(&operators, added, "connected").await;
        for events in &mut events {
            assert_eq!(event(events).await, (added, "connected".to_owned()));
        }
        for operator in &operators {
            assert_eq!(gateway(operator, id).await["status"], "connected");
            assert_eq!(gateway(operator, down).await["since"], before);
        }
    }
    drop(listener);
    let operators = everywhere(&operator, &nodes);
    have_status(&operators, id, "disconnected").await;
    until(async || {
        let (_, history) = get(&operators[0], &format!("/api/gateways/{id}/history")).await;
        let transitions = history["transitions"].as_array().unwrap().iter();
        transitions.map(|one| one["status"].clone()).collect::<Vec<_>>() == ["connected", "disconnected"]
    })
    .await;
}

#[tokio::test]
async fn without_redis_nodes_show_what_is_stored() {
    let mut shared = Shared::start().await;
    let (mut nodes, operator) = nodes::<2>(&shared).await;
    let operators = everywhere(&operator, &nodes);
    let (listener, address, text) = listening();
    let id = create(&operators[0], "Plant north", &text).await;
    have_status(&operators, id, "connected").await;
    let mut events = Vec::new();
    for (number, node) in nodes.iter_mut().enumerate() {
        events.push(subscribed(node, &format!("olga{number}")).await);
    }

    shared.redis.kill().await;
    drop(listener);
    have_status(&operators, id, "disconnected").await;
    let listener = TcpListener::bind(address).unwrap();
    have_status(&operators, id, "connected").await;
    // gateways that another node has created, changed and deleted
    let (other, _, text) = listening();
    let added = create(&operators[1], "added", &text).await;
    have_status(&operators, added, "connected").await;
    assert_eq!(put(&operators[0], &format!("/api/gateways/{added}"), json!({ "name": "renamed" })).await.0, 200);
    until(async || gateway(&operators[1], added).await["name"] == "renamed").await;
    assert_eq!(delete(&operators[1], &format!("/api/gateways/{added}")).await.0, 200);
    until(async || get(&operators[0], &format!("/api/gateways/{added}")).await.0 == 404).await;

    shared.redis.run().await;
    for operator in &operators {
        knows(operator, 2).await;
    }
    until(async || agreed(&operators, id).await["rtt_ms"].is_number()).await;
    drop(listener);
    have_status(&operators, id, "disconnected").await;
    let of =
        |gateway: i64, statuses: &[&str]| statuses.iter().map(|word| (gateway, (*word).to_owned())).collect::<Vec<_>>();
    let expected =
        [of(id, &["disconnected", "connected"]), of(added, &["connected"]), of(id, &["disconnected"])].concat();
    for events in &mut events {
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.push(event(events).await);
        }
        assert_eq!(seen, expected);
    }
    drop(other);
}

#[tokio::test]
async fn gateways_are_changed_at_any_node_and_each_change_is_decided_once() {
    let shared = Shared::start().await;
    let setups = std::iter::repeat_with(|| quick(&shared).set("LIMITS__GATEWAYS", "3")).take(2).collect();
    let (nodes, operator) = started(setups).await;
    let operators = everywhere(&operator, &nodes);
    let [one, two] = &operators[..] else { panic!() };
    let (_listener, _, address) = listening();
    let (closed, _, address_of_closed) = listening();
    drop(closed);
    let parent = create(one, "parent", &address).await;
    have_status(&operators, parent, "connected").await;
    let behind = json!({ "name": "behind", "address": address, "parent_id": parent });
    let (status, body) = post(two, "/api/gateways", behind.clone()).await;
    assert_eq!(status, 200, "{body}");
    let child = body["id"].as_i64().unwrap();
    assert!(child > parent);
    have_status(&operators, child, "connected").await;
    // each is to be behind the other
    let circle = put(one, &format!("/api/gateways/{parent}"), json!({ "parent_id": child })).await;
    assert_eq!(circle.0, 422, "{circle:?}");

    // another address begins anew, for those behind it, too
    let moved = json!({ "address": address_of_closed, "name": "moved" });
    assert_eq!(put(two, &format!("/api/gateways/{parent}"), moved).await.0, 200);
    have_status(&operators, parent, "disconnected").await;
    have_status(&operators, child, "disconnected").await;
    assert_eq!(agreed(&operators, child).await["reason"], "parent_down");
    assert_eq!(agreed(&operators, parent).await["name"], "moved");

    // commands for a device behind it are refused at each node
    let (client, device) = nodes[0].device("Alice").await;
    assert_eq!(put(&client, &format!("/devices/{}", device.uuid), json!({ "gateway_id": child })).await.0, 200);
    for operator in &operators {
        let send = format!("/send-command/{}", device.uuid);
        until(async || {
            let (_, body) = post(operator, &send, json!({ "method": "GET", "url": "/x" })).await;
            body["code"] == "gateway_down"
        })
        .await;
    }

    // of two at once at two nodes only one is within the limit
    let third = |name: &str| json!({ "name": name, "address": address });
    let (a, b) = tokio::join!(post(one, "/api/gateways", third("a")), post(two, "/api/gateways", third("b")));
    let mut answers = [a.0, b.0];
    answers.sort_unstable();
    assert_eq!(answers, [200, 429], "{a:?} {b:?}");
    assert_eq!(delete(one, &format!("/api/gateways/{parent}")).await.0, 200);
    for operator in &operators {
        until(async || get(operator, &format!("/api/gateways/{parent}")).await.0 == 404).await;
        until(async || gateway(operator, child).await["parent_id"].is_null()).await;
    }
    have_status(&operators, child, "connected").await;
}
