//! What connections may take up: descriptors, bodies that nobody wants, answers that nobody reads.

use futures_util::FutureExt;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Broker, PERIODS, RawSocket, SteppedClock, answer, get, handshake, post, until, within};

/// More than the kernel holds of a connection that is not read.
const ENDLESS: usize = 256 << 20;

const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Reads the head of an answer and, if it has a length, its body.
async fn read_answer(socket: &mut RawSocket) -> (String, String) {
    let head = socket.read_head().await;
    let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    within(socket.stream.read_exact(&mut body)).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_not_read_on() {
    let broker = Broker::with().set("LIMITS__CONNECTIONS_PER_IDENTITY", "1").start().await;
    let (client, _, _socket) = broker.connected("device").await;
    let token = client.token().unwrap();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let json = "Content-Type: application/json\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let long = format!("Content-Length: {ENDLESS}\r\n");
    let table = [
        (format!("POST /nowhere HTTP/1.1\r\n{chunked}"), 404),
        (format!("POST /nowhere HTTP/1.1\r\n{long}"), 404),
        (format!("PUT /healthz HTTP/1.1\r\n{chunked}"), 405),
        (format!("GET /clients HTTP/1.1\r\n{chunked}"), 200),
        (format!("GET /clients HTTP/1.1\r\n{long}"), 200),
        (format!("POST /register HTTP/1.1\r\n{json}{chunked}"), 413),
        (format!("POST /register HTTP/1.1\r\n{json}{long}"), 413),
        (format!("POST /register HTTP/1.1\r\nContent-Type: text/plain\r\n{chunked}"), 415),
        (format!("POST /api/rooms/ HTTP/1.1\r\n{json}{chunked}"), 401),
        (format!("POST /api/commands HTTP/1.1\r\n{json}{chunked}Authorization: Bearer {token}\r\n"), 403),
        (format!("GET /ws/auth HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{chunked}"), 426),
        (format!("GET /ws?token=nonsense HTTP/1.1\r\n{upgrade}"), 401),
        (format!("GET /ws/room/99999?token={token} HTTP/1.1\r\n{upgrade}"), 404),
        (format!("GET /ws/auth?token={token} HTTP/1.1\r\n{upgrade}"), 429),
    ];
    for (head, status) in table {
        let (mut reader, mut writer) = RawSocket::connect(&broker).await.split();
        let is_chunked = head.contains("chunked");
        let head = format!("{head}Host: broker\r\n\r\n");
        let name = head.clone();
        let writing = tokio::spawn(async move {
            let piece = vec![b'x'; 1 << 20];
            let mut written = 0;
            let _ = writer.stream.write_all(head.as_bytes()).await;
            while written < ENDLESS {
                if is_chunked && writer.stream.write_all(b"100000\r\n").await.is_err() {
                    break;
                }
                if writer.stream.write_all(&piece).await.is_err() {
                    break;
                }
                if is_chunked && writer.stream.write_all(b"\r\n").await.is_err() {
                    break;
                }
                written += piece.len();
            }
            written
        });
        let answered = reader.read_head().await;
        assert!(answered.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answered}");
        assert!(answered.to_lowercase().contains("connection: close"), "{name}: {answered}");
        let written = within(writing).await.unwrap();
        assert!(written < ENDLESS / 4, "{name}: {written} bytes were taken");
    }
}

#[tokio::test]
async fn bodies_that_do_not_end_take_up_no_more_than_they_may() {
    let broker = Broker::with().alone("memory of one process").start().await;
    let (client, _) = broker.device("device").await;
    let before = broker.memory();
    let mut refused = 0;
    let mut unended = Vec::new();
    let almost = vec![b' '; (1 << 20) - 10];
    for length in ["Content-Length: 1048576\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nFFFF6\r\n"].repeat(75) {
        let mut socket = RawSocket::connect(&broker).await;
        let head = format!("POST /register HTTP/1.1\r\nHost: broker\r\nContent-Type: application/json\r\n{length}");
        socket.send(head.as_bytes()).await;
        // one that is refused may be closed before it has sent everything
        let _ = within(socket.stream.write_all(&almost)).await;
        unended.push(socket);
        // it has been read, or refused
        let (status, body) = post(&broker.client(), "/register", json!("x".repeat(20_000))).await;
        if status == 429 {
            assert!(body["detail"].as_str().unwrap().contains("limits.request_bytes_per_identity"), "{body}");
            refused += 1;
        }
    }
    assert!(refused > 0, "of one address");
    assert!(broker.memory() < before + (90 << 20), "{} bytes more", broker.memory() - before);
    // small ones are free, and those who say who they are have their own
    assert_eq!(post(&broker.client(), "/register", json!("x")).await.0, 422);
    let metadata = json!({ "text": "x".repeat(500_000) });
    assert_eq!(post(&client, "/topics/create", json!({ "topic_id": "t", "metadata": metadata })).await.0, 422);
    drop(unended);
    until(async || post(&broker.client(), "/register", json!("x".repeat(500_000))).await.0 == 422).await;
}

#[tokio::test]
async fn bodies_of_all_together_take_up_no_more_than_they_may() {
    let broker = Broker::with()
        .alone("limits.request_bytes is per node")
        .set("LIMITS__REQUEST_BYTES", "100000")
        .set("LIMITS__REQUEST_BYTES_PER_IDENTITY", "0")
        .start()
        .await;
    let (client, _) = broker.device("device").await;
    let head =
        "POST /register HTTP/1.1\r\nHost: broker\r\nContent-Type: application/json\r\nContent-Length: 90001\r\n\r\n";
    let metadata = json!({ "text": "x".repeat(50_000) });
    let ask = async || post(&client, "/topics/create", json!({ "topic_id": "t", "metadata": metadata })).await;
    let mut large = RawSocket::connect(&broker).await;
    loop {
        let _ = within(large.stream.write_all(&[head.as_bytes(), &[b' '; 90_000]].concat())).await;
        until(async || {
            let (status, body) = ask().await;
            let is_refused = status == 503 && body["code"] == "at_limit";
            assert!(!is_refused || body["detail"].as_str().unwrap().contains("limits.request_bytes"), "{body}");
            is_refused || large.stream.peek(&mut [0]).now_or_never().is_some()
        })
        .await;
        // it ends
        let _ = within(large.stream.write_all(b" ")).await;
        match read_answer(&mut large).await.0 {
            answer if answer.starts_with("HTTP/1.1 422 ") => break,
            // the other one was there first
            answer => assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}"),
        }
        large = RawSocket::connect(&broker).await;
    }
    // and there is room again
    until(async || ask().await.0 == 422).await;
}

