//! Topics with a history (contract section 12).

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};

use crate::support::{Broker, SteppedClock, answer, get, next, next_of_type, nothing_came, post, until};

async fn create(client: &Client, topic: &str, history: Value) {
    let (status, body) = post(client, "/topics/create", json!({ "topic_id": topic, "history": history })).await;
    assert_eq!(status, 200, "{body}");
    client.subscribe(topic).await.unwrap();
}

async fn patch(client: &Client, path: &str, body: Value) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::PATCH, path).json(&body)).await;
    (status.as_u16(), body)
}

/// Publishes. Returns the offset.
async fn publish(socket: &mut Connection, topic: &str, content: &str) -> i64 {
    socket.publish(topic, content).await.unwrap();
    let receipt = next(socket).await;
    receipt["offset"].as_i64().unwrap_or_else(|| panic!("{receipt}"))
}

/// Offsets and contents of what is kept after this offset.
async fn kept(client: &Client, topic: &str, since: i64) -> Vec<(i64, String)> {
    let (status, page) = get(client, &format!("/topics/{topic}/messages?since_offset={since}")).await;
    assert_eq!(status, 200, "{page}");
    let messages = page["messages"].as_array().unwrap().iter();
    messages
        .map(|kept| (kept["offset"].as_i64().unwrap(), kept["message"]["content"].as_str().unwrap().to_owned()))
        .collect()
}

#[tokio::test]
async fn publications_get_offsets_and_are_kept_as_they_were_sent() {
    let mut broker = Broker::with().set("HTTP__WORKERS", "2").start().await;
    let operator = broker.admin().await;
    let (device, identity, mut publisher) = broker.connected("publisher").await;
    let (reader, _, mut socket) = broker.connected("reader").await;
    create(&device, "news", json!({ "size": 100 })).await;
    reader.subscribe("news").await.unwrap();
    assert_eq!(publish(&mut publisher, "news", "first").await, 1);
    let received = next(&mut socket).await;
    assert_eq!(
        (&received["offset"], &received["content"], &received["topic_id"]),
        (&json!(1), &json!("first"), &json!("news"))
    );
    let text = r#"{ "topic_id": "news", "msgid": "m", "content": {"n": 1.50}, "extra": null }"#;
    publisher.send_text(text).await.unwrap();
    assert_eq!(next(&mut publisher).await["offset"], 2);
    let from = identity.uuid;
    let expected =
        r#"{ "offset": 2, "from": FROM, "topic_id": "news", "msgid": "m", "content": {"n": 1.50}, "extra": null }"#;
    let mut expected: Value = serde_json::from_str(&expected.replace("FROM", &json!(from).to_string())).unwrap();
    assert_eq!(next(&mut socket).await, expected);
    // over HTTP, too
    let (status, receipt) =
        post(&operator, "/topics/publish", json!({ "topic_id": "news", "msgid": "h", "content": "third" })).await;
    assert_eq!(
        (status, &receipt["offset"], &receipt["message"]),
        (200, &json!(3), &json!("Message sent to 2 subscribers"))
    );
    assert_eq!(next(&mut socket).await["offset"], 3);

    let (status, page) = get(&reader, "/topics/news/messages?since_offset=1&limit=1").await;
    assert_eq!(
        (status, &page["topic_id"], &page["first_offset"], &page["last_offset"]),
        (200, &json!("news"), &json!(1), &json!(3))
    );
    let messages = page["messages"].as_array().unwrap();
    assert_eq!((messages.len(), &messages[0]["offset"]), (1, &json!(2)));
    assert!(messages[0]["at"].as_str().unwrap().ends_with('Z'));
    expected.as_object_mut().unwrap().remove("offset");
    assert_eq!(messages[0]["message"], expected);
    assert_eq!(kept(&reader, "news", 3).await, []);
    let (_, shown) = get(&reader, "/topics/news").await;
    let bytes = shown["history"]["bytes"].as_u64().filter(|bytes| (3 * 50..3 * 150).contains(bytes));
    assert_eq!(shown["history"], json!({ "size": 100, "ttl_secs": null, "last_offset": 3, "bytes": bytes }));
}

