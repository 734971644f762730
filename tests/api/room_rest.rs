//! Rooms over REST: create, list, members and roles, messages, read marks (contract section 7).

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Broker, answer,
    chat::{Person, call, ids, next_event, nothing_happened, send, without_time},
    faults, next_of_type, posting, within,
};

const NOT_A_MEMBER: &str = "You are not a member of this room";

/// The status and `detail` of an answer that says no, which must have the shape of one.
async fn refused(person: &Person, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
    let (status, body) = person.call(method, path, body).await;
    let code = body["code"].as_str().unwrap_or_else(|| panic!("{path}: {body}"));
    assert!(!code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{body}");
    (status, body["detail"].as_str().unwrap_or_else(|| panic!("{path}: {body}")).to_owned())
}

/// Username and role of each member, those who came first before the others.
async fn roles(asker: &Person, room: i64) -> Vec<(String, String)> {
    let body = asker.get(&format!("/api/rooms/{room}/members")).await;
    let text = |member: &Value, field: &str| member[field].as_str().unwrap().to_owned();
    let members = body["members"].as_array().unwrap();
    assert_eq!(body["count"], members.len());
    members.iter().map(|member| (text(member, "username"), text(member, "role"))).collect()
}

async fn unread(person: &Person, room: i64) -> Value {
    let list = person.get("/api/rooms/?limit=1000").await;
    let in_list = list.as_array().unwrap().iter().find(|one| one["id"] == room).unwrap()["unread_count"].clone();
    assert_eq!(person.get(&format!("/api/rooms/{room}")).await["unread_count"], in_list);
    in_list
}

#[tokio::test]
async fn a_created_room_is_there_for_everyone_and_its_creator_is_in_it() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let device = Person::device(&broker, "thermometer").await;
    let long = "é".repeat(100);
    let table = [
        (&anna, "/api/rooms/", json!({ "name": "a", "description": "what it is for" })),
        (&anna, "/api/rooms", json!({ "name": " b ", "description": null })),
        (&device, "/rooms/", json!({ "name": long, "private": null })),
        (&bert, "/rooms", json!({ "name": "<b>\u{1}\"\\", "description": "", "private": false, "unknown": 1 })),
    ];
    let mut rooms = Vec::new();
    for (creator, path, body) in table {
        let created = creator.post(path, body.clone()).await;
        let id = created["id"].as_i64().unwrap();
        let mut expected = json!({ "name": body["name"], "description": body.get("description"), "id": id });
        expected
            .as_object_mut()
            .unwrap()
            .extend(json!({ "private": false, "role": "owner", "unread_count": 0 }).as_object().unwrap().clone());
        assert_eq!(without_time(created.clone(), "created_at"), expected, "{path}");
        for path in [format!("/api/rooms/{id}"), format!("/api/rooms/{id}/")] {
            assert_eq!(creator.get(&path).await, created);
        }
        let stranger = if creator.name == "bert" { &anna } else { &bert };
        let seen = stranger.get(&format!("/api/rooms/{id}")).await;
        assert_eq!((&seen["name"], &seen["role"], &seen["unread_count"]), (&body["name"], &Value::Null, &Value::Null));
        assert_eq!(roles(creator, id).await, [(creator.name.clone(), "owner".to_owned())]);
        rooms.push(id);
    }
    assert_eq!(ids(&anna.get("/api/rooms/").await), rooms);
    for (skip, limit, expected) in [
        (0, 2, &rooms[..2]),
        (1, 2, &rooms[1..3]),
        (3, 100, &rooms[3..]),
        (4, 1, &[]),
        (i64::MAX, 1000, &[]),
        (0, 0, &[]),
    ] {
        let list = anna.get(&format!("/api/rooms/?skip={skip}&limit={limit}")).await;
        assert_eq!(ids(&list), expected, "skip {skip} limit {limit}");
        assert_eq!(ids(&anna.get(&format!("/api/rooms?limit={limit}&skip={skip}")).await), expected);
    }
    // a public name is there once; whoever fails is not told more
    for path in ["/api/rooms/", "/rooms/"] {
        let refused = refused(&bert, Method::POST, path, Some(json!({ "name": "a" }))).await;
        assert_eq!(refused, (400, "Room name already exists".to_owned()));
    }
    for name in ["A", "a ", " a", "á", "a\u{301}"] {
        bert.room(name).await;
    }
}

#[tokio::test]
async fn a_hundred_rooms_are_listed_unless_more_is_asked_for() {
    let broker = Broker::with().set("LIMITS__ROOMS_PER_USER", "0").start().await;
    let anna = Person::user(&broker, "anna").await;
    let mut rooms = Vec::new();
    for n in 0..105 {
        rooms.push(anna.room(&n.to_string()).await);
    }
    assert_eq!(ids(&anna.get("/api/rooms/").await), rooms[..100]);
    assert_eq!(ids(&anna.get("/api/rooms/?skip=100").await), rooms[100..]);
    assert_eq!(ids(&anna.get("/api/rooms/?limit=1000").await), rooms);
}

