//! What clients can't overrun (contract section 10).

use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use tokio::io::AsyncWriteExt;

use crate::support::{
    Broker, Frame, RawSocket, close_code, everywhere, get, handshake, is_listed, next, next_of_type, refusal, until,
    within,
};

/// Far more than a broker takes up for other reasons in the meantime.
const SLACK: u64 = 24 << 20;

/// A subscriber that has been greeted and reads nothing from then on.
async fn stalled(broker: &Broker, topic: &str) -> (Client, uuid::Uuid, RawSocket) {
    let (client, device) = broker.device("stalled").await;
    client.subscribe(topic).await.unwrap();
    let mut socket = RawSocket::connect_narrow(broker).await;
    let head = socket.handshake(&format!("/ws?token={}", client.token().unwrap()), "").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(socket.next().await.unwrap().json()["type"], "connection");
    (client, device.uuid, socket)
}

/// A publisher and a subscriber that reads.
async fn pair(broker: &Broker, topic: &str) -> (Connection, Connection) {
    let (publisher, _, publishing) = broker.connected("publisher").await;
    let (reader, _, reading) = broker.connected("reader").await;
    publisher.create_topic(topic).await.unwrap();
    publisher.subscribe(topic).await.unwrap();
    reader.subscribe(topic).await.unwrap();
    (publishing, reading)
}

/// Publishes, and waits until the one who reads has it.
async fn publish(publisher: &mut Connection, reader: &mut Connection, n: usize, content: &str) {
    let message = json!({ "topic_id": "t", "msgid": n.to_string(), "content": content });
    publisher.send_text(message.to_string()).await.unwrap();
    next_of_type(publisher, "topic_sent").await;
    assert_eq!(next(reader).await["msgid"], n.to_string());
}

