//! WebSockets: handshakes, takeovers, public and echo sockets, in-band authentication, signs of life, the end
//! (contract sections 2, 5, 7 and 8).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use jsonwebtoken::{EncodingKey, Header};
use reqwest::{Method, header::HeaderValue};
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Broker, Frame, PERIODS, RawSocket, answer, close_code, get, handshake, is_listed, next, next_of_type, refusal,
    until, within,
};

pub const SECRET: &str = "a secret that the tests sign with";

/// What a real token says, signed once more with another end.
pub fn expiring(token: &str, expires_at: i64) -> String {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let mut claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["exp"] = json!(expires_at);
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

async fn ping(socket: &mut Connection) {
    socket.send_text(r#"{"type":"ping"}"#).await.unwrap();
    let pong = next_of_type(socket, "pong").await;
    // seconds for devices and agents, RFC 3339 for chat
    let timestamp = &pong["timestamp"];
    let is_time = |text: &str| text.ends_with('Z') && DateTime::parse_from_rfc3339(text).is_ok();
    assert!(timestamp.is_f64() || timestamp.as_str().is_some_and(is_time), "{pong}");
}

async fn open(client: &Client, path: &str) -> Connection {
    within(client.connect(path)).await.unwrap()
}

/// Path, headers, and the status and text of the answer.
type Handshake<'a> = (&'a str, &'a [(&'static str, &'a str)], u16, &'a str);

#[tokio::test]
async fn a_refused_handshake_is_answered_with_the_reason() {
    let mut broker = Broker::start().await;
    let (device, _) = broker.device("Alice").await;
    let user = broker.user("ulla", "user").await;
    let nobody = broker.client();
    let cookie = format!("access_token={}", user.token().unwrap());
    let bearer_cookie = format!("access_token=\"Bearer {}\"", user.token().unwrap());
    let (evil, own) = (("origin", "http://evil.example"), ("origin", broker.url.as_str()));
    let (missing, bad) = ("Not authenticated", "Could not validate credentials");
    let table: &[Handshake<'_>] = &[
        ("/ws/auth", &[], 401, missing),
        ("/ws/auth/", &[], 401, missing),
        ("/ws/auth?token=bad", &[], 401, bad),
        ("/ws/auth?token=", &[], 401, bad),
        ("/ws/auth", &[("authorization", "Bearer bad")], 401, bad),
        ("/ws/auth", &[("cookie", "access_token=bad")], 401, bad),
        ("/ws/auth", &[("sec-websocket-protocol", "bearer,bad")], 401, bad),
        // credentials that are no good are refused where none are needed, too
        ("/ws?token=bad", &[], 401, bad),
        ("/ws", &[("authorization", "Bearer bad")], 401, bad),
        ("/ws/echo?token=bad", &[], 401, bad),
        ("/ws", &[("cookie", &cookie), evil], 403, "Origin not allowed"),
        ("/ws/auth", &[("cookie", &cookie), ("origin", "null")], 403, "Origin not allowed"),
        ("/ws/echo", &[("cookie", &cookie), evil], 403, "Origin not allowed"),
        ("/ws/none", &[], 404, "Not Found"),
        ("/ws", &[("sec-websocket-version", "8")], 426, ""),
        ("/ws/echo", &[("sec-websocket-version", "7")], 426, ""),
        ("/ws/auth", &[("sec-websocket-version", "8")], 426, ""),
        ("/ws", &[("upgrade", "websocket, h2c")], 426, ""),
        ("/ws", &[("upgrade", "xwebsocketx")], 426, ""),
        ("/ws", &[("upgrade", "WebSocket")], 101, ""),
        ("/ws/echo?raw=perhaps", &[], 422, ""),
        ("/ws", &[], 101, ""),
        ("/ws/", &[], 101, ""),
        ("/ws/auth", &[("cookie", &cookie)], 101, ""),
        ("/ws/auth", &[("cookie", &bearer_cookie), own], 101, ""),
        ("/ws/auth", &[("cookie", &cookie), ("origin", "http://localhost:3000")], 101, ""),
        // a token given explicitly counts, whatever the cookie and the page
        (
            "/ws/auth",
            &[("authorization", &format!("Bearer {}", device.token().unwrap())), ("cookie", "access_token=bad"), evil],
            101,
            "",
        ),
        (&format!("/ws/auth/?token={}", device.token().unwrap()), &[evil], 101, ""),
    ];
    for (path, headers, expected, detail) in table {
        let response = within(handshake(&nobody, path, headers).send()).await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(status, *expected, "{path} {headers:?}");
        if status == 101 {
            continue;
        }
        if status == 401 {
            assert_eq!(response.headers()["www-authenticate"], "Bearer", "{path} {headers:?}");
        }
        let body: Value = within(response.json()).await.unwrap();
        assert!(body["code"].is_string(), "{body}");
        assert!(detail.is_empty() || body["detail"] == *detail, "{path} {headers:?}: {body}");
    }
    for path in ["/ws", "/ws/auth", "/ws/echo"] {
        let (status, body) = get(&nobody, path).await;
        assert_eq!((status, &body["code"]), (426, &json!("upgrade_required")), "{path}");
        let (status, body) = answer(nobody.request(Method::POST, path)).await;
        assert_eq!((status.as_u16(), &body["detail"]), (405, &json!("Method Not Allowed")), "{path}");
    }
}

#[tokio::test]
async fn a_token_in_the_subprotocol_is_taken_and_never_echoed() {
    let broker = Broker::start().await;
    let (client, device) = broker.device("Alice").await;
    let token = client.token().unwrap();
    for value in [format!("bearer,{token}"), format!("bearer, {token}")] {
        let mut socket = RawSocket::connect(&broker).await;
        let head = socket.handshake("/ws", &format!("Sec-WebSocket-Protocol: {value}\r\n")).await.to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("\r\nsec-websocket-protocol: bearer\r\n"), "{head}");
        assert!(!head.contains(&token.to_lowercase()), "{head}");
        assert_eq!(socket.next().await.unwrap().json()["uuid"], device.uuid.to_string());
    }
    // one that can't be read is refused
    let unreadable = HeaderValue::from_bytes(b"bearer,\xe4").unwrap();
    let request = handshake(&broker.client(), "/ws", &[]).header("sec-websocket-protocol", unreadable);
    assert_eq!(within(request.send()).await.unwrap().status(), 401);
    // whoever offers others gets none of them
    let mut socket = RawSocket::connect(&broker).await;
    let head = socket.handshake("/ws/echo", "Sec-WebSocket-Protocol: chat, superchat\r\n").await.to_lowercase();
    assert!(head.starts_with("http/1.1 101") && !head.contains("sec-websocket-protocol"), "{head}");
}

