//! Publishers wait for a node that cannot keep up with the delivery to its own sockets.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use tokio::time::timeout;

use crate::{
    api::support::{Broker, get, next, post, preload, until},
    nodes::{Shared, at, device, knows},
};

/// The length of a publication in bytes. Publishers wait when 8 MiB are on the way to a worker.
const PUBLICATION: usize = 512 * 1024;

/// Whether a node shows that another one, or itself, is congested.
async fn is_congested(operator: &Client, node: &Broker) -> bool {
    let (status, cluster) = get(operator, "/api/cluster").await;
    assert_eq!(status, 200, "{cluster}");
    let nodes = cluster["nodes"].as_array().unwrap();
    let shown = nodes.iter().find(|shown| node.url.ends_with(shown["address"].as_str().unwrap()));
    shown.is_some_and(|shown| shown["is_congested"] == true)
}

/// Sends a publication of that length.
async fn publish(socket: &mut Connection, number: usize) {
    let frame =
        json!({ "topic_id": "t", "msgid": number.to_string(), "number": number, "content": "x".repeat(PUBLICATION) });
    socket.send_text(frame.to_string()).await.unwrap();
}

async fn receipt(socket: &mut Connection, number: usize) {
    let receipt = next(socket).await;
    assert_eq!((&receipt["type"], &receipt["msgid"]), (&json!("topic_sent"), &json!(number.to_string())), "{receipt}");
}

#[tokio::test]
async fn publishers_wait_for_a_node_whose_delivery_hangs_and_for_no_frozen_one() {
    let shared = Shared::start().await;
    let setup = || {
        let large = [("LIMITS__FRAME_BYTES", "1000000"), ("LIMITS__OUTBOUND_BYTES", "0"), ("HTTP__WORKERS", "1")];
        large.iter().fold(shared.node(), |setup, (key, value)| setup.set(key, value))
    };
    let mut one = setup().start().await;
    let operator = one.admin().await;
    let mut hanging = preload(setup(), "held_writes.c");
    let held: PathBuf = hanging.dir().join("held");
    let two = hanging.env("HELD_WRITES", held.to_str().unwrap()).start().await;
    knows(&at(&operator, &two), 2).await;
    knows(&operator, 2).await;
    let (publisher, _, mut sender) = device("publisher", &one).await;
    let (reader, _, mut socket) = device("reader", &two).await;
    for topic in ["t", "other"] {
        publisher.create_topic(topic).await.unwrap();
        publisher.subscribe(topic).await.unwrap();
    }
    reader.subscribe("t").await.unwrap();
    std::fs::write(&held, two.url.rsplit(':').next().unwrap()).unwrap();

    let mut sent = 0;
    until(async || {
        publish(&mut sender, sent).await;
        sent += 1;
        let is_congested = is_congested(&operator, &two).await;
        if !is_congested {
            receipt(&mut sender, sent - 1).await;
        }
        is_congested
    })
    .await;
    let mut receipts = sent - 1;
    // a slow machine may take longer than the node has to repeat that it is congested
    for _ in 0..5 {
        publish(&mut sender, sent).await;
        sent += 1;
        // what concerns other topics does not wait
        for number in 0..20 {
            let other = json!({ "topic_id": "other", "content": number });
            let (status, body) = post(&publisher, "/topics/publish", other).await;
            assert_eq!(status, 200, "{body}");
            while let Ok(frame) = timeout(Duration::ZERO, sender.next_frame()).await {
                assert_eq!(frame.unwrap()["msgid"], receipts.to_string());
                receipts += 1;
            }
        }
        if receipts < sent {
            break;
        }
    }
    assert!(receipts < sent, "nobody waits");

    // a node that is frozen does not say that it is congested
    two.signal("STOP");
    until(async || !is_congested(&operator, &two).await).await;
    two.signal("CONT");
    until(async || is_congested(&operator, &two).await).await;

    std::fs::remove_file(&held).unwrap();
    until(async || !is_congested(&operator, &two).await).await;
    while receipts < sent {
        receipt(&mut sender, receipts).await;
        receipts += 1;
    }
    for number in 0..sent {
        let publication: Value = next(&mut socket).await;
        assert_eq!(publication["number"], number);
    }
}
