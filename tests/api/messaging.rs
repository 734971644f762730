//! Direct messages and topics (contract section 5).

use serde_json::{Value, json};
use switchboard::client::{Client, Connection, Device};
use uuid::Uuid;

use crate::support::{Broker, close_code, everywhere, get, is_listed, next, next_of_type, post, until, within};

/// A device whose messages are answered one by one.
struct Sender {
    client: Client,
    device: Device,
    socket: Connection,
}

impl Sender {
    async fn connect(broker: &Broker, name: &str) -> Self {
        let (client, device, socket) = broker.connected(name).await;
        Self { client, device, socket }
    }

    /// Sends a text and tells the answer.
    async fn ask(&mut self, text: impl Into<String>) -> Value {
        self.socket.send_text(text).await.unwrap();
        next(&mut self.socket).await
    }

    /// Publishes, and tells how many the receipt says were reached.
    async fn reach(&mut self, topic: &str) -> String {
        let msgid = self.socket.publish(topic, "x").await.unwrap();
        let receipt = next_of_type(&mut self.socket, "topic_sent").await;
        assert_eq!((&receipt["topic_id"], &receipt["msgid"]), (&json!(topic), &json!(msgid)));
        assert!(receipt["timestamp"].is_f64(), "{receipt}");
        receipt["message"].as_str().unwrap().to_owned()
    }
}