#[tokio::test]
async fn only_the_newest_are_kept_and_offsets_go_on_over_a_restart() {
    let mut broker = Broker::start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    create(&device, "news", json!({ "size": 3 })).await;
    for number in 1..=5 {
        assert_eq!(publish(&mut socket, "news", &number.to_string()).await, number);
    }
    let newest = [(3, "3".to_owned()), (4, "4".to_owned()), (5, "5".to_owned())];
    assert_eq!(kept(&device, "news", 0).await, newest);
    broker = broker.kill().await.start().await;
    let client = broker.client().with_token(device.token().unwrap());
    assert_eq!(kept(&client, "news", 0).await, newest);
    let mut socket = client.connect("/ws").await.unwrap();
    next_of_type(&mut socket, "connection").await;
    client.subscribe("news").await.unwrap();
    assert_eq!(publish(&mut socket, "news", "6").await, 6);
    let (_, page) = get(&client, "/topics/news/messages").await;
    assert_eq!((&page["first_offset"], &page["last_offset"]), (&json!(4), &json!(6)));
}

#[tokio::test]
async fn a_history_begins_changes_and_ends_by_a_change_of_its_topic() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (device, identity, mut socket) = broker.connected("device").await;
    let (other, _) = broker.device("other").await;
    device.create_topic("news").await.unwrap();
    device.subscribe("news").await.unwrap();
    let refused = json!({ "detail": "Topic has no history", "code": "no_history" });
    assert_eq!(get(&device, "/topics/news/messages").await, (400, refused.clone()));
    socket.publish("news", "plain").await.unwrap();
    assert_eq!(next(&mut socket).await.get("offset"), None);

    let (status, missing) = patch(&device, "/topics/news", json!({ "history": { "ttl_secs": 60 } })).await;
    assert_eq!((status, &missing["detail"][0]["loc"]), (422, &json!(["body", "history", "size"])));
    let change = json!({ "metadata": { "unit": "K" }, "history": { "size": 2, "ttl_secs": 60 } });
    let (status, changed) = patch(&device, "/topics/news", change).await;
    let expected = json!({
        "id": "news", "creator": identity.uuid, "metadata": { "unit": "K" }, "subscriber_count": 1,
        "subscribers": [identity.uuid], "history": { "size": 2, "ttl_secs": 60, "last_offset": 0, "bytes": 0 },
    });
    assert_eq!((status, changed), (200, expected));
    for number in 1..=3 {
        assert_eq!(publish(&mut socket, "news", "kept").await, number);
    }
    assert_eq!(kept(&device, "news", 0).await.len(), 2);
    // less at once, more from now on; what is not named stays
    let (_, changed) = patch(&operator, "/topics/news", json!({ "history": { "size": 1, "ttl_secs": null } })).await;
    let history = &changed["history"];
    assert_eq!((&history["size"], &history["ttl_secs"], &history["last_offset"]), (&json!(1), &Value::Null, &json!(3)));
    let bytes = history["bytes"].as_u64();
    assert_eq!(kept(&device, "news", 0).await, [(3, "kept".to_owned())]);
    assert_eq!(changed["metadata"], json!({ "unit": "K" }));
    let (_, changed) = patch(&operator, "/topics/news", json!({ "history": { "size": 2 } })).await;
    assert_eq!(changed["history"]["bytes"].as_u64(), bytes);

    assert_eq!(patch(&device, "/topics/news", json!({ "history": null })).await.0, 200);
    assert_eq!(get(&device, "/topics/news/messages").await, (400, refused));
    socket.publish("news", "plain").await.unwrap();
    assert_eq!(next(&mut socket).await.get("offset"), None);
    // a new one does not have what the old one kept, and its offsets go on
    patch(&device, "/topics/news", json!({ "history": { "size": 10 } })).await;
    assert_eq!(kept(&device, "news", 0).await, []);
    assert_eq!(publish(&mut socket, "news", "again").await, 4);

    let forbidden =
        json!({ "detail": "Only its creator or an operator may change or delete a topic", "code": "forbidden" });
    assert_eq!(patch(&other, "/topics/news", json!({})).await, (403, forbidden));
    assert_eq!(patch(&other, "/topics/none", json!({})).await.0, 404);
    assert_eq!(patch(&operator, "/topics/$status", json!({ "metadata": {} })).await.0, 403);
    for history in [
        json!({ "size": 0 }),
        json!({ "size": 10_001 }),
        json!({ "size": "1" }),
        json!(1),
        json!({ "size": 1, "ttl_secs": 0 }),
        json!({ "size": 1, "ttl": 5 }),
    ] {
        assert_eq!(patch(&device, "/topics/news", json!({ "history": history })).await.0, 422, "{history}");
        let body = json!({ "topic_id": "other", "history": history });
        assert_eq!(post(&device, "/topics/create", body).await.0, 422, "{history}");
    }
}

