//! Limits that count at all nodes together.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use switchboard::client::Client;
use uuid::Uuid;

use crate::{
    api::support::{Broker, answer, close_code, get, next_of_type, post, until, within},
    nodes::{Shared, at, connect, device, knows, listed},
};

/// Two nodes that believe a proxy at this machine, and an operator.
async fn nodes(shared: &Shared, limit: &str) -> ([Broker; 2], Client) {
    let setup = || shared.node().set("HTTP__TRUSTED_PROXIES", "127.0.0.1").set(limit, "2");
    let mut nodes = [setup().start().await, setup().start().await];
    let operator = nodes[0].admin().await;
    for node in &nodes {
        knows(&at(&operator, node), 2).await;
    }
    (nodes, operator)
}

fn from(address: &str, node: &Broker, path: &str, body: &Value) -> RequestBuilder {
    node.client().request(Method::POST, path).json(body).header("x-forwarded-for", address)
}

/// A login. Returns its status.
async fn login(node: &Broker, address: &str, name: &str, password: &str) -> u16 {
    let body = json!({ "username": name, "password": password });
    answer(from(address, node, "/auth/login", &body)).await.0.as_u16()
}

/// A registration of a device. Returns its status.
async fn registration(node: &Broker, address: &str) -> u16 {
    let body = json!({ "uuid": Uuid::new_v4(), "name": "device" });
    answer(from(address, node, "/register", &body)).await.0.as_u16()
}

#[tokio::test]
async fn failed_logins_count_at_all_nodes_and_without_redis_at_each() {
    let mut shared = Shared::start().await;
    let ([one, two], operator) = nodes(&shared, "LIMITS__LOGIN_FAILURES_PER_MINUTE").await;
    for name in ["alice", "bob"] {
        let body = json!({ "username": name, "email": format!("{name}@example.org"), "password": "secret" });
        assert_eq!(post(&one.client(), "/register", body).await.0, 200);
    }
    // right passwords do not count
    for node in [&one, &two, &one, &two] {
        assert_eq!(login(node, "192.0.2.1", "bob", "secret").await, 200);
    }
    // a name, from several addresses
    assert_eq!(login(&one, "203.0.113.1", "alice", "wrong!").await, 401);
    assert_eq!(login(&two, "203.0.113.2", "alice", "wrong!").await, 401);
    for node in [&one, &two] {
        assert_eq!(login(node, "203.0.113.3", "alice", "secret").await, 429);
    }
    // an address, with several names
    assert_eq!(login(&two, "203.0.113.9", "nobody", "wrong!").await, 401);
    assert_eq!(login(&one, "203.0.113.9", "somebody", "wrong!").await, 401);
    for node in [&one, &two] {
        assert_eq!(login(node, "203.0.113.9", "another", "wrong!").await, 429);
    }
    // who has logged in from an address before is not kept out there, at no node
    for node in [&one, &two] {
        assert_eq!(login(node, "203.0.113.20", "bob", "wrong!").await, 401);
    }
    assert_eq!(login(&two, "203.0.113.21", "bob", "secret").await, 429);
    for node in [&one, &two] {
        assert_eq!(login(node, "192.0.2.1", "bob", "secret").await, 200);
    }
    // nobody learns from Redis who has failed
    let keys: Vec<String> = shared.redis.ask(&["KEYS", "*"]).await;
    let counts: Vec<_> = keys.iter().filter(|key| key.contains(":count:")).collect();
    assert!(counts.len() >= 4, "{keys:?}");
    for key in counts {
        assert!(!["alice", "bob", "nobody", "203.0", "192.0"].iter().any(|known| key.contains(known)), "{key}");
        assert!(shared.redis.ask::<i64>(&["PTTL", key]).await > 0, "{key}");
    }

    // one that does not answer keeps nobody from an answer
    shared.redis.signal("STOP").await;
    for node in [&one, &two] {
        assert_eq!(login(node, "192.0.2.1", "bob", "secret").await, 200);
    }
    shared.redis.signal("CONT").await;

    shared.redis.kill().await;
    for node in [&one, &two] {
        let client = at(&operator, node);
        until(async || get(&client, "/readyz").await.1["redis"] == "away").await;
        for _ in 0..2 {
            assert_eq!(login(node, "198.51.100.1", "carol", "wrong!").await, 401);
        }
        assert_eq!(login(node, "198.51.100.1", "carol", "wrong!").await, 429);
    }
}

#[tokio::test]
async fn registrations_count_at_all_nodes() {
    let shared = Shared::start().await;
    let ([one, two], _) = nodes(&shared, "LIMITS__REGISTRATIONS_PER_MINUTE").await;
    for node in [&one, &two] {
        assert_eq!(registration(node, "203.0.113.1").await, 200);
    }
    for node in [&one, &two] {
        assert_eq!(registration(node, "203.0.113.1").await, 429);
        assert_eq!(registration(node, "203.0.113.2").await, 200);
    }
}

#[tokio::test]
async fn sockets_at_a_node_that_stops_do_not_count_although_their_clients_are_listed() {
    let shared = Shared::start().await;
    let setup = || shared.node().set("LIMITS__CONNECTIONS_PER_IDENTITY", "1");
    let (mut one, mut two) = (setup().start().await, setup().start().await);
    let operator = one.admin().await;
    for node in [&one, &two] {
        knows(&at(&operator, node), 2).await;
    }
    let (client, device, mut socket) = device("device", &two).await;
    let (agent, chatting) = (one.user("agent", "user").await, one.user("chatting", "user").await);
    let mut of_agent = within(at(&agent, &two).connect("/ws")).await.unwrap();
    let mut chat = within(at(&chatting, &two).connect("/ws/auth")).await.unwrap();
    next_of_type(&mut chat, "connection_established").await;
    two.signal("TERM");
    for socket in [&mut socket, &mut of_agent, &mut chat] {
        assert_eq!(close_code(socket).await, 1001);
    }
    assert_eq!(two.ended().await, Some(0));
    knows(&operator, 1).await;
    assert!(listed(&operator).await.contains(&device.uuid));
    connect(&client, &one).await;
    let mut of_agent = within(agent.connect("/ws")).await.unwrap();
    of_agent.send_text(r#"{"type":"ping"}"#).await.unwrap();
    next_of_type(&mut of_agent, "pong").await;
    let mut chat = within(chatting.connect("/ws/auth")).await.unwrap();
    next_of_type(&mut chat, "connection_established").await;
}
