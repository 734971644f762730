//! Acknowledged messages between devices at different nodes.

use sea_orm::{ConnectionTrait, TransactionTrait};
use serde_json::{Value, json};
use switchboard::client::Connection;
use uuid::Uuid;

use crate::{
    api::support::{close_code, delete, next, next_of_type, post, until},
    nodes::{Shared, at, connect, device, knows},
};

/// Sends a message that is to be acknowledged. Returns what it is answered.
async fn try_send(socket: &mut Connection, to: Uuid, msgid: &str) -> Value {
    let frame = json!({ "to": to, "msgid": msgid, "content": msgid, "acknowledge": true });
    socket.send_text(frame.to_string()).await.unwrap();
    next(socket).await
}

/// Sends a message that is to be acknowledged. Returns its receipt.
async fn send(socket: &mut Connection, to: Uuid, msgid: &str) -> Value {
    let receipt = try_send(socket, to, msgid).await;
    assert_eq!((&receipt["type"], &receipt["msgid"]), (&json!("sent"), &json!(msgid)), "{receipt}");
    receipt
}

async fn acknowledge(socket: &mut Connection, msgid: &str) {
    socket.send_text(json!({ "type": "ack", "msgid": msgid }).to_string()).await.unwrap();
    assert_eq!(next_of_type(socket, "ack_received").await["msgid"], msgid);
}

/// How a message has ended, as its sender is told.
async fn update(socket: &mut Connection) -> (String, String) {
    let update = next_of_type(socket, "delivery_update").await;
    (update["msgid"].as_str().unwrap().to_owned(), update["status"].as_str().unwrap().to_owned())
}

fn acknowledged(msgid: &str) -> (String, String) {
    (msgid.to_owned(), "delivered".to_owned())
}

#[tokio::test]
async fn a_message_reaches_a_recipient_at_another_node_and_its_sender_is_told() {
    let shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (sending, _, mut sender) = device("sender", &one).await;
    let (receiving, recipient, mut socket) = device("recipient", &two).await;
    for number in 0..60 {
        let receipt = send(&mut sender, recipient.uuid, &number.to_string()).await;
        assert_eq!(receipt["status"], "pending_ack", "{receipt}");
    }
    for number in 0..60 {
        let msgid = number.to_string();
        let message = next(&mut socket).await;
        assert_eq!((&message["msgid"], message.get("redelivered")), (&json!(msgid), None), "{message}");
    }
    for number in 0..60 {
        let msgid = number.to_string();
        acknowledge(&mut socket, &msgid).await;
        assert_eq!(update(&mut sender).await, acknowledged(&msgid));
    }
    // the recipient moves to the sender's node with one unacknowledged, and the sender to the recipient's
    send(&mut sender, recipient.uuid, "moved").await;
    assert_eq!(next(&mut socket).await["msgid"], "moved");
    let mut socket = connect(&receiving, &one).await;
    let again = next(&mut socket).await;
    assert_eq!((&again["msgid"], &again["redelivered"]), (&json!("moved"), &json!(true)), "{again}");
    let mut sender = connect(&sending, &two).await;
    acknowledge(&mut socket, "moved").await;
    assert_eq!(update(&mut sender).await, acknowledged("moved"));
}

#[tokio::test]
async fn a_message_that_is_withdrawn_at_another_node_makes_room_for_those_behind_it() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (_, recipient, mut socket) = device("recipient", &two).await;
    let message = json!({ "to": recipient.uuid, "content": "x", "acknowledge": true });
    let mut ids = Vec::new();
    for _ in 0..65 {
        let (status, receipt) = post(&operator, "/api/messages", message.clone()).await;
        assert_eq!(status, 200, "{receipt}");
        ids.push(receipt["id"].as_i64().unwrap());
    }
    for _ in 0..64 {
        assert_eq!(next(&mut socket).await["content"], "x");
    }
    let (status, withdrawn) = delete(&at(&operator, &one), &format!("/api/messages/{}", ids[0])).await;
    assert_eq!((status, &withdrawn["status"]), (200, &json!("cancelled")), "{withdrawn}");
    assert_eq!(next(&mut socket).await["content"], "x");
}