#[tokio::test]
async fn a_new_topic_of_a_deleted_name_has_none_of_its_history() {
    let broker = Broker::start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    for round in 1..=2 {
        create(&device, "news", json!({ "size": 10 })).await;
        assert_eq!(kept(&device, "news", 0).await, []);
        assert_eq!(publish(&mut socket, "news", &format!("round {round}")).await, 1);
        assert_eq!(kept(&device, "news", 0).await, [(1, format!("round {round}"))]);
        assert_eq!(answer(device.request(Method::DELETE, "/topics/news")).await.0, 200);
        assert_eq!(next(&mut socket).await["type"], "topic_deleted");
    }
}

#[tokio::test]
async fn what_a_smaller_history_dropped_is_not_there_again_when_it_becomes_larger() {
    let broker = Broker::start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    create(&device, "news", json!({ "size": 100 })).await;
    for number in 1..=20 {
        publish(&mut socket, "news", &number.to_string()).await;
    }
    patch(&device, "/topics/news", json!({ "history": { "size": 5 } })).await;
    publish(&mut socket, "news", "21").await;
    patch(&device, "/topics/news", json!({ "history": { "size": 100 } })).await;
    publish(&mut socket, "news", "22").await;
    let offsets: Vec<_> = kept(&device, "news", 0).await.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, (17..=22).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_history_with_too_many_bytes_loses_its_oldest_publications_and_says_so() {
    let broker = Broker::with().set("LIMITS__TOPIC_HISTORY_BYTES", "2000").start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    let (_, _, mut reader) = broker.connected("reader").await;
    create(&device, "news", json!({ "size": 1000 })).await;
    for _ in 0..10 {
        publish(&mut socket, "news", &"x".repeat(500)).await;
    }
    let offsets: Vec<_> = kept(&device, "news", 0).await.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, [8, 9, 10]);
    let (_, shown) = get(&device, "/topics/news").await;
    let bytes = shown["history"]["bytes"].as_i64().unwrap();
    assert!((1500..=2000).contains(&bytes), "{shown}");
    assert_eq!(subscribe(&mut reader, "news", json!({ "since_offset": 2 })).await["offset"], 10);
    let gap = next(&mut reader).await;
    assert_eq!((&gap["type"], &gap["first_offset"]), (&json!("topic_gap"), &json!(8)));
    assert_eq!(next(&mut reader).await["offset"], 8);
}

#[tokio::test]
async fn what_was_too_old_is_not_there_again_when_the_time_becomes_longer() {
    let (clock, settings) = SteppedClock::of(Broker::with());
    let broker = settings.start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    create(&device, "news", json!({ "size": 10, "ttl_secs": 60 })).await;
    publish(&mut socket, "news", "old").await;
    clock.set_date(120);
    publish(&mut socket, "news", "new").await;
    patch(&device, "/topics/news", json!({ "history": { "ttl_secs": null } })).await;
    assert_eq!(kept(&device, "news", 0).await, [(2, "new".to_owned())]);
}

#[tokio::test]
async fn a_history_is_not_longer_than_the_limit() {
    let broker = Broker::with().set("LIMITS__TOPIC_HISTORY", "50").start().await;
    let (device, _) = broker.device("device").await;
    let body = |size: u32| json!({ "topic_id": "news", "history": { "size": size } });
    let (status, refused) = post(&device, "/topics/create", body(51)).await;
    let text = "Value error, size must be a whole number from 1 to 50 (limits.topic_history)";
    assert_eq!((status, &refused["detail"][0]["msg"]), (422, &json!(text)));
    assert_eq!(post(&device, "/topics/create", body(50)).await.0, 200);
    assert_eq!(patch(&device, "/topics/news", json!({ "history": { "size": 51 } })).await.0, 422);
}