#[tokio::test]
async fn strangers_of_many_networks_whose_bodies_do_not_end_leave_room_for_others() {
    let broker = Broker::with()
        .alone("limits.request_bytes is per node")
        .set("HTTP__TRUSTED_PROXIES", "127.0.0.1")
        .set("LIMITS__REQUEST_BYTES", "4000000")
        .set("LIMITS__REQUEST_BYTES_PER_IDENTITY", "500000")
        .start()
        .await;
    let (client, _) = broker.device("device").await;
    let large = json!("x".repeat(100_000));
    let mut unended = Vec::new();
    for network in 0..10 {
        let address = format!("2001:db8:0:{network}::1");
        until(async || {
            let mut socket = RawSocket::connect(&broker).await;
            let head = format!(
                "POST /register HTTP/1.1\r\nHost: broker\r\nX-Forwarded-For: {address}\r\n\
                 Content-Type: application/json\r\nContent-Length: 100001\r\n\r\n"
            );
            socket.send(head.as_bytes()).await;
            // one that is refused may be closed before it has sent everything
            let _ = within(socket.stream.write_all(&[b' '; 100_000])).await;
            unended.push(socket);
            // until there is no more for this network
            let request = broker.client().request(Method::POST, "/register").header("X-Forwarded-For", &address);
            let (status, body) = answer(request.json(&large)).await;
            let limits = ["(limits.request_bytes)", "(limits.request_bytes_per_identity)"];
            limits.iter().any(|limit| body["detail"].as_str().is_some_and(|detail| detail.ends_with(limit)))
                && [429, 503].contains(&status.as_u16())
        })
        .await;
    }
    let metadata = json!({ "text": "x".repeat(100_000) });
    let (status, body) = post(&client, "/topics/create", json!({ "topic_id": "t", "metadata": metadata })).await;
    assert_eq!(status, 422, "{body}");
}