#[tokio::test]
async fn one_of_many_who_create_a_room_at_once_has_it() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    for round in 0..5 {
        let body = json!({ "name": format!("room {round}") });
        let creating: Vec<_> = (0..10).map(|_| posting(&anna.client, "/api/rooms/", &body)).collect();
        let mut created = 0;
        for one in creating {
            match within(one).await.unwrap() {
                (200, _) => created += 1,
                (status, body) => {
                    assert_eq!((status, &body["detail"]), (400, &json!("Room name already exists")));
                }
            }
        }
        assert_eq!(created, 1);
    }
    assert_eq!(anna.get("/api/rooms/").await.as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn every_route_of_rooms_needs_credentials() {
    let broker = Broker::start().await;
    let room = Person::user(&broker, "anna").await.room("lobby").await;
    for (method, path) in [
        (Method::POST, "/rooms/".to_owned()),
        (Method::POST, "/api/rooms/".to_owned()),
        (Method::GET, "/api/rooms/".to_owned()),
        (Method::GET, format!("/api/rooms/{room}")),
        (Method::POST, format!("/api/rooms/{room}/join")),
        (Method::POST, format!("/api/rooms/{room}/leave")),
        (Method::POST, format!("/api/rooms/{room}/read")),
        (Method::GET, format!("/api/rooms/{room}/presence")),
        (Method::GET, format!("/api/rooms/{room}/messages")),
        (Method::POST, format!("/api/rooms/{room}/messages")),
        (Method::PATCH, format!("/api/rooms/{room}/messages/1")),
        (Method::DELETE, format!("/api/rooms/{room}/messages/1")),
        (Method::GET, format!("/api/rooms/{room}/members")),
        (Method::POST, format!("/api/rooms/{room}/members")),
        (Method::PATCH, format!("/api/rooms/{room}/members/1")),
        (Method::DELETE, format!("/api/rooms/{room}/members/1")),
    ] {
        let nobody = broker.client();
        for (client, detail) in
            [(nobody.clone(), "Not authenticated"), (nobody.with_token("x"), "Could not validate credentials")]
        {
            let request =
                client.request(method.clone(), &path).json(&json!({ "name": "x", "content": "x", "room_id": 1 }));
            let response = within(request.send()).await.unwrap();
            assert_eq!(response.status(), 401, "{method} {path}");
            assert_eq!(response.headers()["www-authenticate"], "Bearer", "{method} {path}");
            let body: Value = response.json().await.unwrap();
            assert_eq!(body["detail"], detail, "{method} {path}");
        }
    }
    let (status, _) = answer(broker.client().request(Method::PUT, "/api/rooms/")).await;
    assert_eq!(status, 405);
    let response = within(broker.client().request(Method::GET, "/rooms/").send()).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["allow"]), (405, &"POST".parse().unwrap()));
}

#[tokio::test]
async fn rooms_that_are_not_there_and_ids_that_are_none_are_told_apart() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let message = Some(json!({ "content": "x", "room_id": room }));
    let member = Some(json!({ "user_id": anna.id(), "role": "member" }));
    let routes = [
        (Method::GET, "", None),
        (Method::POST, "/join", None),
        (Method::POST, "/leave", None),
        (Method::POST, "/read", Some(json!({ "message_id": 1 }))),
        (Method::GET, "/presence", None),
        (Method::GET, "/messages", None),
        (Method::POST, "/messages", message),
        (Method::PATCH, "/messages/1", Some(json!({ "content": "x" }))),
        (Method::DELETE, "/messages/1", None),
        (Method::GET, "/members", None),
        (Method::POST, "/members", member),
        (Method::PATCH, "/members/1", Some(json!({ "role": "member" }))),
        (Method::DELETE, "/members/1", None),
    ];
    for (method, rest, body) in routes {
        for id in ["999999", "0", "-1", "9223372036854775807", "-9223372036854775808"] {
            for slash in ["", "/"] {
                let path = format!("/api/rooms/{id}{rest}{slash}");
                let refused = refused(&anna, method.clone(), &path, body.clone()).await;
                assert_eq!(refused, (404, "Chat room not found".to_owned()), "{method} {path}");
            }
        }
        for id in [
            "x",
            "1.0",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999",
            "%00",
            "1%20",
            "%D9%A1",
        ] {
            let path = format!("/api/rooms/{id}{rest}");
            let (status, body) = anna.call(method.clone(), &path, body.clone()).await;
            assert_eq!(status, 422, "{method} {path}: {body}");
            assert_eq!(faults(&body), ["int_parsing path.room_id"], "{method} {path}");
        }
    }
    for method in [Method::PATCH, Method::DELETE] {
        let body = Some(json!({ "content": "x" }));
        for id in ["999999", "0", "-1", "9223372036854775807"] {
            let path = format!("/api/rooms/{room}/messages/{id}");
            let refused = refused(&anna, method.clone(), &path, body.clone()).await;
            assert_eq!(refused, (404, "Message not found".to_owned()), "{method} {path}");
        }
        for id in ["x", "9223372036854775808"] {
            let (status, body) =
                anna.call(method.clone(), &format!("/api/rooms/{room}/messages/{id}"), body.clone()).await;
            assert_eq!((status, faults(&body)), (422, vec!["int_parsing path.message_id".to_owned()]));
        }
        let body = Some(json!({ "role": "member" }));
        for (id, detail) in [
            ("999999", "Member not found"),
            ("-1", "Member not found"),
            ("00000000-0000-4000-8000-000000000000", "Member not found"),
        ] {
            let path = format!("/api/rooms/{room}/members/{id}");
            let refused = refused(&anna, method.clone(), &path, body.clone()).await;
            assert_eq!(refused, (404, detail.to_owned()), "{method} {path}");
        }
        for id in ["x", "9223372036854775808", "%00"] {
            let (status, body) =
                anna.call(method.clone(), &format!("/api/rooms/{room}/members/{id}"), body.clone()).await;
            assert_eq!((status, faults(&body)), (422, vec!["value_error path.user_id".to_owned()]), "{id}");
        }
    }
}

