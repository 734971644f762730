//! Chat over sockets: the endpoints, their dialects, and who gets what (contract section 7).

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::Connection;

use crate::support::{
    Broker, RawSocket, answer,
    chat::{Person, ask, call, error_text, ids, join, next_event, nothing_happened, send, without_time},
    close_code, everywhere, faults, get, handshake, next, next_of_type, posting, refusal, reply, until, within,
};

/// What somebody sees of a message on a socket that understands all frames.
fn message(author: &Person, room: i64, id: &Value, content: &str) -> Value {
    author.with(json!({ "type": "message", "id": id, "content": content, "room_id": room }))
}

/// What happens to somebody in a room.
fn event(kind: &str, who: &Person, room: i64) -> Value {
    who.with(json!({ "type": kind, "room_id": room }))
}

/// The same, when the first socket has come or the last one gone with it.
fn presence_event(kind: &str, who: &Person, room: i64, presence: &str) -> Value {
    who.with(json!({ "type": kind, "room_id": room, "presence": presence }))
}

async fn present(asker: &Person, room: i64) -> Value {
    asker.get(&format!("/api/rooms/{room}/presence")).await["users"].clone()
}

/// Reads events up to the first of that type, and gives that one.
async fn until_type(socket: &mut Connection, kind: &str) -> Value {
    loop {
        let frame = next(socket).await;
        if frame["type"] == kind {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_chat_socket_is_greeted_with_who_it_is() {
    let broker = Broker::start().await;
    let (anna, device) = (Person::user(&broker, "anna").await, Person::device(&broker, "thermometer").await);
    for person in [&anna, &device] {
        let mut clients = Vec::new();
        let token = person.client.token().unwrap();
        for path in ["/ws/auth".to_owned(), "/ws/auth/".to_owned(), format!("/ws/auth?token={token}")] {
            let client = if path.contains('?') { &broker.client() } else { &person.client };
            let mut socket = within(client.connect(&path)).await.unwrap();
            let mut greeting = next(&mut socket).await;
            let client_id = greeting.as_object_mut().unwrap().remove("client_id").unwrap();
            let client_id: uuid::Uuid = client_id.as_str().unwrap().parse().unwrap();
            assert_eq!(client_id.get_version_num(), 4);
            greeting.as_object_mut().unwrap().remove("uuid");
            let mut who = person.who.clone();
            who.as_object_mut().unwrap().remove("uuid");
            who["type"] = json!("connection_established");
            assert_eq!(greeting, who, "{path}");
            clients.push(client_id);
        }
        clients.dedup();
        assert_eq!(clients.len(), 3, "each socket has an id of its own");
    }
    let mut socket = device.open("/ws/auth").await;
    assert_eq!(next(&mut socket).await["uuid"], device.who["uuid"]);
}

#[tokio::test]
async fn handshakes_into_rooms_are_refused_before_the_upgrade_with_the_reason() {
    let broker = Broker::with().set("LIMITS__ROOMS_PER_USER", "1").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let device = Person::device(&broker, "thermometer").await;
    let (public, hidden) = (anna.room("public").await, bert.private_room("hidden").await);
    let nobody = broker.client();
    let (missing, bad, unknown) = ("Not authenticated", "Could not validate credentials", "Chat room not found");
    let limited = "Too many requests (limits.rooms_per_user)";
    let token = bert.client.token().unwrap();
    let cookie = format!("access_token={token}");
    let evil = ("origin", "http://evil.example");
    let table = [
        (&nobody, format!("/ws/room/{public}"), vec![], 401, missing),
        (&nobody, format!("/ws/room/{public}?token=x"), vec![], 401, bad),
        (&nobody, format!("/ws?chat_id={public}"), vec![], 401, missing),
        (&nobody, format!("/ws?chat_id={public}"), vec![("cookie", "access_token=x")], 401, bad),
        (&nobody, format!("/ws?chat_id={public}"), vec![("cookie", &cookie), evil], 403, "Origin not allowed"),
        (&nobody, format!("/ws/room/{public}"), vec![("cookie", &cookie), evil], 403, "Origin not allowed"),
        (&anna.client, "/ws/room/999999".to_owned(), vec![], 404, unknown),
        (&anna.client, "/ws/room/999999/".to_owned(), vec![], 404, unknown),
        (&anna.client, "/ws/room/-1".to_owned(), vec![], 404, unknown),
        (&anna.client, "/ws/room/0".to_owned(), vec![], 404, unknown),
        (&anna.client, "/ws?chat_id=999999".to_owned(), vec![], 404, unknown),
        (&anna.client, "/ws/?chat_id=999999".to_owned(), vec![], 404, unknown),
        (&device.client, "/ws/room/999999".to_owned(), vec![], 404, unknown),
        // as if it was not there, even for somebody who may join no more rooms
        (&anna.client, format!("/ws/room/{hidden}"), vec![], 404, unknown),
        (&anna.client, format!("/ws?chat_id={hidden}"), vec![], 404, unknown),
        (&bert.client, format!("/ws/room/{public}"), vec![], 429, limited),
        (&bert.client, format!("/ws?chat_id={public}"), vec![], 429, limited),
        (&nobody, format!("/ws?chat_id={public}"), vec![("cookie", &cookie)], 429, limited),
    ];
    for (client, path, headers, status, detail) in table {
        let (found, body) = answer(handshake(client, &path, &headers)).await;
        assert_eq!((found.as_u16(), &body["detail"]), (status, &json!(detail)), "{path} {headers:?}: {body}");
        assert!(body["code"].is_string(), "{body}");
    }
    let (status, body) = answer(handshake(&device.client, &format!("/ws?chat_id={public}"), &[])).await;
    assert_eq!((status.as_u16(), &body["code"]), (403, &json!("forbidden")), "chat_id is for users");
    let response = within(handshake(&bert.client, &format!("/ws/room/{public}"), &[]).send()).await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    for (path, fault) in [
        ("/ws/room/x", "int_parsing path.room_id"),
        ("/ws/room/1.0", "int_parsing path.room_id"),
        ("/ws/room/9223372036854775808", "int_parsing path.room_id"),
        ("/ws/room/-9223372036854775809", "int_parsing path.room_id"),
        ("/ws/room/1?since_id=x", "int_parsing query.since_id"),
        ("/ws/room/1?since_id=9223372036854775808", "int_parsing query.since_id"),
        ("/ws/room/1?since_id=", "int_parsing query.since_id"),
        ("/ws?chat_id=x", "int_parsing query.chat_id"),
        ("/ws?chat_id=9223372036854775808", "int_parsing query.chat_id"),
        ("/ws?chat_id=", "int_parsing query.chat_id"),
    ] {
        let (status, body) = answer(handshake(&anna.client, path, &[])).await;
        assert_eq!(status.as_u16(), 422, "{path}: {body}");
        assert_eq!(faults(&body), [fault], "{path}");
    }
    // nobody has become a member by being refused
    assert_eq!(anna.get(&format!("/api/rooms/{public}/members")).await["count"], 1);
    assert_eq!(bert.get(&format!("/api/rooms/{hidden}/members")).await["count"], 1);
}

#[tokio::test]
async fn a_join_is_answered_then_told_to_all_then_followed_by_what_was_said() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let device = Person::device(&broker, "thermometer").await;
    let room = anna.room("lobby \"1\"").await;
    let mut annas = anna.chat_in(room).await;
    let first = anna.say(room, "first").await;
    assert_eq!(next_event(&mut annas).await, message(&anna, room, &first["id"], "first"));
    for newcomer in [&bert, &device] {
        let mut socket = newcomer.chat().await;
        let joined = ask(&mut socket, json!({ "type": "join_room", "room_id": room })).await;
        assert_eq!(joined, json!({ "type": "room_joined", "room_id": room, "room_name": "lobby \"1\"" }));
        let expected = presence_event("user_joined", newcomer, room, "online");
        assert_eq!(next_event(&mut socket).await, expected);
        assert_eq!(next_event(&mut annas).await, expected);
        let mut history = next(&mut socket).await;
        let said = without_time(history["messages"][0].take(), "timestamp");
        assert_eq!(said, anna.with(json!({ "id": first["id"], "content": "first" })));
        assert_eq!(history, json!({ "type": "message_history", "room_id": room, "messages": [null] }));
        nothing_happened(&mut socket).await;
        nothing_happened(&mut annas).await;
        // another one of the same person, who is there already
        let mut second = newcomer.open(&format!("/ws/room/{room}")).await;
        let history = next_of_type(&mut second, "message_history").await;
        assert_eq!(
            (&history["room_id"], ids(&history["messages"])),
            (&json!(room), vec![first["id"].as_i64().unwrap()])
        );
        for socket in [&mut second, &mut socket, &mut annas] {
            assert_eq!(next_event(socket).await, event("user_joined", newcomer, room));
            nothing_happened(socket).await;
        }
        drop((socket, second));
        let one = next_event(&mut annas).await;
        let other = next_event(&mut annas).await;
        assert_eq!(one, event("user_disconnected", newcomer, room));
        assert_eq!(other, presence_event("user_disconnected", newcomer, room, "offline"));
    }
    // to join is to become a member, by whatever way
    let members = anna.get(&format!("/api/rooms/{room}/members")).await;
    let names: Vec<_> = members["members"].as_array().unwrap().iter().map(|member| &member["username"]).collect();
    assert_eq!(names, ["anna", "bert", "thermometer"]);
}

#[tokio::test]
async fn joining_once_more_on_the_same_socket_is_answered_and_changes_nothing() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    let mut berts = bert.chat_in(room).await;
    next_of_type(&mut annas, "user_joined").await;
    let again = ask(&mut berts, json!({ "type": "join_room", "room_id": room })).await;
    assert_eq!(again["type"], "room_joined");
    for socket in [&mut berts, &mut annas] {
        assert_eq!(next_event(socket).await, event("user_joined", &bert, room));
    }
    next_of_type(&mut berts, "message_history").await;
    let said = anna.say(room, "hi").await;
    // once, not twice
    for socket in [&mut berts, &mut annas] {
        assert_eq!(next_event(socket).await, message(&anna, room, &said["id"], "hi"));
        nothing_happened(socket).await;
    }
    assert_eq!(present(&anna, room).await[1], bert.with(json!({ "sockets": 1 })));
}

#[tokio::test]
async fn all_dialects_and_rest_meet_in_one_room() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let device = Person::device(&broker, "thermometer").await;
    let room = anna.room("lobby").await;
    // bert has two sockets that understand messages alone, so nobody but anna and the device sees who comes
    let mut joined = anna.chat_in(room).await;
    let mut dedicated = device.room_socket(room).await;
    next_of_type(&mut joined, "user_joined").await;
    let (mut plain, mut own_plain) = (bert.plain(room).await, anna.plain(room).await);
    for socket in [&mut joined, &mut dedicated] {
        assert_eq!(next_event(socket).await, presence_event("user_joined", &bert, room, "online"));
        assert_eq!(next_event(socket).await, event("user_joined", &anna, room));
    }
    nothing_happened(&mut plain).await;
    let content = "<b>&amp; \u{7f}\u{2028}\u{feff}😀 \\u0041 \"q\" \t\r\n{}";
    for (way, author) in
        [("rest", &anna), ("joined", &anna), ("own_plain", &anna), ("plain", &bert), ("dedicated", &device)]
    {
        match way {
            "rest" => drop(anna.say(room, content).await),
            // no type means message
            "joined" => send(&mut joined, json!({ "content": content, "room_id": room })).await,
            // the room is implied, whatever is said about it
            "dedicated" => send(&mut dedicated, json!({ "type": "message", "content": content, "room_id": "x" })).await,
            "plain" => send(&mut plain, json!({ "message": content })).await,
            _ => send(&mut own_plain, json!({ "message": content })).await,
        }
        let seen = next(&mut joined).await;
        assert_eq!(without_time(seen.clone(), "timestamp"), message(author, room, &seen["id"], content), "{way}");
        assert_eq!(next(&mut dedicated).await, seen, "{way}");
        let mut expected = json!({
            "message": content, "chat_id": room, "sender_id": author.who["user_id"], "username": author.name,
            "id": seen["id"], "created_at": seen["timestamp"],
        });
        if let Some(uuid) = author.who.get("uuid") {
            expected["uuid"] = uuid.clone();
        }
        for (socket, whose) in [(&mut plain, &bert), (&mut own_plain, &anna)] {
            if whose.name != author.name {
                assert_eq!(next(socket).await, expected, "{way}");
            }
            nothing_happened(socket).await;
        }
        let stored = anna.history(room).await.pop().unwrap();
        let expected = author
            .with(json!({ "content": content, "room_id": room, "id": seen["id"], "created_at": seen["timestamp"] }));
        assert_eq!(stored, expected, "{way}");
        nothing_happened(&mut joined).await;
        nothing_happened(&mut dedicated).await;
    }
    // sockets in one room know nothing of another
    let elsewhere = anna.room("elsewhere").await;
    anna.say(elsewhere, "x").await;
    for socket in [&mut joined, &mut dedicated, &mut plain, &mut own_plain] {
        nothing_happened(socket).await;
    }
}

