//! Commands in one request: the target is called, and its answer comes in the same response (contract section 6).

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use uuid::Uuid;

use crate::support::{
    Broker, PERIODS, RawSocket, answer, close_code, faults, get, next, next_of_type, no_command_is_left, nothing_came,
    post, posting, reply, until, within,
};

/// A user with a socket that takes commands.
struct Agent {
    client: Client,
    id: i64,
    uuid: String,
    socket: Connection,
}

impl Agent {
    async fn connect(broker: &mut Broker, username: &str) -> Self {
        let client = broker.user(username, "user").await;
        Self::of(client).await
    }

    async fn of(client: Client) -> Self {
        let (_, me) = get(&client, "/api/users/me").await;
        let mut socket = within(client.connect("/ws")).await.unwrap();
        nothing_came(&mut socket).await;
        Self { client, id: me["id"].as_i64().unwrap(), uuid: me["uuid"].as_str().unwrap().to_owned(), socket }
    }
}

fn status_request() -> Value {
    json!({ "method": "GET", "url": "/status" })
}

fn text_error(status: u16, detail: &str, code: &str) -> (u16, Value) {
    (status, json!({ "detail": detail, "code": code }))
}

/// Calls a target whose answer is this text, with `ID` for the command's id; the whole response as it came.
async fn call(operator: &Client, target: &str, socket: &mut Connection, text: &str) -> (u16, String) {
    let request = operator.request(Method::POST, &format!("/send-command/{target}")).json(&status_request());
    let asking = tokio::spawn(async move {
        let response = within(request.send()).await.unwrap();
        (response.status().as_u16(), within(response.text()).await.unwrap())
    });
    let command = next(socket).await;
    let id = command["command_id"].as_str().unwrap();
    socket.send_text(text.replace("ID", id)).await.unwrap();
    within(asking).await.unwrap()
}