#[tokio::test]
async fn every_fault_in_a_body_or_query_is_told_by_its_field() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let said = anna.say(room, "x").await["id"].as_i64().unwrap();
    let rooms = "/api/rooms/".to_owned();
    let (messages, members) = (format!("/api/rooms/{room}/messages"), format!("/api/rooms/{room}/members"));
    let (message, member) = (format!("{messages}/{said}"), format!("{members}/{}", anna.id()));
    let read = format!("/api/rooms/{room}/read");
    let long_name = format!(r#"{{"name":"{}"}}"#, "é".repeat(101));
    let long_description = format!(r#"{{"name":"x","description":"{}"}}"#, "é".repeat(4097));
    let long_content = format!(r#"{{"content":"{}x","room_id":1}}"#, "é".repeat(16 * 1024));
    let long_msg_id = format!(r#"{{"content":"x","room_id":1,"client_msg_id":"{}"}}"#, "é".repeat(65));
    let long_role = format!(r#"{{"user_id":1,"role":"{}"}}"#, "é".repeat(21));
    let deep = format!(r#"{{"name":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    let both = ["missing body.content", "missing body.room_id"];
    let table: Vec<(Method, &String, &str, Vec<&str>)> = vec![
        (Method::POST, &rooms, "{}", vec!["missing body.name"]),
        (Method::POST, &rooms, r#"{"name":null}"#, vec!["string_type body.name"]),
        (Method::POST, &rooms, r#"{"name":5}"#, vec!["string_type body.name"]),
        (Method::POST, &rooms, r#"{"name":["x"]}"#, vec!["string_type body.name"]),
        (Method::POST, &rooms, &deep, vec!["json_invalid body.0"]),
        (Method::POST, &rooms, r#"{"name":""}"#, vec!["string_too_short body.name"]),
        (Method::POST, &rooms, r#"{"name":" \t\u3000"}"#, vec!["value_error body.name"]),
        (Method::POST, &rooms, r#"{"name":"a\u0000b"}"#, vec!["value_error body.name"]),
        (Method::POST, &rooms, &long_name, vec!["string_too_long body.name"]),
        (Method::POST, &rooms, r#"{"name":"x","description":5}"#, vec!["string_type body.description"]),
        (Method::POST, &rooms, r#"{"name":"x","description":"\u0000"}"#, vec!["value_error body.description"]),
        (Method::POST, &rooms, &long_description, vec!["string_too_long body.description"]),
        (Method::POST, &rooms, r#"{"name":"x","private":"yes"}"#, vec!["bool_type body.private"]),
        (Method::POST, &rooms, r#"{"name":"x","private":1}"#, vec!["bool_type body.private"]),
        (
            Method::POST,
            &rooms,
            r#"{"name":1,"description":1,"private":1}"#,
            vec!["string_type body.name", "string_type body.description", "bool_type body.private"],
        ),
        (Method::POST, &rooms, "[]", vec!["model_attributes_type body"]),
        (Method::POST, &rooms, "null", vec!["model_attributes_type body"]),
        (Method::POST, &rooms, "", vec!["missing body"]),
        (Method::POST, &messages, "{}", both.to_vec()),
        (Method::POST, &messages, r#"{"content":"x"}"#, vec!["missing body.room_id"]),
        (Method::POST, &messages, r#"{"content":"x","room_id":null}"#, vec!["int_parsing body.room_id"]),
        (Method::POST, &messages, r#"{"content":"x","room_id":"x"}"#, vec!["int_parsing body.room_id"]),
        (Method::POST, &messages, r#"{"content":"x","room_id":1.5}"#, vec!["int_parsing body.room_id"]),
        (Method::POST, &messages, r#"{"content":"x","room_id":true}"#, vec!["int_parsing body.room_id"]),
        (Method::POST, &messages, r#"{"content":"x","room_id":[]}"#, vec!["int_parsing body.room_id"]),
        (Method::POST, &messages, r#"{"content":"x","room_id":9223372036854775808}"#, vec!["int_parsing body.room_id"]),
        (Method::POST, &messages, r#"{"content":"x","room_id":1E400}"#, vec!["int_parsing body.room_id"]),
        (Method::POST, &messages, r#"{"content":"","room_id":1}"#, vec!["string_too_short body.content"]),
        (Method::POST, &messages, r#"{"content":null,"room_id":1}"#, vec!["string_type body.content"]),
        (Method::POST, &messages, r#"{"content":5,"room_id":1}"#, vec!["string_type body.content"]),
        (Method::POST, &messages, r#"{"content":"\u0000","room_id":1}"#, vec!["value_error body.content"]),
        (Method::POST, &messages, &long_content, vec!["string_too_long body.content"]),
        (Method::POST, &messages, &long_msg_id, vec!["string_too_long body.client_msg_id"]),
        (
            Method::POST,
            &messages,
            r#"{"content":"x","room_id":1,"client_msg_id":5}"#,
            vec!["string_type body.client_msg_id"],
        ),
        (
            Method::POST,
            &messages,
            r#"{"content":"x","room_id":1,"client_msg_id":"\u0000"}"#,
            vec!["value_error body.client_msg_id"],
        ),
        (Method::PATCH, &message, "{}", vec!["missing body.content"]),
        (Method::PATCH, &message, r#"{"content":""}"#, vec!["string_too_short body.content"]),
        (Method::PATCH, &message, r#"{"content":"\u0000"}"#, vec!["value_error body.content"]),
        (Method::PATCH, &message, &long_content, vec!["string_too_long body.content"]),
        (Method::POST, &read, "{}", vec!["missing body.message_id"]),
        (Method::POST, &read, r#"{"message_id":"x"}"#, vec!["int_parsing body.message_id"]),
        (Method::POST, &read, r#"{"message_id":9223372036854775808}"#, vec!["int_parsing body.message_id"]),
        (Method::POST, &members, "{}", vec!["value_error body"]),
        (Method::POST, &members, r#"{"user_id":null,"uuid":null}"#, vec!["value_error body"]),
        (
            Method::POST,
            &members,
            r#"{"user_id":1,"uuid":"00000000-0000-4000-8000-000000000000"}"#,
            vec!["value_error body"],
        ),
        (Method::POST, &members, r#"{"user_id":"x"}"#, vec!["int_parsing body.user_id"]),
        (Method::POST, &members, r#"{"user_id":9223372036854775808}"#, vec!["int_parsing body.user_id"]),
        (Method::POST, &members, r#"{"uuid":"x"}"#, vec!["uuid_parsing body.uuid"]),
        (Method::POST, &members, r#"{"uuid":5}"#, vec!["uuid_parsing body.uuid"]),
        (Method::POST, &members, r#"{"user_id":1,"role":"owner"}"#, vec!["value_error body.role"]),
        (Method::POST, &members, r#"{"user_id":1,"role":"Member"}"#, vec!["value_error body.role"]),
        (Method::POST, &members, r#"{"user_id":1,"role":5}"#, vec!["string_type body.role"]),
        (Method::PATCH, &member, "{}", vec!["missing body.role"]),
        (Method::PATCH, &member, r#"{"role":null}"#, vec!["missing body.role"]),
        (Method::PATCH, &member, r#"{"role":"owner"}"#, vec!["value_error body.role"]),
        (Method::POST, &members, &long_role, vec!["string_too_long body.role"]),
        (Method::PATCH, &member, r#"{"role":"owner of the whole room"}"#, vec!["string_too_long body.role"]),
    ];
    for (method, path, text, expected) in table {
        let request = anna.client.request(method.clone(), path).header("content-type", "application/json");
        let (status, body) = answer(request.body(text.to_owned())).await;
        let about = format!("{method} {path} {}", text.chars().take(80).collect::<String>());
        assert_eq!(status.as_u16(), 422, "{about}: {body}");
        assert_eq!(faults(&body), expected, "{about}");
    }
    // half a character is no JSON
    for text in [r#"{"content":"\ud800","room_id":1}"#, r#"{"content":"x","room_id":1"#, r#"{"content":"x",}"#] {
        let request = anna.client.request(Method::POST, &messages).header("content-type", "application/json");
        let (status, body) = answer(request.body(text)).await;
        assert_eq!((status.as_u16(), &body["detail"][0]["type"]), (422, &json!("json_invalid")), "{text}: {body}");
    }
    let request = anna.client.request(Method::POST, &rooms).header("content-type", "text/plain").body("{}");
    assert_eq!(answer(request).await.0, 415);
    for (path, expected) in [
        ("/api/rooms/?skip=x", vec!["int_parsing query.skip"]),
        ("/api/rooms/?skip=-1", vec!["greater_than_equal query.skip"]),
        ("/api/rooms/?limit=-1&skip=1.0", vec!["int_parsing query.skip", "greater_than_equal query.limit"]),
        ("/api/rooms/?limit=1001", vec!["less_than_equal query.limit"]),
        ("/api/rooms/?limit=9223372036854775807", vec!["less_than_equal query.limit"]),
        ("/api/rooms/?skip=9223372036854775808", vec!["int_parsing query.skip"]),
    ] {
        let (status, body) = anna.call(Method::GET, path, None).await;
        assert_eq!((status, faults(&body)), (422, expected.iter().map(|&fault| fault.to_owned()).collect()), "{path}");
    }
    for (query, expected) in [
        ("limit=1001", "less_than_equal query.limit"),
        ("limit=x", "int_parsing query.limit"),
        ("skip=-1", "greater_than_equal query.skip"),
        ("skip=9223372036854775808", "int_parsing query.skip"),
        ("before_id=x", "int_parsing query.before_id"),
        ("before_id=9223372036854775808", "int_parsing query.before_id"),
        ("after_id=", "int_parsing query.after_id"),
        ("after_id=1&before_id=1", "value_error query"),
        ("after_id=1&skip=1", "value_error query"),
        ("before_id=1&skip=0", "value_error query"),
    ] {
        let (status, body) = anna.call(Method::GET, &format!("{messages}?{query}"), None).await;
        assert_eq!((status, faults(&body)), (422, vec![expected.to_owned()]), "{query}");
    }
    assert_eq!(anna.history(room).await.len(), 1, "nothing of all that has been stored");
    assert_eq!(anna.get("/api/rooms/").await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_room_is_joined_and_left_over_rest_and_its_sockets_hear_of_it() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let device = Person::device(&broker, "thermometer").await;
    let room = anna.room("lobby").await;
    let mut annas = anna.chat_in(room).await;
    for (newcomer, slash) in [(&bert, ""), (&device, "/")] {
        let (join, leave) = (format!("/api/rooms/{room}/join{slash}"), format!("/api/rooms/{room}/leave{slash}"));
        let refusal = refused(newcomer, Method::POST, &leave, None).await;
        assert_eq!(refusal, (400, NOT_A_MEMBER.to_owned()));
        let answer = newcomer.done(Method::POST, &join, None).await;
        assert_eq!(answer, json!({ "message": "Successfully joined the room" }));
        let expected = newcomer.with(json!({ "type": "user_joined", "room_id": room }));
        assert_eq!(next_event(&mut annas).await, expected);
        // a body is not looked at
        let answer = newcomer.post(&join, json!({ "x": 1 })).await;
        assert_eq!(answer, json!({ "message": "Already a member of this room" }));
        assert_eq!(newcomer.get(&format!("/api/rooms/{room}")).await["role"], "member");
        let said = newcomer.say(room, "hi").await;
        let seen = next_of_type(&mut annas, "message").await;
        assert_eq!((&seen["id"], &seen["timestamp"]), (&said["id"], &said["created_at"]));
        let answer = newcomer.done(Method::POST, &leave, None).await;
        assert_eq!(answer, json!({ "message": "Successfully left the room" }));
        let expected = newcomer.with(json!({ "type": "user_left", "room_id": room }));
        assert_eq!(next_event(&mut annas).await, expected);
        nothing_happened(&mut annas).await;
        assert_eq!(newcomer.get(&format!("/api/rooms/{room}")).await["role"], Value::Null);
    }
    assert_eq!(
        anna.post(&format!("/api/rooms/{room}/join"), json!({})).await["message"],
        "Already a member of this room"
    );
}

#[tokio::test]
async fn who_is_not_a_member_may_not_look_into_a_room() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let said = anna.say(room, "x").await["id"].clone();
    bert.join(room).await;
    let own = bert.say(room, "y").await["id"].clone();
    bert.leave(room).await;
    for (method, rest, body) in [
        (Method::GET, "messages".to_owned(), None),
        (Method::POST, "messages".to_owned(), Some(json!({ "content": "x", "room_id": room }))),
        (Method::POST, "messages".to_owned(), Some(json!({ "content": "x", "room_id": room, "client_msg_id": "x" }))),
        (Method::PATCH, format!("messages/{own}"), Some(json!({ "content": "x" }))),
        (Method::DELETE, format!("messages/{own}"), None),
        (Method::DELETE, format!("messages/{said}"), None),
        (Method::POST, "read".to_owned(), Some(json!({ "message_id": said }))),
        (Method::GET, "presence".to_owned(), None),
        (Method::GET, "members".to_owned(), None),
        (Method::POST, "members".to_owned(), Some(json!({ "user_id": bert.id() }))),
        (Method::PATCH, format!("members/{}", anna.id()), Some(json!({ "role": "member" }))),
        (Method::DELETE, format!("members/{}", anna.id()), None),
        (Method::PATCH, "members/x".to_owned(), Some(json!({ "role": "member" }))),
        (Method::DELETE, "members/x".to_owned(), None),
    ] {
        let refusal = refused(&bert, method.clone(), &format!("/api/rooms/{room}/{rest}"), body).await;
        assert_eq!(refusal, (403, NOT_A_MEMBER.to_owned()), "{method} {rest}");
    }
    let contents: Vec<_> = anna.history(room).await.into_iter().map(|message| message["content"].clone()).collect();
    assert_eq!(contents, ["x", "y"]);
}

#[tokio::test]
async fn messages_are_read_page_by_page_in_both_directions() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let (room, other) = (anna.room("lobby").await, anna.room("other").await);
    let mut all = Vec::new();
    for n in 0..230 {
        all.push(anna.say(room, &n.to_string()).await);
        if n % 10 == 0 {
            anna.say(other, "x").await;
        }
    }
    let path = format!("/api/rooms/{room}/messages");
    let id = |n: usize| all[n]["id"].as_i64().unwrap();
    let (first, last) = (id(0), id(229));
    for (query, expected) in [
        (String::new(), 130..230),
        ("limit=230".to_owned(), 0..230),
        ("limit=1000".to_owned(), 0..230),
        ("skip=0&limit=10".to_owned(), 220..230),
        ("skip=10&limit=10".to_owned(), 210..220),
        ("skip=225&limit=10".to_owned(), 0..5),
        ("skip=15&limit=150".to_owned(), 65..215),
        ("skip=230".to_owned(), 0..0),
        (format!("skip={}&limit=1000", i64::MAX), 0..0),
        ("limit=0".to_owned(), 0..0),
        (format!("before_id={last}"), 129..229),
        (format!("before_id={last}&limit=101"), 128..229),
        (format!("before_id={}&limit=3", id(10)), 7..10),
        (format!("before_id={first}"), 0..0),
        (format!("before_id={}&limit=5", i64::MAX), 225..230),
        (format!("before_id={}", i64::MIN), 0..0),
        (format!("after_id={first}"), 1..101),
        (format!("after_id={first}&limit=205"), 1..206),
        (format!("after_id={}&limit=3", id(10)), 11..14),
        (format!("after_id={last}"), 0..0),
        ("after_id=0&limit=2".to_owned(), 0..2),
        ("after_id=-5&limit=2".to_owned(), 0..2),
        (format!("after_id={}", i64::MAX), 0..0),
    ] {
        let page = anna.get(&format!("{path}?{query}")).await;
        assert!(page == json!(all[expected.clone()]), "{query}: {:?}, not {expected:?}", ids(&page));
        let page = anna.get(&format!("{path}/?{query}")).await;
        assert!(page == json!(all[expected]), "{query} with a slash");
    }
    let expected = anna.with(json!({ "content": "0", "room_id": room, "id": first }));
    assert_eq!(without_time(all[0].clone(), "created_at"), expected);
}

#[tokio::test]
async fn the_path_says_where_a_message_goes_and_the_body_has_to_say_it_too() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let (room, other) = (anna.room("lobby").await, anna.room("other").await);
    for id in [json!(room), json!(other), json!(other.to_string()), json!(999_999), json!(-1)] {
        let body = json!({ "content": "x", "room_id": id });
        assert_eq!(anna.post(&format!("/api/rooms/{room}/messages/"), body).await["room_id"], room);
    }
    assert_eq!((anna.history(room).await.len(), anna.history(other).await.len()), (5, 0));
}

#[tokio::test]
async fn content_comes_back_as_it_was_given() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let room = anna.room("lobby").await;
    let all_controls: String = (1..=0x9f).filter_map(char::from_u32).collect();
    for content in [
        " ",
        "\n",
        "'; DROP TABLE messages; --",
        "%s %d $1 ? :name",
        "<script>alert(1)</script>",
        "{\"type\":\"message\"}",
        "\u{feff}\u{200b}\u{202e}\u{2028}\u{fffd}\u{ffff}\u{10ffff}",
        "e\u{301} é ﷽ 👩‍👩‍👧‍👦",
        "\\u0000 \\",
        &all_controls,
    ] {
        let said = anna.say(room, content).await;
        assert_eq!(said["content"], content);
        assert_eq!(anna.history(room).await.pop().unwrap(), said);
    }
}

#[tokio::test]
async fn one_edits_ones_own_messages_and_deletes_them_and_moderators_delete_all() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let (bert, carl) = (Person::user(&broker, "bert").await, Person::user(&broker, "carl").await);
    let (room, other) = (anna.room("lobby").await, anna.room("other").await);
    for person in [&bert, &carl] {
        person.join(room).await;
    }
    anna.done(Method::PATCH, &format!("/api/rooms/{room}/members/{}", bert.id()), Some(json!({ "role": "moderator" })))
        .await;
    let (of_anna, of_bert, of_carl) = (anna.say(room, "a").await, bert.say(room, "b").await, carl.say(room, "c").await);
    let elsewhere = anna.say(other, "x").await;
    let path = |message: &Value| format!("/api/rooms/{room}/messages/{}", message["id"]);
    let edit = || Some(json!({ "content": "edited" }));
    // others' are not edited, by nobody
    for (person, message) in [(&anna, &of_bert), (&bert, &of_anna), (&bert, &of_carl), (&carl, &of_anna)] {
        let refusal = refused(person, Method::PATCH, &path(message), edit()).await;
        assert_eq!(refusal, (403, "Only its author may edit a message".to_owned()));
    }
    assert_eq!(refused(&carl, Method::DELETE, &path(&of_bert), None).await.0, 403);
    for method in [Method::PATCH, Method::DELETE] {
        let refusal = refused(&anna, method, &path(&elsewhere), edit()).await;
        assert_eq!(refusal, (404, "Message not found".to_owned()), "it is in another room");
    }
    let edited = carl.done(Method::PATCH, &path(&of_carl), edit()).await;
    let mut expected = of_carl.clone();
    expected["content"] = json!("edited");
    assert_eq!(without_time(edited.clone(), "edited_at"), expected);
    // moderators delete what anybody has said
    for (person, message) in [(&bert, &of_anna), (&anna, &of_bert), (&carl, &of_carl)] {
        for _ in 0..2 {
            let answer = person.done(Method::DELETE, &format!("{}/", path(message)), None).await;
            assert_eq!(answer, json!({ "message": "Message deleted" }));
        }
        let author = [&anna, &bert, &carl].into_iter().find(|one| one.name == message["username"]).unwrap();
        let refusal = refused(author, Method::PATCH, &path(message), edit()).await;
        assert_eq!(refusal, (404, "Message not found".to_owned()), "deleted");
    }
    let mut expected = [of_anna, of_bert, edited];
    for (stored, expected) in anna.history(room).await.into_iter().zip(&mut expected) {
        expected["content"] = json!("");
        assert_eq!(without_time(stored, "deleted_at"), *expected);
    }
}

#[tokio::test]
async fn owners_and_moderators_may_what_their_roles_say() {
    let broker = Broker::start().await;
    let owner = Person::user(&broker, "owner").await;
    let (mod1, mod2) = (Person::user(&broker, "mod1").await, Person::user(&broker, "mod2").await);
    let (member, extra) = (Person::user(&broker, "member").await, Person::device(&broker, "extra").await);
    let room = owner.room("lobby").await;
    let members = format!("/api/rooms/{room}/members");
    let mut watching = owner.chat_in(room).await;
    for (body, role) in [
        (json!({ "user_id": mod1.id(), "role": "moderator" }), "moderator"),
        (json!({ "user_id": mod2.id().to_string() }), "member"),
        (json!({ "user_id": member.id(), "role": "member", "uuid": null }), "member"),
        (json!({ "uuid": extra.who["uuid"].as_str().unwrap().to_uppercase(), "role": null }), "member"),
    ] {
        assert_eq!(owner.post(&members, body.clone()).await, json!({ "message": "Member added" }));
        next_of_type(&mut watching, "user_joined").await;
        assert_eq!(owner.post(&members, body).await, json!({ "message": "Already a member of this room" }));
        assert_eq!(roles(&owner, room).await.last().unwrap().1, role);
    }
    nothing_happened(&mut watching).await;
    let path = |person: &Person| {
        format!("{members}/{}", person.who.get("uuid").unwrap_or(&person.who["user_id"]).to_string().trim_matches('"'))
    };
    let set = |role: &str| Some(json!({ "role": role }));
    assert_eq!(owner.done(Method::PATCH, &path(&mod2), set("moderator")).await, json!({ "message": "Role set" }));
    let changed = mod2.with(json!({ "type": "role_changed", "room_id": room, "role": "moderator" }));
    assert_eq!(next_event(&mut watching).await, changed);
    let add = Some(json!({ "user_id": mod1.id() }));
    let only_owner = (403, "Only the owner of this room may do that".to_owned());
    for person in [&mod1, &member, &extra] {
        assert_eq!(refused(person, Method::POST, &members, add.clone()).await, only_owner);
        assert_eq!(refused(person, Method::PATCH, &path(&extra), set("moderator")).await, only_owner);
    }
    let role_needed = "Only the owner or a moderator of this room may do that";
    let too_low = "Only somebody of a higher role may remove this member";
    let stays = "The owner stays the owner; leaving passes the room on";
    for (remover, removed, text) in [
        (&member, &extra, role_needed),
        (&member, &mod1, role_needed),
        (&member, &owner, role_needed),
        (&member, &member, role_needed),
        (&mod1, &mod2, too_low),
        (&mod1, &owner, too_low),
        (&owner, &owner, stays),
    ] {
        let refusal = refused(remover, Method::DELETE, &path(removed), None).await;
        assert_eq!(refusal, (403, text.to_owned()), "{} removes {}", remover.name, removed.name);
    }
    assert_eq!(refused(&mod1, Method::DELETE, &path(&mod1), None).await.0, 403, "to leave, one leaves");
    // there is one owner, who stays it
    assert_eq!(refused(&owner, Method::PATCH, &path(&owner), set("member")).await.0, 403);
    assert_eq!(mod1.done(Method::DELETE, &path(&extra), None).await, json!({ "message": "Member removed" }));
    for (method, body) in [(Method::DELETE, None), (Method::PATCH, set("member"))] {
        let refusal = refused(&owner, method, &path(&extra), body).await;
        assert_eq!(refusal, (404, "Member not found".to_owned()), "a member no more");
    }
    // removed from a public room, one may come again, but not as what one was
    owner.done(Method::DELETE, &path(&mod2), None).await;
    mod2.join(room).await;
    let expected = [("owner", "owner"), ("mod1", "moderator"), ("member", "member"), ("mod2", "member")];
    let roles = roles(&mod2, room).await;
    assert_eq!(roles.iter().map(|(name, role)| (name.as_str(), role.as_str())).collect::<Vec<_>>(), expected);
    let list = owner.get(&members).await;
    let first = without_time(list["members"][0].clone(), "joined_at");
    assert_eq!(first, owner.with(json!({ "role": "owner", "last_read_id": 0 })));
}

#[tokio::test]
async fn ownership_passes_on_when_the_owner_leaves_and_an_empty_room_is_whoever_comes() {
    let broker = Broker::start().await;
    let anna = Person::user(&broker, "anna").await;
    let (bert, carl) = (Person::user(&broker, "bert").await, Person::user(&broker, "carl").await);
    let dora = Person::user(&broker, "dora").await;
    let room = anna.room("lobby").await;
    for person in [&bert, &carl, &dora] {
        person.join(room).await;
    }
    let path = format!("/api/rooms/{room}/members/{}", carl.id());
    anna.done(Method::PATCH, &path, Some(json!({ "role": "moderator" }))).await;
    let mut watching = dora.room_socket(room).await;
    let mut left = async |person: &Person, next_owner: &Person| {
        person.leave(room).await;
        assert_eq!(next_event(&mut watching).await, person.with(json!({ "type": "user_left", "room_id": room })));
        let expected = next_owner.with(json!({ "type": "role_changed", "room_id": room, "role": "owner" }));
        assert_eq!(next_event(&mut watching).await, expected);
        nothing_happened(&mut watching).await;
    };
    // to a moderator before those who have been there for longer
    left(&anna, &carl).await;
    left(&carl, &bert).await;
    left(&bert, &dora).await;
    assert_eq!(roles(&dora, room).await, [("dora".to_owned(), "owner".to_owned())]);
    dora.leave(room).await;
    assert_eq!(anna.get(&format!("/api/rooms/{room}")).await["role"], Value::Null);
    // the room is still there, with what was said
    bert.join(room).await;
    anna.join(room).await;
    let expected = [("bert".to_owned(), "owner".to_owned()), ("anna".to_owned(), "member".to_owned())];
    assert_eq!(roles(&bert, room).await, expected);
    // and so it is by a socket
    bert.leave(room).await;
    anna.leave(room).await;
    let _socket = carl.room_socket(room).await;
    assert_eq!(roles(&carl, room).await, [("carl".to_owned(), "owner".to_owned())]);
}

#[tokio::test]
async fn a_private_room_cannot_be_found_by_those_who_are_not_in_it() {
    let mut broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let public = anna.room("public").await;
    let created = anna.post("/api/rooms/", json!({ "name": "hidden", "private": true })).await;
    assert_eq!(created["private"], true);
    let room = created["id"].as_i64().unwrap();
    let said = anna.say(room, "secret").await["id"].clone();
    let admin = broker.admin().await;
    for (method, rest, body) in [
        (Method::GET, String::new(), None),
        (Method::POST, "/join".to_owned(), None),
        (Method::POST, "/leave".to_owned(), None),
        (Method::POST, "/read".to_owned(), Some(json!({ "message_id": said }))),
        (Method::GET, "/presence".to_owned(), None),
        (Method::GET, "/messages".to_owned(), None),
        (Method::GET, "/messages?after_id=0".to_owned(), None),
        (Method::POST, "/messages".to_owned(), Some(json!({ "content": "x", "room_id": room }))),
        (Method::PATCH, format!("/messages/{said}"), Some(json!({ "content": "x" }))),
        (Method::DELETE, format!("/messages/{said}"), None),
        (Method::GET, "/members".to_owned(), None),
        (Method::POST, "/members".to_owned(), Some(json!({ "user_id": bert.id() }))),
        (Method::POST, "/members".to_owned(), Some(json!({ "user_id": 999_999 }))),
        (Method::PATCH, format!("/members/{}", anna.id()), Some(json!({ "role": "member" }))),
        (Method::DELETE, format!("/members/{}", anna.id()), None),
        (Method::DELETE, "/members/999999".to_owned(), None),
        (Method::PATCH, "/members/x".to_owned(), Some(json!({ "role": "member" }))),
        (Method::DELETE, "/members/x".to_owned(), None),
    ] {
        let none = call(&bert.client, method.clone(), &format!("/api/rooms/999999{rest}"), body.clone()).await;
        assert_eq!((none.0, &none.1["detail"]), (404, &json!("Chat room not found")));
        for client in [&bert.client, &admin] {
            let hidden = call(client, method.clone(), &format!("/api/rooms/{room}{rest}"), body.clone()).await;
            assert_eq!(hidden, none, "{method} {rest}");
        }
    }
    assert_eq!(ids(&bert.get("/api/rooms/").await), [public]);
    assert_eq!(ids(&anna.get("/api/rooms/").await), [public, room]);
    assert_eq!(ids(&bert.get("/api/rooms/?skip=1").await), Vec::<i64>::new());
    // nor by its name, which may be used once more by all, and any number of times in private
    let same = bert.room("hidden").await;
    for person in [&anna, &bert] {
        person.private_room("hidden").await;
        person.private_room("public").await;
    }
    assert_eq!(refused(&anna, Method::POST, "/api/rooms/", Some(json!({ "name": "hidden" }))).await.0, 400);
    anna.post(&format!("/api/rooms/{room}/members"), json!({ "user_id": bert.id() })).await;
    assert_eq!(bert.get(&format!("/api/rooms/{room}")).await["role"], "member");
    assert!(ids(&bert.get("/api/rooms/").await).starts_with(&[public, room, same]));
    assert_eq!(
        bert.done(Method::POST, &format!("/api/rooms/{room}/join"), None).await["message"],
        "Already a member of this room"
    );
    bert.leave(room).await;
    assert_eq!(refused(&bert, Method::POST, &format!("/api/rooms/{room}/join"), None).await.0, 404);
}

#[tokio::test]
async fn what_others_have_said_is_unread_until_it_is_marked_and_marks_never_go_back() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let (room, other) = (anna.room("lobby").await, anna.room("other").await);
    anna.say(room, "before").await;
    bert.join(room).await;
    bert.join(other).await;
    assert_eq!(unread(&bert, room).await, 0, "what was said before one came is not unread");
    let mut said = Vec::new();
    for n in 0..5 {
        said.push(anna.say(room, &n.to_string()).await["id"].clone());
    }
    let own = bert.say(room, "own").await["id"].clone();
    let elsewhere = anna.say(other, "x").await["id"].clone();
    assert_eq!((unread(&bert, room).await, unread(&anna, room).await), (json!(5), json!(1)));
    assert_eq!(unread(&bert, other).await, 1);
    anna.done(Method::DELETE, &format!("/api/rooms/{room}/messages/{}", said[4]), None).await;
    assert_eq!(unread(&bert, room).await, 4, "what is deleted is not to be read");
    let path = format!("/api/rooms/{room}/read");
    for (mark, stands, left) in [
        (&said[1], &said[1], 2),
        (&said[0], &said[1], 2),
        (&said[1], &said[1], 2),
        (&own, &own, 0),
        (&said[2], &own, 0),
    ] {
        let answer = bert.post(&path, json!({ "message_id": mark })).await;
        assert_eq!(answer, json!({ "room_id": room, "message_id": stands }));
        assert_eq!(unread(&bert, room).await, left);
    }
    for id in [elsewhere, json!(999_999), json!(0), json!(-1), json!(i64::MAX)] {
        let refusal = refused(&bert, Method::POST, &path, Some(json!({ "message_id": id }))).await;
        assert_eq!(refusal, (404, "Message not found".to_owned()), "{id}");
    }
    // text ids and a slash are as good
    bert.post(&format!("{path}/"), json!({ "message_id": own.to_string() })).await;
    let members = anna.get(&format!("/api/rooms/{room}/members")).await;
    assert_eq!(members["members"][1]["last_read_id"], own);
    assert_eq!((unread(&anna, room).await, unread(&bert, other).await), (json!(1), json!(1)));
    let next = anna.say(room, "next").await["id"].clone();
    assert_eq!(unread(&bert, room).await, 1);
    // who comes again has nothing unread
    bert.leave(room).await;
    bert.join(room).await;
    assert_eq!(unread(&bert, room).await, 0);
    assert_eq!(anna.get(&format!("/api/rooms/{room}/members")).await["members"][1]["last_read_id"], next);
}

#[tokio::test]
async fn a_limit_that_is_off_limits_no_more_than_the_database_does() {
    let broker = Broker::with()
        .set("LIMITS__ROOM_NAME_CHARS", "0")
        .set("LIMITS__MESSAGE_BYTES", "0")
        .set("LIMITS__ROOMS_PER_USER", "0")
        .start()
        .await;
    let anna = Person::user(&broker, "anna").await;
    // an index holds no longer one
    let name = "é".repeat(500);
    let (status, body) = anna.call(Method::POST, "/api/rooms/", Some(json!({ "name": format!("{name}x") }))).await;
    assert_eq!((status, faults(&body)), (422, vec!["string_too_long body.name".to_owned()]));
    let room = anna.room(&name).await;
    assert_eq!(anna.get(&format!("/api/rooms/{room}")).await["name"], name);
    let content = "x".repeat(500_000);
    assert_eq!(anna.say(room, &content).await["content"], content);
}

#[tokio::test]
async fn a_limit_of_names_is_named_when_it_is_hit() {
    let broker = Broker::with().set("LIMITS__ROOM_NAME_CHARS", "3").start().await;
    let anna = Person::user(&broker, "anna").await;
    anna.room("ééé").await;
    let (status, body) = anna.call(Method::POST, "/api/rooms/", Some(json!({ "name": "éééé" }))).await;
    assert_eq!((status, faults(&body)), (422, vec!["string_too_long body.name".to_owned()]));
    assert!(body["detail"][0]["msg"].as_str().unwrap().contains("limits.room_name_chars"), "{body}");
}

#[tokio::test]
async fn joining_and_leaving_many_times_at_once_happens_once() {
    let broker = Broker::start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    let mut watching = anna.chat_in(room).await;
    for _ in 0..5 {
        for (way, event, done, again) in [
            ("join", "user_joined", "Successfully joined the room", "Already a member of this room"),
            ("leave", "user_left", "Successfully left the room", NOT_A_MEMBER),
        ] {
            let path = format!("/api/rooms/{room}/{way}");
            let asking: Vec<_> = (0..8).map(|_| posting(&bert.client, &path, &json!({}))).collect();
            let mut texts = Vec::new();
            for one in asking {
                let (_, body) = within(one).await.unwrap();
                texts.push(body.get("message").unwrap_or(&body["detail"]).as_str().unwrap().to_owned());
            }
            assert_eq!(texts.iter().filter(|text| *text == done).count(), 1, "{texts:?}");
            assert_eq!(texts.iter().filter(|text| *text == again).count(), 7, "{texts:?}");
            next_of_type(&mut watching, event).await;
            nothing_happened(&mut watching).await;
        }
    }
}

#[tokio::test]
async fn there_is_one_owner_whoever_comes_and_goes_at_once() {
    let broker = Broker::start().await;
    let mut people = Vec::new();
    for n in 0..5 {
        people.push(Person::user(&broker, &format!("user{n}")).await);
    }
    let room = people[0].room("lobby").await;
    for _ in 0..10 {
        let mut asking = Vec::new();
        for (n, person) in people.iter().enumerate() {
            for way in if n % 2 == 0 { ["leave", "join"] } else { ["join", "leave"] } {
                asking.push(posting(&person.client, &format!("/api/rooms/{room}/{way}"), &json!({})));
            }
        }
        for one in asking {
            within(one).await.unwrap();
        }
        let mut member = None;
        for person in &people {
            if person.get(&format!("/api/rooms/{room}")).await["role"].is_string() {
                member = Some(person);
            }
        }
        let Some(member) = member else { continue };
        let roles = roles(member, room).await;
        assert_eq!(roles.iter().filter(|(_, role)| role == "owner").count(), 1, "{roles:?}");
    }
}

#[tokio::test]
async fn the_limit_of_rooms_holds_for_whoever_asks_for_many_at_once() {
    let broker = Broker::with().set("LIMITS__ROOMS_PER_USER", "3").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let bodies = (0..10).map(|n| json!({ "name": n.to_string(), "private": n % 2 == 0 }));
    let creating: Vec<_> = bodies.map(|body| posting(&anna.client, "/api/rooms/", &body)).collect();
    let mut statuses = Vec::new();
    for one in creating {
        statuses.push(within(one).await.unwrap().0);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 429, 429, 429, 429, 429, 429, 429]);
    assert_eq!(anna.get("/api/rooms/").await.as_array().unwrap().len(), 3);
    let public: Vec<_> = bert.get("/api/rooms/").await.as_array().unwrap().clone();
    assert!(public.iter().all(|room| room["role"].is_null()));
}

#[tokio::test]
async fn unread_messages_are_counted_up_to_a_thousand() {
    let broker = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    bert.join(room).await;
    let mut socket = anna.chat_in(room).await;
    for _ in 0..1005 {
        send(&mut socket, json!({ "content": "x", "room_id": room })).await;
    }
    let mut first = None;
    for _ in 0..1005 {
        let id = next_of_type(&mut socket, "message").await["id"].clone();
        first.get_or_insert(id);
    }
    assert_eq!(unread(&bert, room).await, 1000);
    let path = format!("/api/rooms/{room}/read");
    bert.post(&path, json!({ "message_id": first })).await;
    assert_eq!(unread(&bert, room).await, 1000);
    let last = anna.history(room).await[1000]["id"].clone();
    bert.post(&path, json!({ "message_id": last })).await;
    assert_eq!((unread(&bert, room).await, unread(&anna, room).await), (json!(4), json!(0)));
}

#[tokio::test]
async fn what_others_say_is_unread_however_much_one_has_said_oneself() {
    let broker = Broker::with().set("LIMITS__FRAMES_PER_SECOND", "0").start().await;
    let (anna, bert) = (Person::user(&broker, "anna").await, Person::user(&broker, "bert").await);
    let room = anna.room("lobby").await;
    bert.join(room).await;
    let mut socket = bert.chat_in(room).await;
    for _ in 0..1001 {
        send(&mut socket, json!({ "content": "x", "room_id": room })).await;
    }
    for _ in 0..1001 {
        next_of_type(&mut socket, "message").await;
    }
    anna.say(room, "are you there?").await;
    let unread = bert.get(&format!("/api/rooms/{room}")).await["unread_count"].clone();
    assert_eq!(unread, 1);
}