async fn ping(socket: &mut Connection) {
    socket.send_text(r#"{"type":"ping"}"#).await.unwrap();
    next_of_type(socket, "pong").await;
}

/// A socket's error frames up to its close frame, and the close code.
async fn errors_until_closed(socket: &mut RawSocket) -> (Vec<Value>, Option<u16>) {
    let mut errors = Vec::new();
    loop {
        let frame = socket.next().await.expect("a close frame");
        if let Some(code) = frame.close_code() {
            return (errors, Some(code));
        }
        // what an echo socket says is not always JSON
        let json = serde_json::from_slice(&frame.payload).unwrap_or(Value::Null);
        if frame.opcode == 1 && json["type"] == "error" {
            errors.push(json);
        }
    }
}

#[tokio::test]
async fn a_frame_or_message_too_large_is_refused_by_its_declared_length() {
    let mut broker = Broker::start().await;
    let (device, _) = broker.device("device").await;
    let user = broker.user("ulla", "user").await;
    let paths = [
        "/ws".to_owned(),
        "/ws/echo?raw=true".to_owned(),
        format!("/ws?token={}", device.token().unwrap()),
        format!("/ws?token={}", user.token().unwrap()),
        format!("/ws/auth?token={}", user.token().unwrap()),
    ];
    let head = RawSocket::head;
    let half = RawSocket::frame(0x01, &[b'x'; 40_000]);
    let table = [
        ("1 TiB of text", head(0x81, 1 << 40)),
        ("1 TiB of binary", head(0x82, 1 << 40)),
        ("a length beyond all bounds", head(0x81, u64::MAX)),
        ("one byte too many", head(0x81, 65_537)),
        ("a first fragment", head(0x01, 65_537)),
        ("a message of fragments", [half.clone(), head(0x80, 40_000)].concat()),
        ("a message of fragments that goes on", [half.clone(), head(0x00, 40_000)].concat()),
        ("fragments with a ping between", [half, RawSocket::frame(0x89, b""), head(0x80, 40_000)].concat()),
    ];
    for path in &paths {
        for (what, bytes) in &table {
            let mut socket = RawSocket::open(&broker, path).await;
            socket.send(bytes).await;
            assert_eq!(socket.close_code().await, Some(1009), "{what} on {path}");
        }
    }
    // as large as may be, whole and in fragments, and from the beginning again after that
    let mut socket = RawSocket::open(&broker, "/ws/echo?raw=true").await;
    for _ in 0..2 {
        socket.send_frame(0x81, &[b'x'; 65_536]).await;
        assert_eq!(socket.next().await.unwrap(), Frame { opcode: 1, payload: vec![b'x'; 65_536] });
        for first in [0x01, 0x80] {
            socket.send_frame(first, &[b'x'; 32_768]).await;
        }
        assert_eq!(socket.next().await.unwrap(), Frame { opcode: 1, payload: vec![b'x'; 65_536] });
    }
}

#[tokio::test]
async fn a_huge_frame_takes_up_no_memory_however_much_of_it_is_sent() {
    let broker = Broker::with().alone("memory of one process").start().await;
    let (_, _, mut other) = broker.connected("other").await;
    for first in [0x81, 0x82, 0x01] {
        let mut socket = RawSocket::open(&broker, "/ws").await;
        let before = broker.memory();
        socket.send(&RawSocket::head(first, 1 << 40)).await;
        let piece = vec![b'x'; 1 << 20];
        let mut is_cut = false;
        for _ in 0..200 {
            if within(socket.stream.write_all(&piece)).await.is_err() {
                is_cut = true;
                break;
            }
            assert!(broker.memory() < before + SLACK);
        }
        assert!(is_cut, "200 MiB of a refused frame were read");
        assert_eq!(socket.close_code().await, Some(1009));
    }
    ping(&mut other).await;
}

#[tokio::test]
async fn a_flood_of_frames_is_warned_once_and_then_closed() {
    let broker = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "1").set("LIMITS__FRAMES_BURST", "10").start().await;
    let (client, _) = broker.device("device").await;
    let device = format!("/ws?token={}", client.token().unwrap());
    let text_ping = RawSocket::frame(0x81, br#"{"type":"ping"}"#);
    let fragments = [RawSocket::frame(0x01, b""), RawSocket::frame(0x00, b"").repeat(200)].concat();
    let table = [
        ("texts", text_ping.repeat(200)),
        ("pings", RawSocket::frame(0x89, b"x").repeat(200)),
        ("pongs", RawSocket::frame(0x8a, b"").repeat(200)),
        ("fragments", fragments),
        ("replies to no command", RawSocket::frame(0x81, br#"{"result":1}"#).repeat(200)),
        ("all of them", [text_ping, RawSocket::frame(0x89, b""), RawSocket::frame(0x8a, b"")].concat().repeat(70)),
    ];
    for path in ["/ws", "/ws/echo", &device] {
        for (what, bytes) in &table {
            let mut socket = RawSocket::open(&broker, path).await;
            socket.send(bytes).await;
            let (errors, code) = errors_until_closed(&mut socket).await;
            assert_eq!(code, Some(4429), "{what} on {path}");
            assert_eq!(errors.len(), 1, "{what} on {path}: {errors:?}");
            assert!(errors[0]["message"].as_str().unwrap().contains("limits.frames_per_second"), "{errors:?}");
        }
    }
    // the limit is each socket's own
    let (_, _, mut other) = broker.connected("other").await;
    ping(&mut other).await;
}

#[tokio::test]
async fn a_limit_on_frames_can_be_switched_off() {
    let broker = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let mut socket = RawSocket::open(&broker, "/ws").await;
    socket.send(&RawSocket::frame(0x89, b"x").repeat(5000)).await;
    for _ in 0..5000 {
        assert_eq!(socket.next().await.unwrap().opcode, 10);
    }
}

#[tokio::test]
async fn too_many_bad_frames_in_a_row_end_a_socket() {
    let mut broker = Broker::with().set("LIMITS__BAD_FRAMES", "3").start().await;
    let (device, _) = broker.device("device").await;
    let user = broker.user("ulla", "user").await;
    let device = format!("/ws?token={}", device.token().unwrap());
    let agent = format!("/ws?token={}", user.token().unwrap());
    let chat = format!("/ws/auth?token={}", user.token().unwrap());
    for (path, bad) in [
        ("/ws", "no json"),
        (&device, "no json"),
        (&device, r#"{"to":1}"#),
        (&device, r#"{"topic_id":1}"#),
        (&agent, "no json"),
        (&agent, "[]"),
        (&chat, "no json"),
        (&chat, r#"{"type":"nonsense"}"#),
    ] {
        let mut socket = RawSocket::open(&broker, path).await;
        // a good one between them begins a new row
        for text in [bad, bad, r#"{"type":"ping"}"#, bad, bad, bad, bad] {
            socket.send_frame(0x81, text.as_bytes()).await;
        }
        let (errors, code) = errors_until_closed(&mut socket).await;
        assert_eq!((errors.len(), code), (5, Some(4400)), "{bad} on {path}: {errors:?}");
    }
}

#[tokio::test]
async fn no_more_sockets_are_opened_than_may_be() {
    let broker = Broker::with().alone("limits.connections is per node").set("LIMITS__CONNECTIONS", "3").start().await;
    let (client, _, _device) = broker.connected("device").await;
    let _echo = within(broker.client().connect("/ws/echo")).await.unwrap();
    let last = within(broker.client().connect("/ws")).await.unwrap();
    for path in ["/ws", "/ws/auth", "/ws/echo"] {
        let mut socket = RawSocket::connect(&broker).await;
        let head = socket.handshake(&format!("{path}?token={}", client.token().unwrap()), "").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(head.to_lowercase().contains("\r\nretry-after: "), "{head}");
        let (status, code, detail) = refusal(within(client.connect(path)).await);
        assert_eq!((status, code.as_str()), (503, "at_limit"));
        assert!(detail.contains("limits.connections"), "{detail}");
    }
    // other requests are none, and a place that is free is free
    assert_eq!(get(&client, "/clients").await.0, 200);
    within(last.close()).await.unwrap();
    until(async || within(client.connect("/ws/auth")).await.is_ok()).await;
}

#[tokio::test]
async fn an_identity_has_no_more_sockets_than_it_may() {
    let broker = Broker::with().set("LIMITS__CONNECTIONS_PER_IDENTITY", "2").start().await;
    let (client, _, mut device) = broker.connected("device").await;
    let chat = within(client.connect("/ws/auth")).await.unwrap();
    // more than once, for a connection that is used again
    for _ in 0..3 {
        let response = within(handshake(&client, "/ws/auth", &[]).send()).await.unwrap();
        assert_eq!(response.status(), 429);
        assert!(response.headers().contains_key("retry-after"));
        let body: Value = within(response.json()).await.unwrap();
        assert!(body["detail"].as_str().unwrap().contains("limits.connections_per_identity"), "{body}");
    }
    // the refused ones have disturbed nobody, others have their own, and a place that is free is free
    ping(&mut device).await;
    let (_, _, mut other) = broker.connected("other").await;
    ping(&mut other).await;
    within(chat.close()).await.unwrap();
    until(async || within(client.connect("/ws/auth")).await.is_ok()).await;
}

#[tokio::test]
async fn a_takeover_needs_no_place_and_authentication_in_band_does() {
    let broker = Broker::with().set("LIMITS__CONNECTIONS_PER_IDENTITY", "1").start().await;
    let (client, _, mut device) = broker.connected("device").await;
    let mut public = within(broker.client().connect("/ws")).await.unwrap();
    public.send_text(json!({ "type": "auth", "token": client.token().unwrap() }).to_string()).await.unwrap();
    let error = next_of_type(&mut public, "error").await;
    assert!(error["message"].as_str().unwrap().contains("limits.connections_per_identity"), "{error}");
    close_code(&mut public).await;
    let mut newer = within(client.connect("/ws")).await.unwrap();
    next_of_type(&mut newer, "connection").await;
    assert_eq!(close_code(&mut device).await, 4409);
    ping(&mut newer).await;
}

#[tokio::test]
async fn a_slow_consumer_learns_that_it_was_one_and_others_miss_nothing() {
    for workers in ["1", "4"] {
        let setup = Broker::with().set("HTTP__WORKERS", workers).set("LIMITS__OUTBOUND_BYTES", "300000");
        // not before it is over its budget
        let broker = setup.set("LIMITS__SEND_TIMEOUT_SECS", "120").start().await;
        let (mut publisher, mut reader) = pair(&broker, "t").await;
        let (_, slow, mut stalled) = stalled(&broker, "t").await;
        let content = "x".repeat(20_000);
        let mut published = 0;
        // until it takes no more direct messages either
        loop {
            publish(&mut publisher, &mut reader, published, &content).await;
            published += 1;
            publisher.send_direct(slow, "are you there?").await.unwrap();
            if next(&mut publisher).await["type"] == "error" {
                break;
            }
        }
        let mut received = 0;
        let code = loop {
            let frame = stalled.next().await.expect("a close frame");
            match frame.opcode {
                1 => {
                    let message = frame.json();
                    if message["topic_id"] == "t" {
                        assert_eq!(message["msgid"], received.to_string());
                        assert_eq!(message["content"], content);
                        received += 1;
                    }
                }
                8 => break frame.close_code(),
                9 => {}
                other => panic!("opcode {other}"),
            }
        };
        assert_eq!(code, Some(4413));
        assert!(received > 0 && received < published, "{received} of {published}");
        publish(&mut publisher, &mut reader, published, &content).await;
    }
}

#[tokio::test]
async fn consumers_that_do_not_read_cost_their_budget_and_no_more() {
    let broker = Broker::with().alone("memory of one process").start().await;
    let (mut publisher, mut reader) = pair(&broker, "t").await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(stalled(&broker, "t").await);
    }
    let before = broker.memory();
    let content = "x".repeat(60_000);
    for n in 0..1000 {
        publish(&mut publisher, &mut reader, n, &content).await;
        // five times limits.outbound_bytes
        assert!(broker.memory() < before + (5 << 20) + SLACK, "after {n} messages");
    }
}

#[tokio::test]
async fn sockets_of_nobody_that_read_nothing_cost_little() {
    let broker = Broker::with().alone("memory of one process").start().await;
    let before = broker.memory();
    let frame = RawSocket::frame(0x82, &[b'x'; 65_536]);
    let mut echoes = Vec::new();
    for _ in 0..50 {
        let mut socket = RawSocket::connect_narrow(&broker).await;
        assert!(socket.handshake("/ws/echo?raw=true", "").await.starts_with("HTTP/1.1 101"));
        // more than the kernel takes in both directions
        for _ in 0..200 {
            if within(socket.stream.write_all(&frame)).await.is_err() {
                break;
            }
        }
        echoes.push(socket);
    }
    assert!(broker.memory() < before + SLACK, "{} bytes more", broker.memory() - before);
}

#[tokio::test]
async fn a_peer_that_takes_nothing_for_too_long_is_cut() {
    let setup = Broker::with().set("LIMITS__SEND_TIMEOUT_SECS", "1").set("LIMITS__OUTBOUND_BYTES", "0");
    let broker = setup.start().await;
    let (mut publisher, mut reader) = pair(&broker, "t").await;
    let (client, uuid, mut stalled) = stalled(&broker, "t").await;
    let content = "x".repeat(60_000);
    // more than the kernel takes for it
    for n in 0..150 {
        publish(&mut publisher, &mut reader, n, &content).await;
    }
    everywhere(async || !is_listed(&client, uuid).await).await;
    // without a close frame: nothing could be sent any more
    assert_eq!(stalled.close_code().await, None);
    publish(&mut publisher, &mut reader, 150, &content).await;
}

#[tokio::test]
async fn connections_that_say_nothing_or_half_a_handshake_are_in_nobodys_way() {
    let mut broker = Broker::with()
        .alone("limits.connections is per node")
        .set("LIMITS__CONNECTIONS", "2")
        .set("HTTP__WORKERS", "1")
        .start()
        .await;
    let (client, device) = broker.device("device").await;
    let mut idle = Vec::new();
    for half in ["", "GET /ws HT", "GET /ws HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\n", "\u{16}\u{3}\u{1}"] {
        for _ in 0..25 {
            let mut socket = RawSocket::connect(&broker).await;
            socket.send(half.as_bytes()).await;
            idle.push(socket);
        }
    }
    let mut socket = within(client.connect("/ws")).await.unwrap();
    next_of_type(&mut socket, "connection").await;
    ping(&mut socket).await;
    let _last = within(broker.client().connect("/ws")).await.unwrap();
    let expected = json!({ "count": 1, "clients": { device.uuid.to_string(): "device" } });
    assert_eq!(get(&client, "/clients").await, (200, expected));
    broker.signal("TERM");
    assert_eq!(close_code(&mut socket).await, 1001);
    assert_eq!(broker.ended().await, Some(0));
}

#[tokio::test]
async fn sockets_that_come_and_go_leave_nothing_behind() {
    let broker = Broker::with().alone("limits.connections is per node").set("LIMITS__CONNECTIONS", "20").start().await;
    let (client, device) = broker.device("device").await;
    let token = client.token().unwrap();
    let paths = [format!("/ws?token={token}"), format!("/ws/auth?token={token}"), "/ws".to_owned()];
    for round in 0..200 {
        let path = &paths[round % paths.len()];
        let connection = async || within(broker.client().connect(path)).await;
        // those that are just going may still count
        let mut socket = None;
        until(async || {
            socket = connection().await.ok();
            socket.is_some()
        })
        .await;
        match round % 4 {
            // without a word, politely, or in the middle of a frame
            0 => drop(socket),
            1 => drop(RawSocket::open(&broker, path).await),
            2 => {
                let mut raw = RawSocket::open(&broker, path).await;
                raw.send(&RawSocket::head(0x81, 1000)).await;
            }
            _ => within(socket.unwrap().close()).await.unwrap(),
        }
    }
    until(async || get(&client, "/clients").await.1 == json!({ "count": 0, "clients": {} })).await;
    // all places are free again
    let mut sockets = Vec::new();
    until(async || {
        sockets.extend(within(broker.client().connect("/ws")).await.ok());
        sockets.len() == 19
    })
    .await;
    let mut socket = within(client.connect("/ws")).await.unwrap();
    next_of_type(&mut socket, "connection").await;
    assert!(is_listed(&client, device.uuid).await);
}

#[tokio::test]
async fn a_publisher_faster_than_the_broker_is_slowed_down_and_nothing_is_lost() {
    const MESSAGES: usize = 20_000;
    let broker = Broker::with().alone("memory of one process").set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let (publisher, _) = broker.device("publisher").await;
    publisher.create_topic("t").await.unwrap();
    publisher.subscribe("t").await.unwrap();
    let (reader, _, mut reading) = broker.connected("reader").await;
    reader.subscribe("t").await.unwrap();
    let path = format!("/ws?token={}", publisher.token().unwrap());
    let (mut writing, mut receipts) = RawSocket::open(&broker, &path).await.split();
    assert_eq!(receipts.next().await.unwrap().json()["type"], "connection");
    let before = broker.memory();
    let write = async {
        for first in (0..MESSAGES).step_by(1000) {
            let frames = (first..first + 1000).flat_map(|n| {
                RawSocket::frame(0x81, format!(r#"{{"topic_id":"t","msgid":"{n}","content":"x"}}"#).as_bytes())
            });
            writing.send(&frames.collect::<Vec<_>>()).await;
        }
    };
    let acknowledged = async {
        for n in 0..MESSAGES {
            let receipt = receipts.next().await.unwrap().json();
            assert_eq!((&receipt["type"], &receipt["msgid"]), (&json!("topic_sent"), &json!(n.to_string())));
        }
    };
    let read = async {
        for n in 0..MESSAGES {
            assert_eq!(next(&mut reading).await["msgid"], n.to_string());
        }
    };
    tokio::join!(write, acknowledged, read);
    assert!(broker.memory() < before + SLACK);
    ping(&mut reading).await;
}
