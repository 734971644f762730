//! Subscriptions by pattern, and the rules who may do what with which topics (contract section 12).

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};

use crate::support::{Broker, answer, get, next, next_of_type, nothing_came, post};

async fn ask(socket: &mut Connection, kind: &str, topic: &str) -> Value {
    socket.send_text(json!({ "type": kind, "topic_id": topic, "msgid": "1" }).to_string()).await.unwrap();
    next(socket).await
}

async fn subscribe(socket: &mut Connection, topic: &str) {
    assert_eq!(ask(socket, "subscribe", topic).await["type"], "subscribed", "{topic}");
}

/// Publishes. Returns how many subscribers got it, or why there are none.
async fn publish(socket: &mut Connection, topic: &str, content: &str) -> String {
    socket.publish(topic, content).await.unwrap();
    next(socket).await["message"].as_str().unwrap().to_owned()
}

async fn create(client: &Client, topic: &str) -> (u16, Value) {
    post(client, "/topics/create", json!({ "topic_id": topic })).await
}

#[tokio::test]
async fn a_pattern_takes_effect_for_topics_of_now_and_later_and_each_publication_comes_once() {
    let broker = Broker::with().set("HTTP__WORKERS", "2").start().await;
    let (creator, _, mut publisher) = broker.connected("publisher").await;
    let (device, _, mut reader) = broker.connected("reader").await;
    create(&creator, "plant/1/heat").await;
    subscribe(&mut publisher, "plant/#").await;
    subscribe(&mut reader, "plant/+/heat").await;
    // over REST and by name, too
    for topic in ["+/1/#", "plant/1/heat"] {
        device.subscribe(topic).await.unwrap();
    }
    assert_eq!(publish(&mut publisher, "plant/1/heat", "first").await, "Message sent to 1 subscribers");
    assert_eq!(publish(&mut publisher, "plant/2/heat", "none").await, "Topic plant/2/heat not found");
    for topic in ["plant/2/heat", "plant", "plant/2/light", "other"] {
        create(&creator, topic).await;
    }
    for (topic, expected) in [
        ("plant/2/heat", "Message sent to 1 subscribers"),
        ("plant", "Message sent to 0 subscribers"),
        ("plant/2/light", "Message sent to 0 subscribers"),
        ("other", "Not subscribed to topic other"),
    ] {
        assert_eq!(publish(&mut publisher, topic, topic).await, expected);
    }
    assert_eq!(next(&mut reader).await["content"], "first");
    let second = next(&mut reader).await;
    assert_eq!((&second["content"], &second["topic_id"]), (&json!("plant/2/heat"), &json!("plant/2/heat")));

    let (_, shown) = get(&creator, "/topics/plant%2F1%2Fheat").await;
    assert_eq!(shown["subscriber_count"], 2, "{shown}");
    // two of the three go, then the last one; after a publication that nobody else gets nothing comes
    for (gone, expected) in [
        ("plant/1/heat", "Message sent to 1 subscribers"),
        ("plant/+/heat", "Message sent to 1 subscribers"),
        ("+/1/#", "Message sent to 0 subscribers"),
    ] {
        assert_eq!(ask(&mut reader, "unsubscribe", gone).await["type"], "unsubscribed");
        assert_eq!(publish(&mut publisher, "plant/1/heat", gone).await, expected);
        if expected.contains('1') {
            assert_eq!(next(&mut reader).await["content"], gone);
        }
    }
    nothing_came(&mut reader).await;
    // and a deleted topic is told to those who have a pattern for it
    let (status, _) = answer(creator.request(Method::DELETE, "/topics/plant%2F2%2Fheat")).await;
    assert_eq!(status, 200);
    assert_eq!(next(&mut publisher).await, json!({ "type": "topic_deleted", "topic_id": "plant/2/heat" }));
    assert_eq!(publish(&mut publisher, "plant/2/heat", "late").await, "Topic plant/2/heat not found");
}

