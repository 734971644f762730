//! Topics come to an end (contract section 12).

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
    let forbidden = refusal(403, "Only its creator or an operator may delete a topic", "forbidden");
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
    let own = refusal(403, "$status is the broker's own topic and cannot be deleted", "forbidden");
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
