//! Topics with subscribers at several nodes.

use serde_json::{Value, json};
use switchboard::client::{Client, Connection};

use crate::{
    api::support::{close_code, get, next, next_of_type, post, until, within},
    nodes::{Shared, at, connect, device, knows},
    proxy::Way,
};

/// Publishes to a topic. Returns the text of the receipt.
async fn publish(socket: &mut Connection, topic: &str, msgid: &str) -> String {
    let frame = json!({ "topic_id": topic, "msgid": msgid, "content": msgid });
    socket.send_text(frame.to_string()).await.unwrap();
    let receipt = next(socket).await;
    assert_eq!(receipt["msgid"], msgid, "{receipt}");
    receipt["message"].as_str().unwrap_or_else(|| panic!("{receipt}")).to_owned()
}

async fn content(socket: &mut Connection) -> Value {
    next(socket).await["content"].clone()
}

#[tokio::test]
async fn a_publication_reaches_the_subscribers_of_all_nodes_in_order_and_the_receipt_counts_them() {
    let shared = Shared::start().await;
    let ([one, two, three], _) = shared.nodes().await;
    let (publisher, _, mut sender) = device("publisher", &one).await;
    publisher.create_topic("weather/berlin").await.unwrap();
    publisher.subscribe("weather/berlin").await.unwrap();
    let mut readers = Vec::new();
    for (node, subscriptions) in [
        (&one, vec!["weather/berlin"]),
        (&two, vec!["weather/berlin"]),
        (&two, vec!["weather/+"]),
        // matches twice, and counts once
        (&three, vec!["weather/berlin", "#"]),
    ] {
        let (client, _, socket) = device("reader", node).await;
        for subscription in subscriptions {
            client.subscribe(subscription).await.unwrap();
        }
        readers.push(socket);
    }
    for number in 0..200 {
        let frame = json!({ "topic_id": "weather/berlin", "msgid": number.to_string(), "content": number });
        sender.send_text(frame.to_string()).await.unwrap();
    }
    for number in 0..200 {
        let receipt = next(&mut sender).await;
        assert_eq!(
            (&receipt["msgid"], &receipt["message"]),
            (&json!(number.to_string()), &json!("Message sent to 4 subscribers"))
        );
    }
    for socket in &mut readers {
        for number in 0..200 {
            assert_eq!(content(socket).await, number);
        }
    }
    let (_, shown) = get(&at(&publisher, &two), "/topics/weather%2Fberlin").await;
    assert_eq!(shown["subscriber_count"], 5, "{shown}");
    // nothing goes where nobody is subscribed any more
    readers.pop();
    until(async || publish(&mut sender, "weather/berlin", "one less").await == "Message sent to 3 subscribers").await;
}

#[tokio::test]
async fn over_http_any_node_publishes_subscribes_and_ends_subscriptions_of_a_client_elsewhere() {
    let shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (reader, _, mut socket) = device("reader", &two).await;
    let (publisher, _, _there) = device("publisher", &two).await;
    reader.create_topic("t").await.unwrap();
    let (reader, publisher) = (at(&reader, &one), at(&publisher, &one));
    let publishing = json!({ "topic_id": "t", "content": "over http" });
    let refused = post(&publisher, "/topics/publish", publishing.clone()).await;
    assert_eq!((refused.0, &refused.1["code"]), (403, &json!("not_subscribed")), "{refused:?}");
    reader.subscribe("t").await.unwrap();
    publisher.subscribe("t").await.unwrap();
    let (status, receipt) = post(&publisher, "/topics/publish", publishing.clone()).await;
    assert_eq!((status, &receipt["message"]), (200, &json!("Message sent to 1 subscribers")), "{receipt}");
    assert_eq!(content(&mut socket).await, "over http");
    let (status, ended) = post(&reader, "/topics/unsubscribe", json!({ "topic_id": "t" })).await;
    assert_eq!(status, 200, "{ended}");
    let (status, receipt) = post(&publisher, "/topics/publish", publishing).await;
    assert_eq!((status, &receipt["message"]), (200, &json!("Message sent to 0 subscribers")), "{receipt}");
}

