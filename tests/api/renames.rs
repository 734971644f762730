//! Devices that are renamed have their new name in rooms, too.

use reqwest::Method;
use serde_json::json;

use crate::support::{
    Broker,
    chat::{Person, ask, next_event, send},
    next, next_of_type, until, within,
};

#[tokio::test]
async fn a_device_that_is_renamed_has_its_new_name_in_rooms_from_then_on() {
    let broker = Broker::start().await;
    let ulla = Person::user(&broker, "ulla").await;
    let device = Person::device(&broker, "old").await;
    let uuid = device.who["uuid"].as_str().unwrap().to_owned();
    let room = ulla.room("lobby").await;
    let mut watching = ulla.room_socket(room).await;
    let mut socket = device.room_socket(room).await;
    next_of_type(&mut watching, "user_joined").await;
    send(&mut socket, json!({ "content": "before" })).await;
    for socket in [&mut socket, &mut watching] {
        assert_eq!(next_of_type(socket, "message").await["username"], "old");
    }

    for name in ["new", "newer"] {
        if name == "new" {
            device.done(Method::PUT, &format!("/devices/{uuid}"), Some(json!({ "name": name }))).await;
        } else {
            let body = json!({ "name": name, "uuid": uuid });
            ulla.post("/register", body).await;
        }
        send(&mut socket, json!({ "type": "typing" })).await;
        for socket in [&mut socket, &mut watching] {
            let typing = next_of_type(socket, "user_typing").await;
            assert_eq!((&typing["username"], &typing["uuid"]), (&json!(name), &json!(uuid)));
        }
        send(&mut socket, json!({ "content": name })).await;
        for socket in [&mut socket, &mut watching] {
            assert_eq!(next_of_type(socket, "message").await["username"], name);
        }
        let members = ulla.get(&format!("/api/rooms/{room}/members")).await;
        assert!(members.to_string().contains(&format!(r#""username":"{name}""#)), "{members}");
        assert!(!members.to_string().contains("old"), "{members}");
        let presence = ulla.get(&format!("/api/rooms/{room}/presence")).await;
        assert!(presence.to_string().contains(&format!(r#""username":"{name}""#)), "{presence}");
    }

    // what was said keeps the name from then
    let names: Vec<_> = ulla.history(room).await.into_iter().map(|message| message["username"].clone()).collect();
    assert_eq!(names, ["old", "new", "newer"]);
    let role = ulla
        .call(Method::PATCH, &format!("/api/rooms/{room}/members/{uuid}"), Some(json!({ "role": "moderator" })))
        .await;
    assert_eq!(role.0, 200, "{role:?}");
    assert_eq!(next_event(&mut watching).await["username"], "newer");
    next(&mut socket).await;
    within(socket.close()).await.unwrap();
    let gone = next_of_type(&mut watching, "user_disconnected").await;
    assert_eq!(gone["username"], "newer");
    device.leave(room).await;
    assert_eq!(next_of_type(&mut watching, "user_left").await["username"], "newer");
    until(async || ulla.get(&format!("/api/rooms/{room}/members")).await.to_string().contains("ulla")).await;
    // a chat socket of its own greets it by its name
    let mut chat = device.open("/ws/auth").await;
    assert_eq!(next_of_type(&mut chat, "connection_established").await["username"], "newer");
    assert_eq!(ask(&mut chat, json!({ "type": "ping" })).await["type"], "pong");
}