#[tokio::test]
async fn a_member_may_write_from_a_socket_that_has_not_joined_and_gets_no_copy_there() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    bert.join(room).await;
    let (mut annas, mut berts) = (anna.chat_in(room).await, bert.chat().await);
    send(&mut berts, json!({ "type": "message", "content": "hi", "room_id": room.to_string() })).await;
    let seen = next(&mut annas).await;
    assert_eq!(without_time(seen.clone(), "timestamp"), message(&bert, room, &seen["id"], "hi"));
    nothing_happened(&mut berts).await;
    send(&mut berts, json!({ "type": "typing", "room_id": room })).await;
    assert_eq!(next_event(&mut annas).await, event("user_typing", &bert, room));
    assert_eq!(present(&anna, room).await, json!([anna.with(json!({ "sockets": 1 }))]));
}

#[tokio::test]
async fn every_faulty_frame_on_a_chat_socket_is_answered_with_what_is_wrong() {
    let broker = Broker::with().set("LIMITS__BAD_FRAMES", "0").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let (room, hidden) = (anna.room("lobby").await, anna.private_room("hidden").await);
    let mut socket = bert.chat().await;
    let incomplete = "Missing content or room_id";
    let not_a_member = "You are not a member of this room";
    let integer = |field: &str| format!("Invalid message format: {field}: expected an integer");
    let long = "é".repeat(65);
    let hidden_text = format!("Room {hidden} does not exist");
    let (room_id, since_id, message_id) = (integer("room_id"), integer("since_id"), integer("message_id"));
    let text = "Invalid message format: content: expected a text";
    let nul = "Invalid message format: content: must not contain NUL characters";
    let name = "Invalid message format: client_msg_id: expected a text";
    let table = [
        ("{".to_owned(), "Invalid JSON format"),
        (r#"{"type":"\ud800"}"#.to_owned(), "Unknown message type: \"\\ud800\""),
        ("[]".to_owned(), "Invalid message format: expected a JSON object"),
        ("{}".to_owned(), incomplete),
        (format!(r#"{{"room_id":{room}}}"#), incomplete),
        (r#"{"content":"x"}"#.to_owned(), incomplete),
        (format!(r#"{{"type":"message","content":"","room_id":{room}}}"#), incomplete),
        (format!(r#"{{"type":"message","content":null,"room_id":{room}}}"#), incomplete),
        (r#"{"type":"message","content":"x","room_id":null}"#.to_owned(), incomplete),
        (format!(r#"{{"type":null,"room_id":{room}}}"#), incomplete),
        (format!(r#"{{"content":5,"room_id":{room}}}"#), text),
        (format!(r#"{{"content":["x"],"room_id":{room}}}"#), text),
        (format!(r#"{{"content":{{}},"room_id":{room}}}"#), text),
        (format!(r#"{{"content":true,"room_id":{room}}}"#), text),
        (format!(r#"{{"content":"\ud800","room_id":{room}}}"#), text),
        (format!(r#"{{"content":"\udc00\ud800x","room_id":{room}}}"#), text),
        (format!(r#"{{"content":"a\u0000b","room_id":{room}}}"#), nul),
        (format!(r#"{{"content":"x","room_id":{room},"client_msg_id":5}}"#), name),
        (format!(r#"{{"content":"x","room_id":{room},"client_msg_id":[]}}"#), name),
        (format!(r#"{{"content":"x","room_id":{room},"client_msg_id":"\ud800"}}"#), name),
        (
            format!(r#"{{"content":"x","room_id":{room},"client_msg_id":"{long}"}}"#),
            "Invalid message format: client_msg_id: expected a text of at most 64 characters",
        ),
        (
            format!(r#"{{"content":"x","room_id":{room},"client_msg_id":"\u0000"}}"#),
            "Invalid message format: client_msg_id: must not contain NUL characters",
        ),
        (r#"{"content":"x","room_id":"x"}"#.to_owned(), &room_id),
        (r#"{"content":"x","room_id":""}"#.to_owned(), &room_id),
        (r#"{"content":"x","room_id":1.0}"#.to_owned(), &room_id),
        (r#"{"content":"x","room_id":1e3}"#.to_owned(), &room_id),
        (r#"{"content":"x","room_id":true}"#.to_owned(), &room_id),
        (r#"{"content":"x","room_id":[1]}"#.to_owned(), &room_id),
        (r#"{"content":"x","room_id":9223372036854775808}"#.to_owned(), &room_id),
        (r#"{"content":"x","room_id":"-9223372036854775809"}"#.to_owned(), &room_id),
        (r#"{"type":"join_room","room_id":1E400}"#.to_owned(), &room_id),
        (r#"{"type":"join_room"}"#.to_owned(), "Missing room_id"),
        (r#"{"type":"join_room","room_id":null}"#.to_owned(), "Missing room_id"),
        (r#"{"type":"leave_room"}"#.to_owned(), "Missing room_id"),
        (r#"{"type":"join_room","room_id":999999}"#.to_owned(), "Room 999999 does not exist"),
        (r#"{"type":"join_room","room_id":"999999"}"#.to_owned(), "Room 999999 does not exist"),
        (r#"{"type":"join_room","room_id":-7}"#.to_owned(), "Room -7 does not exist"),
        (r#"{"type":"join_room","room_id":9223372036854775807}"#.to_owned(), "Room 9223372036854775807 does not exist"),
        (format!(r#"{{"type":"join_room","room_id":{hidden}}}"#), &hidden_text),
        (format!(r#"{{"type":"join_room","room_id":{room},"since_id":"x"}}"#), &since_id),
        (format!(r#"{{"type":"join_room","room_id":{room},"since_id":1.5}}"#), &since_id),
        (format!(r#"{{"type":"join_room","room_id":{room},"since_id":{{}}}}"#), &since_id),
        (format!(r#"{{"type":"join_room","room_id":{room},"since_id":9223372036854775808}}"#), &since_id),
        (format!(r#"{{"content":"x","room_id":{room}}}"#), not_a_member),
        (format!(r#"{{"content":"x","room_id":{hidden}}}"#), not_a_member),
        (r#"{"content":"x","room_id":999999}"#.to_owned(), not_a_member),
        (format!(r#"{{"type":"typing","room_id":{room}}}"#), not_a_member),
        (format!(r#"{{"type":"typing","room_id":{hidden}}}"#), not_a_member),
        (r#"{"type":"typing","room_id":999999}"#.to_owned(), not_a_member),
        (r#"{"type":"typing","room_id":[]}"#.to_owned(), &room_id),
        (format!(r#"{{"type":"read","room_id":{room},"message_id":1}}"#), not_a_member),
        (format!(r#"{{"type":"read","room_id":{hidden},"message_id":1}}"#), not_a_member),
        (r#"{"type":"read","room_id":999999,"message_id":1}"#.to_owned(), not_a_member),
        (format!(r#"{{"type":"read","room_id":{room}}}"#), "Missing message_id"),
        (r#"{"type":"read","message_id":1}"#.to_owned(), "Missing room_id"),
        (format!(r#"{{"type":"read","room_id":{room},"message_id":"x"}}"#), &message_id),
        (format!(r#"{{"type":"read","room_id":{room},"message_id":9223372036854775808}}"#), &message_id),
        (r#"{"type":"unheard of"}"#.to_owned(), "Unknown message type: unheard of"),
        (r#"{"type":""}"#.to_owned(), "Unknown message type: "),
        (r#"{"type":5}"#.to_owned(), "Unknown message type: 5"),
        (r#"{"type":"Message","content":"x","room_id":1}"#.to_owned(), "Unknown message type: Message"),
    ];
    for (frame, expected) in &table {
        socket.send_text(frame.clone()).await.unwrap();
        let error = next(&mut socket).await;
        let text = error_text(&error);
        match expected.strip_suffix('…') {
            Some(begin) => assert!(text.starts_with(begin), "{text} to {frame}"),
            None => assert_eq!(text, *expected, "to {frame}"),
        }
        if let Some(named) = serde_json::from_str::<Value>(frame).ok().and_then(|frame| frame["room_id"].as_i64()) {
            assert_eq!(error["room_id"], named, "{frame}: {error}");
        }
    }
    // neither answered: a reply to a command, and typing nowhere
    for frame in [r#"{"result":1,"content":"x"}"#, r#"{"type":"typing"}"#, r#"{"type":"typing","room_id":null}"#] {
        socket.send_text(frame).await.unwrap();
    }
    nothing_happened(&mut socket).await;
    assert_eq!(anna.history(room).await, Vec::<Value>::new());
}

#[tokio::test]
async fn every_faulty_frame_on_a_socket_of_one_room_is_answered_with_what_is_wrong() {
    let broker = Broker::with().set("LIMITS__BAD_FRAMES", "0").start().await;
    let anna = Person::user(&broker, "anna").await;
    let (room, other) = (anna.room("lobby").await, anna.room("other").await);
    let elsewhere = anna.say(other, "x").await["id"].clone();
    let mut dedicated = anna.room_socket(room).await;
    let mut plain = anna.plain(room).await;
    next_of_type(&mut dedicated, "user_joined").await;
    let table = [
        (json!({}), "Missing content"),
        (json!({ "type": "message" }), "Missing content"),
        (json!({ "room_id": room }), "Missing content"),
        (json!({ "type": "message", "message": "", "content": "" }), "Missing content"),
        (json!({ "type": "join_room", "room_id": other }), "Unknown message type: join_room"),
        (json!({ "type": "leave_room", "room_id": room }), "Unknown message type: leave_room"),
        (json!({ "type": "leave_room" }), "Unknown message type: leave_room"),
        (json!({ "type": "whatever" }), "Unknown message type: whatever"),
        (json!({ "type": "read" }), "Missing message_id"),
        (json!({ "type": "read", "message_id": 999_999 }), "Message not found"),
        (json!({ "type": "read", "message_id": elsewhere, "room_id": other }), "Message not found"),
    ];
    for socket in [&mut dedicated, &mut plain] {
        for (frame, expected) in &table {
            let error = ask(socket, frame.clone()).await;
            assert_eq!((error_text(&error), &error["room_id"]), (*expected, &json!(room)), "to {frame}");
        }
        socket.send_text("{").await.unwrap();
        assert_eq!(error_text(&next(socket).await), "Invalid JSON format");
    }
    for (frame, expected) in [
        (json!({ "message": 5 }), "Invalid message format: message: expected a text"),
        (json!({ "message": "a\0b" }), "Invalid message format: message: must not contain NUL characters"),
    ] {
        assert_eq!(error_text(&ask(&mut plain, frame).await), expected);
    }
    assert_eq!(anna.history(room).await, Vec::<Value>::new());
}

#[tokio::test]
async fn too_many_faulty_frames_in_a_row_end_a_chat_socket_and_refusals_do_not() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut socket = bert.chat().await;
    for _ in 0..30 {
        let error = ask(&mut socket, json!({ "content": "x", "room_id": room })).await;
        assert_eq!(error_text(&error), "You are not a member of this room");
    }
    for _ in 0..20 {
        send(&mut socket, json!({ "type": "message" })).await;
    }
    assert_eq!(close_code(&mut socket).await, 4400);
}

#[tokio::test]
async fn a_ping_is_answered_on_every_chat_socket() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    for mut socket in [anna.chat().await, anna.plain(room).await, anna.room_socket(room).await] {
        send(&mut socket, json!({ "type": "ping" })).await;
        let pong = loop {
            let frame = next_event(&mut socket).await;
            if frame["type"] != "user_joined" && frame["type"] != "user_disconnected" {
                break frame;
            }
        };
        assert_eq!(pong, json!({ "type": "pong" }));
    }
}

#[tokio::test]
async fn typing_is_told_to_the_room() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    let mut berts = bert.room_socket(room).await;
    let mut plain = bert.plain(room).await;
    for _ in 0..2 {
        next_of_type(&mut annas, "user_joined").await;
    }
    next_of_type(&mut berts, "user_joined").await;
    // the room is implied on a socket that is for one
    send(&mut berts, json!({ "type": "typing" })).await;
    assert_eq!(next_event(&mut annas).await, event("user_typing", &bert, room));
    assert_eq!(next_event(&mut berts).await, event("user_typing", &bert, room));
    send(&mut plain, json!({ "type": "typing" })).await;
    assert_eq!(next_event(&mut annas).await, event("user_typing", &bert, room));
    send(&mut annas, json!({ "type": "typing" })).await;
    send(&mut annas, json!({ "type": "typing", "room_id": room })).await;
    assert_eq!(next_event(&mut annas).await, event("user_typing", &anna, room));
    nothing_happened(&mut plain).await;
    assert_eq!(anna.history(room).await, Vec::<Value>::new());
}

#[tokio::test]
async fn who_leaves_by_a_socket_leaves_with_all_sockets_and_gets_nothing_more() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let (room, other) = (anna.room("lobby").await, anna.room("other").await);
    let mut annas = anna.chat_in(room).await;
    let (mut leaving, mut joined) = (bert.chat_in(room).await, bert.chat_in(room).await);
    next_of_type(&mut leaving, "user_joined").await;
    join(&mut leaving, other).await;
    let mut dedicated = bert.room_socket(room).await;
    let mut plain = bert.plain(room).await;
    for _ in 0..4 {
        next_of_type(&mut annas, "user_joined").await;
    }
    for _ in 0..2 {
        next_of_type(&mut leaving, "user_joined").await;
        next_of_type(&mut joined, "user_joined").await;
    }
    let left = json!({ "type": "room_left", "room_id": room });
    assert_eq!(ask(&mut leaving, json!({ "type": "leave_room", "room_id": room })).await, left);
    assert_eq!(next(&mut joined).await, left);
    assert_eq!(next_event(&mut annas).await, presence_event("user_left", &bert, room, "offline"));
    anna.say(room, "he is gone").await;
    assert_eq!(next(&mut annas).await["content"], "he is gone");
    for socket in [&mut leaving, &mut joined] {
        nothing_happened(socket).await;
    }
    assert_eq!(close_code(&mut dedicated).await, 4403);
    assert_eq!(close_code(&mut plain).await, 4403);
    // nor may he do anything there any more
    for frame in [
        json!({ "content": "x", "room_id": room }),
        json!({ "type": "typing", "room_id": room }),
        json!({ "type": "read", "room_id": room, "message_id": 1 }),
    ] {
        assert_eq!(error_text(&ask(&mut leaving, frame).await), "You are not a member of this room");
    }
    // what he is in besides goes on
    anna.say(other, "still there").await;
    assert_eq!(next(&mut leaving).await["content"], "still there");
    drop((dedicated, plain, leaving, joined));
    // the sockets were out before they went
    nothing_happened(&mut annas).await;
    assert_eq!(anna.get(&format!("/api/rooms/{room}/members")).await["count"], 1);
}

#[tokio::test]
async fn a_member_may_leave_by_a_socket_that_was_never_in_the_room() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    bert.join(room).await;
    assert_eq!(next_event(&mut annas).await, event("user_joined", &bert, room));
    let mut berts = bert.chat().await;
    let left = ask(&mut berts, json!({ "type": "leave_room", "room_id": room })).await;
    assert_eq!(left, json!({ "type": "room_left", "room_id": room }));
    assert_eq!(next_event(&mut annas).await, event("user_left", &bert, room));
    nothing_happened(&mut berts).await;
}

#[tokio::test]
async fn leaving_over_rest_takes_all_sockets_out_at_once() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    let mut joined = bert.chat_in(room).await;
    let mut plain = bert.plain(room).await;
    let mut dedicated = bert.room_socket(room).await;
    for _ in 0..3 {
        next_of_type(&mut annas, "user_joined").await;
    }
    bert.leave(room).await;
    anna.say(room, "he is gone").await;
    assert_eq!(next_event(&mut annas).await, presence_event("user_left", &bert, room, "offline"));
    assert_eq!(next(&mut annas).await["content"], "he is gone");
    for _ in 0..2 {
        next_of_type(&mut joined, "user_joined").await;
    }
    assert_eq!(next(&mut joined).await, json!({ "type": "room_left", "room_id": room }));
    nothing_happened(&mut joined).await;
    for socket in [&mut plain, &mut dedicated] {
        assert_eq!(close_code(socket).await, 4403);
    }
    assert_eq!(present(&anna, room).await.as_array().unwrap().len(), 1);
    // the same socket may come back
    join(&mut joined, room).await;
    assert_eq!(next_event(&mut annas).await, presence_event("user_joined", &bert, room, "online"));
}

#[tokio::test]
async fn a_removed_member_is_told_so_and_gets_nothing_more() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.private_room("lobby").await;
    anna.post(&format!("/api/rooms/{room}/members"), json!({ "user_id": bert.id() })).await;
    let mut annas = anna.chat_in(room).await;
    let mut joined = bert.chat_in(room).await;
    let mut dedicated = bert.room_socket(room).await;
    for _ in 0..2 {
        next_of_type(&mut annas, "user_joined").await;
    }
    next_of_type(&mut joined, "user_joined").await;
    let path = format!("/api/rooms/{room}/members/{}", bert.id());
    assert_eq!(anna.done(Method::DELETE, &path, None).await, json!({ "message": "Member removed" }));
    anna.say(room, "he is gone").await;
    assert_eq!(next_event(&mut annas).await, presence_event("user_left", &bert, room, "offline"));
    assert_eq!(next(&mut annas).await["content"], "he is gone");
    assert_eq!(next(&mut joined).await, json!({ "type": "room_left", "room_id": room, "reason": "removed" }));
    nothing_happened(&mut joined).await;
    assert_eq!(close_code(&mut dedicated).await, 4403);
    // the room is not there any more for him
    let (none, not_a_member) = (format!("Room {room} does not exist"), "You are not a member of this room");
    for (frame, text) in [
        (json!({ "content": "x", "room_id": room }), not_a_member),
        (json!({ "type": "typing", "room_id": room }), not_a_member),
        (json!({ "type": "read", "room_id": room, "message_id": 1 }), not_a_member),
        (json!({ "type": "join_room", "room_id": room }), &none),
    ] {
        assert_eq!(error_text(&ask(&mut joined, frame.clone()).await), text, "{frame}");
    }
    // nor was he ever in it, as far as others can tell
    let left = ask(&mut joined, json!({ "type": "leave_room", "room_id": room })).await;
    assert_eq!(left, json!({ "type": "room_left", "room_id": room }));
    nothing_happened(&mut annas).await;
    assert_eq!(bert.call(Method::GET, &format!("/api/rooms/{room}"), None).await.0, 404);
}

#[tokio::test]
async fn messages_of_a_member_who_is_being_removed_are_refused_from_then_on() {
    let broker = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    let mut berts = bert.chat_in(room).await;
    next_of_type(&mut annas, "user_joined").await;
    // he never stops writing while he is removed
    let path = format!("/api/rooms/{room}/members/{}", bert.id());
    let writing = tokio::spawn(async move {
        let mut after_leaving = Vec::new();
        let mut left = false;
        for n in 0.. {
            send(&mut berts, json!({ "content": n.to_string(), "room_id": room })).await;
            let frame = next(&mut berts).await;
            match frame["type"].as_str().unwrap() {
                "room_left" => left = true,
                _ if left => after_leaving.push(frame),
                _ => {}
            }
            if after_leaving.len() > 20 {
                break;
            }
        }
        after_leaving
    });
    for _ in 0..20 {
        next_of_type(&mut annas, "message").await;
    }
    anna.done(Method::DELETE, &path, None).await;
    let after_leaving = within(writing).await.unwrap();
    assert!(after_leaving.iter().all(|frame| error_text(frame) == "You are not a member of this room"));
    loop {
        let frame = next(&mut annas).await;
        if frame["type"] == "user_left" {
            break;
        }
    }
    nothing_happened(&mut annas).await;
}

#[tokio::test]
async fn presence_is_told_when_the_first_socket_comes_and_the_last_one_goes() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    assert_eq!(present(&anna, room).await, json!([anna.with(json!({ "sockets": 1 }))]));
    let first = bert.plain(room).await;
    assert_eq!(next_event(&mut annas).await, presence_event("user_joined", &bert, room, "online"));
    let second = bert.room_socket(room).await;
    assert_eq!(next_event(&mut annas).await, event("user_joined", &bert, room));
    let body = anna.get(&format!("/api/rooms/{room}/presence")).await;
    let users = json!([anna.with(json!({ "sockets": 1 })), bert.with(json!({ "sockets": 2 }))]);
    assert_eq!(body, json!({ "room_id": room, "count": 2, "users": users, "total": 2 }));
    first.close().await.unwrap();
    assert_eq!(next_event(&mut annas).await, event("user_disconnected", &bert, room));
    // without a word
    drop(second);
    assert_eq!(next_event(&mut annas).await, presence_event("user_disconnected", &bert, room, "offline"));
    assert_eq!(present(&anna, room).await, json!([anna.with(json!({ "sockets": 1 }))]));
    // a member he still is
    assert_eq!(anna.get(&format!("/api/rooms/{room}/members")).await["count"], 2);
}

#[tokio::test]
async fn a_socket_that_goes_is_missed_in_all_its_rooms() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let (one, other) = (anna.room("one").await, anna.room("other").await);
    let (mut in_one, mut in_other) = (anna.room_socket(one).await, anna.room_socket(other).await);
    let mut berts = bert.chat_in(one).await;
    join(&mut berts, other).await;
    for socket in [&mut in_one, &mut in_other] {
        next_of_type(socket, "user_joined").await;
    }
    drop(berts);
    assert_eq!(next_event(&mut in_one).await, presence_event("user_disconnected", &bert, one, "offline"));
    assert_eq!(next_event(&mut in_other).await, presence_event("user_disconnected", &bert, other, "offline"));
}

#[tokio::test]
async fn connections_count_the_sockets_of_each_room_but_not_of_private_ones() {
    let broker = Broker::with().alone("/connections is per node").start().await;
    let anna = Person::user(&broker, "anna").await;
    let (room, other, hidden) = (anna.room("a").await, anna.room("b").await, anna.private_room("c").await);
    let mut chat = anna.chat_in(room).await;
    join(&mut chat, hidden).await;
    let _plain = anna.plain(room).await;
    let _other = anna.room_socket(other).await;
    let _hidden = anna.room_socket(hidden).await;
    for path in ["/connections", "/api/connections", "/connections/"] {
        let (status, counts) = get(&broker.client(), path).await;
        assert_eq!(status, 200);
        assert_eq!(counts["connections_by_room"], json!({ room.to_string(): 2, other.to_string(): 1 }));
        assert_eq!((&counts["total_connections"], &counts["active_connections"]), (&json!(4), &json!(4)));
    }
    drop(chat);
    until(async || {
        let (_, counts) = get(&broker.client(), "/connections").await;
        counts["connections_by_room"] == json!({ room.to_string(): 1, other.to_string(): 1 })
    })
    .await;
}

#[tokio::test]
async fn a_public_socket_that_authenticates_is_a_chat_socket() {
    let broker = Broker::start().await;
    let (anna, device) = (Person::user(&broker, "anna").await, Person::device(&broker, "thermometer").await);
    let room = anna.room("lobby").await;
    for person in [&anna, &device] {
        let mut socket = within(broker.client().connect("/ws")).await.unwrap();
        // nobody may do anything in rooms
        let text = json!({ "type": "join_room", "room_id": room }).to_string();
        socket.send_text(text.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await, json!({ "type": "echo", "content": format!("Received: {text}") }));
        // what follows at once counts as from somebody
        send(&mut socket, json!({ "type": "auth", "token": person.client.token() })).await;
        send(&mut socket, json!({ "type": "join_room", "room_id": room })).await;
        send(&mut socket, json!({ "content": "hi", "room_id": room })).await;
        let greeting = next_of_type(&mut socket, "connection_established").await;
        assert_eq!(person.with(greeting.clone()), greeting);
        next_of_type(&mut socket, "room_joined").await;
        assert_eq!(next_event(&mut socket).await, presence_event("user_joined", person, room, "online"));
        next_of_type(&mut socket, "message_history").await;
        let seen = next_event(&mut socket).await;
        assert_eq!(seen, message(person, room, &seen["id"], "hi"));
        drop(socket);
        let mut annas = anna.chat().await;
        send(&mut annas, json!({ "type": "join_room", "room_id": room })).await;
        until_type(&mut annas, "message_history").await;
        until(async || present(&anna, room).await.as_array().unwrap().iter().all(|who| who["username"] == "anna"))
            .await;
    }
    let mut socket = within(broker.client().connect("/ws")).await.unwrap();
    send(&mut socket, json!({ "type": "auth", "token": "x" })).await;
    error_text(&next(&mut socket).await);
    assert_eq!(close_code(&mut socket).await, 4401);
}

#[tokio::test]
async fn a_room_is_entered_with_a_cookie_too() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    let token = bert.client.token().unwrap();
    for (path, cookie) in [
        (format!("/ws?chat_id={room}"), format!("access_token={token}")),
        (format!("/ws/?chat_id={room}"), format!("access_token=\"Bearer {token}\"")),
        (format!("/ws?chat_id={room}&token={token}"), "a=b".to_owned()),
        (format!("/ws/room/{room}"), format!("access_token={token}")),
        (format!("/ws/room/{room}/?token={token}"), "a=b".to_owned()),
    ] {
        let mut socket = RawSocket::connect(&broker).await;
        let head = socket.handshake(&path, &format!("Cookie: {cookie}\r\nOrigin: {}\r\n", broker.url)).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{path}: {head}");
        assert_eq!(next_event(&mut annas).await, presence_event("user_joined", &bert, room, "online"), "{path}");
        if path.contains("/room/") {
            assert_eq!(socket.next().await.unwrap().json()["type"], "message_history");
            assert_eq!(socket.next().await.unwrap().json()["type"], "user_joined");
        }
        anna.say(room, &path).await;
        next_of_type(&mut annas, "message").await;
        let seen = socket.next().await.unwrap().json();
        let content = if path.contains("chat_id") { &seen["message"] } else { &seen["content"] };
        assert_eq!(content, &json!(path));
        drop(socket);
        assert_eq!(next_event(&mut annas).await, presence_event("user_disconnected", &bert, room, "offline"));
    }
}

#[tokio::test]
async fn a_message_sent_again_under_its_name_is_the_message_that_is_there() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let (room, other) = (anna.room("lobby").await, anna.room("other").await);
    let mut annas = anna.chat_in(room).await;
    let mut berts = bert.chat_in(room).await;
    let mut plain = bert.plain(room).await;
    for _ in 0..2 {
        next_of_type(&mut annas, "user_joined").await;
    }
    next_of_type(&mut berts, "user_joined").await;
    let mut stored: Vec<Value> = Vec::new();
    for name in ["1", "", "é".repeat(64).as_str(), "\"\\\u{1}\n", "A", "a", "a ", "e\u{301}", "é"] {
        let frame = json!({ "content": "first", "room_id": room, "client_msg_id": name });
        let seen = ask(&mut annas, frame).await;
        let mut expected = message(&anna, room, &seen["id"], "first");
        expected["client_msg_id"] = json!(name);
        assert_eq!(without_time(seen.clone(), "timestamp"), expected);
        assert!(stored.iter().all(|before| before["id"] != seen["id"]), "{name:?} is a name of its own");
        assert_eq!(next(&mut berts).await, seen);
        let plainly = next(&mut plain).await;
        assert_eq!((&plainly["id"], &plainly["client_msg_id"]), (&seen["id"], &json!(name)));
        // by another socket, over REST, with another content: it is still the first one
        let again = ask(&mut annas, json!({ "content": "second", "room_id": room, "client_msg_id": name })).await;
        assert_eq!(again, seen);
        let body = json!({ "content": "third", "room_id": room, "client_msg_id": name });
        let again = anna.post(&format!("/api/rooms/{room}/messages"), body.clone()).await;
        let mut expected =
            json!({ "content": "first", "room_id": room, "id": seen["id"], "created_at": seen["timestamp"] });
        expected["client_msg_id"] = json!(name);
        assert_eq!(again, anna.with(expected));
        for socket in [&mut annas, &mut berts, &mut plain] {
            nothing_happened(socket).await;
        }
        // elsewhere, or somebody else's, it is another one
        let elsewhere = anna.post(&format!("/api/rooms/{other}/messages"), body.clone()).await;
        let berts_own = bert.post(&format!("/api/rooms/{room}/messages"), body).await;
        assert_eq!((&elsewhere["content"], &berts_own["content"]), (&json!("third"), &json!("third")));
        next_of_type(&mut annas, "message").await;
        next_of_type(&mut berts, "message").await;
        stored.push(seen);
    }
    // a socket that understands messages alone gets its answer in its own words
    let body = json!({ "message": "x", "client_msg_id": "1" });
    let again = ask(&mut plain, body).await;
    assert_eq!((&again["message"], &again["sender_id"]), (&json!("third"), &bert.who["user_id"]));
    // null is none
    for _ in 0..2 {
        send(&mut annas, json!({ "content": "x", "room_id": room, "client_msg_id": null })).await;
        let seen = next_of_type(&mut annas, "message").await;
        assert!(seen.get("client_msg_id").is_none(), "{seen}");
    }
    let of_anna = anna.history(room).await.into_iter().filter(|message| message["username"] == "anna").count();
    assert_eq!(of_anna, stored.len() + 2);
}

#[tokio::test]
async fn a_message_sent_many_times_at_once_is_stored_and_told_once() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut watcher = bert.room_socket(room).await;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(anna.chat().await);
    }
    for round in 0..10 {
        let name = format!("round {round}");
        let body = json!({ "content": "x", "room_id": room, "client_msg_id": name });
        for _ in 0..3 {
            for socket in &mut sockets {
                send(socket, body.clone()).await;
            }
        }
        let path = format!("/api/rooms/{room}/messages");
        let posting: Vec<_> = (0..8).map(|_| posting(&anna.client, &path, &body)).collect();
        let seen = next_of_type(&mut watcher, "message").await;
        for posted in posting {
            let (status, message) = within(posted).await.unwrap();
            assert_eq!((status, &message["id"]), (200, &seen["id"]), "{message}");
        }
        // a socket that is not in the room is answered when the message is there already
        let mut answers = 0;
        for socket in &mut sockets {
            send(socket, json!({ "type": "read", "room_id": 0, "message_id": 0 })).await;
            loop {
                let frame = next(socket).await;
                if frame["type"] == "error" {
                    break;
                }
                assert_eq!(frame["id"], seen["id"]);
                answers += 1;
            }
        }
        assert!(matches!(answers, 11 | 12), "{answers}");
        nothing_happened(&mut watcher).await;
    }
    assert_eq!(anna.history(room).await.len(), 10);
}

#[tokio::test]
async fn whoever_joins_gets_the_last_fifty_messages_and_whoever_comes_back_all_that_it_missed() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let other = anna.room("other").await;
    let mut said = Vec::new();
    for n in 0..60 {
        said.push(anna.say(room, &n.to_string()).await["id"].as_i64().unwrap());
        anna.say(other, "x").await;
    }
    let mut socket = anna.chat().await;
    let mut history = join(&mut socket, room).await;
    assert_eq!((ids(&history["messages"]), history.get("truncated")), (said[10..].to_vec(), None));
    let mut dedicated = anna.open(&format!("/ws/room/{room}")).await;
    history = next_of_type(&mut dedicated, "message_history").await;
    assert_eq!((ids(&history["messages"]), history.get("truncated")), (said[10..].to_vec(), None));
    for (since, expected) in [(said[3], &said[4..]), (said[59], &[]), (0, &said[..]), (-1, &said[..]), (i64::MAX, &[])]
    {
        let join = json!({ "type": "join_room", "room_id": room, "since_id": since });
        send(&mut socket, join).await;
        history = until_type(&mut socket, "message_history").await;
        assert_eq!((ids(&history["messages"]), history.get("truncated")), (expected.to_vec(), None), "{since}");
        let mut dedicated = anna.open(&format!("/ws/room/{room}?since_id={since}")).await;
        history = next_of_type(&mut dedicated, "message_history").await;
        assert_eq!((ids(&history["messages"]), history.get("truncated")), (expected.to_vec(), None), "{since}");
    }
    // null is none; digits in a text are a number
    send(&mut socket, json!({ "type": "join_room", "room_id": room, "since_id": null })).await;
    assert_eq!(ids(&until_type(&mut socket, "message_history").await["messages"]), said[10..]);
    send(&mut socket, json!({ "type": "join_room", "room_id": room, "since_id": said[50].to_string() })).await;
    assert_eq!(ids(&until_type(&mut socket, "message_history").await["messages"]), said[51..]);
}

#[tokio::test]
async fn more_than_a_thousand_missed_messages_are_truncated_and_the_rest_can_be_asked_for() {
    let broker = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let mut writer = anna.chat_in(room).await;
    let mut all = Vec::new();
    for n in 0..1001 {
        send(&mut writer, json!({ "content": n.to_string(), "room_id": room })).await;
    }
    for n in 0..1001 {
        let seen = next_of_type(&mut writer, "message").await;
        assert_eq!(seen["content"], n.to_string());
        all.push(seen["id"].as_i64().unwrap());
    }
    for (since, expected, truncated) in [(0, &all[..1000], Some(&Value::Bool(true))), (all[0], &all[1..], None)] {
        let mut socket = anna.open(&format!("/ws/room/{room}?since_id={since}")).await;
        let history = next_of_type(&mut socket, "message_history").await;
        assert!(ids(&history["messages"]) == expected, "since {since}");
        assert_eq!(history.get("truncated"), truncated, "since {since}");
        let mut socket = anna.chat().await;
        send(&mut socket, json!({ "type": "join_room", "room_id": room, "since_id": since })).await;
        let history = until_type(&mut socket, "message_history").await;
        assert!(ids(&history["messages"]) == expected, "since {since}");
        assert_eq!(history.get("truncated"), truncated, "since {since}");
    }
    assert!(anna.history(room).await.iter().map(|message| message["id"].as_i64().unwrap()).eq(all));
}

#[tokio::test]
async fn long_messages_make_nobody_a_slow_consumer_by_joining() {
    let broker = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let long = "x".repeat(32 * 1024);
    let mut all = Vec::new();
    for _ in 0..60 {
        all.push(anna.say(room, &long).await["id"].as_i64().unwrap());
    }
    for path in [format!("/ws/room/{room}"), format!("/ws/room/{room}?since_id=0")] {
        let mut socket = anna.open(&path).await;
        let history = next_of_type(&mut socket, "message_history").await;
        assert_eq!(history["truncated"], true);
        let got = ids(&history["messages"]);
        assert!(got.len() > 5, "{}", got.len());
        // the newest, or what comes after `since_id`: nothing is left out between
        let expected = if path.contains("since_id") { &all[..got.len()] } else { &all[60 - got.len()..] };
        assert_eq!(got, expected);
        next_of_type(&mut socket, "user_joined").await;
        nothing_happened(&mut socket).await;
    }
    // whoever goes on from where it was truncated gets all of it
    let mut socket = anna.chat().await;
    let mut got: Vec<i64> = Vec::new();
    loop {
        let since = got.last().copied().unwrap_or(0);
        send(&mut socket, json!({ "type": "join_room", "room_id": room, "since_id": since })).await;
        let history = until_type(&mut socket, "message_history").await;
        got.extend(ids(&history["messages"]));
        if history.get("truncated").is_none() {
            break;
        }
    }
    assert_eq!(got, all);
    assert_eq!(ids(&json!(anna.history(room).await)), all);
}

#[tokio::test]
async fn who_comes_and_goes_while_others_write_misses_nothing_and_gets_nothing_twice() {
    // sockets that have just gone may still count
    let broker = Broker::with().set("LIMITS__CONNECTIONS_PER_IDENTITY", "0").start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    const WRITERS: usize = 4;
    const MESSAGES: usize = 150;
    let mut writing = Vec::new();
    for writer in 0..WRITERS {
        let person = Person::user(&broker, &format!("writer{writer}")).await;
        let mut socket = person.chat().await;
        send(&mut socket, json!({ "type": "join_room", "room_id": room })).await;
        until_type(&mut socket, "message_history").await;
        writing.push(tokio::spawn(async move {
            for n in 0..MESSAGES {
                if writer % 2 == 0 {
                    send(&mut socket, json!({ "content": format!("{writer} {n}"), "room_id": room })).await;
                    while until_type(&mut socket, "message").await["username"] != person.name {}
                } else {
                    person.say(room, &format!("{writer} {n}")).await;
                }
            }
            socket
        }));
    }
    // one comes by `/ws/auth`, the other by the room's own socket
    let mut coming = Vec::new();
    for dedicated in [false, true] {
        let person = Person::user(&broker, &format!("comer{dedicated}")).await;
        coming.push(tokio::spawn(async move {
            let (mut got, mut rounds, mut ended): (Vec<i64>, _, _) = (Vec::new(), 0, false);
            while !ended {
                let since = got.last().copied().unwrap_or(0);
                let mut socket = if dedicated {
                    person.open(&format!("/ws/room/{room}?since_id={since}")).await
                } else {
                    let mut socket = person.chat().await;
                    send(&mut socket, json!({ "type": "join_room", "room_id": room, "since_id": since })).await;
                    socket
                };
                // a few more each time, so that it goes at all sorts of moments
                let mut stays = rounds % 7;
                while stays >= 0 && !ended {
                    let frame = next(&mut socket).await;
                    let seen = match frame["type"].as_str().unwrap() {
                        "message_history" => frame["messages"].as_array().unwrap().clone(),
                        "message" => vec![frame],
                        _ => continue,
                    };
                    stays -= 1;
                    ended = seen.iter().any(|message| message["content"] == "the end");
                    got.extend(ids(&json!(seen)));
                }
                rounds += 1;
            }
            (got, rounds)
        }));
    }
    let mut writers = Vec::new();
    for writer in writing {
        writers.push(within(writer).await.unwrap());
    }
    anna.say(room, "the end").await;
    let all = ids(&json!(anna.history(room).await));
    assert_eq!(all.len(), WRITERS * MESSAGES + 1);
    assert!(all.is_sorted());
    for comer in coming {
        let (got, rounds) = within(comer).await.unwrap();
        assert!(rounds > 1 && got == all, "in {rounds} rounds: {got:?}\n{all:?}");
    }
}

#[tokio::test]
async fn a_message_may_have_as_many_bytes_as_the_limit_says_and_no_more() {
    let broker = Broker::with().set("LIMITS__MESSAGE_BYTES", "10").start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let mut socket = anna.chat_in(room).await;
    let mut plain = anna.plain(room).await;
    next_of_type(&mut socket, "user_joined").await;
    for (content, fits) in [
        ("0123456789", true),
        ("0123456789a", false),
        ("ééééé", true),
        ("éééééx", false),
        ("😀😀xx", true),
        ("😀😀😀", false),
    ] {
        for (way, name) in [(&mut socket, "content"), (&mut plain, "message")] {
            send(way, json!({ name: content, "room_id": room })).await;
            if !fits {
                let error = next(way).await;
                assert_eq!(error_text(&error), format!("Message {name} over 10 bytes (limits.message_bytes)"));
                assert_eq!((&error["code"], &error["room_id"]), (&json!("message_too_large"), &json!(room)));
            }
        }
        let (status, body) = anna
            .call(
                Method::POST,
                &format!("/api/rooms/{room}/messages"),
                Some(json!({ "content": content, "room_id": 0 })),
            )
            .await;
        if fits {
            assert_eq!((status, &body["content"]), (200, &json!(content)));
            for _ in 0..3 {
                assert_eq!(next_of_type(&mut socket, "message").await["content"], content);
            }
        } else {
            assert_eq!((status, faults(&body)), (422, vec!["string_too_long body.content".to_owned()]));
            assert!(body["detail"][0]["msg"].as_str().unwrap().contains("limits.message_bytes"), "{body}");
        }
        nothing_happened(&mut socket).await;
    }
    // 32 KiB unless something else is said
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let mut socket = anna.chat_in(room).await;
    let content = "é".repeat(16 * 1024);
    let seen = ask(&mut socket, json!({ "content": content, "room_id": room })).await;
    assert!(seen["content"] == content, "{}", seen["type"]);
    let refused = ask(&mut socket, json!({ "content": content + "x", "room_id": room })).await;
    assert_eq!(error_text(&refused), "Message content over 32768 bytes (limits.message_bytes)");
}

#[tokio::test]
async fn a_client_is_in_as_many_rooms_as_the_limit_says_and_no_more() {
    let broker = Broker::with().set("LIMITS__ROOMS_PER_USER", "2").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let (one, two) = (anna.room("one").await, anna.room("two").await);
    let three = bert.room("three").await;
    let limited = "Too many requests (limits.rooms_per_user)";
    for (path, body) in [
        ("/api/rooms".to_owned(), json!({ "name": "four" })),
        ("/api/rooms".to_owned(), json!({ "name": "four", "private": true })),
        (format!("/api/rooms/{three}/join"), json!({})),
    ] {
        let (status, body) = anna.call(Method::POST, &path, Some(body)).await;
        assert_eq!((status, &body["detail"]), (429, &json!(limited)), "{path}");
    }
    let mut socket = anna.chat().await;
    let error = ask(&mut socket, json!({ "type": "join_room", "room_id": three })).await;
    assert_eq!((error_text(&error), &error["room_id"]), (limited, &json!(three)));
    // where she is already she may come again, and for a room that she leaves another one is free
    join(&mut socket, one).await;
    anna.join(two).await;
    anna.leave(two).await;
    send(&mut socket, json!({ "type": "join_room", "room_id": three })).await;
    next_of_type(&mut socket, "room_joined").await;
    let names: Vec<_> =
        anna.get("/api/rooms/").await.as_array().unwrap().iter().map(|room| room["name"].clone()).collect();
    assert_eq!(names, ["one", "two", "three"]);
}

#[tokio::test]
async fn edits_deletions_and_read_marks_are_told_to_the_room() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    let mut berts = bert.room_socket(room).await;
    let mut plain = bert.plain(room).await;
    for _ in 0..2 {
        next_of_type(&mut annas, "user_joined").await;
    }
    next_of_type(&mut berts, "user_joined").await;
    let said = anna.say(room, "first").await;
    let other = anna.say(room, "second").await;
    for socket in [&mut annas, &mut berts] {
        for _ in 0..2 {
            next_of_type(socket, "message").await;
        }
    }
    for _ in 0..2 {
        next(&mut plain).await;
    }
    let path = format!("/api/rooms/{room}/messages/{}", said["id"]);
    let edited = anna.done(Method::PATCH, &path, Some(json!({ "content": "better" }))).await;
    assert_eq!((&edited["content"], &edited["created_at"]), (&json!("better"), &said["created_at"]));
    for socket in [&mut annas, &mut berts] {
        let mut expected = message(&anna, room, &said["id"], "better");
        expected["type"] = json!("message_edited");
        expected["edited_at"] = edited["edited_at"].clone();
        assert_eq!(next_event(socket).await, expected);
    }
    send(&mut annas, json!({ "type": "read", "room_id": room, "message_id": said["id"] })).await;
    send(&mut plain, json!({ "type": "read", "message_id": other["id"].to_string() })).await;
    // not further back, and not twice
    send(&mut plain, json!({ "type": "read", "message_id": said["id"] })).await;
    send(&mut berts, json!({ "type": "read", "message_id": other["id"] })).await;
    for socket in [&mut annas, &mut berts] {
        let mut seen = [next_event(socket).await, next_event(socket).await];
        seen.sort_by_key(|frame| frame["message_id"].as_i64());
        let read =
            |who: &Person, id: &Value| who.with(json!({ "type": "user_read", "room_id": room, "message_id": id }));
        assert_eq!(seen, [read(&anna, &said["id"]), read(&bert, &other["id"])]);
    }
    assert_eq!(anna.done(Method::DELETE, &path, None).await, json!({ "message": "Message deleted" }));
    anna.done(Method::DELETE, &path, None).await;
    for socket in [&mut annas, &mut berts] {
        let frame = next(socket).await;
        let deleted_at = frame["deleted_at"].clone();
        let mut expected = message(&anna, room, &said["id"], "");
        expected["type"] = json!("message_deleted");
        expected["edited_at"] = edited["edited_at"].clone();
        expected["deleted_at"] = deleted_at;
        assert_eq!(without_time(frame, "timestamp"), expected);
        nothing_happened(socket).await;
    }
    nothing_happened(&mut plain).await;
    // it keeps its place
    let mut socket = anna.open(&format!("/ws/room/{room}")).await;
    let history = next_of_type(&mut socket, "message_history").await;
    assert_eq!(ids(&history["messages"]), ids(&json!([said, other])));
    assert_eq!(history["messages"][0]["content"], "");
    without_time(history["messages"][0].clone(), "deleted_at");
}

#[tokio::test]
async fn a_private_room_is_not_there_for_those_who_are_not_in_it() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let device = Person::device(&broker, "thermometer").await;
    let room = anna.private_room("hidden").await;
    let mut annas = anna.chat_in(room).await;
    let said = anna.say(room, "secret").await["id"].clone();
    next_of_type(&mut annas, "message").await;
    let text = format!("Room {room} does not exist");
    for stranger in [&bert, &device] {
        let mut socket = stranger.chat().await;
        for frame in [
            json!({ "type": "join_room", "room_id": room }),
            json!({ "type": "join_room", "room_id": room, "since_id": 0 }),
            json!({ "type": "leave_room", "room_id": room }),
            json!({ "content": "x", "room_id": room }),
            json!({ "content": "x", "room_id": room, "client_msg_id": "x" }),
            json!({ "type": "typing", "room_id": room }),
            json!({ "type": "read", "room_id": room, "message_id": said }),
        ] {
            let error = ask(&mut socket, frame.clone()).await;
            let mut expected = ask(&mut socket, {
                let mut frame = frame.clone();
                frame["room_id"] = json!(999_999);
                frame
            })
            .await;
            // in every word as if there was none
            if frame["type"] == "join_room" {
                assert_eq!(error_text(&error), text);
                expected["message"] = json!(text);
                expected["content"] = json!(text);
            }
            expected["room_id"] = json!(room);
            if error["type"] == "error" {
                expected["timestamp"] = error["timestamp"].clone();
            }
            assert_eq!(error, expected, "{frame}");
        }
    }
    nothing_happened(&mut annas).await;
    // invited, they may come by any way
    anna.post(&format!("/api/rooms/{room}/members"), json!({ "user_id": bert.id() })).await;
    anna.post(&format!("/api/rooms/{room}/members"), json!({ "uuid": device.who["uuid"] })).await;
    for newcomer in [&bert, &device] {
        assert_eq!(next_event(&mut annas).await, event("user_joined", newcomer, room));
    }
    for newcomer in [&bert, &device] {
        let mut socket = newcomer.chat().await;
        assert_eq!(join(&mut socket, room).await["messages"][0]["content"], "secret");
        let dedicated = newcomer.room_socket(room).await;
        for _ in 0..2 {
            next_of_type(&mut annas, "user_joined").await;
        }
        drop((socket, dedicated));
        for _ in 0..2 {
            next_of_type(&mut annas, "user_disconnected").await;
        }
    }
}

#[tokio::test]
async fn a_client_that_may_no_more_is_closed_and_leaves_its_rooms() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let watcher = Person::user(&broker, "watcher").await;
    let room = watcher.room("lobby").await;
    let mut watching = watcher.chat_in(room).await;
    for (name, way, code) in [("anna", "disabled", 4403), ("bert", "revoked", 4401), ("carl", "logged out", 4401)] {
        let person = Person::user(&broker, name).await;
        let mut sockets = [person.chat_in(room).await, person.room_socket(room).await, person.plain(room).await];
        for _ in 0..3 {
            next_of_type(&mut watching, "user_joined").await;
        }
        let (method, path, body) = match way {
            "disabled" => (Method::PATCH, format!("/api/users/{}", person.id()), json!({ "is_active": false })),
            "revoked" => (Method::POST, "/admin/tokens/revoke".to_owned(), json!({ "token": person.client.token() })),
            _ => (Method::POST, "/auth/logout".to_owned(), json!({})),
        };
        let client = if way == "logged out" { &person.client } else { &admin };
        assert_eq!(call(client, method, &path, Some(body)).await.0, 200);
        for socket in &mut sockets {
            assert_eq!(close_code(socket).await, code, "{way}");
        }
        let mut last = Value::Null;
        for _ in 0..3 {
            last = next_event(&mut watching).await;
            assert_eq!((&last["type"], &last["username"]), (&json!("user_disconnected"), &json!(name)), "{way}");
        }
        assert_eq!(last, presence_event("user_disconnected", &person, room, "offline"), "{way}");
        nothing_happened(&mut watching).await;
        assert_eq!(present(&watcher, room).await, json!([watcher.with(json!({ "sockets": 1 }))]));
        let (status, _) = person.call(Method::GET, &format!("/api/rooms/{room}/messages"), None).await;
        assert_eq!(status, if way == "disabled" { 400 } else { 401 });
    }
}

#[tokio::test]
async fn a_command_can_go_to_the_members_of_a_room() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    let owner = Person::user(&broker, "anna").await;
    let (room, hidden) = (owner.room("lobby").await, owner.private_room("hidden").await);
    let (member, outsider) = (Person::device(&broker, "member").await, Person::device(&broker, "outsider").await);
    member.join(room).await;
    owner.post(&format!("/api/rooms/{hidden}/members"), json!({ "uuid": outsider.who["uuid"] })).await;
    let (mut members, mut outsiders) = (member.open("/ws").await, outsider.open("/ws").await);
    for socket in [&mut members, &mut outsiders] {
        next_of_type(socket, "connection").await;
    }
    let command = |room: Value| json!({ "select": { "room": room }, "method": "GET", "url": "/x" });
    let asking = posting(&operator, "/api/commands", &command(json!(room)));
    reply(&mut members, json!("here")).await;
    let (status, body) = within(asking).await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["targets"].as_array().unwrap().len(), 1, "{body}");
    // of private rooms that she is not in, and of none, she learns the same
    for room in [hidden, 999_999] {
        let (status, body) = call(&operator, Method::POST, "/api/commands", Some(command(json!(room)))).await;
        assert_eq!((status, &body["detail"]), (404, &json!("No matching clients")), "{body}");
    }
    for room in [json!("x"), json!(1.5), json!([]), json!(u64::MAX)] {
        let (status, body) = call(&operator, Method::POST, "/api/commands", Some(command(room))).await;
        assert_eq!(status, 422, "{body}");
    }
}

#[tokio::test]
async fn a_socket_that_closes_while_it_joins_is_not_left_in_the_room() {
    // those before may still be on their way
    let broker = Broker::with().set("LIMITS__CONNECTIONS_PER_IDENTITY", "0").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    for _ in 0..20 {
        // gone before the answer
        let mut socket = bert.chat().await;
        send(&mut socket, json!({ "type": "join_room", "room_id": room })).await;
        drop(socket);
        let token = bert.client.token().unwrap();
        let mut socket = RawSocket::connect(&broker).await;
        let request = format!(
            "GET /ws/room/{room}?token={token} HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        socket.send(request.as_bytes()).await;
        drop(socket);
        bert.call(Method::POST, &format!("/api/rooms/{room}/leave"), None).await;
    }
    everywhere(async || present(&anna, room).await == json!([])).await;
    everywhere(async || get(&broker.client(), "/connections").await.1["total_connections"] == 0).await;
    let mut annas = anna.chat_in(room).await;
    anna.say(room, "x").await;
    next_of_type(&mut annas, "message").await;
    assert_eq!(get(&broker.client(), "/connections").await.1["connections_by_room"], json!({ room.to_string(): 1 }));
}

#[tokio::test]
async fn one_person_cannot_open_more_room_sockets_than_the_limit_and_frees_them_by_leaving() {
    let broker = Broker::with().set("LIMITS__CONNECTIONS_PER_IDENTITY", "3").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut sockets = [bert.plain(room).await, bert.room_socket(room).await, bert.plain(room).await];
    for path in [format!("/ws/room/{room}"), format!("/ws?chat_id={room}"), "/ws/auth".to_owned()] {
        let (status, code, _) = refusal(within(bert.client.connect(&path)).await);
        assert_eq!((status, code.as_str()), (429, "too_many_requests"), "{path}");
    }
    assert_eq!(present(&anna, room).await, json!([bert.with(json!({ "sockets": 3 }))]));
    bert.leave(room).await;
    for socket in &mut sockets {
        assert_eq!(close_code(socket).await, 4403);
    }
    until(async || get(&broker.client(), "/connections").await.1["total_connections"] == 0).await;
    let _socket = bert.room_socket(room).await;
}

#[tokio::test]
async fn what_is_asked_on_one_socket_happens_in_that_order() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut berts = bert.chat().await;
    // all at once, without waiting for answers
    for n in 0..5 {
        for frame in [
            json!({ "type": "join_room", "room_id": room }),
            json!({ "content": n.to_string(), "room_id": room }),
            json!({ "type": "leave_room", "room_id": room }),
            json!({ "content": "too late", "room_id": room }),
        ] {
            send(&mut berts, frame).await;
        }
    }
    for n in 0..5 {
        next_of_type(&mut berts, "room_joined").await;
        assert_eq!(next_event(&mut berts).await, presence_event("user_joined", &bert, room, "online"));
        let history = next_of_type(&mut berts, "message_history").await;
        assert_eq!(history["messages"].as_array().unwrap().len(), n);
        assert_eq!(next_of_type(&mut berts, "message").await["content"], n.to_string());
        next_of_type(&mut berts, "room_left").await;
        assert_eq!(error_text(&next(&mut berts).await), "You are not a member of this room");
    }
    nothing_happened(&mut berts).await;
    assert_eq!(anna.history(room).await.len(), 5);
}

#[tokio::test]
async fn who_is_let_in_again_gets_messages_when_the_socket_joins_again() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.private_room("lobby").await;
    let members = format!("/api/rooms/{room}/members");
    anna.post(&members, json!({ "user_id": bert.id() })).await;
    let mut berts = bert.chat_in(room).await;
    let uuid = bert.get("/api/users/me").await["uuid"].as_str().unwrap().to_owned();
    anna.done(Method::DELETE, &format!("{members}/{uuid}"), None).await;
    next_of_type(&mut berts, "room_left").await;
    anna.say(room, "while he was away").await;
    anna.post(&members, json!({ "uuid": uuid })).await;
    anna.say(room, "before he joined").await;
    nothing_happened(&mut berts).await;
    let history = join(&mut berts, room).await;
    assert_eq!(history["messages"].as_array().unwrap().len(), 2);
    anna.say(room, "now").await;
    assert_eq!(next(&mut berts).await["content"], "now");
}

#[tokio::test]
async fn a_member_who_reads_nothing_is_closed_and_holds_nobody_up() {
    let broker =
        Broker::with().set("LIMITS__FRAMES_PER_SECOND", "0").set("LIMITS__STORED_BYTES_PER_MINUTE", "0").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    let mut stalled = RawSocket::connect_narrow(&broker).await;
    let path = format!("/ws/room/{room}?token={}", bert.client.token().unwrap());
    assert!(stalled.handshake(&path, "").await.starts_with("HTTP/1.1 101"));
    next_of_type(&mut annas, "user_joined").await;
    // far more than the kernel and the outbox take for somebody who reads nothing
    const SENT: usize = 600;
    let content = "x".repeat(32 * 1024);
    let (mut told, mut gone) = (0, None);
    for _ in 0..SENT {
        send(&mut annas, json!({ "content": content, "room_id": room })).await;
        let mut frame = next(&mut annas).await;
        if frame["type"] == "user_disconnected" {
            gone = Some(frame);
            frame = next(&mut annas).await;
        }
        assert_eq!(frame["type"], "message");
        told += 1;
    }
    let gone = match gone {
        Some(frame) => frame,
        None => next(&mut annas).await,
    };
    let expected = presence_event("user_disconnected", &bert, room, "offline");
    assert_eq!(without_time(gone, "timestamp"), expected);
    assert_eq!((told, anna.history(room).await.len()), (SENT, SENT));
}

#[tokio::test]
async fn a_message_sent_again_comes_back_as_it_is_now_and_to_members_alone() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    bert.join(room).await;
    let path = format!("/api/rooms/{room}/messages");
    let body = json!({ "content": "first", "room_id": room, "client_msg_id": "1" });
    let said = bert.post(&path, body.clone()).await;
    let message = format!("{path}/{}", said["id"]);
    let edited = bert.done(Method::PATCH, &message, Some(json!({ "content": "better" }))).await;
    assert_eq!(bert.post(&path, body.clone()).await, edited);
    bert.done(Method::DELETE, &message, None).await;
    let again = bert.post(&path, body.clone()).await;
    assert_eq!((&again["id"], &again["content"]), (&said["id"], &json!("")));
    assert!(again["deleted_at"].is_string());
    bert.leave(room).await;
    let (status, refused) = bert.call(Method::POST, &path, Some(body.clone())).await;
    assert_eq!((status, &refused["detail"]), (403, &json!("You are not a member of this room")));
    let mut socket = bert.chat().await;
    assert_eq!(error_text(&ask(&mut socket, body).await), "You are not a member of this room");
}

#[tokio::test]
async fn whoever_comes_back_to_many_rooms_at_once_is_no_slow_consumer() {
    let setup = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "0").set("LIMITS__STORED_BYTES_PER_MINUTE", "0");
    let broker = setup.set("LIMITS__SEND_TIMEOUT_SECS", "120").start().await;
    let anna = Person::user(&broker, "anna").await;
    let long = "x".repeat(32 * 1024);
    let mut rooms = Vec::new();
    for n in 0..30 {
        let room = anna.room(&n.to_string()).await;
        for _ in 0..14 {
            anna.say(room, &long).await;
        }
        rooms.push(room);
    }
    // over a connection that takes little at a time
    let mut socket = RawSocket::connect_narrow(&broker).await;
    let head = socket.handshake(&format!("/ws/auth?token={}", anna.client.token().unwrap()), "").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    for room in &rooms {
        let frame = json!({ "type": "join_room", "room_id": room, "since_id": 0 });
        socket.send_frame(0x81, frame.to_string().as_bytes()).await;
    }
    for room in &rooms {
        let history = loop {
            let frame = socket.next().await.expect("all histories");
            assert_eq!(frame.close_code(), None);
            if frame.json()["type"] == "message_history" {
                break frame.json();
            }
        };
        assert_eq!((&history["room_id"], ids(&history["messages"]).len() > 5), (&json!(room), true));
    }
}

#[tokio::test]
async fn typing_right_after_joining_is_told_to_the_room() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    let mut berts = bert.chat().await;
    for _ in 0..10 {
        for kind in ["join_room", "typing", "leave_room"] {
            send(&mut berts, json!({ "type": kind, "room_id": room })).await;
        }
        for kind in ["user_joined", "user_typing", "user_left"] {
            assert_eq!(next(&mut annas).await["type"], kind);
        }
    }
}

#[tokio::test]
async fn a_refused_handshake_into_a_room_changes_nothing_for_the_client() {
    let broker = Broker::start().await;
    let (sender, _, mut sending) = broker.connected("sender").await;
    sender.create_topic("t").await.unwrap();
    sender.subscribe("t").await.unwrap();
    let (device, _) = broker.device("subscriber").await;
    // waits for its first socket
    device.subscribe("t").await.unwrap();
    assert_eq!(refusal(within(device.connect("/ws/room/999999")).await).0, 404);
    let mut socket = within(device.connect("/ws")).await.unwrap();
    next_of_type(&mut socket, "connection").await;
    sending.publish("t", "x").await.unwrap();
    assert_eq!(next_of_type(&mut sending, "topic_sent").await["message"], "Message sent to 1 subscribers");
    assert_eq!(next(&mut socket).await["content"], "x");
}