#[tokio::test]
async fn a_subscription_of_a_client_elsewhere_is_answered_when_all_nodes_know_it() {
    let shared = Shared::start().await;
    let ([three, two], proxy, operator) = shared.nodes_with_proxy().await;
    let one = shared.node().start().await;
    for node in [&one, &two, &three] {
        knows(&at(&operator, node), 3).await;
    }
    let (publisher, _, mut sender) = device("publisher", &three).await;
    publisher.create_topic("t").await.unwrap();
    publisher.subscribe("t").await.unwrap();
    let (reader, _, mut socket) = device("reader", &two).await;
    let (reader, shown) = (at(&reader, &one), at(&reader, &one));
    proxy.set(Way::Held);
    let subscribing = tokio::spawn(async move { reader.subscribe("t").await });
    // the subscription is there; the list asks no node
    until(async || get(&shown, "/topics").await.1["topics"][0]["subscriber_count"] == 2).await;
    for _ in 0..20 {
        assert_eq!(get(&shown, "/topics").await.1["topics"][0]["subscriber_count"], 2);
    }
    assert!(!subscribing.is_finished());
    proxy.set(Way::Open);
    within(subscribing).await.unwrap().unwrap();
    assert_eq!(publish(&mut sender, "t", "first").await, "Message sent to 1 subscribers");
    assert_eq!(content(&mut socket).await, "first");
}

#[tokio::test]
async fn subscriptions_follow_their_client_to_another_node() {
    let shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (publisher, _, mut sender) = device("publisher", &one).await;
    publisher.create_topic("t").await.unwrap();
    publisher.subscribe("t").await.unwrap();
    let (client, _) = one.device("traveller").await;
    // before it connects, and at another node
    client.subscribe("t").await.unwrap();
    let mut socket = connect(&client, &two).await;
    for turn in 0..10 {
        let msgid = turn.to_string();
        assert_eq!(publish(&mut sender, "t", &msgid).await, "Message sent to 1 subscribers");
        assert_eq!(content(&mut socket).await, msgid);
        let node = if turn % 2 == 0 { &one } else { &two };
        let newer = connect(&client, node).await;
        assert_eq!(close_code(&mut socket).await, 4409);
        socket = newer;
    }
}

#[tokio::test]
async fn a_topic_that_is_deleted_is_deleted_for_the_subscribers_of_all_nodes() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (creator, _, _socket) = device("creator", &one).await;
    creator.create_topic("t").await.unwrap();
    let (reader, _, mut socket) = device("reader", &two).await;
    reader.subscribe("t").await.unwrap();
    let deleted = operator.request(reqwest::Method::DELETE, "/topics/t").send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    assert_eq!(next_of_type(&mut socket, "topic_deleted").await["topic_id"], "t");
    let frame = json!({ "topic_id": "t", "msgid": "1", "content": "late" });
    socket.send_text(frame.to_string()).await.unwrap();
    assert_eq!(next(&mut socket).await["code"], "topic_not_found");
}

#[tokio::test]
async fn publications_pass_again_when_redis_is_back() {
    let mut shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (publisher, _, mut sender) = device("publisher", &one).await;
    publisher.create_topic("t").await.unwrap();
    publisher.subscribe("t").await.unwrap();
    let (reader, _, mut socket) = device("reader", &two).await;
    reader.subscribe("t").await.unwrap();
    shared.redis.kill().await;
    // subscribed while nobody hears of it
    let (late, _, mut late_socket) = device("late", &two).await;
    late.subscribe("t").await.unwrap();
    publish(&mut sender, "t", "lost").await;
    shared.redis.run().await;
    for node in [&one, &two] {
        knows(&at(&operator, node), 2).await;
    }
    until(async || publish(&mut sender, "t", "back").await == "Message sent to 2 subscribers").await;
    assert_eq!(content(&mut socket).await, "back");
    assert_eq!(content(&mut late_socket).await, "back");
}

/// Creates a topic with a history.
async fn create_with_history(client: &Client, topic: &str) {
    let topic = json!({ "topic_id": topic, "history": { "size": 1000 } });
    let (status, created) = post(client, "/topics/create", topic).await;
    assert_eq!(status, 200, "{created}");
}