/// The text of an error frame, which must have the shape of one.
fn error_text(frame: &Value) -> &str {
    assert_eq!(frame["type"], "error", "{frame}");
    assert_eq!(frame["message"], frame["content"], "{frame}");
    assert!(frame["timestamp"].is_f64(), "{frame}");
    let code = frame["code"].as_str().unwrap();
    assert!(!code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{frame}");
    frame["message"].as_str().unwrap()
}

/// Asserts that the text is as expected; what ends in `…` may go on, but has to say something.
fn assert_text(text: &str, expected: &str, about: &str) {
    match expected.strip_suffix('…') {
        Some(start) => assert!(text.len() > start.len() && text.starts_with(start), "{text} to {about}"),
        None => assert_eq!(text, expected, "to {about}"),
    }
}

#[tokio::test]
async fn a_direct_message_arrives_as_it_was_sent_and_its_sender_gets_a_receipt() {
    let broker = Broker::start().await;
    let mut alice = Sender::connect(&broker, "Alice").await;
    let (_, bob, mut bob_socket) = broker.connected("Bob").await;
    let (from, to) = (alice.device.uuid.to_string(), bob.uuid.to_string());
    let (upper_from, upper_to) = (from.to_uppercase(), to.to_uppercase());
    for text in [
        format!(
            r#"{{ "from":"{from}","to":"{to}","msgid":"m-1","content":"hi","timestamp":1.50e3,"extra":{{"b":1,"a":2}} }}"#
        ),
        format!(r#"{{"to":"{upper_to}","from":"{upper_from}","msgid":"","content":{{"a":1,"a":2}}}}"#),
        format!(r#"{{"to":"{to}","from":"{from}","msgid":"é{}","content":[],"msgno":1E400}}"#, "x".repeat(63)),
        format!(
            "\n{{\"to\" : \"{to}\",\t\"from\":\"{from}\",\"msgid\":\"\\u0000\",\"content\":\"\\ud83d\\ude00 😀\"}} "
        ),
        format!(
            r#"{{"from":"{from}","to":"{to}","msgid":"7","type":"whatever","timestamp":"x","priority":null,"subject":"s",
            "acknowledge":true,"content":0,"action":"a","event":"e","status":1,"conversation_id":"c","msgno":0.10}}"#
        ),
        format!(r#"{{"from":"{from}","to":"{to}","msgid":"8","type":"ping","content":"not a ping, but a message"}}"#),
    ] {
        let receipt = alice.ask(text.clone()).await;
        assert_eq!((&receipt["type"], &receipt["message"]), (&json!("sent"), &json!("Message delivered")), "{text}");
        let msgid = serde_json::from_str::<Value>(&text.replace("1E400", "0")).unwrap()["msgid"].clone();
        assert_eq!(receipt["msgid"], msgid, "{text}");
        assert!(receipt["timestamp"].is_f64());
        assert_eq!(within(bob_socket.next_text()).await.unwrap(), text);
    }
}

#[tokio::test]
async fn a_missing_sender_is_added_and_all_else_stays() {
    let broker = Broker::start().await;
    let mut alice = Sender::connect(&broker, "Alice").await;
    let (bob_client, bob, mut bob_socket) = broker.connected("Bob").await;
    for client in [&alice.client, &bob_client] {
        post(client, "/topics/create", json!({ "topic_id": "t" })).await;
        client.subscribe("t").await.unwrap();
    }
    for to in [format!(r#""to": "{}""#, bob.uuid), r#""topic_id": "t""#.to_owned()] {
        let inner = format!(r#""msgid" :"1", "content":1.0e1,{to},"x":{{"from":"me"}}"#);
        let receipt = alice.ask(format!(" {{ {inner} }} ")).await;
        assert!(matches!(receipt["type"].as_str(), Some("sent" | "topic_sent")), "{receipt}");
        let text = within(bob_socket.next_text()).await.unwrap();
        assert!(text.contains(&inner), "{text}");
        let message: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(message["from"], alice.device.uuid.to_string());
        assert_eq!(message.as_object().unwrap().len(), 5);
    }
}

#[tokio::test]
async fn every_refusal_of_a_direct_message_says_why_and_names_the_message() {
    let broker = Broker::with().set("LIMITS__BAD_FRAMES", "0").start().await;
    let mut alice = Sender::connect(&broker, "Alice").await;
    let (_, bob, mut bob_socket) = broker.connected("Bob").await;
    let (_, absent) = broker.device("Absent").await;
    let (me, you, absent) = (alice.device.uuid, bob.uuid, absent.uuid);
    let (stranger, long) = (Uuid::new_v4(), "x".repeat(65));
    let (bad, json) = ("Invalid message format: …", "Invalid JSON format");
    let duplicate = "Invalid message format: duplicate field …";
    let foreign = "Sender UUID does not match authenticated client";
    let absent_text = format!("Recipient {absent} not connected");
    let stranger_text = format!("Recipient {stranger} not connected");
    let table = [
        ("no json".to_owned(), json, None),
        (r#"{"to":"#.to_owned(), json, None),
        (String::new(), json, None),
        (format!(r#"{{"to":"{you}","msgid":"1","content":"x"}} more"#), json, None),
        (format!(r#"{{"to":"{you}","msgid":"1","content":"x",}}"#), json, None),
        ("[1]".to_owned(), bad, None),
        ("null".to_owned(), bad, None),
        (r#""text""#.to_owned(), bad, None),
        ("{}".to_owned(), bad, None),
        (r#"{"type":"unheard of","msgid":"1"}"#.to_owned(), bad, Some("1")),
        (r#"{"msgid":"1","content":"x"}"#.to_owned(), bad, Some("1")),
        (format!(r#"{{"to":"{you}","content":"x"}}"#), bad, None),
        (format!(r#"{{"to":"{you}","msgid":"m\"1"}}"#), bad, Some("m\"1")),
        (r#"{"to":"bob","msgid":"1","content":"x"}"#.to_owned(), bad, Some("1")),
        (r#"{"to":null,"msgid":"1","content":"x"}"#.to_owned(), bad, Some("1")),
        (format!(r#"{{"to":["{you}"],"msgid":"1","content":"x"}}"#), bad, Some("1")),
        (format!(r#"{{"to":"{you}","msgid":7,"content":"x"}}"#), bad, None),
        (format!(r#"{{"to":"{you}","msgid":"{long}","content":"x"}}"#), bad, None),
        (format!(r#"{{"to":"{you}","msgid":"1","content":"x","from":7}}"#), bad, Some("1")),
        (format!(r#"{{"to":"{you}","msgid":"1","content":"x","to":"{you}"}}"#), duplicate, Some("1")),
        (format!(r#"{{"to":"{you}","msgid":"1","content":"x","a":1,"\u0061":1}}"#), duplicate, Some("1")),
        (format!(r#"{{"to":"{you}","msgid":"1","content":"x","from":"{me}","from":"{you}"}}"#), duplicate, Some("1")),
        (format!(r#"{{"to":"{you}","msgid":"1","content":"x","from":"{you}"}}"#), foreign, Some("1")),
        (format!(r#"{{"to":"{stranger}","msgid":"1","content":"x","from":"{you}"}}"#), foreign, Some("1")),
        (format!(r#"{{"to":"{absent}","msgid":"1","content":"x"}}"#), &absent_text, Some("1")),
        (format!(r#"{{"to":"{}","msgid":"é","content":"x"}}"#, absent.simple()), &absent_text, Some("é")),
        (format!(r#"{{"to":"{stranger}","msgid":"","content":"x"}}"#), &stranger_text, Some("")),
    ];
    for (text, expected, msgid) in table {
        let error = alice.ask(text.clone()).await;
        assert_text(error_text(&error), expected, &text);
        assert_eq!(error.get("msgid").and_then(Value::as_str), msgid, "{error} to {text}");
    }
    // whatever was refused has reached nobody
    alice.socket.send_direct(you, "last").await.unwrap();
    assert_eq!(next(&mut bob_socket).await["content"], "last");
}

#[tokio::test]
async fn a_topic_message_is_checked_for_shape_then_sender_then_topic_then_subscription() {
    let broker = Broker::with().set("LIMITS__BAD_FRAMES", "0").start().await;
    let mut alice = Sender::connect(&broker, "Alice").await;
    let (bob, bob_device, mut bob_socket) = broker.connected("Bob").await;
    bob.create_topic("theirs").await.unwrap();
    bob.subscribe("theirs").await.unwrap();
    let you = bob_device.uuid;
    let bad = "Invalid topic message format: …";
    let duplicate = "Invalid topic message format: duplicate field …";
    let foreign = "Sender UUID does not match authenticated client";
    let table = [
        // in their order: each has the faults of those below it, too
        (format!(r#"{{"topic_id":"none","content":"x","from":"{you}"}}"#), bad, None, "none"),
        (format!(r#"{{"topic_id":"none","msgid":"1","from":"{you}"}}"#), bad, Some("1"), "none"),
        (format!(r#"{{"topic_id":"none","msgid":"1","content":"x","from":"{you}"}}"#), foreign, Some("1"), "none"),
        (format!(r#"{{"topic_id":"theirs","msgid":"1","content":"x","from":"{you}"}}"#), foreign, Some("1"), "theirs"),
        (r#"{"topic_id":"none","msgid":"1","content":"x"}"#.into(), "Topic none not found", Some("1"), "none"),
        (
            r#"{"topic_id":"theirs","msgid":"","content":0}"#.into(),
            "Not subscribed to topic theirs",
            Some(""),
            "theirs",
        ),
        // single ones
        (r#"{"topic_id":"none","msgid":1,"content":"x"}"#.into(), bad, None, "none"),
        (r#"{"topic_id":"none","msgid":"1","content":"x","from":null}"#.into(), bad, Some("1"), "none"),
        (r#"{"topic_id":"none","msgid":"1","content":"x","topic_id":"a"}"#.into(), duplicate, Some("1"), ""),
        (r#"{"topic_id":"a\"b","msgid":"1","content":"x"}"#.into(), "Topic a\"b not found", Some("1"), "a\"b"),
        (r#"{"topic_id":"a\u0000b","msgid":"1","content":"x"}"#.into(), "Topic a\0b not found", Some("1"), "a\0b"),
        (r#"{"topic_id":"","msgid":"1","content":"x"}"#.into(), "Topic  not found", Some("1"), ""),
        // a topic, whatever else it has
        (
            format!(r#"{{"to":"{you}","topic_id":"none","msgid":"1","content":"x"}}"#),
            "Topic none not found",
            Some("1"),
            "none",
        ),
        (format!(r#"{{"to":"{you}","topic_id":7,"msgid":"1","content":"x"}}"#), bad, Some("1"), ""),
        (format!(r#"{{"to":"{you}","topic_id":null,"msgid":"1","content":"x"}}"#), bad, Some("1"), ""),
    ];
    for (text, expected, msgid, topic) in table {
        let error = alice.ask(text.clone()).await;
        assert_text(error_text(&error), expected, &text);
        assert_eq!(error.get("msgid").and_then(Value::as_str), msgid, "{error} to {text}");
        if !topic.is_empty() {
            assert_eq!(error["topic_id"], topic, "{error} to {text}");
        }
    }
    alice.socket.send_direct(you, "last").await.unwrap();
    assert_eq!(next(&mut bob_socket).await["content"], "last");
}

#[tokio::test]
async fn a_message_to_oneself_is_delivered_and_then_acknowledged() {
    let broker = Broker::start().await;
    let (_, device, mut socket) = broker.connected("Alice").await;
    socket.send_direct(device.uuid, "note").await.unwrap();
    assert_eq!(next(&mut socket).await["content"], "note");
    next_of_type(&mut socket, "sent").await;
}

#[tokio::test]
async fn a_topic_message_reaches_all_subscribers_but_its_sender() {
    let broker = Broker::start().await;
    let mut alice = Sender::connect(&broker, "Alice").await;
    alice.client.create_topic("weather").await.unwrap();
    alice.client.subscribe("weather").await.unwrap();
    assert_eq!(alice.reach("weather").await, "Message sent to 0 subscribers");
    let mut others = Vec::new();
    for n in 1..=3 {
        let other = Sender::connect(&broker, "other").await;
        // twice is once
        other.client.subscribe("weather").await.unwrap();
        other.client.subscribe("weather").await.unwrap();
        others.push(other);
        assert_eq!(alice.reach("weather").await, format!("Message sent to {n} subscribers"));
    }
    let text =
        format!(r#"{{"content":1.0,"msgid":"m", "from":"{}","topic_id":"weather","x":[1e2]}}"#, alice.device.uuid);
    assert_eq!(alice.ask(text.clone()).await["type"], "topic_sent");
    for (n, other) in others.iter_mut().enumerate() {
        for _ in n..3 {
            assert_eq!(next(&mut other.socket).await["content"], "x");
        }
        assert_eq!(within(other.socket.next_text()).await.unwrap(), text);
    }
    // the sender had no copy of any of it
    assert_eq!(alice.ask(r#"{"type":"ping"}"#).await["type"], "pong");
}

#[tokio::test]
async fn a_subscription_waits_for_its_client_and_ends_with_its_last_socket() {
    let broker = Broker::start().await;
    let mut alice = Sender::connect(&broker, "Alice").await;
    alice.client.create_topic("t").await.unwrap();
    alice.client.subscribe("t").await.unwrap();
    let (bob, device) = broker.device("Bob").await;
    bob.subscribe("t").await.unwrap();
    let listed = async |bob: &Client| {
        let (_, topic) = get(bob, "/topics/t").await;
        let subscribers = topic["subscribers"].as_array().unwrap().clone();
        assert_eq!(topic["subscriber_count"], subscribers.len(), "{topic}");
        subscribers.contains(&json!(device.uuid))
    };
    assert!(listed(&bob).await);
    // subscribed, but not connected
    assert_eq!(alice.reach("t").await, "Message sent to 0 subscribers");

    let mut first = within(bob.connect("/ws")).await.unwrap();
    next_of_type(&mut first, "connection").await;
    assert_eq!(alice.reach("t").await, "Message sent to 1 subscribers");
    assert_eq!(next(&mut first).await["topic_id"], "t");

    // a takeover is no end
    let mut second = within(bob.connect("/ws")).await.unwrap();
    next_of_type(&mut second, "connection").await;
    assert_eq!(close_code(&mut first).await, 4409);
    drop(first);
    for _ in 0..20 {
        assert_eq!(alice.reach("t").await, "Message sent to 1 subscribers");
        assert_eq!(next(&mut second).await["topic_id"], "t");
    }
    assert!(listed(&bob).await);

    within(second.close()).await.unwrap();
    everywhere(async || !listed(&bob).await).await;
    let mut third = within(bob.connect("/ws")).await.unwrap();
    next_of_type(&mut third, "connection").await;
    assert_eq!(alice.reach("t").await, "Message sent to 0 subscribers");
    bob.subscribe("t").await.unwrap();
    assert_eq!(alice.reach("t").await, "Message sent to 1 subscribers");
}

#[tokio::test]
async fn a_subscription_lasts_while_its_client_has_any_socket() {
    let mut broker = Broker::start().await;
    let (device, _) = broker.device("device").await;
    let user = broker.user("user", "user").await;
    device.create_topic("t").await.unwrap();
    for client in [&device, &user] {
        for (first, second) in [("/ws", "/ws/auth"), ("/ws/auth", "/ws")] {
            client.subscribe("t").await.unwrap();
            let going = within(client.connect(first)).await.unwrap();
            let staying = within(client.connect(second)).await.unwrap();
            within(going.close()).await.unwrap();
            // for as long as a first socket's cleanup may take
            for _ in 0..50 {
                assert_eq!(get(client, "/topics/t").await.1["subscriber_count"], 1, "without {first}");
            }
            within(staying.close()).await.unwrap();
            until(async || get(client, "/topics/t").await.1["subscriber_count"] == 0).await;
        }
    }
}

#[tokio::test]
async fn whoever_unsubscribes_gets_no_more_and_may_not_publish() {
    let broker = Broker::start().await;
    let mut alice = Sender::connect(&broker, "Alice").await;
    let mut bob = Sender::connect(&broker, "Bob").await;
    for client in [&alice.client, &bob.client] {
        post(client, "/topics/create", json!({ "topic_id": "t" })).await;
        client.subscribe("t").await.unwrap();
    }
    assert_eq!(alice.reach("t").await, "Message sent to 1 subscribers");
    next(&mut bob.socket).await;
    for _ in 0..2 {
        let (status, body) = post(&bob.client, "/topics/unsubscribe", json!({ "topic_id": "t" })).await;
        assert_eq!((status, &body["message"]), (200, &json!("Unsubscribed successfully")));
        assert_eq!((&body["topic_id"], &body["client_uuid"]), (&json!("t"), &json!(bob.device.uuid)));
    }
    assert_eq!(alice.reach("t").await, "Message sent to 0 subscribers");
    let refused = bob.ask(r#"{"topic_id":"t","msgid":"1","content":"x"}"#).await;
    assert_eq!(error_text(&refused), "Not subscribed to topic t");
}

#[tokio::test]
async fn direct_messages_find_their_way_between_threads_and_keep_their_order() {
    for workers in ["1", "4"] {
        let broker = Broker::with().set("HTTP__WORKERS", workers).start().await;
        let mut devices = Vec::new();
        for _ in 0..6 {
            devices.push(Sender::connect(&broker, "device").await);
        }
        for from in 0..devices.len() {
            for to in (0..devices.len()).filter(|to| *to != from) {
                let uuid = devices[to].device.uuid;
                for n in 0..20 {
                    devices[from].socket.send_direct(uuid, &n.to_string()).await.unwrap();
                }
                for n in 0..20 {
                    next_of_type(&mut devices[from].socket, "sent").await;
                    assert_eq!(next(&mut devices[to].socket).await["content"], n.to_string());
                }
            }
        }
    }
}

#[tokio::test]
async fn publications_of_one_publisher_arrive_in_order_and_once() {
    for workers in ["1", "4"] {
        let broker = Broker::with().set("HTTP__WORKERS", workers).start().await;
        let mut publisher = Sender::connect(&broker, "publisher").await;
        publisher.client.create_topic("t").await.unwrap();
        publisher.client.subscribe("t").await.unwrap();
        let mut subscribers = Vec::new();
        for _ in 0..3 {
            let (client, _, socket) = broker.connected("subscriber").await;
            client.subscribe("t").await.unwrap();
            subscribers.push(socket);
        }
        let mut msgids = Vec::new();
        for n in 0..500 {
            msgids.push(publisher.socket.publish("t", &n.to_string()).await.unwrap());
        }
        for socket in &mut subscribers {
            for n in 0..500 {
                assert_eq!(next(socket).await["content"], n.to_string());
            }
        }
        for msgid in msgids {
            let receipt = next_of_type(&mut publisher.socket, "topic_sent").await;
            assert_eq!(receipt["msgid"], msgid);
            assert_eq!(receipt["message"], "Message sent to 3 subscribers");
        }
        // nothing came twice
        for mut socket in subscribers {
            socket.send_text(r#"{"type":"ping"}"#).await.unwrap();
            next_of_type(&mut socket, "pong").await;
        }
    }
}

#[tokio::test]
async fn a_ping_gets_a_pong_and_a_reply_to_a_command_gets_nothing() {
    let mut broker = Broker::start().await;
    let (_, _, device) = broker.connected("Alice").await;
    let user = broker.user("agent", "user").await;
    // an agent's socket has no greeting
    let agent = within(user.connect("/ws")).await.unwrap();
    for mut socket in [device, agent] {
        // more than limits.bad_frames of them, since none is a bad frame
        for n in 0..10 {
            for reply in [
                json!({ "result": { "error": "no method" } }),
                json!({ "command_id": Uuid::new_v4(), "result": n }),
                json!({ "command_id": "unknown" }),
                json!({ "result": null, "from": Uuid::new_v4(), "content": "x" }),
            ] {
                socket.send_text(reply.to_string()).await.unwrap();
            }
        }
        for ping in [r#"{"type":"ping"}"#, r#"{"type":"ping","timestamp":1,"result":1,"command_id":"x"}"#] {
            socket.send_text(ping).await.unwrap();
            let pong = next_of_type(&mut socket, "pong").await;
            assert!(pong["timestamp"].is_f64(), "{pong}");
        }
    }
}

#[tokio::test]
async fn only_connected_clients_are_listed() {
    let mut broker = Broker::start().await;
    let nobody = broker.client();
    assert_eq!(get(&nobody, "/clients").await, (200, json!({ "count": 0, "clients": {} })));
    let user = broker.user("ulla", "user").await;
    let (_, absent) = broker.device("absent").await;
    let (_, alice, socket) = broker.connected("Alice \"A\"").await;
    let _anonymous = within(nobody.connect("/ws")).await.unwrap();
    let _agent = within(user.connect("/ws")).await.unwrap();
    let (_, me) = get(&user, "/api/users/me").await;
    let mut expected = json!({ "count": 2, "clients": { alice.uuid.to_string(): "Alice \"A\"" } });
    expected["clients"][me["uuid"].as_str().unwrap()] = json!("ulla");
    assert_eq!(get(&nobody, "/clients").await, (200, expected));
    assert!(!is_listed(&nobody, absent.uuid).await);
    within(socket.close()).await.unwrap();
    everywhere(async || !is_listed(&nobody, alice.uuid).await).await;
}

#[tokio::test]
async fn an_acknowledgement_is_answered_and_never_a_bad_frame() {
    let broker = Broker::start().await;
    let mut alice = Sender::connect(&broker, "Alice").await;
    let own = alice.device.uuid;
    // more than limits.bad_frames of them
    for n in 0..25 {
        let ack = json!({ "type": "ack", "msgid": n.to_string(), "status": "received", "from": own, "sender": Uuid::new_v4() });
        let answer = alice.ask(ack.to_string()).await;
        assert!(answer["timestamp"].is_f64(), "{answer}");
        assert_eq!(
            (&answer["type"], &answer["msgid"], &answer["status"]),
            (&json!("ack_received"), &json!(n.to_string()), &json!("unknown"))
        );
    }
    for (frame, expected) in [
        (json!({ "type": "ack" }), "Invalid message format: missing field `msgid`"),
        (
            json!({ "type": "ack", "msgid": 1 }),
            "Invalid message format: msgid: expected a text of at most 64 characters",
        ),
        (
            json!({ "type": "ack", "msgid": "1", "from": Uuid::new_v4() }),
            "Sender UUID does not match authenticated client",
        ),
        // it is a message
        (json!({ "type": "ack", "msgid": "1", "to": own }), "Invalid message format: missing field `content`"),
    ] {
        assert_eq!(error_text(&alice.ask(frame.to_string()).await), expected, "{frame}");
    }
}

#[tokio::test]
async fn a_frame_that_names_a_recipient_or_has_a_message_is_a_message_in_every_dialect() {
    let mut broker = Broker::start().await;
    let mut alice = Sender::connect(&broker, "Alice").await;
    let (own, nobody) = (alice.device.uuid, Uuid::new_v4());
    for kind in ["ping", "pong", "auth", "ack", "progress"] {
        let frame = json!({ "type": kind, "to": nobody, "msgid": kind, "content": 1, "command_id": "x", "result": 1 });
        let answer = alice.ask(frame.to_string()).await;
        assert_eq!(error_text(&answer), format!("Recipient {nobody} not connected"));
        let answer = alice.ask(json!({ "type": kind, "message": "x", "result": 1 }).to_string()).await;
        assert_eq!(error_text(&answer), "Invalid message format: missing field `to`");
        let answer = alice.ask(json!({ "type": kind, "topic_id": "t", "msgid": "1", "result": 1 }).to_string()).await;
        assert_eq!(error_text(&answer), "Invalid topic message format: missing field `content`");
    }
    // what is no message is told by its type
    for (frame, expected) in [
        (json!({ "type": "foo" }), "Invalid message format: unknown type foo"),
        (json!({ "type": "foo", "msgid": "1", "content": 1 }), "Invalid message format: unknown type foo"),
        (json!({ "type": "message", "msgid": "1", "content": 1 }), "Invalid message format: missing field `to`"),
        (json!({ "type": 1 }), "Invalid message format: missing field `to`"),
        (json!({ "type": "progress", "progress": 1 }), "Invalid message format: missing field `command_id`"),
        (json!({}), "Invalid message format: missing field `to`"),
    ] {
        assert_eq!(error_text(&alice.ask(frame.to_string()).await), expected, "{frame}");
    }
    let answer = alice.ask(r#"{ "type": "foo", "type": "bar" }"#.to_owned()).await;
    assert_eq!(error_text(&answer), "Invalid message format: duplicate field `type`");
    // it arrives with all its fields
    let message = json!({ "to": own, "from": own, "msgid": "1", "content": 1, "command_id": "x", "result": 1 });
    assert_eq!(alice.ask(message.to_string()).await, message);
    next_of_type(&mut alice.socket, "sent").await;

    let user = broker.user("ulla", "user").await;
    let mut agent = within(user.connect("/ws")).await.unwrap();
    let mut chat = within(user.connect("/ws/auth")).await.unwrap();
    next_of_type(&mut chat, "connection_established").await;
    let mut public = within(broker.client().connect("/ws")).await.unwrap();
    for (frame, expected) in [
        (json!({ "type": "progress", "progress": 1 }), "Invalid message format: missing field `command_id`"),
        (json!({ "content": 1 }), "Invalid message format: missing field `type`"),
        (json!({ "to": own, "content": 1 }), "Unknown message type: message"),
        (json!({ "type": "foo" }), "Unknown message type: foo"),
    ] {
        agent.send_text(frame.to_string()).await.unwrap();
        assert_eq!(error_text(&next(&mut agent).await), expected, "{frame}");
    }
    for kind in ["ping", "auth"] {
        let frame = json!({ "type": kind, "message": "x", "result": 1 }).to_string();
        agent.send_text(&*frame).await.unwrap();
        assert_eq!(error_text(&next(&mut agent).await), format!("Unknown message type: {kind}"));
        chat.send_text(&*frame).await.unwrap();
        assert_eq!(error_text(&next(&mut chat).await), "Missing content or room_id");
        public.send_text(&*frame).await.unwrap();
        assert_eq!(next(&mut public).await["content"], format!("Received: {frame}"));
    }
}

#[tokio::test]
async fn what_is_not_json_as_a_whole_is_told_so_whatever_it_begins_with() {
    let broker = Broker::start().await;
    let mut alice = Sender::connect(&broker, "Alice").await;
    for text in ["[[[", "1 2", "\"x", "[1}", "nul", ""] {
        assert_eq!(error_text(&alice.ask(text).await), "Invalid JSON format", "{text}");
    }
    for text in ["[[[]]]", "1", "\"x\"", "null"] {
        let answer = alice.ask(text).await;
        assert_eq!(error_text(&answer), "Invalid message format: expected a JSON object", "{text}");
    }
}