#[tokio::test]
async fn a_client_publishes_over_http_to_what_its_pattern_matches() {
    let broker = Broker::start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    let (_, _, mut reader) = broker.connected("reader").await;
    create(&device, "a/b").await;
    subscribe(&mut reader, "#").await;
    let body = json!({ "topic_id": "a/b", "content": "hello" });
    let (status, refused) = post(&device, "/topics/publish", body.clone()).await;
    assert_eq!((status, &refused["code"]), (403, &json!("not_subscribed")));
    subscribe(&mut socket, "a/+").await;
    let (status, receipt) = post(&device, "/topics/publish", body).await;
    assert_eq!((status, &receipt["message"]), (200, &json!("Message sent to 1 subscribers")));
    assert_eq!(next(&mut reader).await["content"], "hello");
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn what_is_no_pattern_is_refused_and_a_topic_of_that_name_wins() {
    let mut broker = Broker::start().await;
    let (device, _, mut socket) = broker.connected("device").await;
    for (id, why) in [
        ("a+", "a wildcard must be a whole level between slashes"),
        ("a/#/b", "# must be the last level"),
        (&"+/".repeat(49), ""),
    ] {
        let answer = ask(&mut socket, "subscribe", id).await;
        let (status, body) = post(&device, "/topics/subscribe", json!({ "topic_id": id })).await;
        if why.is_empty() {
            assert_eq!((&answer["type"], status), (&json!("subscribed"), 200));
        } else {
            assert_eq!(answer["message"], format!("Invalid topic message format: topic_id: {why}"));
            let msg = &body["detail"][0]["msg"];
            assert_eq!((status, msg), (422, &json!(format!("Value error, there is no such topic, and {why}"))));
        }
        let (status, body) = create(&device, id).await;
        let msg = &body["detail"][0]["msg"];
        assert_eq!((status, msg), (422, &json!("Value error, + and # are wildcards of patterns, and in no name")));
    }
    // only an earlier version can have created them
    for id in ["c#", "a/+"] {
        let uuid = uuid::Uuid::new_v4().into();
        broker.store().await.create_topic(&id.into(), uuid, json!({}), None, 0).await.unwrap();
    }
    create(&device, "a/b").await;
    subscribe(&mut socket, "c#").await;
    subscribe(&mut socket, "a/+").await;
    assert_eq!(publish(&mut socket, "c#", "x").await, "Message sent to 0 subscribers");
    assert_eq!(publish(&mut socket, "a/b", "x").await, "Not subscribed to topic a/b");
    let (_, shown) = get(&device, "/topics/a%2F+").await;
    assert_eq!(shown["subscriber_count"], 1, "{shown}");
}

#[tokio::test]
async fn status_is_for_operators_by_pattern_too_and_no_wildcard_stands_for_it() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (device, _, mut socket) = broker.connected("device").await;
    let refused = ask(&mut socket, "subscribe", "$status/#").await;
    assert_eq!((&refused["message"], &refused["code"]), (&json!("Operator role required"), &json!("forbidden")));
    let mut observer = operator.connect("/ws/auth").await.unwrap();
    next_of_type(&mut observer, "connection_established").await;
    subscribe(&mut observer, "$status/#").await;
    let (_, everything, _third) = broker.connected("everything").await;
    let event = next(&mut observer).await;
    assert_eq!((&event["event"], &event["uuid"]), (&json!("client_connected"), &json!(everything.uuid)));
    subscribe(&mut socket, "#").await;
    create(&device, "t").await;
    let (_, status) = get(&operator, "/topics/$status").await;
    assert_eq!(status["subscriber_count"], 1);
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn topics_are_listed_by_pattern_page_by_page() {
    let broker = Broker::start().await;
    let (device, _) = broker.device("device").await;
    for topic in
        ["plant/1/heat", "plant/2/heat", "plant/2/light", "Plant/3/heat", "plant%/4/heat", "plant_/5/heat", "plant"]
    {
        assert_eq!(create(&device, topic).await.0, 200);
    }
    for (pattern, expected) in [
        ("plant/+/heat", &["plant/1/heat", "plant/2/heat"][..]),
        // as the query of a URL has it if nobody encodes it
        ("plant/+/heat ", &["plant/1/heat", "plant/2/heat"]),
        ("plant/#", &["plant", "plant/1/heat", "plant/2/heat", "plant/2/light"]),
        ("plant%/#", &["plant%/4/heat"]),
        ("plant_/+/heat", &["plant_/5/heat"]),
        ("plant", &["plant"]),
        ("none/#", &[]),
    ] {
        let query = match pattern.strip_suffix(' ') {
            Some(plain) => plain.to_owned(),
            None => form_urlencoded::byte_serialize(pattern.as_bytes()).collect::<String>(),
        };
        for limit in ["", "&limit=1"] {
            let (mut found, mut cursor) = (Vec::new(), String::new());
            loop {
                let (status, page) = get(&device, &format!("/topics?match={query}{limit}{cursor}")).await;
                assert_eq!(status, 200, "{page}");
                found.extend(
                    page["topics"].as_array().unwrap().iter().map(|topic| topic["id"].as_str().unwrap().to_owned()),
                );
                match page["cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            found.sort();
            assert_eq!(found, expected, "{pattern}");
        }
    }
    for bad in ["a%2B", "%23%2Fa", "%00"] {
        assert_eq!(get(&device, &format!("/topics?match={bad}")).await.0, 422, "{bad}");
    }
}

const RULES: &str = r#"
[[topics.create]]
topic = "plant/#"
who = ["operator"]

[[topics.publish]]
topic = "plant/+/alarm"
who = ["name:sensor-*"]

[[topics.subscribe]]
topic = "plant/secret/#"
who = ["operator"]
"#;

#[tokio::test]
async fn the_rules_of_the_configuration_say_who_may_create_publish_and_subscribe() {
    let broker = Broker::with().file("rules.toml", RULES).argument("--config").argument("rules.toml");
    let mut broker = broker.start().await;
    let operator = broker.admin().await;
    let (sensor, _, mut sensor_socket) = broker.connected("sensor-1").await;
    let (other, _, mut socket) = broker.connected("other").await;
    let not_allowed = |topic: &str| json!({ "detail": format!("Not allowed on topic {topic}"), "code": "forbidden" });
    assert_eq!(create(&other, "plant/1/alarm").await, (403, not_allowed("plant/1/alarm")));
    for topic in ["plant/1/alarm", "plant/secret/x"] {
        assert_eq!(create(&operator, topic).await.0, 200);
    }
    assert_eq!(create(&other, "free").await.0, 200);

    for socket in [&mut sensor_socket, &mut socket] {
        subscribe(socket, "plant/1/#").await;
    }
    assert_eq!(publish(&mut sensor_socket, "plant/1/alarm", "hot").await, "Message sent to 1 subscribers");
    assert_eq!(next(&mut socket).await["content"], "hot");
    // in its place among the receipts
    for topic in ["free", "plant/1/alarm", "none"] {
        socket.publish(topic, "x").await.unwrap();
    }
    assert_eq!(next(&mut socket).await["code"], "not_subscribed");
    let refused = next(&mut socket).await;
    assert_eq!(
        (&refused["message"], &refused["code"]),
        (&json!("Not allowed on topic plant/1/alarm"), &json!("forbidden"))
    );
    assert_eq!(refused["topic_id"], "plant/1/alarm");
    assert_eq!(next(&mut socket).await["code"], "topic_not_found");
    let body = json!({ "topic_id": "plant/1/alarm", "content": 1 });
    assert_eq!(post(&other, "/topics/publish", body.clone()).await, (403, not_allowed("plant/1/alarm")));
    assert_eq!(post(&sensor, "/topics/publish", body.clone()).await.0, 200);
    assert_eq!(post(&operator, "/topics/publish", body).await, (403, not_allowed("plant/1/alarm")));
    assert_eq!(next(&mut socket).await["content"], 1);

    // a pattern that could match what is not allowed is not allowed
    for id in ["plant/secret/x", "plant/+/x", "#", "plant/#"] {
        let refused = ask(&mut socket, "subscribe", id).await;
        assert_eq!(refused["message"], format!("Not allowed on topic {id}"));
        assert_eq!(post(&other, "/topics/subscribe", json!({ "topic_id": id })).await, (403, not_allowed(id)));
        assert_eq!(post(&operator, "/topics/subscribe", json!({ "topic_id": id })).await.0, 200);
    }
}

#[tokio::test]
async fn subscriptions_end_when_the_rules_do_not_admit_the_client_any_more() {
    let rules = "[[topics.subscribe]]\ntopic = \"secret/#\"\nwho = [\"operator\"]";
    let mut broker = Broker::with().file("rules.toml", rules).argument("--config").argument("rules.toml").start().await;
    let (admin, boss) = (broker.admin().await, broker.user("boss", "operator").await);
    for topic in ["secret/a", "open"] {
        create(&admin, topic).await;
        boss.subscribe(topic).await.unwrap();
    }
    boss.subscribe("secret/#").await.unwrap();
    let (_, shown) = get(&admin, "/topics/secret%2Fa").await;
    assert_eq!(shown["subscriber_count"], 1);
    let (_, me) = get(&boss, "/api/users/me").await;
    let change = admin.request(Method::PATCH, &format!("/api/users/{}", me["id"])).json(&json!({ "role": "user" }));
    assert_eq!(answer(change).await.0, 200);
    let (_, shown) = get(&admin, "/topics/secret%2Fa").await;
    assert_eq!(shown["subscriber_count"], 0);
    let (_, shown) = get(&admin, "/topics/open").await;
    assert_eq!(shown["subscriber_count"], 1);
}

#[tokio::test]
async fn a_device_with_another_name_loses_the_subscriptions_that_wait_for_it() {
    let rules = "[[topics.subscribe]]\ntopic = \"secret/#\"\nwho = [\"operator\", \"name:sensor-*\"]";
    let mut broker = Broker::with().file("rules.toml", rules).argument("--config").argument("rules.toml").start().await;
    let admin = broker.admin().await;
    let (mut device, registered) = broker.device("sensor-8").await;
    create(&admin, "secret/a").await;
    create(&admin, "open").await;
    for topic in ["secret/a", "secret/+", "open"] {
        device.subscribe(topic).await.unwrap();
    }
    device.register_device("plain", registered.uuid).await.unwrap();
    for (topic, expected) in [("secret%2Fa", 0), ("open", 1)] {
        let (_, shown) = get(&admin, &format!("/topics/{topic}")).await;
        assert_eq!(shown["subscriber_count"], expected, "{topic}");
    }
}

#[tokio::test]
async fn a_rule_that_says_nothing_stops_the_start_with_its_key() {
    let mut broker = Broker::with().file("rules.toml", "[[topics.publish]]\ntopic = \"a+\"\nwho = [\"any\"]");
    let output = broker.run(&["serve", "--config", "rules.toml", "--bind", "127.0.0.1:0"], "");
    let error = output.stderr;
    assert!(
        error.contains("bad value for `topics.publish` (rules.toml): \"a+\": a wildcard must be a whole level"),
        "{error}"
    );
}
