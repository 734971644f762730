//! Topics and subscriptions over the socket (contract section 12).

use reqwest::Method;
use sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};
use switchboard::client::Client;
use uuid::Uuid;

use crate::support::{Broker, answer, create_database, get, next, next_of_type, nothing_came, post, within};

async fn delete(client: &Client, topic: &str) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::DELETE, &format!("/topics/{topic}"))).await;
    (status.as_u16(), body)
}

fn refusal(status: u16, detail: &str, code: &str) -> (u16, Value) {
    (status, json!({ "detail": detail, "code": code }))
}

#[tokio::test]
async fn a_topic_is_deleted_by_its_creator_or_an_operator_and_its_subscribers_are_told() {
    let mut broker = Broker::with().set("HTTP__WORKERS", "2").set("LIMITS__TOPICS_PER_CLIENT", "1").start().await;
    let operator = broker.admin().await;
    let user = broker.user("ulla", "user").await;
    let (creator, device, mut first) = broker.connected("creator").await;
    let (other, _, mut second) = broker.connected("other").await;
    let forbidden = refusal(403, "Only its creator or an operator may change or delete a topic", "forbidden");
    for (by, name) in [(&creator, "a/b c"), (&operator, "create")] {
        creator.create_topic(name).await.unwrap();
        for client in [&creator, &other] {
            client.subscribe(name).await.unwrap();
        }
        let path = name.replace('/', "%2F").replace(' ', "%20");
        assert_eq!(delete(&other, &path).await, forbidden);
        assert_eq!(delete(&user, &path).await, forbidden);
        assert_eq!(delete(&broker.client(), &path).await.0, 401);
        first.publish(name, "last").await.unwrap();
        assert_eq!(next(&mut second).await["content"], "last");
        next_of_type(&mut first, "topic_sent").await;
        let expected = json!({ "message": "Topic deleted", "topic_id": name });
        assert_eq!(delete(by, &path).await, (200, expected));
        for socket in [&mut first, &mut second] {
            assert_eq!(next(socket).await, json!({ "type": "topic_deleted", "topic_id": name }));
        }
        first.publish(name, "too late").await.unwrap();
        let error = next_of_type(&mut first, "error").await;
        assert_eq!(error["message"], format!("Topic {name} not found"));
        assert_eq!(get(&creator, &format!("/topics/{path}")).await.0, 404);
        assert_eq!(delete(&creator, &path).await, refusal(404, "Topic not found", "not_found"));
        assert_eq!(post(&other, "/topics/subscribe", json!({ "topic_id": name })).await.0, 404);
    }
    assert_eq!(get(&creator, "/topics").await.1, json!({ "count": 0, "topics": [] }));
    // there is room for another one, which nobody is subscribed to
    creator.create_topic("create").await.unwrap();
    let (_, shown) = get(&creator, "/topics/create").await;
    assert_eq!((&shown["creator"], &shown["subscribers"]), (&json!(device.uuid), &json!([])));
    for socket in [&mut first, &mut second] {
        nothing_came(socket).await;
    }
    let own = refusal(403, "$status is the broker's own topic and cannot be changed or deleted", "forbidden");
    assert_eq!(delete(&operator, "$status").await, own);
}

#[tokio::test]
async fn a_topic_id_over_the_limit_is_refused_before_the_topic_is_looked_for() {
    let broker = Broker::start().await;
    let (_, _, mut socket) = broker.connected("publisher").await;
    for (topic, why) in [
        ("ü".repeat(100), None),
        ("ü".repeat(101), Some("topic_id: over 100 characters (limits.topic_id_chars)")),
        ("x".repeat(60_000), Some("topic_id: over 100 characters (limits.topic_id_chars)")),
    ] {
        socket.publish(&topic, "hello").await.unwrap();
        let error = next_of_type(&mut socket, "error").await;
        match why {
            None => assert_eq!((&error["code"], &error["topic_id"]), (&json!("topic_not_found"), &json!(topic))),
            Some(why) => {
                assert_eq!(error["message"], format!("Invalid topic message format: {why}"));
                assert_eq!((&error["code"], error.get("topic_id")), (&json!("invalid_message"), None));
            }
        }
    }
}

