//! A device that connects again and again loses nothing that its senders were told is delivered (contract section 5).

use serde_json::json;
use switchboard::client::ClientError;

use crate::support::{Broker, next, next_of_type, within};

const TAKEOVERS: usize = 200;
const AT_ONCE: usize = 20;

/// Reads to the end: to the close frame, or to the message that is the last one.
async fn read(mut socket: switchboard::client::Connection, last: usize) -> Vec<usize> {
    next_of_type(&mut socket, "connection").await;
    let mut contents = Vec::new();
    loop {
        match within(socket.next_frame()).await {
            Ok(frame) => contents.push(frame["content"].as_u64().expect("a number") as usize),
            Err(ClientError::Closed { code: 4409, .. }) => return contents,
            Err(error) => panic!("{error}"),
        }
        if contents.last() == Some(&last) {
            return contents;
        }
    }
}

#[tokio::test]
async fn every_message_with_a_receipt_reaches_one_of_the_sockets_of_a_device_that_connects_again_and_again() {
    for workers in ["1", "2"] {
        let broker = Broker::with()
            .alone("messages of different kinds have no order between nodes")
            .set("HTTP__WORKERS", workers)
            .set("LIMITS__FRAMES_PER_SECOND", "0")
            .start()
            .await;
        let (sender, _, mut socket) = broker.connected("sender").await;
        sender.create_topic("t").await.unwrap();
        sender.subscribe("t").await.unwrap();
        let (client, device) = broker.device("receiver").await;
        client.subscribe("t").await.unwrap();
        let first = within(client.connect("/ws")).await.unwrap();
        let connecting = tokio::spawn(async move {
            let mut reading = vec![tokio::spawn(read(first, usize::MAX))];
            for _ in 1..TAKEOVERS {
                reading.push(tokio::spawn(read(within(client.connect("/ws")).await.unwrap(), usize::MAX)));
            }
            (client, reading)
        });
        let mut count = 0;
        while !connecting.is_finished() {
            for n in count..count + AT_ONCE {
                let (key, value) = if n % 7 < 5 { ("to", json!(device.uuid)) } else { ("topic_id", json!("t")) };
                let frame = json!({ key: value, "msgid": n.to_string(), "content": n });
                socket.send_text(frame.to_string()).await.unwrap();
            }
            for n in count..count + AT_ONCE {
                let receipt = next(&mut socket).await;
                let text = if n % 7 < 5 { "Message delivered" } else { "Message sent to 1 subscribers" };
                assert_eq!((&receipt["message"], &receipt["msgid"]), (&json!(text), &json!(n.to_string())));
            }
            count += AT_ONCE;
        }
        let (client, reading) = connecting.await.unwrap();
        // takes over from the last of them, too
        let last = tokio::spawn(read(within(client.connect("/ws")).await.unwrap(), count));
        let frame = json!({ "to": device.uuid, "msgid": "last", "content": count });
        socket.send_text(frame.to_string()).await.unwrap();
        let mut received = Vec::new();
        for read in reading.into_iter().chain([last]) {
            received.extend(within(read).await.unwrap());
        }
        let lost: Vec<_> = (0..=count).filter(|n| !received.contains(n)).collect();
        assert!(lost.is_empty(), "of {count} with {workers} workers were lost: {lost:?}");
        // each sender's messages are in order on each socket, and from one socket to the next
        assert!(received.is_sorted() && received.len() == count + 1, "with {workers} workers: {received:?}");
    }
}
