//! What was answered at one node holds at another.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::support::{answer, delete, get, post, until, within},
    nodes::{Shared, at},
    proxy::Way,
};

/// How often each change is made: it is not to be known by chance.
const ROUNDS: usize = 10;

#[tokio::test]
async fn a_change_of_a_device_is_known_at_all_nodes_when_it_is_answered() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    for _ in 0..ROUNDS {
        let (client, device) = one.device("device").await;
        let there = at(&client, &two);
        assert_eq!(get(&there, "/clients").await.0, 200);
        let path = format!("/devices/{}", device.uuid);
        let renamed = answer(client.request(Method::PUT, &path).json(&json!({ "name": "new" }))).await;
        assert_eq!((renamed.0.as_u16(), &get(&there, &path).await.1["name"]), (200, &json!("new")));
        assert_eq!(delete(&operator, &path).await.0, 200);
        assert_eq!(get(&there, "/clients").await.0, 401);
        let mut again = one.client();
        within(again.register_device("device", device.uuid)).await.unwrap();
        assert_eq!(get(&at(&again, &two), "/clients").await.0, 200);
        assert_eq!(get(&there, "/clients").await.0, 401, "the tokens of the deleted one");
    }
}

#[tokio::test]
async fn a_change_of_a_gateway_is_known_at_all_nodes_when_it_is_answered() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let [here, there] = [&one, &two].map(|node| at(&operator, node));
    for _ in 0..ROUNDS {
        let body = json!({ "name": "site", "address": "tcp://127.0.0.1:1" });
        let (_, created) = post(&here, "/api/gateways", body).await;
        let path = format!("/api/gateways/{}", created["id"]);
        let changed = answer(there.request(Method::PUT, &path).json(&json!({ "name": "plant" }))).await;
        assert_eq!((changed.0.as_u16(), &get(&here, &path).await.1["name"]), (200, &json!("plant")));
        assert_eq!(delete(&here, &path).await.0, 200);
        assert_eq!(get(&there, &path).await.0, 404);
    }
}

#[tokio::test]
async fn a_subscription_that_waits_for_its_client_is_one_whatever_node_it_was_made_and_ended_at() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let clients = [&one, &two].map(|node| at(&operator, node));
    assert_eq!(post(&operator, "/topics/create", json!({ "topic_id": "t" })).await.0, 200);
    let (device, _) = one.device("device").await;
    for round in 0..ROUNDS {
        let [first, second] = if round % 2 == 0 { [&one, &two] } else { [&two, &one] }.map(|node| at(&device, node));
        let counts = async || {
            let mut counts = Vec::new();
            for client in &clients {
                counts.push(get(client, "/topics/t").await.1["subscriber_count"].clone());
            }
            Value::Array(counts)
        };
        for client in [&first, &second] {
            client.subscribe("t").await.unwrap();
            assert_eq!(counts().await, json!([1, 1]), "round {round}");
        }
        assert_eq!(post(&second, "/topics/unsubscribe", json!({ "topic_id": "t" })).await.0, 200);
        assert_eq!(counts().await, json!([0, 0]), "round {round}");
    }
}

#[tokio::test]
async fn a_device_that_is_deleted_and_registered_again_inherits_no_subscription_of_a_node_that_did_not_hear_of_it() {
    let shared = Shared::start().await;
    let ([one, two], proxy, operator) = shared.nodes_with_proxy().await;
    assert_eq!(post(&operator, "/topics/create", json!({ "topic_id": "t" })).await.0, 200);
    let (client, device) = one.device("device").await;
    client.subscribe("t").await.unwrap();
    assert_eq!(get(&operator, "/topics/t").await.1["subscriber_count"], 1);
    proxy.set(Way::Cut);
    until(async || get(&operator, "/readyz").await.1["redis"] != "ok").await;
    assert_eq!(delete(&at(&operator, &two), &format!("/devices/{}", device.uuid)).await.0, 200);
    within(two.client().register_device("device", device.uuid)).await.unwrap();
    until(async || get(&operator, "/topics/t").await.1["subscriber_count"] == 0).await;
}
