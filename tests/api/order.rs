//! One sender's frames keep their order, and so do its receipts (contract section 5).

use serde_json::json;
use switchboard::client::Connection;

use crate::support::{Broker, RawSocket, next, within};

/// Direct and topic messages in turns of irregular length: whether message `n` is a direct one.
fn is_direct(n: usize) -> bool {
    (n * n / 7 + n / 3).is_multiple_of(3)
}

#[tokio::test]
async fn direct_and_topic_messages_of_one_sender_arrive_in_order_and_so_do_the_receipts() {
    const MESSAGES: usize = 400;
    for workers in ["1", "2"] {
        let broker = Broker::with()
            .alone("messages of different kinds have no order between nodes")
            .set("HTTP__WORKERS", workers)
            .start()
            .await;
        let (sender, _) = broker.device("sender").await;
        sender.create_topic("t").await.unwrap();
        sender.subscribe("t").await.unwrap();
        let mut socket = RawSocket::open(&broker, &format!("/ws?token={}", sender.token().unwrap())).await;
        assert_eq!(socket.next().await.unwrap().json()["type"], "connection");
        // some on the sender's worker, some on the other
        let mut receivers: Vec<(uuid::Uuid, Connection)> = Vec::new();
        for _ in 0..4 {
            let (client, device, socket) = broker.connected("receiver").await;
            client.subscribe("t").await.unwrap();
            receivers.push((device.uuid, socket));
        }
        let mut bytes = Vec::new();
        for n in 0..MESSAGES {
            let to = |(uuid, _): &(uuid::Uuid, Connection)| json!({ "to": uuid, "msgid": n.to_string(), "content": n });
            let frames = if is_direct(n) {
                receivers.iter().map(to).collect()
            } else {
                vec![json!({ "topic_id": "t", "msgid": n.to_string(), "content": n })]
            };
            bytes.extend(frames.iter().flat_map(|frame| RawSocket::frame(0x81, frame.to_string().as_bytes())));
        }
        // in one piece, so that the broker has many of them at a time
        socket.send(&bytes).await;
        for (_, receiver) in &mut receivers {
            for n in 0..MESSAGES {
                assert_eq!(next(receiver).await["content"], n, "with {workers} workers");
            }
        }
        for n in 0..MESSAGES {
            let (kind, count) = if is_direct(n) { ("sent", receivers.len()) } else { ("topic_sent", 1) };
            for _ in 0..count {
                let receipt = socket.next().await.unwrap().json();
                assert_eq!((&receipt["type"], &receipt["msgid"]), (&json!(kind), &json!(n.to_string())), "{receipt}");
            }
        }
    }
}