#[tokio::test]
async fn a_device_socket_is_greeted() {
    let broker = Broker::start().await;
    let (client, device) = broker.device("Alice \"A\"\n").await;
    let mut socket = open(&client, "/ws").await;
    let greeting = next_of_type(&mut socket, "connection").await;
    assert_eq!(greeting["message"], "Connected successfully");
    assert_eq!((&greeting["uuid"], &greeting["name"]), (&json!(device.uuid), &json!("Alice \"A\"\n")));
    assert!(greeting["timestamp"].is_f64());
}

#[tokio::test]
async fn a_chat_socket_is_greeted_as_user_or_device() {
    let mut broker = Broker::start().await;
    let user = broker.user("ulla", "user").await;
    let (device, registered) = broker.device("sensor").await;
    let (_, me) = get(&user, "/api/users/me").await;
    let mut ids = Vec::new();
    for (client, id, name, uuid) in
        [(&user, &me["id"], "ulla", None), (&device, &Value::Null, "sensor", Some(json!(registered.uuid)))]
    {
        let mut socket = open(client, "/ws/auth").await;
        let greeting = next_of_type(&mut socket, "connection_established").await;
        assert_eq!((&greeting["user_id"], &greeting["username"]), (id, &json!(name)));
        assert!(uuid.is_none_or(|uuid| greeting["uuid"] == uuid), "{greeting}");
        ids.push(greeting["client_id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap());
        ping(&mut socket).await;
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_newer_socket_takes_over_and_the_end_of_the_old_one_changes_nothing() {
    tokio::join!(take_over("1"), take_over("4"));
}

async fn take_over(workers: &str) {
    let broker = Broker::with().set("HTTP__WORKERS", workers).start().await;
    let (_, _, mut alice) = broker.connected("Alice").await;
    let (bob, device) = broker.device("Bob").await;
    let token = format!("/ws?token={}", bob.token().unwrap());
    let mut last = open(&bob, "/ws").await;
    next_of_type(&mut last, "connection").await;
    // one that does not answer the close frame, so that its cleanup comes late
    let mut stubborn = RawSocket::open(&broker, &token).await;
    for round in 0..10 {
        let mut newer = open(&bob, "/ws").await;
        next_of_type(&mut newer, "connection").await;
        let mut old = std::mem::replace(&mut last, newer);
        assert_eq!(close_code(&mut old).await, 4409, "round {round}");
    }
    assert_eq!(stubborn.close_code().await, Some(4409));
    // the broker cuts it when it has waited long enough
    assert_eq!(stubborn.next().await, None);
    for round in 0..20 {
        let content = round.to_string();
        alice.send_direct(device.uuid, &content).await.unwrap();
        next_of_type(&mut alice, "sent").await;
        assert_eq!(next(&mut last).await["content"], content);
        assert!(is_listed(&bob, device.uuid).await);
    }
}

#[tokio::test]
async fn a_second_agent_socket_replaces_the_first() {
    let mut broker = Broker::start().await;
    let user = broker.user("ulla", "user").await;
    let mut first = open(&user, "/ws").await;
    ping(&mut first).await;
    let mut chat = open(&user, "/ws/auth").await;
    next_of_type(&mut chat, "connection_established").await;
    let mut second = open(&user, "/ws").await;
    assert_eq!(close_code(&mut first).await, 1001);
    // without a greeting, and without an end for other kinds of sockets
    ping(&mut second).await;
    ping(&mut chat).await;
}

#[tokio::test]
async fn a_public_socket_echoes_and_becomes_a_chat_socket_by_a_token() {
    let mut broker = Broker::start().await;
    let user = broker.user("ulla", "user").await;
    let mut socket = open(&broker.client(), "/ws").await;
    ping(&mut socket).await;
    for text in
        [r#"{ "a": 1.0 }"#, "[1, 2]", "\"é\"", "null", r#"{"type":"nonsense"}"#, r#"{"command_id":"1","result":2}"#]
    {
        socket.send_text(text).await.unwrap();
        assert_eq!(next(&mut socket).await, json!({ "type": "echo", "content": format!("Received: {text}") }));
    }
    socket.send_text("no json").await.unwrap();
    let error = next_of_type(&mut socket, "error").await;
    assert_eq!((&error["message"], &error["content"]), (&json!("Invalid JSON format"), &json!("Invalid JSON format")));

    let auth = |token: &str| json!({ "type": "auth", "token": token }).to_string();
    socket.send_text(auth(user.token().unwrap())).await.unwrap();
    let greeting = next_of_type(&mut socket, "connection_established").await;
    assert_eq!(greeting["username"], "ulla");
    ping(&mut socket).await;
    let (_, clients) = get(&user, "/clients").await;
    assert_eq!(clients["count"], 1);

    for bad in [auth("bad"), r#"{"type":"auth"}"#.to_owned(), r#"{"type":"auth","token":1}"#.to_owned()] {
        let mut socket = open(&broker.client(), "/ws").await;
        socket.send_text(bad).await.unwrap();
        next_of_type(&mut socket, "error").await;
        assert_eq!(close_code(&mut socket).await, 4401);
    }
}

#[tokio::test]
async fn a_token_in_band_confirms_its_own_identity_and_no_other() {
    let mut broker = Broker::start().await;
    let (_, bob_device, mut bob) = broker.connected("Bob").await;
    let (alice, device, mut socket) = broker.connected("Alice").await;
    let user = broker.user("ulla", "user").await;
    let auth = |token: &str| json!({ "type": "auth", "token": token }).to_string();
    socket.send_text(auth(alice.token().unwrap())).await.unwrap();
    let answer = next_of_type(&mut socket, "authenticated").await;
    assert_eq!(answer["uuid"], device.uuid.to_string());
    let expires_at = answer["expires_at"].as_str().unwrap();
    assert!(expires_at.ends_with('Z') && DateTime::parse_from_rfc3339(expires_at).unwrap() > Utc::now(), "{answer}");

    for bad in [auth("bad"), auth(user.token().unwrap()), auth(&bob_device.access_token), r#"{"type":"auth"}"#.into()] {
        socket.send_text(bad).await.unwrap();
        let error = next_of_type(&mut socket, "error").await;
        assert_eq!(error["message"], error["content"]);
        // it is still Alice's
        socket.send_direct(bob_device.uuid, "it is me").await.unwrap();
        next_of_type(&mut socket, "sent").await;
        assert_eq!(next(&mut bob).await["from"], device.uuid.to_string());
        bob.send_direct(device.uuid, "hello").await.unwrap();
        next_of_type(&mut bob, "sent").await;
        assert_eq!(next(&mut socket).await["content"], "hello");
    }
    // other kinds of sockets do the same
    for path in ["/ws", "/ws/auth"] {
        let mut socket = open(&user, path).await;
        socket.send_text(auth(user.token().unwrap())).await.unwrap();
        until(async || next(&mut socket).await["type"] == "authenticated").await;
        socket.send_text(auth(alice.token().unwrap())).await.unwrap();
        next_of_type(&mut socket, "error").await;
        ping(&mut socket).await;
    }
}

#[tokio::test]
async fn a_live_socket_ends_with_its_token_unless_it_gets_a_new_one() {
    // on one worker all sockets are looked at together
    let setup = || Broker::with().env("SECRET_KEY", SECRET).set("HTTP__WORKERS", "1");
    let broker = setup().set("AUTH__EXPIRE_LIVE_SOCKETS", "true").start().await;
    let (alice, _) = broker.device("Alice").await;
    let (bob, _) = broker.device("Bob").await;
    for secs in PERIODS {
        let soon = Utc::now().timestamp() + i64::from(secs) + 1;
        let short = expiring(bob.token().unwrap(), soon);
        let sockets = async {
            let mut extended = alice.with_token(&expiring(alice.token().unwrap(), soon)).connect("/ws").await.ok()?;
            next_of_type(&mut extended, "connection").await;
            let mut public = open(&broker.client(), "/ws").await;
            public.send_text(json!({ "type": "auth", "token": short }).to_string()).await.unwrap();
            let mut ending = bob.with_token(&short).connect("/ws").await.ok()?;
            next_of_type(&mut ending, "connection").await;
            let extend = json!({ "type": "auth", "token": alice.token().unwrap() });
            extended.send_text(extend.to_string()).await.unwrap();
            let is_extended = extended.next_frame().await.is_ok_and(|frame| frame["type"] == "authenticated");
            let is_greeted = public.next_frame().await.is_ok_and(|frame| frame["type"] == "connection_established");
            (is_extended && is_greeted).then_some((extended, public, ending))
        };
        // none where the tokens have ended before
        let Some((mut extended, mut public, mut ending)) = within(sockets).await else { continue };
        assert_eq!(close_code(&mut ending).await, 4401);
        assert_eq!(close_code(&mut public).await, 4401);
        assert!(Utc::now().timestamp() >= soon);
        ping(&mut extended).await;
        assert_eq!(refusal(within(bob.with_token(&short).connect("/ws")).await).0, 401);
        return;
    }
    panic!("no socket was open in time");
}

#[tokio::test]
async fn a_live_socket_outlasts_its_token_by_default() {
    let broker = Broker::with().env("SECRET_KEY", SECRET).set("SESSIONS__PING_SECS", "1").start().await;
    let (client, _) = broker.device("Alice").await;
    let mut opened = None;
    for secs in PERIODS {
        let token = expiring(client.token().unwrap(), Utc::now().timestamp() + i64::from(secs) + 1);
        let mut socket = RawSocket::connect(&broker).await;
        if socket.handshake(&format!("/ws?token={token}"), "").await.starts_with("HTTP/1.1 101") {
            opened = Some((socket, token));
            break;
        }
    }
    let (mut socket, token) = opened.expect("opened in time");
    until(async || get(&client.with_token(&token), "/clients").await.0 == 401).await;
    // two looks at all sockets later it is still there
    for _ in 0..2 {
        while socket.next().await.unwrap().opcode != 9 {}
    }
}

/// A frame's first byte and its payload.
type RawFrame<'a> = (u8, &'a [u8]);

#[tokio::test]
async fn binary_frames_and_bad_utf8_end_a_socket() {
    let mut broker = Broker::start().await;
    let (device, _) = broker.device("Alice").await;
    let user = broker.user("ulla", "user").await;
    let (device, user) = (device.token().unwrap(), user.token().unwrap());
    let paths = [
        "/ws".to_owned(),
        "/ws/echo".to_owned(),
        format!("/ws?token={device}"),
        format!("/ws?token={user}"),
        format!("/ws/auth?token={user}"),
    ];
    // what it is, the frames, the close code
    let table: &[(_, &[RawFrame<'_>], _)] = &[
        ("binary", &[(0x82, b"x")], 1003),
        ("empty binary", &[(0x82, b"")], 1003),
        ("binary in fragments", &[(0x02, b"x"), (0x80, b"y")], 1003),
        ("bad text", &[(0x81, b"\"\xc3\x28\"")], 1007),
        ("half a character at the end", &[(0x81, b"\"\xc3")], 1007),
        ("bad text in fragments", &[(0x01, b"\"\xc3"), (0x00, b"\x28"), (0x80, b"\"")], 1007),
        ("continuation of nothing", &[(0x80, b"x")], 1002),
        ("reserved bits", &[(0xc1, b"x")], 1002),
        ("unknown frame", &[(0x83, b"x")], 1002),
        ("long ping", &[(0x89, &[b'x'; 126])], 1002),
        ("long pong", &[(0x8a, &[b'x'; 126])], 1002),
        ("long close", &[(0x88, &[3; 126])], 1002),
        ("fragment of a ping", &[(0x09, b"x")], 1002),
        ("fragment of a pong", &[(0x0a, b"x")], 1002),
        ("fragment of a close", &[(0x08, b"\x03\xe8")], 1002),
        ("text within a message", &[(0x01, b"x"), (0x81, b"y")], 1002),
    ];
    for path in &paths {
        for (what, frames, code) in table {
            let mut socket = RawSocket::open(&broker, path).await;
            for (first, payload) in *frames {
                socket.send_frame(*first, payload).await;
            }
            assert_eq!(socket.close_code().await, Some(*code), "{what} on {path}");
        }
    }
}

#[tokio::test]
async fn an_echo_socket_says_what_it_hears() {
    let broker = Broker::start().await;
    let mut socket = open(&broker.client(), "/ws/echo").await;
    for text in ["hi", "", r#"{"type":"ping"}"#, "é😀"] {
        socket.send_text(text).await.unwrap();
        assert_eq!(within(socket.next_text()).await.unwrap(), format!("Echo: {text}"));
    }
    let mut raw = open(&broker.client(), "/ws/echo?raw=true").await;
    for message in [Message::text("hi"), Message::text(""), Message::binary(vec![0, 0xff]), Message::binary(vec![])] {
        raw.send(message.clone()).await.unwrap();
        assert_eq!(within(raw.next_message()).await.unwrap(), message);
    }
}

#[tokio::test]
async fn fragments_are_put_together_around_control_frames() {
    let broker = Broker::start().await;
    let (client, device) = broker.device("Alice").await;
    let mut socket = RawSocket::open(&broker, &format!("/ws?token={}", client.token().unwrap())).await;
    socket.next().await.unwrap();
    let text = format!(r#"{{"from":"{0}","to":"{0}","msgid":"é","content":"x"}}"#, device.uuid);
    // one byte each, so that the letter of two bytes is torn apart
    let pieces = text.as_bytes();
    for (n, piece) in pieces.iter().enumerate() {
        let first = u8::from(n == 0) | if n + 1 == pieces.len() { 0x80 } else { 0 };
        socket.send_frame(first, &[*piece]).await;
        if n == 1 {
            socket.send_frame(0x89, b"ping").await;
            assert_eq!(socket.next().await.unwrap(), Frame { opcode: 10, payload: b"ping".to_vec() });
        }
    }
    assert_eq!(socket.next().await.unwrap().payload, text.as_bytes());
    assert_eq!(socket.next().await.unwrap().json()["type"], "sent");
    // the answer to a close frame has its code
    for (payload, answer) in [(&1000_u16.to_be_bytes()[..], 1000), (&4999_u16.to_be_bytes(), 4999), (&[], 1005)] {
        let mut socket = RawSocket::open(&broker, "/ws/echo").await;
        socket.send_frame(0x88, payload).await;
        assert_eq!(socket.close_code().await, Some(answer));
        assert_eq!(socket.next().await, None);
    }
}

#[tokio::test]
async fn an_agent_socket_hears_the_broker_is_alive() {
    let mut broker = Broker::with().set("SESSIONS__HEARTBEAT_SECS", "1").start().await;
    let user = broker.user("ulla", "user").await;
    let (_, _, mut device) = broker.connected("Alice").await;
    let mut agent = open(&user, "/ws").await;
    for _ in 0..2 {
        assert_eq!(next(&mut agent).await, json!({ "type": "heartbeat" }));
        agent.send_text(r#"{"type":"pong"}"#).await.unwrap();
    }
    agent.send_text(r#"{"type":"ping"}"#).await.unwrap();
    // no answer to the pongs; another heartbeat may be on its way
    until(async || match next(&mut agent).await["type"].as_str() {
        Some("pong") => true,
        other => {
            assert_eq!(other, Some("heartbeat"));
            false
        }
    })
    .await;
    ping(&mut device).await;
}

#[tokio::test]
async fn a_silent_peer_is_pinged_and_then_given_up_and_one_that_answers_is_kept() {
    for secs in PERIODS {
        if one_that_answers_outlasts_a_silence_of(secs + 2).await {
            return;
        }
    }
    panic!("no answer came in time");
}

/// False: the answers came too late.
async fn one_that_answers_outlasts_a_silence_of(secs: u32) -> bool {
    let setup = Broker::with().set("SESSIONS__PING_SECS", "1").set("SESSIONS__SILENCE_SECS", &secs.to_string());
    let broker = setup.start().await;
    let mut silent = RawSocket::open(&broker, "/ws").await;
    let mut quiet = RawSocket::open(&broker, "/ws").await;
    let pinged = async {
        let mut pings = 0;
        loop {
            let frame = silent.next().await.unwrap();
            match frame.opcode {
                9 => pings += 1,
                _ => break (pings, frame.close_code()),
            }
        }
    };
    let answering = async {
        for _ in 0..=secs {
            let Some(ping) = quiet.next().await.filter(|frame| frame.opcode == 9) else { return false };
            quiet.send_frame(0x8a, &ping.payload).await;
        }
        quiet.send_frame(0x81, br#"{"type":"ping"}"#).await;
        loop {
            match quiet.next().await.map(|frame| frame.opcode) {
                Some(1) => return true,
                Some(9) => {}
                _ => return false,
            }
        }
    };
    let ((pings, code), is_kept) = tokio::join!(pinged, answering);
    assert!(pings > 0);
    assert_eq!(code, Some(4408));
    is_kept
}

#[tokio::test]
async fn a_broker_that_stops_delivers_what_is_queued_and_turns_newcomers_away() {
    tokio::join!(stop("TERM"), stop("INT"));
}

async fn stop(signal: &str) {
    let setup = Broker::with().set("HTTP__CLOSE_SPREAD_SECS", "0").set("LIMITS__OUTBOUND_BYTES", "0");
    // neither is in a hurry to cut who does not read yet
    let setup = setup.set("LIMITS__SEND_TIMEOUT_SECS", "120").set("HTTP__DRAIN_SECS", "120");
    let mut broker = setup.start().await;
    let user = broker.user("ulla", "user").await;
    let (client, _, mut alice) = broker.connected("Alice").await;
    let (bob, bob_device) = broker.device("Bob").await;
    let mut reader = RawSocket::connect_narrow(&broker).await;
    let head = reader.handshake(&format!("/ws?token={}", bob.token().unwrap()), "").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut agent = open(&user, "/ws").await;
    // does not answer the close frame, and so keeps the broker draining
    let mut stubborn = RawSocket::open(&broker, "/ws").await;
    // more than the kernel takes for a peer that does not read
    let content = "x".repeat(60_000);
    for n in 0..100 {
        let message = json!({ "to": bob_device.uuid, "msgid": n.to_string(), "content": content });
        alice.send_text(message.to_string()).await.unwrap();
        next_of_type(&mut alice, "sent").await;
    }

    broker.signal(signal);
    let ready = async || within(client.request(Method::GET, "/readyz").send()).await.unwrap();
    until(async || ready().await.status() == 503).await;
    let body: Value = within(ready().await.json()).await.unwrap();
    assert_eq!(body["draining"], true, "{body}");
    assert!(ready().await.headers().contains_key("retry-after"));
    for request in [
        handshake(&client, "/ws", &[]),
        handshake(&broker.client(), "/ws/echo", &[]),
        client.request(Method::GET, "/clients"),
    ] {
        let response = within(request.send()).await.unwrap();
        assert_eq!(response.status(), 503);
        assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 0);
        let body: Value = within(response.json()).await.unwrap();
        assert_eq!(body["code"], "draining", "{body}");
    }
    assert_eq!(reader.next().await.unwrap().json()["type"], "connection");
    for n in 0..100 {
        assert_eq!(reader.next().await.unwrap().json()["msgid"], n.to_string());
    }
    assert_eq!(reader.next().await.unwrap().close_code(), Some(1001));
    assert_eq!(close_code(&mut alice).await, 1001);
    assert_eq!(close_code(&mut agent).await, 1001);
    assert_eq!(stubborn.close_code().await, Some(1001));
    assert_eq!(broker.ended().await, Some(0), "{signal}");
}

#[tokio::test]
async fn a_broker_with_a_delay_serves_on_without_being_ready_until_another_signal_or_its_end() {
    let mut broker = Broker::with().set("HTTP__SHUTDOWN_DELAY_SECS", "300").start().await;
    let (_, _, mut alice) = broker.connected("Alice").await;
    broker.signal("TERM");
    until(async || get(&broker.client(), "/readyz").await.0 == 503).await;
    let (_, body) = get(&broker.client(), "/readyz").await;
    assert_eq!((&body["status"], &body["draining"]), (&json!("unavailable"), &json!(true)), "{body}");
    let (client, bob) = broker.device("Bob").await;
    let mut socket = open(&client, "/ws").await;
    next_of_type(&mut socket, "connection").await;
    alice.send_text(json!({ "to": bob.uuid, "msgid": "1", "content": "hello" }).to_string()).await.unwrap();
    next_of_type(&mut alice, "sent").await;
    assert_eq!(next(&mut socket).await["content"], "hello");
    broker.signal("TERM");
    assert_eq!(close_code(&mut socket).await, 1001);
    assert_eq!(broker.ended().await, Some(0));

    let mut broker = Broker::with().set("HTTP__SHUTDOWN_DELAY_SECS", "1").start().await;
    let (_, _, mut alice) = broker.connected("Alice").await;
    broker.signal("INT");
    assert_eq!(close_code(&mut alice).await, 1001);
    assert_eq!(broker.ended().await, Some(0));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let mut broker = Broker::with().set("HTTP__DRAIN_SECS", "1").start().await;
    let (client, _) = broker.device("Alice").await;
    let mut stubborn = RawSocket::open(&broker, &format!("/ws?token={}", client.token().unwrap())).await;
    let mut half = RawSocket::connect(&broker).await;
    half.send(b"GET /ws HTTP/1.1\r\n").await;
    broker.signal("TERM");
    assert_eq!(stubborn.close_code().await, Some(1001));
    assert_eq!(broker.ended().await, Some(0));
}

#[tokio::test]
async fn two_lines_of_subprotocols_are_one_list() {
    let broker = Broker::start().await;
    let (_, device) = broker.device("Alice").await;
    let token = device.access_token.as_str();
    for lines in [vec!["bearer", token], vec!["chat", &format!("bearer, {token}")], vec!["chat, bearer", token, "x"]] {
        let mut request = handshake(&broker.client(), "/ws", &[]);
        for line in &lines {
            request = request.header("sec-websocket-protocol", *line);
        }
        let response = within(request.send()).await.unwrap();
        assert_eq!(response.status(), 101, "{lines:?}");
        assert_eq!(response.headers()["sec-websocket-protocol"], "bearer", "{lines:?}");
    }
    let request = handshake(&broker.client(), "/ws", &[]).header("sec-websocket-protocol", "bearer");
    let response = within(request.header("sec-websocket-protocol", "nonsense").send()).await.unwrap();
    assert_eq!(response.status(), 401);
    let response = within(handshake(&broker.client(), "/ws", &[("sec-websocket-protocol", "chat")]).send()).await;
    assert!(!response.unwrap().headers().contains_key("sec-websocket-protocol"), "none that was not chosen");
}