#[tokio::test]
async fn messages_that_are_sent_while_redis_is_away_arrive_when_it_is_back() {
    let mut shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (_, _, mut sender) = device("sender", &one).await;
    let (_, recipient, mut socket) = device("recipient", &two).await;
    shared.redis.kill().await;
    for number in 0..10 {
        send(&mut sender, recipient.uuid, &number.to_string()).await;
    }
    shared.redis.run().await;
    for number in 0..10 {
        let msgid = number.to_string();
        assert_eq!(next(&mut socket).await["msgid"], msgid);
    }
    for number in 0..10 {
        acknowledge(&mut socket, &number.to_string()).await;
    }
    // also what the sender is told meanwhile
    for number in 0..10 {
        assert_eq!(update(&mut sender).await, acknowledged(&number.to_string()));
    }
    for node in [&one, &two] {
        knows(&at(&operator, node), 2).await;
    }
    until(async || send(&mut sender, recipient.uuid, &Uuid::new_v4().to_string()).await["status"] == "pending_ack")
        .await;
}

#[tokio::test]
async fn a_device_sends_messages_although_the_clock_was_set_back_before_its_node_started() {
    let shared = Shared::start().await;
    let one = shared.node().start().await;
    let (sending, _) = one.device("sender").await;
    let (_, recipient) = one.device("recipient").await;
    drop(one);
    // a socket of the year 2096, in microseconds
    shared.sql("UPDATE devices SET newest_socket = 4000000000000000").await;
    let one = shared.node().start().await;
    let mut sender = connect(&sending, &one).await;
    assert_eq!(send(&mut sender, recipient.uuid, "1").await["status"], "queued_offline");
}

#[tokio::test]
async fn a_device_gets_and_sends_messages_although_a_newer_socket_was_stored_and_failed() {
    let shared = Shared::start().await;
    let nodes = [shared.node().start().await, shared.node().start().await];
    let (_, recipient, mut socket) = device("recipient", &nodes[0]).await;
    let (_, _, mut sender) = device("sender", &nodes[1]).await;
    // the handshake of another one, which fails before a node knows of its socket
    shared.sql("UPDATE devices SET newest_socket = newest_socket + 1000000").await;
    let mut sent = Vec::new();
    until(async || {
        let msgid = Uuid::new_v4().to_string();
        let receipt = try_send(&mut sender, recipient.uuid, &msgid).await;
        let is_accepted = receipt["type"] == "sent";
        assert!(is_accepted || receipt["code"] == "forbidden", "{receipt}");
        sent.extend(is_accepted.then_some(msgid));
        is_accepted
    })
    .await;
    assert_eq!(next(&mut socket).await["msgid"], sent[0]);
}

#[tokio::test]
async fn a_device_whose_new_socket_cannot_be_stored_sends_no_messages_and_connects_anew() {
    let shared = Shared::start().await;
    let node = shared.node().set("STORAGE__TIMEOUT_MS", "3000").start().await;
    let (_, recipient, mut receiving) = device("recipient", &node).await;
    let (sending, sender) = node.device("sender").await;
    // as of a node that was stopped while it stored an older socket
    let database = shared.connect().await;
    let other_node = database.begin().await.unwrap();
    let row = format!("SELECT FROM devices WHERE uuid = '{}' FOR UPDATE", sender.uuid);
    other_node.execute_unprepared(&row).await.unwrap();
    let mut sender = connect(&sending, &node).await;
    let receipt = try_send(&mut sender, recipient.uuid, "1").await;
    assert_eq!((&receipt["type"], &receipt["code"]), (&json!("error"), &json!("database_unavailable")), "{receipt}");
    other_node.rollback().await.unwrap();
    assert_eq!(close_code(&mut sender).await, 1013);
    let mut sender = connect(&sending, &node).await;
    assert_eq!(send(&mut sender, recipient.uuid, "2").await["status"], "pending_ack");
    assert_eq!(next(&mut receiving).await["msgid"], "2");
}
