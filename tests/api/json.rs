//! JSON that would break whoever reads it back: nested too deep, or with keys that serde_json has for itself.

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::Client;

use crate::support::{
    Broker, answer, faults, get, next, next_of_type, no_command_is_left, post, posting, until, within,
};

/// So many arrays in each other.
fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

/// An object that serde_json would read as something else, in several spellings.
fn reserved() -> Vec<String> {
    let deep = "[".repeat(1000);
    vec![
        format!(r#"{{"$serde_json::private::RawValue": "{deep}"}}"#),
        r#"{"$serde_json::private::Number": "1"}"#.to_owned(),
        r#"{"\u0024serde_json::private::Number": "nope"}"#.to_owned(),
        r#"{"$serde_json::priv\u0061te::RawValue" : "]"}"#.to_owned(),
    ]
}

/// Sends a body as it is written.
async fn send(client: &Client, method: Method, path: &str, body: String) -> (u16, Value) {
    let request = client.request(method, path).header("content-type", "application/json").body(body);
    let (status, body) = answer(request).await;
    (status.as_u16(), body)
}

#[tokio::test]
async fn a_body_that_could_not_be_read_back_is_refused_and_breaks_no_list() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (client, device, _socket) = broker.connected("device").await;
    let bad = [nested(64), nested(20_000)].into_iter().chain(reserved());
    let bad: Vec<_> = bad.chain(reserved().iter().map(|json| format!("[{json}]"))).collect();
    for (n, json) in bad.iter().enumerate() {
        let topic = format!(r#"{{"topic_id":"t{n}","metadata":{{"x":{json}}}}}"#);
        let (status, body) = send(&client, Method::POST, "/topics/create", topic).await;
        assert_eq!((status, faults(&body)[0].starts_with("json_invalid body")), (422, true), "{json}: {body}");
        let path = format!("/devices/{}", device.uuid);
        assert_eq!(send(&client, Method::PUT, &path, format!(r#"{{"metadata":{json}}}"#)).await.0, 422, "{json}");
        let command = format!(r#"{{"target":"{}","method":"GET","url":"/","data":{json}}}"#, device.uuid);
        assert_eq!(send(&operator, Method::POST, "/api/commands", command).await.0, 422, "{json}");
    }
    // as deep as may be
    let topic = format!(r#"{{"topic_id":"deep","metadata":{{"x":{}}}}}"#, nested(62));
    assert_eq!(send(&client, Method::POST, "/topics/create", topic).await.0, 200);
    // what says which JSON it is not is told first
    let (_, body) = send(&client, Method::POST, "/topics/create", "[".repeat(1000)).await;
    assert!(body["detail"][0]["msg"].as_str().unwrap().contains("EOF"), "{body}");
    let (status, topics) = get(&client, "/topics").await;
    assert_eq!((status, &topics["count"]), (200, &json!(1)));
    assert_eq!(get(&operator, "/devices").await.0, 200);
}

#[tokio::test]
async fn rows_that_can_not_be_read_are_shown_as_far_as_they_can_and_break_no_list() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (client, device, mut socket) = broker.connected("device").await;
    let asking = posting(&operator, "/api/commands", &json!({ "target": device.uuid, "method": "GET", "url": "/" }));
    let command = next(&mut socket).await;
    let frame = json!({ "type": "progress", "command_id": command["command_id"], "progress": 1 });
    socket.send_text(frame.to_string()).await.unwrap();
    socket.send_text(json!({ "command_id": command["command_id"], "result": 1 }).to_string()).await.unwrap();
    let (_, command) = within(asking).await.unwrap();
    let id = command["id"].as_str().unwrap().to_owned();
    for topic in ["good", "bad"] {
        let body = json!({ "topic_id": topic, "metadata": { "n": 1.50 } });
        assert_eq!(post(&client, "/topics/create", body).await.0, 200);
    }
    for bad in [r#"{"$serde_json::private::RawValue": "[[["}"#.to_owned(), nested(20_000), "nope".to_owned()] {
        broker.execute(&format!("UPDATE topics SET metadata = '{bad}' WHERE id = 'bad'")).await;
        broker.execute(&format!("UPDATE devices SET metadata = '{bad}'")).await;
        broker.execute(&format!("UPDATE command_targets SET result = '{bad}', late_result = '{bad}'")).await;
        broker.execute(&format!("UPDATE commands SET data = '{bad}'")).await;
        broker.execute(&format!("UPDATE command_progress SET progress = '{bad}'")).await;

        let (status, topics) = get(&client, "/topics").await;
        let metadata: Vec<_> = topics["topics"].as_array().unwrap().iter().map(|topic| &topic["metadata"]).collect();
        assert_eq!((status, metadata), (200, vec![&json!({}), &json!({ "n": 1.50 })]));
        assert_eq!(get(&client, "/topics/bad").await.1["metadata"], json!({}));
        let (status, devices) = get(&operator, "/devices").await;
        assert_eq!((status, &devices["devices"][0]["metadata"]), (200, &json!({})));
        assert_eq!(get(&operator, &format!("/devices/{}", device.uuid)).await.1["metadata"], json!({}));
        let (status, commands) = get(&operator, "/api/commands").await;
        let shown = &commands["commands"][0];
        assert_eq!((status, &shown["data"], &shown["targets"][0]["result"]), (200, &json!(bad), &json!(bad)));
        let (_, shown) = get(&operator, &format!("/api/commands/{id}")).await;
        let target = &shown["targets"][0];
        assert_eq!((&target["late_result"], &target["progress"][0]["progress"]), (&json!(bad), &json!(bad)));
        let listed = broker.command(&["commands", "list", "--url", &broker.url.clone()], "");
        assert_eq!(listed.code, Some(0), "{listed:?}");
    }
    // and they can be mended
    let path = format!("/devices/{}", device.uuid);
    let (status, device) = send(&client, Method::PUT, &path, r#"{"metadata":{"a":1}}"#.to_owned()).await;
    assert_eq!((status, &device["metadata"]), (200, &json!({ "a": 1 })));
}

#[tokio::test]
async fn a_frame_that_could_not_be_read_back_is_refused_and_an_answer_fails_its_command() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let (_, other, mut other_socket) = broker.connected("other").await;
    let refused = |json: &str| if json.starts_with('{') { "are reserved" } else { "nested deeper than 64 levels" };
    for json in [nested(64), nested(20_000)].into_iter().chain(reserved()) {
        let message = format!(r#"{{"to":"{}","msgid":"1","content":{json}}}"#, other.uuid);
        socket.send_text(message).await.unwrap();
        let error = next_of_type(&mut socket, "error").await;
        let text = error["message"].as_str().unwrap();
        assert!(text.starts_with("Invalid message format: ") && text.contains(refused(&json)), "{error}");
        assert_eq!(error["msgid"], "1");

        // an answer is never answered, and its command does not wait for another one
        let body = json!({ "method": "GET", "url": "/" });
        let asking = posting(&operator, &format!("/send-command/{}", device.uuid), &body);
        let command = next(&mut socket).await;
        let frame = format!(r#"{{"command_id":{},"result":{json}}}"#, command["command_id"]);
        socket.send_text(frame).await.unwrap();
        let (status, body) = within(asking).await.unwrap();
        let error = body["response"]["error"].as_str().unwrap_or_default();
        assert!(status == 200 && error.contains(refused(&json)), "{body}");

        // as a text it is passed on as it is
        let asking =
            posting(&operator, &format!("/send-command/{}", device.uuid), &json!({ "method": "GET", "url": "/" }));
        let command = next(&mut socket).await;
        let in_a_text = if json.len() > 1000 { json.clone() } else { format!("[{json}]") };
        socket
            .send_text(json!({ "command_id": command["command_id"], "result": in_a_text }).to_string())
            .await
            .unwrap();
        assert_eq!(within(asking).await.unwrap().1["response"], in_a_text);
        socket.send_text(r#"{"type":"ping"}"#).await.unwrap();
        next_of_type(&mut socket, "pong").await;
    }
    let deep = format!(r#"{{"to":"{}","from":"{}","msgid":"2","content":{}}}"#, other.uuid, device.uuid, nested(63));
    socket.send_text(deep.clone()).await.unwrap();
    assert_eq!(within(other_socket.next_text()).await.unwrap(), deep);
    next_of_type(&mut socket, "sent").await;
    // half of a surrogate pair is no text, and a strict reader would read nothing of an answer that has one
    for json in [r#""\ud800""#, r#"{"\udc00":1}"#] {
        let body = json!({ "method": "GET", "url": "/" });
        let asking = posting(&operator, &format!("/send-command/{}", device.uuid), &body);
        let command = next(&mut socket).await;
        let progress = format!(r#"{{"type":"progress","command_id":{},"progress":{json}}}"#, command["command_id"]);
        socket.send_text(progress).await.unwrap();
        next_of_type(&mut socket, "error").await;
        let frame = format!(r#"{{"command_id":{},"result":{json}}}"#, command["command_id"]);
        socket.send_text(frame).await.unwrap();
        let (status, body) = within(asking).await.unwrap();
        let error = body["response"]["error"].as_str().unwrap_or_default();
        assert!(status == 200 && error.contains("surrogate"), "{body}");
    }
    let (status, list) = get(&operator, "/api/commands?limit=100").await;
    assert_eq!((status, list["count"].as_u64()), (200, Some(14)));
    until(async || get(&operator, "/api/commands").await.0 == 200).await;
    no_command_is_left(&operator).await;
}