#[tokio::test]
async fn when_the_limit_of_stored_bytes_is_reached_nothing_is_published_until_something_is_deleted() {
    let broker = Broker::with().set("MESSAGES__TOTAL_BYTES", "1500").start().await;
    let (device, identity, mut socket) = broker.connected("device").await;
    create(&device, "news", json!({ "size": 1000 })).await;
    create(&device, "more", json!({ "size": 1000 })).await;
    publish(&mut socket, "news", &"x".repeat(1000)).await;
    let full = json!("The limit of stored bytes is reached (messages.total_bytes)");
    socket.publish("more", &"x".repeat(500)).await.unwrap();
    let refused = next(&mut socket).await;
    assert_eq!((&refused["code"], &refused["message"]), (&json!("storage_full"), &full));
    let body = json!({ "topic_id": "more", "content": "x".repeat(500) });
    let (status, refused) = post(&device, "/topics/publish", body.clone()).await;
    assert_eq!((status, &refused["detail"]), (503, &full));
    // acknowledged messages count, too
    let message = json!({ "to": identity.uuid, "content": "x".repeat(500), "acknowledge": true });
    let (status, refused) = post(&device, "/api/messages", message).await;
    assert_eq!((status, &refused["detail"]), (503, &full));
    assert_eq!(answer(device.request(Method::DELETE, "/topics/news")).await.0, 200);
    // at once, and not with the next hourly cleaning
    until(async || post(&device, "/topics/publish", body.clone()).await.0 == 200).await;
}

