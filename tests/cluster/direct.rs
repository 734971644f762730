//! Direct messages between devices at different nodes.

use std::pin::pin;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    api::support::{close_code, next, post, until},
    nodes::{Shared, at, connect, device, knows, listed, send},
};

fn code(frame: &Value) -> &str {
    frame["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_message_reaches_a_device_at_another_node_and_the_receipts_come_in_order() {
    let shared = Shared::start().await;
    let ([one, two, three], _) = shared.nodes().await;
    let (_, _, mut sender) = device("sender", &one).await;
    let (_, here, mut here_socket) = device("here", &one).await;
    let (_, there, mut there_socket) = device("there", &two).await;
    let (_, far, mut far_socket) = device("far", &three).await;
    let everybody = listed(&one.client()).await;
    assert_eq!(everybody.len(), 4);
    for node in [&two, &three] {
        assert_eq!(listed(&node.client()).await, everybody);
    }

    let nobody = Uuid::new_v4();
    let recipients = [there.uuid, here.uuid, far.uuid, nobody];
    for number in 0..400 {
        let frame = json!({ "to": recipients[number % 4], "msgid": number.to_string(), "content": number });
        sender.send_text(frame.to_string()).await.unwrap();
    }
    for number in 0..400 {
        let receipt = next(&mut sender).await;
        assert_eq!(receipt["msgid"], number.to_string(), "{receipt}");
        let expected = if number % 4 == 3 { "error" } else { "sent" };
        assert_eq!(receipt["type"], expected, "{receipt}");
    }
    for (place, socket) in [(0, &mut there_socket), (1, &mut here_socket), (2, &mut far_socket)] {
        for number in (place..400).step_by(4) {
            assert_eq!(next(socket).await["content"], number);
        }
    }
    // and other frames wait for the receipts
    for number in 0..10 {
        let frame = json!({ "to": there.uuid, "msgid": number.to_string(), "content": number });
        sender.send_text(frame.to_string()).await.unwrap();
        sender.send_text(json!({ "to": there.uuid, "msgid": 7 }).to_string()).await.unwrap();
        assert_eq!(next(&mut sender).await["type"], "sent");
        assert_eq!(code(&next(&mut sender).await), "invalid_message");
    }
}

#[tokio::test]
async fn a_message_over_http_reaches_a_device_at_another_node() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (_, there, mut socket) = device("there", &two).await;
    let message = json!({ "to": there.uuid, "content": "over http" });
    let (status, receipt) = post(&at(&operator, &one), "/api/messages", message.clone()).await;
    assert_eq!((status, &receipt["type"]), (200, &json!("sent")), "{receipt}");
    assert_eq!(next(&mut socket).await["content"], "over http");
    socket.close().await.unwrap();
    until(async || listed(&one.client()).await.is_empty()).await;
    let (status, refused) = post(&at(&operator, &one), "/api/messages", message).await;
    assert_eq!((status, code(&refused)), (404, "recipient_not_connected"), "{refused}");
}

#[tokio::test]
async fn the_newest_socket_of_a_device_takes_over_wherever_the_other_one_is() {
    let shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (_, _, mut sender) = device("sender", &one).await;
    let (client, traveller, mut socket) = device("traveller", &one).await;
    for turn in 0..20 {
        let node = if turn % 2 == 0 { &two } else { &one };
        let mut newer = connect(&client, node).await;
        assert_eq!(close_code(&mut socket).await, 4409);
        let msgid = turn.to_string();
        assert_eq!(send(&mut sender, traveller.uuid, &msgid).await["type"], "sent");
        assert_eq!(next(&mut newer).await["content"], msgid);
        socket = newer;
    }
    for node in [&one, &two] {
        assert!(listed(&node.client()).await.contains(&traveller.uuid));
    }
}

#[tokio::test]
async fn the_clients_of_a_node_that_is_killed_leave_all_lists() {
    let shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (_, sending, mut sender) = device("sender", &one).await;
    let (client, there, _socket) = device("there", &two).await;
    assert_eq!(send(&mut sender, there.uuid, "1").await["type"], "sent");
    two.kill().await;
    // nobody knows what became of it
    assert_eq!(code(&send(&mut sender, there.uuid, "2").await), "delivery_unknown");
    until(async || listed(&one.client()).await == [sending.uuid]).await;
    assert_eq!(code(&send(&mut sender, there.uuid, "3").await), "recipient_not_connected");
    // at once at another node
    let three = shared.node().start().await;
    let mut back = connect(&client, &three).await;
    until(async || send(&mut sender, there.uuid, "4").await["type"] == "sent").await;
    assert_eq!(next(&mut back).await["content"], "4");
}