#[tokio::test]
async fn a_long_name_is_cut_in_the_text_of_an_error() {
    let mut broker = Broker::with().set("LIMITS__TOPIC_ID_CHARS", "0").start().await;
    let (name, cut) = ("ü".repeat(10_000), format!("{}…", "ü".repeat(100)));
    let (device, _, mut socket) = broker.connected("device").await;
    let unknown_type = json!({ "type": name }).to_string();
    let twice = format!(r#"{{"topic_id":"t","{name}":1,"{name}":2}}"#);
    for (frame, text) in [
        (json!({ "topic_id": name, "msgid": "1", "content": "x" }).to_string(), format!("Topic {cut} not found")),
        (unknown_type.clone(), format!("Invalid message format: unknown type {cut}")),
        (twice, format!("Invalid topic message format: duplicate field `{cut}`")),
    ] {
        socket.send_text(frame).await.unwrap();
        assert_eq!(next_of_type(&mut socket, "error").await["message"], text);
    }
    let mut chat = device.connect("/ws/auth").await.unwrap();
    next_of_type(&mut chat, "connection_established").await;
    let mut agent = broker.user("agent", "user").await.connect("/ws").await.unwrap();
    for socket in [&mut chat, &mut agent] {
        socket.send_text(unknown_type.clone()).await.unwrap();
        assert_eq!(next_of_type(socket, "error").await["message"], format!("Unknown message type: {cut}"));
    }
}

#[tokio::test]
async fn no_uuid_makes_its_client_wait_for_a_lock_of_the_broker() {
    let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES") else { return };
    let url = create_database(&server).await;
    let broker = Broker::with().env("DATABASE_URL", &url).start().await;
    // the broker holds the first lock, its write transactions the second one, and this session all that the broker does not
    let mut options = sea_orm::ConnectOptions::new(url);
    options.max_connections(1);
    let session = Database::connect(options).await.unwrap();
    for key in [i64::from_be_bytes(*b"switchbd"), i64::from_be_bytes(*b"switchbf"), 0] {
        let half = key.cast_unsigned();
        // the second one would stop all writing
        if key == 0 {
            session.execute_unprepared(&format!("SELECT pg_advisory_lock({key})")).await.unwrap();
        }
        let mut client = broker.client();
        let uuid = Uuid::from_u64_pair(half, 0x9000 << 48);
        within(client.register_device("device", uuid)).await.expect("registered");
        let created = post(&client, "/topics/create", json!({ "topic_id": uuid.to_string() })).await;
        assert_eq!(created.0, 200, "{uuid}: {}", created.1);
    }
}

fn request(kind: &str, topic: &str) -> String {
    json!({ "type": kind, "topic_id": topic }).to_string()
}

#[tokio::test]
async fn devices_subscribe_and_unsubscribe_over_their_socket_and_see_what_was_done_over_rest() {
    let broker = Broker::with().set("HTTP__WORKERS", "2").start().await;
    let (creator, _, mut publisher) = broker.connected("publisher").await;
    let (device, identity, mut socket) = broker.connected("subscriber").await;
    creator.create_topic("news/today").await.unwrap();
    creator.subscribe("news/today").await.unwrap();
    // twice is the same as once
    for _ in 0..2 {
        socket.send_text(request("subscribe", "news/today")).await.unwrap();
        let answer = next(&mut socket).await;
        assert_eq!((&answer["type"], &answer["topic_id"]), (&json!("subscribed"), &json!("news/today")));
        assert!(answer["timestamp"].is_f64() && answer.get("offset").is_none(), "{answer}");
    }
    let (_, shown) = get(&creator, "/topics/news%2Ftoday").await;
    assert!(shown["subscribers"].as_array().unwrap().contains(&json!(identity.uuid)), "{shown}");
    publisher.publish("news/today", "first").await.unwrap();
    assert_eq!(next(&mut publisher).await["message"], "Message sent to 1 subscribers");
    assert_eq!(next(&mut socket).await["content"], "first");

    socket.send_text(request("unsubscribe", "news/today")).await.unwrap();
    assert_eq!(next(&mut socket).await["type"], "unsubscribed");
    publisher.publish("news/today", "second").await.unwrap();
    assert_eq!(next(&mut publisher).await["message"], "Message sent to 0 subscribers");
    // what was subscribed over REST ends over the socket
    device.subscribe("news/today").await.unwrap();
    socket.send_text(request("unsubscribe", "news/today")).await.unwrap();
    assert_eq!(next(&mut socket).await["type"], "unsubscribed");
    // no error if there was no subscription, nor if there is no such topic
    socket.send_text(request("unsubscribe", "nowhere")).await.unwrap();
    assert_eq!(next(&mut socket).await["type"], "unsubscribed");
    let (_, shown) = get(&creator, "/topics/news%2Ftoday").await;
    assert_eq!(shown["subscriber_count"], 1);
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn chat_sockets_subscribe_to_topics_too() {
    let mut broker = Broker::start().await;
    let user = broker.user("ulla", "user").await;
    let operator = broker.admin().await;
    operator.create_topic("news").await.unwrap();
    let mut chat = user.connect("/ws/auth").await.unwrap();
    next_of_type(&mut chat, "connection_established").await;
    chat.send_text(request("subscribe", "news")).await.unwrap();
    let answer = next(&mut chat).await;
    assert_eq!(answer["type"], "subscribed");
    // as all times on chat sockets
    assert!(answer["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{answer}");
    let (_, _, mut publisher) = broker.connected("publisher").await;
    publisher.send_text(request("subscribe", "news")).await.unwrap();
    assert_eq!(next(&mut publisher).await["type"], "subscribed");
    publisher.publish("news", "hello").await.unwrap();
    assert_eq!(next(&mut chat).await["content"], "hello");
    // the broker's own topic is for operators
    chat.send_text(request("subscribe", "$status")).await.unwrap();
    let error = next(&mut chat).await;
    assert_eq!((&error["message"], &error["code"]), (&json!("Operator role required"), &json!("forbidden")));
}

#[tokio::test]
async fn a_subscription_over_the_socket_is_refused_with_the_texts_of_messages_to_topics() {
    let broker = Broker::with().set("LIMITS__SUBSCRIPTIONS_PER_CLIENT", "1").start().await;
    let (device, identity, mut socket) = broker.connected("device").await;
    for topic in ["a", "b"] {
        device.create_topic(topic).await.unwrap();
    }
    device.subscribe("a").await.unwrap();
    let shape = |why: &str| format!("Invalid topic message format: {why}");
    let other = Uuid::new_v4();
    for (frame, code, text) in [
        (json!({ "topic_id": "none", "msgid": "7" }), "topic_not_found", "Topic none not found".to_owned()),
        (json!({ "topic_id": "b" }), "too_many_requests", "Too many requests (limits.subscriptions_per_client)".into()),
        (json!({ "from": identity.uuid }), "invalid_message", shape("missing field `topic_id`")),
        (json!({ "topic_id": 1 }), "invalid_message", shape("topic_id: expected a text")),
        (
            json!({ "topic_id": "a", "from": other }),
            "sender_mismatch",
            "Sender UUID does not match authenticated client".to_owned(),
        ),
    ] {
        let mut frame = frame;
        frame["type"] = json!("subscribe");
        socket.send_text(frame.to_string()).await.unwrap();
        let error = next(&mut socket).await;
        assert_eq!((&error["code"], &error["message"]), (&json!(code), &json!(text)), "{frame}");
        assert_eq!(error.get("msgid"), frame.get("msgid"), "{error}");
    }
    // a message may have any type
    let message = json!({ "type": "subscribe", "topic_id": "a", "msgid": "1", "content": "x" });
    socket.send_text(message.to_string()).await.unwrap();
    assert_eq!(next(&mut socket).await["type"], "topic_sent");
}

#[tokio::test]
async fn the_answer_to_a_subscription_comes_after_the_receipts_of_earlier_publications() {
    let broker = Broker::with().set("HTTP__WORKERS", "2").start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    for topic in ["a", "b"] {
        device.create_topic(topic).await.unwrap();
    }
    device.subscribe("a").await.unwrap();
    for kind in ["subscribe", "unsubscribe"].repeat(20) {
        for _ in 0..3 {
            socket.publish("a", "x").await.unwrap();
        }
        socket.send_text(request(kind, "b")).await.unwrap();
        for _ in 0..3 {
            assert_eq!(next(&mut socket).await["type"], "topic_sent");
        }
        assert_eq!(next(&mut socket).await["type"], format!("{kind}d"));
    }
}

#[tokio::test]
async fn devices_and_operators_publish_over_http_and_subscribers_get_the_object_as_it_was_sent() {
    let mut broker = Broker::with().set("HTTP__WORKERS", "2").start().await;
    let operator = broker.admin().await;
    let (device, identity, mut own) = broker.connected("publisher").await;
    let (reader, _, mut socket) = broker.connected("reader").await;
    device.create_topic("news").await.unwrap();
    for client in [&device, &reader] {
        client.subscribe("news").await.unwrap();
    }
    // number spellings and unknown fields stay as they are
    let text = r#"{ "topic_id": "news", "msgid": "m1", "content": 1.50, "from": "ID", "own": [1e2] }"#;
    let text = text.replace("ID", &identity.uuid.to_string().to_uppercase());
    let request = device.request(Method::POST, "/topics/publish");
    let (status, receipt) = answer(request.header("Content-Type", "application/json").body(text.clone())).await;
    assert_eq!(status, 200, "{receipt}");
    assert_eq!((&receipt["type"], &receipt["topic_id"]), (&json!("topic_sent"), &json!("news")));
    assert_eq!((&receipt["message"], &receipt["msgid"]), (&json!("Message sent to 1 subscribers"), &json!("m1")));
    assert!(receipt["timestamp"].is_f64(), "{receipt}");
    assert_eq!(within(socket.next_text()).await.unwrap(), text);

    // the operator need not be subscribed; what is missing is added
    let (status, receipt) = post(&operator, "/topics/publish", json!({ "topic_id": "news", "content": "x" })).await;
    assert_eq!((status, &receipt["message"]), (200, &json!("Message sent to 2 subscribers")));
    for socket in [&mut own, &mut socket] {
        let got = next(socket).await;
        assert_eq!((&got["content"], &got["msgid"]), (&json!("x"), &receipt["msgid"]));
        assert!(got["from"].is_string(), "{got}");
    }
    for socket in [&mut own, &mut socket] {
        nothing_came(socket).await;
    }
}

#[tokio::test]
async fn a_publication_over_http_is_refused_with_its_reason() {
    let mut broker = Broker::with().set("LIMITS__FRAME_BYTES", "1000").start().await;
    let (operator, user) = (broker.admin().await, broker.user("ulla", "user").await);
    let (device, _, _socket) = broker.connected("device").await;
    device.create_topic("news").await.unwrap();
    let body = |topic: &str| json!({ "topic_id": topic, "content": "x" });
    for (client, body, expected) in [
        (&device, body("none"), refusal(404, "Topic not found", "not_found")),
        (&device, body("news"), refusal(403, "Not subscribed to topic news", "not_subscribed")),
        (&user, body("news"), refusal(403, "Only devices and operators may publish", "forbidden")),
        (&operator, body("$status"), refusal(403, "Only the broker publishes to $status", "forbidden")),
        (
            &operator,
            json!({ "topic_id": "news", "content": "x", "from": Uuid::new_v4() }),
            refusal(403, "Sender UUID does not match authenticated client", "forbidden"),
        ),
    ] {
        assert_eq!(post(client, "/topics/publish", body).await, expected);
    }
    assert_eq!(post(&broker.client(), "/topics/publish", body("news")).await.0, 422);
    for (text, place) in [
        (r#"{"content":"x"}"#.to_owned(), "topic_id"),
        (r#"{"topic_id":"news","content":null}"#.to_owned(), "content"),
        (r#"{"topic_id":"news","content":1,"msgid":null}"#.to_owned(), "msgid"),
        (r#"{"topic_id":"news","content":1,"from":null}"#.to_owned(), "from"),
        (r#"{"topic_id":"news","content":1,"a":1,"a":2}"#.to_owned(), "duplicate field `a`"),
        (json!({ "topic_id": "news", "content": "x".repeat(1000) }).to_string(), "limits.frame_bytes"),
    ] {
        let request = operator.request(Method::POST, "/topics/publish").header("Content-Type", "application/json");
        let (status, answer) = answer(request.body(text)).await;
        assert!(status == 422 && answer["detail"][0].to_string().contains(place), "{answer}");
    }
}