#[tokio::test]
async fn publications_of_one_burst_to_many_subscribers_all_arrive_in_order() {
    let broker = Broker::with().set("HTTP__WORKERS", "2").set("LIMITS__REGISTRATIONS_PER_MINUTE", "0").start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    create(&device, "news", json!({ "size": 1000 })).await;
    let mut readers = Vec::new();
    for number in 0..120 {
        let (reader, _, socket) = broker.connected(&format!("reader-{number}")).await;
        reader.subscribe("news").await.unwrap();
        readers.push(socket);
    }
    for number in 1..=100 {
        socket.publish("news", &number.to_string()).await.unwrap();
    }
    assert_eq!(offsets(&mut socket, 100).await, (1..=100).collect::<Vec<_>>());
    for reader in &mut readers {
        assert_eq!(offsets(reader, 100).await, (1..=100).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_field_offset_is_reserved_in_topics_with_a_history() {
    let broker = Broker::start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    create(&device, "kept", json!({ "size": 1 })).await;
    device.create_topic("plain").await.unwrap();
    device.subscribe("plain").await.unwrap();
    for (topic, expected) in [("kept", "error"), ("plain", "topic_sent"), ("kept", "error")] {
        socket
            .send_text(json!({ "topic_id": topic, "msgid": "1", "content": "x", "offset": 5 }).to_string())
            .await
            .unwrap();
        let answer = next(&mut socket).await;
        assert_eq!(answer["type"], expected, "{answer}");
        if expected == "error" {
            assert_eq!(answer["message"], "Invalid topic message format: reserved field `offset`");
        }
    }
    let body = json!({ "topic_id": "kept", "content": "x", "offset": 5 });
    let (status, refused) = post(&device, "/topics/publish", body).await;
    assert_eq!((status, &refused["detail"][0]["loc"]), (422, &json!(["body", "offset"])));
    assert_eq!(kept(&device, "kept", 0).await, []);
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn one_senders_publications_keep_their_order_with_and_without_history() {
    let broker = Broker::with()
        .alone("messages of different kinds have no order between nodes")
        .set("HTTP__WORKERS", "2")
        .start()
        .await;
    let (device, identity, mut publisher) = broker.connected("publisher").await;
    let (reader, other, mut socket) = broker.connected("reader").await;
    create(&device, "kept", json!({ "size": 10 })).await;
    device.create_topic("plain").await.unwrap();
    for topic in ["kept", "plain"] {
        reader.subscribe(topic).await.unwrap();
    }
    device.subscribe("plain").await.unwrap();
    for number in 0..300 {
        match number % 3 {
            0 => publisher.publish("kept", &number.to_string()).await.map(drop),
            1 => publisher.publish("plain", &number.to_string()).await.map(drop),
            _ => {
                let direct = json!({ "to": other.uuid, "msgid": "d", "content": number.to_string() });
                publisher.send_text(direct.to_string()).await
            }
        }
        .unwrap();
    }
    for number in 0..300 {
        let (received, receipt) = (next(&mut socket).await, next(&mut publisher).await);
        assert_eq!(received["content"], number.to_string());
        assert_eq!(receipt["type"], if number % 3 == 2 { "sent" } else { "topic_sent" });
        assert_eq!(received["offset"].as_i64(), (number % 3 == 0).then_some(number / 3 + 1));
        assert_eq!(received["offset"], receipt.get("offset").cloned().unwrap_or_default());
    }
    assert_ne!(identity.uuid, other.uuid);
}

#[tokio::test]
async fn who_may_not_subscribe_does_not_read_the_history() {
    let rules = "[[topics.subscribe]]\ntopic = \"secret\"\nwho = [\"operator\"]";
    let mut broker = Broker::with().file("rules.toml", rules).argument("--config").argument("rules.toml").start().await;
    let operator = broker.admin().await;
    let (device, _) = broker.device("device").await;
    create(&operator, "secret", json!({ "size": 1 })).await;
    let (status, refused) = get(&device, "/topics/secret/messages").await;
    assert_eq!((status, &refused["detail"]), (403, &json!("Not allowed on topic secret")));
    assert_eq!(get(&operator, "/topics/secret/messages").await.0, 200);
    assert_eq!(get(&broker.client(), "/topics/secret/messages").await.0, 401);
    assert_eq!(get(&device, "/topics/none/messages").await.0, 404);
}

async fn subscribe(socket: &mut Connection, topic: &str, fields: Value) -> Value {
    let mut frame = json!({ "type": "subscribe", "topic_id": topic });
    frame.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    socket.send_text(frame.to_string()).await.unwrap();
    next(socket).await
}

async fn offsets(socket: &mut Connection, count: usize) -> Vec<i64> {
    let mut offsets = Vec::new();
    for _ in 0..count {
        let frame = next(socket).await;
        offsets.push(frame["offset"].as_i64().unwrap_or_else(|| panic!("{frame}")));
    }
    offsets
}

#[tokio::test]
async fn a_subscription_from_an_offset_gets_what_it_missed_and_then_goes_on() {
    let broker = Broker::with().set("HTTP__WORKERS", "2").start().await;
    let (device, _, mut publisher) = broker.connected("publisher").await;
    let (_, _, mut socket) = broker.connected("reader").await;
    create(&device, "news", json!({ "size": 5 })).await;
    for number in 1..=4 {
        publish(&mut publisher, "news", &number.to_string()).await;
    }
    let subscribed = subscribe(&mut socket, "news", json!({ "since_offset": 1 })).await;
    assert_eq!((&subscribed["type"], &subscribed["offset"]), (&json!("subscribed"), &json!(4)));
    assert_eq!(offsets(&mut socket, 3).await, [2, 3, 4]);
    publish(&mut publisher, "news", "5").await;
    assert_eq!(offsets(&mut socket, 1).await, [5]);
    // twice is the same as once, and nothing is there twice
    assert_eq!(subscribe(&mut socket, "news", json!({ "since_offset": 5 })).await["offset"], 5);
    publish(&mut publisher, "news", "6").await;
    assert_eq!(offsets(&mut socket, 1).await, [6]);
    // offset 1 is gone
    assert_eq!(subscribe(&mut socket, "news", json!({ "since_offset": 0 })).await["offset"], 6);
    assert_eq!(next(&mut socket).await, json!({ "type": "topic_gap", "topic_id": "news", "first_offset": 2 }));
    assert_eq!(offsets(&mut socket, 5).await, [2, 3, 4, 5, 6]);
    // the last ones, or as many as there are
    for (last, expected) in [(2, &[5, 6][..]), (5, &[2, 3, 4, 5, 6]), (100, &[2, 3, 4, 5, 6])] {
        assert_eq!(subscribe(&mut socket, "news", json!({ "last": last })).await["offset"], 6);
        assert_eq!(offsets(&mut socket, expected.len()).await, expected);
    }
    // without an offset there is nothing but the newest one
    assert_eq!(subscribe(&mut socket, "news", json!({})).await["offset"], 6);
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn where_a_subscription_cannot_begin_it_is_refused() {
    let broker = Broker::start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    create(&device, "news", json!({ "size": 5 })).await;
    device.create_topic("plain").await.unwrap();
    publish(&mut socket, "news", "1").await;
    let shape = |why: &str| format!("Invalid topic message format: {why}");
    for (topic, fields, code, message) in [
        ("news", json!({ "since_offset": 2 }), "invalid_message", shape("since_offset: the newest offset is 1")),
        (
            "news",
            json!({ "since_offset": -1 }),
            "invalid_message",
            shape("since_offset: expected a whole number from 0"),
        ),
        (
            "news",
            json!({ "since_offset": "1" }),
            "invalid_message",
            shape("since_offset: expected a whole number from 0"),
        ),
        ("news", json!({ "last": 0 }), "invalid_message", shape("last: expected a whole number from 1 to 10000")),
        (
            "news",
            json!({ "last": 1, "since_offset": 1 }),
            "invalid_message",
            shape("only one of since_offset and last is possible"),
        ),
        ("plain", json!({ "last": 1 }), "no_history", "Topic has no history".to_owned()),
        ("none", json!({ "last": 1 }), "topic_not_found", "Topic none not found".to_owned()),
        (
            "#",
            json!({ "since_offset": 0 }),
            "invalid_message",
            shape("since_offset and last are for one topic, not for a pattern"),
        ),
    ] {
        let refused = subscribe(&mut socket, topic, fields).await;
        assert_eq!((&refused["code"], &refused["message"]), (&json!(code), &json!(message)), "{refused}");
    }
    assert_eq!(subscribe(&mut socket, "news", json!({ "since_offset": 1 })).await["offset"], 1);
    // over HTTP it would go unnoticed
    for name in ["since_offset", "last"] {
        let (status, refused) = post(&device, "/topics/subscribe", json!({ "topic_id": "news", name: 1 })).await;
        assert_eq!((status, &refused["detail"][0]["loc"]), (422, &json!(["body", name])));
    }
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn while_much_is_published_subscriptions_begin_without_gap_or_double() {
    const ALL: i64 = 3000;
    let broker = Broker::with().set("HTTP__WORKERS", "2").set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let (device, _, mut publisher) = broker.connected("publisher").await;
    create(&device, "news", json!({ "size": 10_000 })).await;
    let mut readers = Vec::new();
    for number in 0..6 {
        let (_, _, mut socket) = broker.connected(&format!("reader {number}")).await;
        readers.push(tokio::spawn(async move {
            // some have a pattern that matches, too, and begin anew on their way
            if number % 2 == 0 {
                assert_eq!(subscribe(&mut socket, "#", json!({})).await["type"], "subscribed");
            }
            let (mut last, mut begins) = (0, 0);
            while last < ALL {
                if begins <= last / 500 {
                    begins += 1;
                    let frame = json!({ "type": "subscribe", "topic_id": "news", "since_offset": last });
                    socket.send_text(frame.to_string()).await.unwrap();
                    // what was on its way comes before the answer
                    while next(&mut socket).await["type"] != "subscribed" {}
                }
                let frame = next(&mut socket).await;
                let offset = frame["offset"].as_i64().unwrap_or_else(|| panic!("{frame}"));
                assert_eq!(offset, last + 1, "reader {number}");
                last = offset;
            }
        }));
    }
    let publishing = tokio::spawn(async move {
        for number in 1..=ALL {
            publisher.publish("news", &number.to_string()).await.unwrap();
            if number % 100 == 0 {
                for _ in 0..100 {
                    next(&mut publisher).await;
                }
            }
        }
        publisher
    });
    crate::support::within(publishing).await.unwrap();
    for reader in readers {
        crate::support::within(reader).await.unwrap();
    }
}

#[tokio::test]
async fn a_long_history_comes_at_the_speed_of_its_reader() {
    let broker =
        Broker::with().set("LIMITS__OUTBOUND_BYTES", "100000").set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let (device, _, mut publisher) = broker.connected("publisher").await;
    let (_, _, mut socket) = broker.connected("reader").await;
    create(&device, "news", json!({ "size": 1000 })).await;
    let content = "x".repeat(10_000);
    for _ in 0..200 {
        publish(&mut publisher, "news", &content).await;
    }
    subscribe(&mut socket, "news", json!({ "since_offset": 0 })).await;
    assert_eq!(offsets(&mut socket, 200).await, (1..=200).collect::<Vec<_>>());
    // the socket is read meanwhile
    subscribe(&mut socket, "news", json!({ "since_offset": 0 })).await;
    socket.send_text(r#"{"type":"ping"}"#).await.unwrap();
    while next(&mut socket).await["type"] != "pong" {}
}

#[tokio::test]
async fn many_topics_at_once_do_not_overrun_a_reader_that_reads() {
    let broker =
        Broker::with().set("LIMITS__OUTBOUND_BYTES", "200000").set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let (device, _, mut publisher) = broker.connected("publisher").await;
    let (_, _, mut socket) = broker.connected("reader").await;
    let (topics, content) = (8, "x".repeat(5_000));
    for number in 0..topics {
        let topic = format!("news/{number}");
        create(&device, &topic, json!({ "size": 100 })).await;
        for _ in 0..30 {
            publish(&mut publisher, &topic, &content).await;
        }
    }
    for number in 0..topics {
        let frame = json!({ "type": "subscribe", "topic_id": format!("news/{number}"), "since_offset": 0 });
        socket.send_text(frame.to_string()).await.unwrap();
    }
    let mut last = vec![0; topics];
    while last.iter().any(|last| *last < 30) {
        let frame = next(&mut socket).await;
        if let (Some(offset), None) = (frame["offset"].as_i64(), frame["type"].as_str()) {
            let topic: usize = frame["topic_id"].as_str().unwrap()[5..].parse().unwrap();
            assert_eq!(offset, last[topic] + 1);
            last[topic] = offset;
        }
    }
}

#[tokio::test]
async fn a_takeover_while_a_subscriber_catches_up_goes_on_with_the_new_socket() {
    let broker =
        Broker::with().set("LIMITS__OUTBOUND_BYTES", "100000").set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let (device, _, mut publisher) = broker.connected("publisher").await;
    let (reader, _, mut old) = broker.connected("reader").await;
    create(&device, "news", json!({ "size": 1000 })).await;
    for number in 1..=500 {
        assert_eq!(publish(&mut publisher, "news", &"x".repeat(5_000)).await, number);
    }
    assert_eq!(subscribe(&mut old, "news", json!({ "since_offset": 0 })).await["offset"], 500);
    assert_eq!(offsets(&mut old, 10).await, (1..=10).collect::<Vec<_>>());
    let mut new = reader.connect("/ws").await.unwrap();
    next_of_type(&mut new, "connection").await;
    assert_eq!(publish(&mut publisher, "news", "live").await, 501);
    let mut last = 10;
    while let Ok(frame) = old.next_frame().await {
        assert_eq!(frame["offset"], last + 1);
        last += 1;
    }
    while last < 501 {
        let frame = next(&mut new).await;
        assert_eq!(frame["offset"], last + 1, "{frame}");
        last += 1;
    }
}

#[tokio::test]
async fn who_unsubscribes_while_it_catches_up_gets_what_was_held_back_by_its_pattern() {
    let broker =
        Broker::with().set("LIMITS__OUTBOUND_BYTES", "400000").set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let (device, _, mut publisher) = broker.connected("publisher").await;
    let (_, _, mut socket) = broker.connected("reader").await;
    create(&device, "news", json!({ "size": 1000 })).await;
    for _ in 0..400 {
        publish(&mut publisher, "news", &"x".repeat(5_000)).await;
    }
    subscribe(&mut socket, "#", json!({})).await;
    for frame in ["subscribe", "unsubscribe"] {
        let frame = json!({ "type": frame, "topic_id": "news", "since_offset": 0 });
        socket.send_text(frame.to_string()).await.unwrap();
    }
    while next(&mut socket).await["type"] != "unsubscribed" {}
    assert_eq!(publish(&mut publisher, "news", "live").await, 401);
    while next(&mut socket).await["offset"] != 401 {}
    nothing_came(&mut socket).await;
}