#[tokio::test]
async fn a_little_that_nobody_wants_is_drained_and_the_connection_goes_on() {
    let broker = Broker::start().await;
    let mut socket = RawSocket::connect(&broker).await;
    for _ in 0..3 {
        socket.send(b"POST /nowhere HTTP/1.1\r\nHost: broker\r\nContent-Length: 5000\r\n\r\n").await;
        socket.send(&[b'x'; 5000]).await;
        let (head, body) = read_answer(&mut socket).await;
        assert!(head.starts_with("HTTP/1.1 404 ") && body.contains("Not Found"), "{head}{body}");
        assert!(!head.to_lowercase().contains("connection: close"), "{head}");
        socket.send(b"GET /clients HTTP/1.1\r\nHost: broker\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        socket.send(b"3\r\nabc\r\n0\r\n\r\n").await;
        assert!(read_answer(&mut socket).await.0.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn requests_whose_answers_nobody_reads_cost_little() {
    let broker = Broker::with().alone("memory of one process").start().await;
    let client = broker.client();
    let mut small = Vec::new();
    for request in ["GET /healthz", "HEAD /healthz", "GET /nowhere", "OPTIONS /healthz"] {
        small.extend(format!("{request} HTTP/1.1\r\nHost: b\r\n\r\n").repeat(2_000).into_bytes());
        let mut sockets = Vec::new();
        for _ in 0..25 {
            sockets.push(RawSocket::connect_narrow(&broker).await);
        }
        let before = broker.memory();
        for _ in 0..40 {
            for socket in &sockets {
                // as much as the kernel takes now
                while socket.stream.try_write(&small).is_ok() {}
            }
            assert_eq!(get(&client, "/healthz").await.0, 200);
            let more = broker.memory().saturating_sub(before);
            assert!(more < 50 << 20, "{more} bytes for {} connections", sockets.len());
        }
    }
}

#[tokio::test]
async fn any_number_of_requests_in_one_go_is_answered_in_order() {
    let broker = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "0").start().await;
    let mut requests = Vec::new();
    // empty lines before a request, in its body, and behind it; the bodies are read to their ends, and are not valid
    let bodies = ["\r\n\r\n".to_owned(), "\n".repeat(200), "\n".repeat(20_000), "x".repeat(40_000)];
    for n in 0..200 {
        let body = &bodies[n / 4 % bodies.len()];
        let length = body.len();
        let head = format!("HTTP/1.1\r\nHost: b\r\nX-Request-ID: {n}\r\nContent-Type: application/json\r\n");
        requests.push(match n % 4 {
            0 => format!("\r\nGET /nowhere/{n} {head}\r\n"),
            1 => format!("GET /healthz HTTP/1.1\nHost: b\nX-Request-ID: {n}\n\n"),
            2 => format!("POST /register {head}Content-Length: {length}\r\n\r\n{body}"),
            _ => format!("POST /register {head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
        });
    }
    let bytes = requests.concat().into_bytes();
    for piece in [bytes.len(), 4099, 173] {
        let (mut writer, mut reader) = RawSocket::connect(&broker).await.split();
        writer.stream.set_nodelay(true).unwrap();
        let bytes = bytes.clone();
        let sent = tokio::spawn(async move {
            for piece in bytes.chunks(piece) {
                writer.send(piece).await;
            }
        });
        for n in 0..200 {
            let (head, _) = read_answer(&mut reader).await;
            let expected = ["404", "200", "422", "422"][n % 4];
            assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{n}: {head}");
            assert!(head.to_lowercase().contains(&format!("x-request-id: {n}\r\n")), "{n}: {head}");
        }
        sent.await.unwrap();
    }
}

#[tokio::test]
async fn readers_of_large_answers_that_do_not_read_cost_little_and_are_cut() {
    for secs in PERIODS {
        if readers_that_do_not_read_are_refused_more_within(secs).await {
            return;
        }
    }
    panic!("nobody was refused");
}

/// False: nobody has asked for more in the time until they were cut.
async fn readers_that_do_not_read_are_refused_more_within(secs: u32) -> bool {
    let settings = Broker::with()
        .alone("memory of one process")
        .set("LIMITS__TOPICS_PER_CLIENT", "0")
        .set("LIMITS__READS_PER_IDENTITY", "0");
    let broker = settings.set("LIMITS__SEND_TIMEOUT_SECS", &secs.to_string()).start().await;
    let (client, _) = broker.device("device").await;
    let metadata = json!({ "text": "x".repeat(4_000) });
    for n in 0..600 {
        let body = json!({ "topic_id": format!("t{n}"), "metadata": metadata });
        assert_eq!(post(&client, "/topics/create", body).await.0, 200);
    }
    let before = broker.memory();
    let mut stalled = Vec::new();
    for _ in 0..96 {
        let mut socket = RawSocket::connect_narrow(&broker).await;
        socket.send(b"GET /clients HTTP/1.1\r\nHost: broker\r\n\r\n").await;
        stalled.push(socket);
    }
    let began = std::time::Instant::now();
    loop {
        // some more than the kernel takes
        let mut socket = RawSocket::connect_narrow(&broker).await;
        socket.send(b"GET /topics HTTP/1.1\r\nHost: broker\r\n\r\n".repeat(4).as_slice()).await;
        let head = socket.read_head().await;
        stalled.push(socket);
        assert!(broker.memory() < before + (100 << 20), "{} bytes more", broker.memory() - before);
        if head.starts_with("HTTP/1.1 429 ") {
            let (status, body) = get(&broker.client(), "/topics").await;
            if status == 429 && body["detail"].as_str().unwrap().contains("limits.response_bytes_per_identity") {
                break;
            }
        }
        // an answer that is not read is cut after twice as long as a message
        if began.elapsed().as_secs() > 4 * u64::from(secs) {
            return false;
        }
    }
    // others have answers, large ones too
    let (_, list) = get(&client, "/topics/t1").await;
    assert_eq!(list["id"], "t1");
    let (status, list) = get(&client, "/topics").await;
    assert_eq!((status, &list["count"]), (200, &json!(600)));
    // and what was stalled is cut, so that the address has room again
    until(async || get(&broker.client(), "/topics").await.0 == 200).await;
    true
}

#[tokio::test]
async fn the_servers_health_is_told_however_many_connections_there_are() {
    let broker =
        Broker::with().alone("descriptors of one process").descriptors(256).set("HTTP__WORKERS", "2").start().await;
    let mut sockets = Vec::new();
    // sockets, up to what the descriptors allow
    let refused = loop {
        let mut socket = RawSocket::connect(&broker).await;
        let head = socket.handshake("/ws/echo", "").await;
        if !head.starts_with("HTTP/1.1 101 ") {
            break head;
        }
        sockets.push(socket);
        assert!(sockets.len() < 128, "two descriptors each");
    };
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: "), "{refused}");
    // and silent connections on top of that
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(RawSocket::connect(&broker).await);
    }
    for path in ["/healthz", "/readyz"] {
        until(async || {
            let mut socket = RawSocket::connect(&broker).await;
            let request = format!("GET {path} HTTP/1.1\r\nHost: broker\r\n\r\n");
            if socket.stream.write_all(request.as_bytes()).await.is_err() {
                return false;
            }
            let mut answer = String::new();
            let _ = within(socket.stream.read_to_string(&mut answer)).await;
            answer.starts_with("HTTP/1.1 200 ")
        })
        .await;
    }
    // those who are in are served, and places that are free are free
    let mut first = sockets.remove(0);
    first.send_frame(0x81, b"still here").await;
    assert_eq!(first.next().await.unwrap().payload, b"Echo: still here");
    drop((sockets, silent));
    until(async || within(broker.client().connect("/ws/echo")).await.is_ok()).await;
}

#[tokio::test]
async fn the_servers_health_is_told_at_the_first_try_behind_many_connections_that_come_at_once() {
    let broker =
        Broker::with().alone("descriptors of one process").descriptors(200).set("HTTP__WORKERS", "2").start().await;
    for round in 0..20 {
        let silent = futures_util::future::join_all((0..300).map(|_| RawSocket::connect(&broker))).await;
        let mut socket = RawSocket::connect(&broker).await;
        socket.send(b"GET /healthz HTTP/1.1\r\nHost: broker\r\n\r\n").await;
        let head = socket.read_head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "round {round}: {head}");
        drop(silent);
    }
}

#[tokio::test]
async fn connections_that_come_all_at_once_do_not_take_the_descriptors() {
    let mut broker =
        Broker::with().alone("descriptors of one process").descriptors(200).set("HTTP__WORKERS", "2").start().await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.extend(futures_util::future::join_all((0..100).map(|_| RawSocket::connect(&broker))).await);
    }
    drop(silent);
    let mut handshakes = Vec::new();
    for _ in 0..300 {
        let mut socket = RawSocket::connect(&broker).await;
        let _ = socket.stream.write_all(HANDSHAKE).await;
        handshakes.push(socket);
    }
    drop(handshakes);
    until(async || within(broker.client().connect("/ws/echo")).await.is_ok()).await;
    let log = broker.log();
    assert!(!log.contains("Too many open files") && !log.contains("request failed"), "{log}");
}

#[tokio::test]
async fn idle_connections_make_room_for_others() {
    let broker =
        Broker::with().alone("descriptors of one process").descriptors(256).set("HTTP__WORKERS", "1").start().await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        let mut socket = RawSocket::connect(&broker).await;
        // half of a second request keeps the framework's own timer from running
        let _ = socket.stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: broker\r\n\r\nGET /hea").await;
        idle.push(socket);
    }
    until(async || within(broker.client().connect("/ws/echo")).await.is_ok()).await;
}