#[tokio::test]
async fn a_command_goes_to_a_user_by_id_or_uuid_and_to_a_device_by_uuid_and_the_answer_comes_back() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    let (_, device, mut device_socket) = broker.connected("Alice \"A\"").await;
    let mut plain = Agent::connect(&mut broker, "plain").await;
    let account = json!({ "username": "mail", "email": "mail@example.org", "password": "secret password" });
    assert_eq!(post(&broker.client(), "/api/users/", account).await.0, 200);
    let mut mail = Agent::of(broker.login("mail", "secret password").await).await;
    let upper = device.uuid.to_string().to_uppercase();
    let alice = "client 'Alice \"A\"'";
    let table = [
        (vec![plain.id.to_string(), plain.uuid], "user 'plain'", &mut plain.socket),
        (vec![format!("{}/", mail.id), mail.uuid], "user 'mail@example.org'", &mut mail.socket),
        (
            vec![device.uuid.to_string(), device.uuid.simple().to_string(), format!("{upper}/")],
            alice,
            &mut device_socket,
        ),
    ];
    for (targets, name, socket) in table {
        for target in targets {
            let body = json!({ "method": "POST", "url": "/x?y=1", "data": { "a": [1, null] } });
            let asking = posting(&operator, &format!("/send-command/{target}"), &body);
            let mut command = reply(socket, json!({ "ok": true })).await;
            let (status, answer) = within(asking).await.unwrap();
            let id = command["command_id"].take();
            assert_eq!(Uuid::try_parse(id.as_str().unwrap()).unwrap().get_version_num(), 4);
            let expected = json!({ "command_id": null, "method": "POST", "url": "/x?y=1", "data": { "a": [1, null] } });
            assert_eq!(command, expected);
            let message = format!("Command sent to {name}");
            let expected = json!({ "message": message, "response": { "ok": true }, "command_id": id });
            assert_eq!((status, answer), (200, expected), "{target}");
        }
    }
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn the_target_gets_the_data_as_it_was_given() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let table = [
        ("", "null"),
        (r#","data":null"#, "null"),
        (r#","data":0"#, "0"),
        (r#","data":"""#, r#""""#),
        (r#","data":{}"#, "{}"),
        (r#","data":{"b":1.0,"a":[1e2,-0,12345678901234567890123,0.10]}"#, ""),
        (r#","data":"{\"a\":1}""#, ""),
        (r#","data":"é\n\u0000""#, ""),
        (r#","unknown":[1],"data":[[[]]]"#, "[[[]]]"),
    ];
    for (given, expected) in table {
        let body = format!(r#"{{"method":"PUT","url":"/\"x\"\n"{given}}}"#);
        let request = operator.request(Method::POST, &format!("/send-command/{}", device.uuid));
        let asking = tokio::spawn(answer(request.header("content-type", "application/json").body(body)));
        let text = within(socket.next_text()).await.unwrap();
        let command: Value = serde_json::from_str(&text).unwrap();
        let data = if expected.is_empty() { given.strip_prefix(r#","data":"#).unwrap() } else { expected };
        let id = command["command_id"].as_str().unwrap();
        assert_eq!(text, format!(r#"{{"command_id":"{id}","method":"PUT","url":"/\"x\"\n","data":{data}}}"#));
        socket.send_text(json!({ "command_id": id, "result": 1 }).to_string()).await.unwrap();
        assert_eq!(within(asking).await.unwrap().0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_result_that_is_a_string_of_json_is_decoded_and_anything_else_comes_as_it_is() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let target = device.uuid.to_string();
    let table = [
        (r#""result":{"a":1.0,"b":1e400}"#, r#"{"a":1.0,"b":1e400}"#),
        (r#""result":"{\"a\": [1.0]}""#, r#"{"a": [1.0]}"#),
        (r#""result":"plain text""#, r#""plain text""#),
        (r#""result":"""#, r#""""#),
        (r#""result":"5""#, "5"),
        (r#""result":"\"twice\"""#, r#""twice""#),
        (r#""result":"null""#, "null"),
        (r#""result":"{\"a\":}""#, r#""{\"a\":}""#),
        (r#""result":"NaN""#, r#""NaN""#),
        (r#""result":"\u0000""#, r#""\u0000""#),
        (r#""result":[]"#, "[]"),
        (r#""result":false"#, "false"),
        (r#""result":null"#, "null"),
        (r#""other":1"#, "null"),
        (r#""result":{"error":"no such thing"}"#, r#"{"error":"no such thing"}"#),
        (r#""result":"{\"error\":\"no\"}""#, r#"{"error":"no"}"#),
    ];
    for (given, expected) in table {
        let (status, text) = call(&operator, &target, &mut socket, &format!(r#"{{"command_id":"ID",{given}}}"#)).await;
        assert_eq!(status, 200, "{text}");
        assert!(text.contains(&format!(r#""response":{expected},"#)), "{given}: {text}");
    }
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn whoever_can_not_be_called_is_told_apart() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (device_client, absent) = broker.device("absent").await;
    let (_, device, _socket) = broker.connected("device").await;
    let user = broker.user("ulla", "user").await;
    let (_, me) = get(&user, "/api/users/me").await;
    // a chat socket takes no commands
    let _chat = within(user.connect("/ws/auth")).await.unwrap();
    let _public = within(broker.client().connect("/ws")).await.unwrap();
    let send =
        async |client: &Client, target: &str| post(client, &format!("/send-command/{target}"), status_request()).await;
    let stranger = Uuid::new_v4().to_string();
    let (id, uuid) = (me["id"].to_string(), me["uuid"].as_str().unwrap());
    let not_connected = |what| text_error(400, what, "not_connected");
    assert_eq!(send(&operator, "999999").await, text_error(404, "User not found", "not_found"));
    assert_eq!(send(&operator, "-1").await, text_error(404, "User not found", "not_found"));
    assert_eq!(send(&operator, &stranger).await, text_error(404, "Client not found", "not_found"));
    assert_eq!(send(&operator, &id).await, not_connected("User is not connected"));
    assert_eq!(send(&operator, uuid).await, not_connected("User is not connected"));
    assert_eq!(send(&operator, &absent.uuid.to_string()).await, not_connected("Client is not connected"));
    for target in ["nobody", "1.5", "99999999999999999999", "%20", "1e3"] {
        let (status, body) = send(&operator, target).await;
        assert_eq!(status, 422, "{target}: {body}");
        assert_eq!(faults(&body), ["value_error path.target"]);
    }
    // rights
    let target = device.uuid.to_string();
    assert_eq!(send(&user, &target).await.0, 403);
    assert_eq!(send(&device_client, &target).await.0, 403);
    assert_eq!(send(&device_client, &absent.uuid.to_string()).await.0, 403);
    assert_eq!(send(&broker.client(), &target).await, text_error(401, "Not authenticated", "not_authenticated"));
    for (client, status) in [(&user, 403), (&device_client, 403), (&broker.client(), 401)] {
        assert_eq!(post(client, "/broadcast-command/", status_request()).await.0, status);
    }
    // bodies
    for (body, expected) in [
        (json!({}), vec!["missing body.method", "missing body.url"]),
        (json!({ "method": 1, "url": null }), vec!["string_type body.method", "string_type body.url"]),
        (json!({ "method": "", "url": "/" }), vec!["string_too_short body.method"]),
        (json!({ "method": "GET", "url": "x".repeat(2049) }), vec!["string_too_long body.url"]),
    ] {
        for path in [&format!("/send-command/{target}"), "/broadcast-command"] {
            let (status, answer) = post(&operator, path, body.clone()).await;
            assert_eq!((status, faults(&answer)), (422, expected.iter().map(ToString::to_string).collect()));
        }
    }
    assert_eq!(answer(operator.request(Method::GET, "/broadcast-command")).await.0, StatusCode::METHOD_NOT_ALLOWED);
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_user_may_command_its_own_sockets_alone() {
    let mut broker = Broker::start().await;
    let mut own = Agent::connect(&mut broker, "own").await;
    let other = Agent::connect(&mut broker, "other").await;
    for target in [own.id.to_string(), own.uuid.clone()] {
        let asking = posting(&own.client, &format!("/send-command/{target}"), &status_request());
        reply(&mut own.socket, json!("done")).await;
        assert_eq!(within(asking).await.unwrap().1["response"], "done");
    }
    for target in [other.id.to_string(), other.uuid] {
        let path = format!("/send-command/{target}");
        let (status, body) = post(&own.client, &path, status_request()).await;
        assert_eq!((status, &body["code"]), (403, &json!("forbidden")), "{body}");
    }
}

#[tokio::test]
async fn a_target_that_does_not_answer_in_time_is_a_timeout_and_its_late_answer_gets_no_answer() {
    for secs in PERIODS {
        if a_target_is_silent_for(secs).await {
            return;
        }
    }
    panic!("no answer comes in time");
}

/// False: another target has not answered in so many seconds either.
async fn a_target_is_silent_for(secs: u32) -> bool {
    let mut broker = Broker::with().set("LIMITS__COMMAND_TIMEOUT_SECS", &secs.to_string()).start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let (_, other, mut other_socket) = broker.connected("other").await;
    let path = format!("/send-command/{}", device.uuid);
    let timeout = text_error(504, "Timeout waiting for command response.", "command_timeout");
    let asking = posting(&operator, &path, &status_request());
    let command = next(&mut socket).await;
    assert_eq!(within(asking).await.unwrap(), timeout);
    socket.send_text(json!({ "command_id": command["command_id"], "result": 1 }).to_string()).await.unwrap();
    nothing_came(&mut socket).await;

    let asking = posting(&operator, "/broadcast-command", &status_request());
    reply(&mut other_socket, json!(1)).await;
    next(&mut socket).await;
    let (status, body) = within(asking).await.unwrap();
    assert_eq!(status, 200);
    let late = json!({ "error": "Timeout waiting for response." });
    let is_in_time = body["results"][other.uuid.to_string()] != late;
    if is_in_time {
        assert_eq!(body["results"], json!({ device.uuid.to_string(): late, other.uuid.to_string(): 1 }));
    }
    no_command_is_left(&operator).await;
    is_in_time
}

#[tokio::test]
async fn a_command_ends_with_the_socket_that_was_asked() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (client, device, first) = broker.connected("device").await;
    let mut agent = Agent::connect(&mut broker, "agent").await;
    let lost = text_error(400, "Connection lost while waiting for command response.", "connection_lost");
    let path = format!("/send-command/{}", device.uuid);

    // closed, then dropped without a close frame
    let mut socket = first;
    for closes in [true, false] {
        let asking = posting(&operator, &path, &status_request());
        next(&mut socket).await;
        if closes {
            within(socket.close()).await.unwrap();
        } else {
            drop(socket);
        }
        assert_eq!(within(asking).await.unwrap(), lost);
        socket = within(client.connect("/ws")).await.unwrap();
        next_of_type(&mut socket, "connection").await;
    }

    // taken over by another socket of the same device
    let asking = posting(&operator, &path, &status_request());
    let command = next(&mut socket).await;
    let mut second = within(client.connect("/ws")).await.unwrap();
    next_of_type(&mut second, "connection").await;
    // it wasn't the one that was asked, so this is late
    second.send_text(json!({ "command_id": command["command_id"], "result": 1 }).to_string()).await.unwrap();
    assert_eq!(within(asking).await.unwrap(), lost);
    assert_eq!(close_code(&mut socket).await, 4409);
    let asking = posting(&operator, &path, &status_request());
    reply(&mut second, json!("second")).await;
    assert_eq!(within(asking).await.unwrap().1["response"], "second");

    // replaced by another socket of the same user
    let path = format!("/send-command/{}", agent.id);
    let asking = posting(&operator, &path, &status_request());
    next(&mut agent.socket).await;
    let mut newer = within(agent.client.connect("/ws")).await.unwrap();
    assert_eq!(within(asking).await.unwrap(), lost);
    assert_eq!(close_code(&mut agent.socket).await, 1001);
    drop(agent.socket);
    for _ in 0..20 {
        let asking = posting(&operator, &path, &status_request());
        reply(&mut newer, json!("newer")).await;
        assert_eq!(within(asking).await.unwrap().1["response"], "newer");
    }
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn only_the_client_that_was_asked_may_answer_and_nobody_is_answered_for_it() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (client, device, mut socket) = broker.connected("device").await;
    let (_, _, mut stranger) = broker.connected("stranger").await;
    let mut agent = Agent::connect(&mut broker, "agent").await;
    // another socket of the same device, which is not for commands
    let mut chat = within(client.connect("/ws/auth")).await.unwrap();
    next_of_type(&mut chat, "connection_established").await;

    let asking = posting(&operator, &format!("/send-command/{}", device.uuid), &status_request());
    let command = next(&mut socket).await;
    let id = &command["command_id"];
    for foreign in [&mut stranger, &mut agent.socket, &mut chat] {
        foreign.send_text(json!({ "command_id": id, "result": "foreign" }).to_string()).await.unwrap();
        foreign.send_text(json!({ "type": "progress", "command_id": id, "progress": 1 }).to_string()).await.unwrap();
        nothing_came(foreign).await;
    }
    // unknown, more of them than bad frames are allowed
    for n in 0..30 {
        for text in [
            json!({ "command_id": Uuid::new_v4(), "result": n }),
            json!({ "command_id": n, "result": n }),
            json!({ "result": n }),
            json!({ "type": "progress", "command_id": Uuid::new_v4(), "progress": n }),
        ] {
            socket.send_text(text.to_string()).await.unwrap();
        }
    }
    nothing_came(&mut socket).await;
    socket.send_text(json!({ "command_id": id, "result": "own" }).to_string()).await.unwrap();
    assert_eq!(within(asking).await.unwrap().1["response"], "own");
    // finished
    socket.send_text(json!({ "command_id": id, "result": "again" }).to_string()).await.unwrap();
    nothing_came(&mut socket).await;
    let (_, command) = get(&operator, &format!("/api/commands/{}", id.as_str().unwrap())).await;
    assert_eq!(command["targets"][0]["result"], "own", "{command}");
    assert_eq!(command["targets"][0].get("progress"), None, "{command}");
}

#[tokio::test]
async fn a_client_that_answers_everything_it_does_not_understand_causes_no_storm() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let mut agent = Agent::connect(&mut broker, "agent").await;
    let (_, device, mut device_socket) = broker.connected("device").await;
    for (target, socket) in [(agent.uuid.clone(), &mut agent.socket), (device.uuid.to_string(), &mut device_socket)] {
        // what a client does that has been written for commands alone
        let complain = async |socket: &mut Connection| {
            let frame = next(socket).await;
            assert!(frame.get("method").is_none(), "{frame}");
            let result = json!({ "error": "Invalid command" });
            let answer = match frame.get("command_id") {
                Some(id) => json!({ "command_id": id, "result": result }),
                None => json!({ "result": result }),
            };
            socket.send_text(answer.to_string()).await.unwrap();
            frame
        };
        // an error frame, a pong, and a command that is called off
        socket.send_text("[]").await.unwrap();
        assert_eq!(complain(socket).await["type"], "error");
        socket.send_text(r#"{"type":"ping"}"#).await.unwrap();
        assert_eq!(complain(socket).await["type"], "pong");
        let body = json!({ "target": target, "method": "GET", "url": "/" });
        let request = operator.request(Method::POST, "/api/commands").header("prefer", "respond-async").json(&body);
        let (status, command) = answer(request).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{command}");
        assert_eq!(next(socket).await["command_id"], command["id"]);
        let path = format!("/api/commands/{}", command["id"].as_str().unwrap());
        assert_eq!(answer(operator.request(Method::DELETE, &path)).await.0, StatusCode::OK);
        assert_eq!(complain(socket).await, json!({ "type": "cancel", "command_id": command["id"] }));
        // none of it was answered
        nothing_came(socket).await;
        let (_, command) = get(&operator, &path).await;
        assert_eq!(command["targets"][0]["state"], "cancelled", "{command}");
        // and it still takes commands
        let asking = posting(&operator, &format!("/send-command/{target}"), &status_request());
        reply(socket, json!(1)).await;
        assert_eq!(within(asking).await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn a_public_socket_knows_no_commands() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let mut socket = within(broker.client().connect("/ws")).await.unwrap();
    let text = json!({ "command_id": Uuid::new_v4(), "result": 1 }).to_string();
    socket.send_text(text.clone()).await.unwrap();
    assert_eq!(next(&mut socket).await, json!({ "type": "echo", "content": format!("Received: {text}") }));
    let (status, body) = post(&operator, "/broadcast-command", status_request()).await;
    assert_eq!((status, &body["results"]), (200, &json!({})));
    nothing_came(&mut socket).await;
}

#[tokio::test]
async fn a_broadcast_reaches_everyone_and_answers_when_the_last_one_has() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    let message = "Command broadcasted to all connected users.";
    let (status, body) = post(&operator, "/broadcast-command", status_request()).await;
    assert_eq!((status, &body["message"], &body["results"]), (200, &json!(message), &json!({})));

    let mut expected = json!({});
    let mut sockets = Vec::new();
    for n in 0..5 {
        let (_, device, socket) = broker.connected("device").await;
        expected[device.uuid.to_string()] = json!({ "n": n });
        sockets.push(socket);
    }
    let mut agent = Agent::connect(&mut broker, "agent").await;
    let leaver = Agent::connect(&mut broker, "leaver").await;
    expected[agent.id.to_string()] = json!({ "error": "no" });
    expected[leaver.id.to_string()] = json!({ "error": "Connection lost while waiting for command response." });
    // these are no targets
    let (_, _absent) = broker.device("absent").await;
    let _chat = within(operator.connect("/ws/auth")).await.unwrap();

    let body = json!({ "method": "GET", "url": "/", "data": [1.0] });
    let asking = posting(&operator, "/broadcast-command/", &body);
    let mut ids = std::collections::HashSet::new();
    for (n, socket) in sockets.iter_mut().enumerate() {
        let command = reply(socket, json!({ "n": n })).await;
        assert_eq!((&command["method"], &command["data"]), (&json!("GET"), &json!([1.0])));
        ids.insert(command["command_id"].to_string());
    }
    assert_eq!(ids.len(), 1);
    reply(&mut agent.socket, json!({ "error": "no" })).await;
    assert!(!asking.is_finished());
    let mut socket = leaver.socket;
    next(&mut socket).await;
    within(socket.close()).await.unwrap();
    let (status, body) = within(asking).await.unwrap();
    assert_eq!((status, &body["message"], &body["results"]), (200, &json!(message), &expected));
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_command_goes_on_when_its_caller_hangs_up() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let api = json!({ "target": device.uuid, "method": "GET", "url": "/status" });
    for (path, body) in [
        (format!("/send-command/{}", device.uuid), status_request()),
        ("/broadcast-command".to_owned(), status_request()),
        ("/api/commands".to_owned(), api),
    ] {
        let asking = posting(&operator, &path, &body);
        let command = next(&mut socket).await;
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        socket.send_text(json!({ "command_id": command["command_id"], "result": path }).to_string()).await.unwrap();
        until(async || {
            let (_, command) =
                get(&operator, &format!("/api/commands/{}", command["command_id"].as_str().unwrap())).await;
            command["targets"][0]["state"] == "succeeded" && command["targets"][0]["result"] == path
        })
        .await;
    }
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_command_that_is_recorded_comes_to_its_end_however_early_its_caller_hangs_up() {
    let mut broker = Broker::with().set("LIMITS__COMMAND_TIMEOUT_SECS", "1").start().await;
    let operator = broker.admin().await;
    let (_, absent) = broker.device("absent").await;
    let (_, present, _socket) = broker.connected("present").await;
    for n in 0..600 {
        let target = if n % 2 == 0 { absent.uuid } else { present.uuid };
        let body = json!({ "target": target, "method": "GET", "url": "/" }).to_string();
        let key = if n % 3 == 0 { format!("Idempotency-Key: {n}\r\n") } else { String::new() };
        let mut raw = RawSocket::connect(&broker).await;
        let token = operator.token().unwrap();
        let request = format!(
            "POST /api/commands HTTP/1.1\r\nHost: broker\r\nAuthorization: Bearer {token}\r\n{key}Content-Type: \
             application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        raw.send(request.as_bytes()).await;
        // hangs up at all kinds of moments
        for _ in 0..(n % 50) * 20 {
            tokio::task::yield_now().await;
        }
        // with a reset or without one
        if n % 4 > 0 {
            raw.stream.set_zero_linger().unwrap();
        }
        drop(raw);
    }
    no_command_is_left(&operator).await;
    assert_ne!(get(&operator, "/api/commands").await.1["count"], 0);
}

#[tokio::test]
async fn a_result_over_the_frame_limit_closes_the_socket_and_ends_its_command() {
    let mut broker = Broker::with().set("LIMITS__FRAME_BYTES", "1000").start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let asking = posting(&operator, &format!("/send-command/{}", device.uuid), &status_request());
    let command = reply(&mut socket, json!("x".repeat(2000))).await;
    assert_eq!(close_code(&mut socket).await, 1009);
    let lost = text_error(400, "Connection lost while waiting for command response.", "connection_lost");
    assert_eq!(within(asking).await.unwrap(), lost);
    let (_, command) = get(&operator, &format!("/api/commands/{}", command["command_id"].as_str().unwrap())).await;
    assert_eq!(command["targets"][0]["state"], "disconnected", "{command}");
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn over_the_limit_of_pending_commands_callers_are_told_to_come_again() {
    let mut broker =
        Broker::with().alone("limits of commands are per node").set("LIMITS__PENDING_COMMANDS", "2").start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    let (_, other, mut other_socket) = broker.connected("other").await;
    let path = format!("/send-command/{}", device.uuid);
    let first = posting(&operator, &path, &status_request());
    let first_command = next(&mut socket).await;
    let api = json!({ "targets": [device.uuid, other.uuid], "method": "GET", "url": "/" });
    for (path, body) in [("/broadcast-command", status_request()), ("/api/commands", api.clone())] {
        let response = within(operator.request(Method::POST, path).json(&body).send()).await.unwrap();
        assert_eq!(response.status(), 503, "{path}");
        assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().is_ok());
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["code"], "at_limit");
        assert!(body["detail"].as_str().unwrap().contains("limits.pending_commands"), "{body}");
    }
    let second = posting(&operator, &path, &status_request());
    let second_command = next(&mut socket).await;
    assert_eq!(post(&operator, &path, status_request()).await.0, 503);
    for (command, asking) in [(first_command, first), (second_command, second)] {
        socket.send_text(json!({ "command_id": command["command_id"], "result": 1 }).to_string()).await.unwrap();
        assert_eq!(within(asking).await.unwrap().0, 200);
    }
    // none of the refused ones has been sent or recorded, and there is room again
    nothing_came(&mut socket).await;
    nothing_came(&mut other_socket).await;
    assert_eq!(get(&operator, "/api/commands").await.1["count"], 2);
    let asking = posting(&operator, "/api/commands", &api);
    reply(&mut socket, json!(1)).await;
    reply(&mut other_socket, json!(1)).await;
    assert_eq!(within(asking).await.unwrap().0, 200);
    no_command_is_left(&operator).await;
}

#[tokio::test]
async fn a_command_does_not_cost_its_target_the_socket_however_large_it_is() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (_, device, mut socket) = broker.connected("device").await;
    // as much as a request may have, and a little less
    for bytes in [1_048_576, 1_048_000] {
        let empty = json!({ "method": "GET", "url": "/", "data": "" }).to_string();
        let body = json!({ "method": "GET", "url": "/", "data": "x".repeat(bytes - empty.len()) });
        let asking = posting(&operator, &format!("/send-command/{}", device.uuid), &body);
        let answering = async {
            loop {
                reply(&mut socket, json!(1)).await;
            }
        };
        let (status, body) = tokio::select! {
            answer = within(asking) => answer.unwrap(),
            () = answering => unreachable!(),
        };
        // taken or refused
        assert!([200, 413, 422].contains(&status), "{status} {body}");
        nothing_came(&mut socket).await;
    }
    no_command_is_left(&operator).await;
}