#[tokio::test]
async fn many_senders_that_mix_direct_and_topic_messages_keep_their_order_each() {
    const MESSAGES: usize = 100;
    let broker = Broker::with()
        .alone("messages of different kinds have no order between nodes")
        .set("HTTP__WORKERS", "2")
        .start()
        .await;
    let (client, device, mut receiver) = broker.connected("receiver").await;
    client.create_topic("t").await.unwrap();
    client.subscribe("t").await.unwrap();
    let mut sending = Vec::new();
    for sender in 0..6 {
        let (client, _, mut socket) = broker.connected("sender").await;
        client.subscribe("t").await.unwrap();
        let to = device.uuid;
        sending.push(tokio::spawn(async move {
            for n in 0..MESSAGES {
                let (key, value) = if is_direct(n + sender) { ("to", json!(to)) } else { ("topic_id", json!("t")) };
                let frame = json!({ key: value, "msgid": n.to_string(), "content": [sender, n] });
                socket.send_text(frame.to_string()).await.unwrap();
            }
            // what others publish comes in between
            let mut receipts = Vec::new();
            while receipts.len() < MESSAGES {
                let frame = next(&mut socket).await;
                if frame["type"] == "sent" || frame["type"] == "topic_sent" {
                    receipts.push(frame["msgid"].as_str().unwrap().parse::<usize>().unwrap());
                }
            }
            assert!(receipts.is_sorted(), "{receipts:?}");
        }));
    }
    let mut seen = [0; 6];
    for _ in 0..6 * MESSAGES {
        let content = next(&mut receiver).await["content"].clone();
        let (sender, n) = (content[0].as_u64().unwrap() as usize, content[1].as_u64().unwrap() as usize);
        assert_eq!(seen[sender], n, "of sender {sender}");
        seen[sender] += 1;
    }
    for sending in sending {
        within(sending).await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_publication_is_answered_in_its_place_among_the_receipts() {
    let broker = Broker::with().set("HTTP__WORKERS", "2").start().await;
    let (_, _, mut sender) = broker.connected("sender").await;
    let (client, device, mut receiver) = broker.connected("receiver").await;
    client.create_topic("t").await.unwrap();
    client.subscribe("t").await.unwrap();
    for n in 0..50 {
        let (key, value) = if n % 2 == 0 { ("topic_id", json!("t")) } else { ("to", json!(device.uuid)) };
        let frame = json!({ key: value, "msgid": n.to_string(), "content": n });
        sender.send_text(frame.to_string()).await.unwrap();
    }
    for n in 0..50 {
        let answer = next(&mut sender).await;
        let kind = if n % 2 == 0 { "error" } else { "sent" };
        assert_eq!((&answer["type"], &answer["msgid"]), (&json!(kind), &json!(n.to_string())), "{answer}");
        if n % 2 == 1 {
            assert_eq!(next(&mut receiver).await["content"], n);
        }
    }
}

#[tokio::test]
async fn refusals_for_which_the_database_is_asked_keep_their_place_too() {
    let broker = Broker::with().set("HTTP__WORKERS", "2").start().await;
    let (client, _, mut sender) = broker.connected("sender").await;
    let (_, device, mut receiver) = broker.connected("receiver").await;
    client.create_topic("nobody").await.unwrap();
    client.create_topic("own").await.unwrap();
    client.subscribe("own").await.unwrap();
    let frame = |n: usize| match n % 4 {
        0 => json!({ "topic_id": "missing", "msgid": n.to_string(), "content": n }),
        1 => json!({ "topic_id": "nobody", "msgid": n.to_string(), "content": n }),
        2 => json!({ "topic_id": "own", "msgid": n.to_string(), "content": n }),
        _ => json!({ "to": device.uuid, "msgid": n.to_string(), "content": n }),
    };
    for n in 0..200 {
        sender.send_text(frame(n).to_string()).await.unwrap();
    }
    for n in 0..200 {
        let answer = next(&mut sender).await;
        let kind = ["topic_not_found", "not_subscribed", "topic_sent", "sent"][n % 4];
        let told = if n % 4 < 2 { &answer["code"] } else { &answer["type"] };
        assert_eq!((told, &answer["msgid"]), (&json!(kind), &json!(n.to_string())), "{answer}");
        if n % 4 == 3 {
            assert_eq!(next(&mut receiver).await["content"], n);
        }
    }
}

#[tokio::test]
async fn frames_before_one_that_ends_the_socket_are_handled_and_answered() {
    let broker = Broker::with()
        .alone("messages of different kinds have no order between nodes")
        .set("LIMITS__FRAMES_PER_SECOND", "1")
        .set("LIMITS__FRAMES_BURST", "10")
        .start()
        .await;
    let (sender, _) = broker.device("sender").await;
    let (client, device, mut receiver) = broker.connected("receiver").await;
    client.create_topic("t").await.unwrap();
    client.subscribe("t").await.unwrap();
    let text = |frame: &serde_json::Value| RawSocket::frame(0x81, frame.to_string().as_bytes());
    let flood = RawSocket::frame(0x89, b"x").repeat(500);
    for (end, code) in [(flood, 4429), (RawSocket::head(0x81, 1 << 40), 1009)] {
        let mut socket = RawSocket::open(&broker, &format!("/ws?token={}", sender.token().unwrap())).await;
        sender.subscribe("t").await.unwrap();
        // all in one piece, and in the middle of it what has to wait for others
        let mut bytes = Vec::new();
        for n in 0..8 {
            let (key, value) = if n % 3 == 1 { ("topic_id", json!("t")) } else { ("to", json!(device.uuid)) };
            bytes.extend(text(&json!({ key: value, "msgid": n.to_string(), "content": n })));
        }
        bytes.extend(text(&json!({ "topic_id": "missing", "msgid": "8", "content": 8 })));
        bytes.extend(end);
        socket.send(&bytes).await;
        for n in 0..8 {
            assert_eq!(next(&mut receiver).await["content"], n, "before {code}");
        }
        let mut receipts = Vec::new();
        let closed = loop {
            let frame = socket.next().await.expect("a close frame");
            if let Some(code) = frame.close_code() {
                break code;
            }
            if frame.opcode == 1 && frame.json()["msgid"].is_string() {
                receipts.push(frame.json()["msgid"].as_str().unwrap().parse::<i32>().unwrap());
            }
        };
        assert_eq!((closed, receipts), (code, (0..9).collect::<Vec<_>>()));
    }
}