#[tokio::test]
async fn a_body_that_does_not_end_in_time_is_refused_and_its_connection_closed() {
    let (clock, settings) = SteppedClock::of(Broker::with());
    let broker = settings.start().await;
    let head = "POST /auth/login HTTP/1.1\r\nHost: broker\r\nContent-Type: application/json\r\n\
                Content-Length: 100\r\nExpect: 100-continue\r\n\r\n";
    let mut socket = RawSocket::connect(&broker).await;
    socket.send(head.as_bytes()).await;
    // it waits for the body from now on
    assert!(socket.read_head().await.starts_with("HTTP/1.1 100 "));
    socket.send(b"{").await;
    clock.set_passed(31);
    let (head, body) = read_answer(&mut socket).await;
    assert!(head.starts_with("HTTP/1.1 408 ") && head.to_lowercase().contains("connection: close\r\n"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["code"], "body_timeout", "{body}");
    // a reset ends it as well
    assert_eq!(within(socket.stream.read(&mut [0])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_it_may() {
    let broker = Broker::with()
        .alone("limits.connections_per_address is per node")
        .set("LIMITS__CONNECTIONS_PER_ADDRESS", "3")
        .start()
        .await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(RawSocket::open(&broker, "/ws/echo").await);
    }
    let mut socket = RawSocket::connect(&broker).await;
    let head = socket.handshake("/ws/echo", "").await;
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    let mut socket = RawSocket::connect(&broker).await;
    socket.send(b"GET /healthz HTTP/1.1\r\nHost: broker\r\n\r\n").await;
    assert!(socket.read_head().await.starts_with("HTTP/1.1 200 "));
    drop((sockets, socket));
    until(async || {
        let mut socket = RawSocket::connect(&broker).await;
        socket.handshake("/ws/echo", "").await.starts_with("HTTP/1.1 101 ")
    })
    .await;
}

#[tokio::test]
async fn sockets_of_nobody_can_be_switched_off() {
    let broker = Broker::with().set("HTTP__PUBLIC_SOCKETS", "false").start().await;
    for path in ["/ws", "/ws/echo"] {
        let response = within(handshake(&broker.client(), path, &[]).send()).await.unwrap();
        assert_eq!(response.status(), 401, "{path}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
    let (client, _, _socket) = broker.connected("device").await;
    let mut echo = within(client.connect("/ws/echo")).await.unwrap();
    echo.send_text("a").await.unwrap();
    within(echo.next_message()).await.unwrap();
    // bad credentials are refused as ever
    let path = "/ws/echo?token=nonsense";
    assert_eq!(within(handshake(&broker.client(), path, &[]).send()).await.unwrap().status(), 401);
}