/// The offsets of so many publications that a socket gets; receipts are passed over.
async fn offsets(socket: &mut Connection, count: usize) -> Vec<i64> {
    let mut offsets = Vec::new();
    while offsets.len() < count {
        let frame = next(socket).await;
        if frame["content"].is_number() {
            offsets.push(frame["offset"].as_i64().unwrap_or_else(|| panic!("{frame}")));
        }
    }
    offsets
}

#[tokio::test]
async fn publications_to_a_topic_with_a_history_have_one_order_at_all_nodes() {
    const EACH: usize = 100;
    let shared = Shared::start().await;
    let ([one, two, three], _) = shared.nodes().await;
    let (creator, _, _creator) = device("creator", &one).await;
    create_with_history(&creator, "t/1").await;
    let (mut publishers, mut readers) = (Vec::new(), Vec::new());
    for (node, subscription) in [(&one, "t/1"), (&two, "t/1"), (&three, "t/+")] {
        let (client, _, socket) = device("publisher", node).await;
        client.subscribe("t/1").await.unwrap();
        publishers.push(socket);
        let (client, _, socket) = device("reader", node).await;
        client.subscribe(subscription).await.unwrap();
        readers.push(socket);
    }
    for number in 0..EACH {
        for publisher in &mut publishers {
            let frame = json!({ "topic_id": "t/1", "msgid": number.to_string(), "content": number });
            publisher.send_text(frame.to_string()).await.unwrap();
        }
    }
    let all: Vec<_> = (1..=3 * EACH as i64).collect();
    for reader in &mut readers {
        assert_eq!(offsets(reader, 3 * EACH).await, all);
    }
    // each publisher gets those of the others
    for publisher in &mut publishers {
        assert!(offsets(publisher, 2 * EACH).await.is_sorted());
    }
}

#[tokio::test]
async fn publications_to_a_topic_with_a_history_come_although_redis_is_away() {
    let mut shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (publisher, _, _socket) = device("publisher", &one).await;
    create_with_history(&publisher, "t").await;
    publisher.subscribe("t").await.unwrap();
    let (reader, _, mut socket) = device("reader", &two).await;
    reader.subscribe("t").await.unwrap();
    shared.redis.kill().await;
    for number in 1..=3 {
        let publishing = json!({ "topic_id": "t", "content": number });
        let (status, receipt) = post(&publisher, "/topics/publish", publishing).await;
        assert_eq!(status, 200, "{receipt}");
    }
    assert_eq!(offsets(&mut socket, 3).await, [1, 2, 3]);
    shared.redis.run().await;
    until(async || {
        let publishing = json!({ "topic_id": "t", "content": 0 });
        let (_, receipt) = post(&publisher, "/topics/publish", publishing).await;
        receipt["message"] == "Message sent to 1 subscribers"
    })
    .await;
    let newest = publisher.request(reqwest::Method::GET, "/topics/t").send().await.unwrap();
    let newest = newest.json::<Value>().await.unwrap()["history"]["last_offset"].as_i64().unwrap();
    assert_eq!(offsets(&mut socket, newest as usize - 3).await, (4..=newest).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_topic_that_is_created_again_is_another_one_although_redis_is_away() {
    let mut shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (publisher, _, _socket) = device("publisher", &one).await;
    let (reader, _, mut socket) = device("reader", &two).await;
    reader.subscribe("t/+").await.unwrap();
    let publish = async |number: i64| {
        let publishing = json!({ "topic_id": "t/1", "content": number });
        let (status, receipt) = post(&publisher, "/topics/publish", publishing).await;
        assert_eq!(status, 200, "{receipt}");
    };
    create_with_history(&publisher, "t/1").await;
    publisher.subscribe("t/1").await.unwrap();
    for number in 1..=5 {
        publish(number).await;
    }
    assert_eq!(offsets(&mut socket, 5).await, [1, 2, 3, 4, 5]);
    shared.redis.kill().await;
    let deleted = publisher.request(reqwest::Method::DELETE, "/topics/t%2F1").send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    create_with_history(&publisher, "t/1").await;
    publisher.subscribe("t/1").await.unwrap();
    for number in 1..=3 {
        publish(number).await;
    }
    assert_eq!(next(&mut socket).await["type"], "topic_deleted");
    assert_eq!(offsets(&mut socket, 3).await, [1, 2, 3]);
}