#[tokio::test]
async fn the_clients_of_a_node_that_stops_are_missing_in_no_list_while_they_move() {
    let shared = Shared::start().await;
    let ([one, two], _) = shared.nodes().await;
    let (_, sending, mut sender) = device("sender", &one).await;
    let (moving, moves, mut socket) = device("moves", &two).await;
    let (_, stays_away, _away) = device("stays away", &two).await;
    let mut all = [sending.uuid, moves.uuid, stays_away.uuid];
    all.sort_unstable();
    let list = one.client();
    assert_eq!(listed(&list).await, all);
    let stopping = async {
        let mut two = two;
        two.signal("TERM");
        assert_eq!(close_code(&mut socket).await, 1001);
        assert_eq!(two.ended().await, Some(0));
        connect(&moving, &one).await
    };
    let mut stopping = pin!(stopping);
    let mut back = loop {
        tokio::select! {
            biased;
            back = &mut stopping => break back,
            listed = listed(&list) => assert_eq!(listed, all),
        }
    };
    assert_eq!(send(&mut sender, moves.uuid, "1").await["type"], "sent");
    assert_eq!(next(&mut back).await["content"], "1");
    // listed, but nothing can be sent to it
    assert_eq!(code(&send(&mut sender, stays_away.uuid, "2").await), "recipient_not_connected");
    // who does not come back is gone later
    until(async || !listed(&list).await.contains(&stays_away.uuid)).await;
    assert!(listed(&list).await.contains(&moves.uuid));
}

#[tokio::test]
async fn without_redis_messages_to_other_nodes_fail_at_once_and_pass_again_when_it_is_back() {
    let mut shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (_, _, mut sender) = device("sender", &one).await;
    let (_, here, mut here_socket) = device("here", &one).await;
    let (_, there, mut there_socket) = device("there", &two).await;
    shared.redis.kill().await;
    until(async || code(&send(&mut sender, there.uuid, "away").await) == "cluster_unavailable").await;
    // also for whom nobody knows, and not for who is here
    assert_eq!(code(&send(&mut sender, Uuid::new_v4(), "nobody").await), "cluster_unavailable");
    assert_eq!(send(&mut sender, here.uuid, "here").await["type"], "sent");
    assert_eq!(next(&mut here_socket).await["content"], "here");
    let message = json!({ "to": Uuid::new_v4(), "content": "over http" });
    let (status, refused) = post(&operator, "/api/messages", message).await;
    assert_eq!((status, code(&refused)), (503, "cluster_unavailable"), "{refused}");

    shared.redis.run().await;
    for node in [&one, &two] {
        knows(&at(&operator, node), 2).await;
    }
    until(async || send(&mut sender, there.uuid, "back").await["type"] == "sent").await;
    assert_eq!(next(&mut there_socket).await["content"], "back");
    assert_eq!(code(&send(&mut sender, Uuid::new_v4(), "nobody").await), "recipient_not_connected");
}

#[tokio::test]
async fn a_node_that_is_stopped_for_longer_than_its_lease_comes_back() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (_, sending, mut sender) = device("sender", &one).await;
    let (_, there, mut socket) = device("there", &two).await;
    let (traveller, moved, mut old) = device("moved", &two).await;
    two.signal("STOP");
    assert_eq!(code(&send(&mut sender, there.uuid, "1").await), "delivery_unknown");
    until(async || listed(&one.client()).await == [sending.uuid]).await;
    // takes over what the other node still has
    let mut new = connect(&traveller, &one).await;
    two.signal("CONT");
    for node in [&one, &two] {
        knows(&at(&operator, node), 2).await;
    }
    until(async || send(&mut sender, there.uuid, "2").await["type"] == "sent").await;
    // the first one may have come late
    let mut content = next(&mut socket).await["content"].clone();
    if content == "1" {
        content = next(&mut socket).await["content"].clone();
    }
    assert_eq!(content, "2");
    assert_eq!(close_code(&mut old).await, 4409);
    until(async || send(&mut sender, moved.uuid, "3").await["type"] == "sent").await;
    assert_eq!(next(&mut new).await["content"], "3");
}
