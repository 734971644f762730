//! A device is online while its own socket (`/ws`) is open; what is on its chat sockets does not make it reachable.

use reqwest::Method;
use serde_json::json;

use crate::support::{Broker, answer, everywhere, get, is_listed, next, next_of_type, nothing_came, post, within};

#[tokio::test]
async fn a_device_with_a_chat_socket_alone_is_offline_for_messages_commands_and_lists_alike() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    assert_eq!(post(&operator, "/topics/subscribe", json!({ "topic_id": "$status" })).await.0, 200);
    let mut events = within(operator.connect("/ws/auth")).await.unwrap();
    next_of_type(&mut events, "connection_established").await;
    let (client, device) = broker.device("device").await;
    let path = format!("/devices/{}", device.uuid);
    let mut chat = within(client.connect("/ws/auth")).await.unwrap();
    next_of_type(&mut chat, "connection_established").await;
    let (_, _, mut sender) = broker.connected("sender").await;
    assert_eq!(next(&mut events).await["name"], "sender");

    let command = json!({ "method": "GET", "url": "/" });
    let to = format!("/send-command/{}", device.uuid);
    for _ in 0..2 {
        assert!(!is_listed(&operator, device.uuid).await);
        let (_, shown) = get(&operator, &path).await;
        assert_eq!((&shown["online"], &shown["name"]), (&json!(false), &json!("device")));
        let msgid = sender.send_direct(device.uuid, "x").await.unwrap();
        let error = next_of_type(&mut sender, "error").await;
        assert_eq!((&error["code"], &error["msgid"]), (&json!("recipient_not_connected"), &json!(msgid)));
        let (status, refused) = post(&operator, &to, command.clone()).await;
        assert_eq!((status, &refused["detail"]), (400, &json!("Client is not connected")));
        let select = json!({ "select": { "name_prefix": "device" }, "method": "GET", "url": "/" });
        assert_eq!(post(&operator, "/api/commands", select).await.0, 404);
        nothing_came(&mut chat).await;

        // with its own socket it is online, until that is gone
        let mut socket = within(client.connect("/ws")).await.unwrap();
        next_of_type(&mut socket, "connection").await;
        assert!(is_listed(&operator, device.uuid).await);
        assert_eq!(get(&operator, &path).await.1["online"], true);
        sender.send_direct(device.uuid, "x").await.unwrap();
        next_of_type(&mut sender, "sent").await;
        assert_eq!(next(&mut socket).await["content"], "x");
        assert_eq!(next(&mut events).await["event"], "client_connected");
        within(socket.close()).await.unwrap();
        assert_eq!(next(&mut events).await["event"], "client_disconnected");
        everywhere(async || !is_listed(&operator, device.uuid).await).await;
    }

    // topics reach it where it is
    client.create_topic("t").await.unwrap();
    client.subscribe("t").await.unwrap();
    let (publisher, _, mut socket) = broker.connected("publisher").await;
    publisher.subscribe("t").await.unwrap();
    socket.publish("t", "news").await.unwrap();
    assert_eq!(next_of_type(&mut socket, "topic_sent").await["message"], "Message sent to 1 subscribers");
    assert_eq!(next(&mut chat).await["content"], "news");
    let (status, _) = answer(operator.request(Method::GET, "/clients")).await;
    assert_eq!(status, 200);
}
