//! What all HTTP has in common, health and documents, and topics by HTTP (contract sections 2, 9, 5).

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Method, RequestBuilder, Response, redirect};
use serde_json::{Value, json};
use switchboard::client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::support::{Broker, RawSocket, answer, faults, get, next, next_of_type, post, refusal, within};

const PUBLIC_READS: [&str; 4] = ["/clients", "/topics", "/topics/weather", "/device_status"];

async fn send(request: RequestBuilder) -> Response {
    within(request.send()).await.expect("an answer")
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// A broker with the topic `weather`, and a device of it.
async fn with_weather() -> (Broker, Client) {
    let broker = Broker::start().await;
    let (client, _) = broker.device("Alice").await;
    client.create_topic("weather").await.unwrap();
    (broker, client)
}

/// Every method and path of the document, with parameters that exist.
async fn documented(broker: &Broker) -> Vec<(Method, String)> {
    let (_, document) = get(&broker.client(), "/openapi.json").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths = document["paths"].as_object().unwrap();
    let methods = paths.iter().flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |key| (key, path)));
    methods
        .filter_map(|(method, path)| {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(&method);
            let path = path.replace("{topic_id}", "weather").replace("{file}", "index.html").replace("{id}", "1");
            known.then_some((method, path))
        })
        .collect()
}

#[tokio::test]
async fn every_documented_route_is_there_and_its_path_has_no_other_methods() {
    let (mut broker, _) = with_weather().await;
    let admin = broker.admin().await;
    let (_, document) = get(&broker.client(), "/openapi.json").await;
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    for response in operations.filter_map(|one| one["responses"].as_object()).flat_map(|all| all.values()) {
        assert!(response["description"].is_string(), "{response}");
    }
    for path in ["/api/token", "/api/connections", "/rooms", "/topics/create"] {
        assert!(document["paths"][path]["post"].is_object() || document["paths"][path]["get"].is_object(), "{path}");
    }
    let mut methods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path) in documented(&broker).await {
        let (status, body) = answer(admin.request(method.clone(), &path)).await;
        // no such thing is another matter than no such path
        assert!(status != 405 && body["detail"] != "Not Found", "{method} {path}: {status}");
        methods.entry(path).or_default().insert(method.to_string());
    }
    assert!(methods.len() >= 40, "{methods:?}");
    for (path, mut documented) in methods {
        let response = within(admin.request(Method::TRACE, &path).send()).await.unwrap();
        assert_eq!(response.status(), 405, "{path}");
        let allowed = response.headers()["allow"].to_str().unwrap().split(", ").map(str::to_owned);
        if documented.contains("GET") {
            documented.insert("HEAD".to_owned());
        }
        assert_eq!(allowed.collect::<BTreeSet<_>>(), documented, "{path}");
    }
}

#[tokio::test]
async fn every_route_works_with_and_without_a_trailing_slash() {
    let (broker, client) = with_weather().await;
    let nobody = broker.client();
    for (method, path) in documented(&broker).await.into_iter().filter(|(_, path)| path != "/") {
        let path = path.trim_end_matches('/');
        let ask = |path: &str| answer(nobody.request(method.clone(), path));
        let (without, with) = (ask(path).await, ask(&format!("{path}/")).await);
        // metrics change with each request
        let is_same = if path == "/metrics" { without.0 == with.0 } else { without == with };
        assert!(is_same, "{method} {path}: {without:?}, {with:?}");
        assert_ne!(with.1["detail"], "Not Found", "{method} {path}");
    }
    for path in ["/ws/", "/ws/auth/", "/ws/echo/", "/ws/status/"] {
        within(client.connect(path)).await.unwrap();
    }
    let path = format!("/topics/create/?token={}", client.token().unwrap());
    assert_eq!(post(&nobody, &path, json!({ "topic_id": "slash" })).await.0, 200);
}

#[tokio::test]
async fn every_error_has_a_detail_a_code_and_the_headers_that_belong_to_it() {
    let broker = Broker::with().set("LIMITS__BODY_BYTES", "100").start().await;
    let nobody = broker.client();
    let get = |path: &str| nobody.request(Method::GET, path);
    let post = |path: &str| nobody.request(Method::POST, path);
    let typed = |path: &str, kind: &str| post(path).header("content-type", kind);
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(100));
    let (bearer, none) = (Some(("www-authenticate", "Bearer")), None);
    let not_found = (404, "Not Found", "not_found", none);
    let unsupported = |detail| (415, detail, "unsupported_media_type", none);
    let json_only = "Unsupported content type, expected application/json";
    let form_only = "Unsupported content type, expected application/x-www-form-urlencoded";
    let not_allowed = |allow| (405, "Method Not Allowed", "method_not_allowed", Some(("allow", allow)));
    let too_large = (413, "Request body over 100 bytes (limits.body_bytes)", "body_too_large", none);
    let bad = (401, "Could not validate credentials", "invalid_credentials", bearer);
    let cases = [
        (get("/nope"), not_found),
        (get("/nope/%FF"), not_found),
        (post("/"), not_allowed("GET, HEAD")),
        (get("/register/"), not_allowed("POST")),
        (nobody.request(Method::DELETE, "/api/users"), not_allowed("GET, HEAD, POST")),
        (get("/api/users/1"), not_allowed("PATCH, DELETE")),
        (nobody.request(Method::OPTIONS, "/clients"), not_allowed("GET, HEAD")),
        (get("/topics/nope"), (404, "Topic not found", "not_found", none)),
        (get("/topics/%FF"), (404, "Topic not found", "not_found", none)),
        (get("/topics/a%00b"), (404, "Topic not found", "not_found", none)),
        (get("/docs/nope.js"), not_found),
        (typed("/register", "text/plain").body("{}"), unsupported(json_only)),
        (typed("/auth/login", "application/x-www-form-urlencoded").body("a=b"), unsupported(json_only)),
        (typed("/token", "application/json").body("{}"), unsupported(form_only)),
        (post("/token"), unsupported(form_only)),
        (post("/register").body(long.clone()), too_large),
        (post("/token").form(&[("username", &long)]), too_large),
        (get("/api/users/me"), (401, "Not authenticated", "not_authenticated", bearer)),
        (get("/api/users/me").bearer_auth("x"), bad),
        (post("/auth/logout").bearer_auth("x"), bad),
        (post("/topics/create").bearer_auth("x"), (401, "Invalid token", "invalid_credentials", bearer)),
    ];
    for (request, (status, detail, code, expected)) in cases {
        let response = send(request).await;
        let url = response.url().path().to_owned();
        assert_eq!(header(&response, "content-type"), Some("application/json"), "{url}");
        if let Some((name, value)) = expected {
            assert_eq!(header(&response, name), Some(value), "{url}");
        }
        assert_eq!(response.status(), status, "{url}");
        assert_eq!(response.json::<Value>().await.unwrap(), json!({ "detail": detail, "code": code }), "{url}");
    }
    // a body whose length nobody declared is counted
    let mut raw = RawSocket::connect(&broker).await;
    raw.send(b"POST /register HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    raw.send(format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len()).as_bytes()).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 413"));
    let charset = typed("/register", "Application/JSON; charset=utf-8");
    assert_eq!(answer(charset.body("{}")).await.0, 422);
    assert_eq!(answer(post("/register")).await.0, 422);
}

#[tokio::test]
async fn the_first_credentials_found_count_and_unusable_ones_are_never_ignored() {
    let mut broker = Broker::start().await;
    let (good, ()) = (broker.user("alice", "user").await.token().unwrap().to_owned(), ());
    // header, query, cookie
    let request = |header: Option<&str>, query: Option<&str>, cookie: Option<&str>| {
        let path = query.map_or("/api/users/me".to_owned(), |token| format!("/api/users/me?token={token}"));
        let mut request = broker.client().request(Method::GET, &path);
        if let Some(token) = header {
            request = request.bearer_auth(token);
        }
        if let Some(token) = cookie {
            request = request.header("cookie", format!("other=1; access_token={token}"));
        }
        request
    };
    let (ok, bad) = (Some(good.as_str()), Some("bad"));
    let (bearer, quoted, encoded) =
        (format!("Bearer {good}"), format!("\"Bearer {good}\""), format!("Bearer%20{good}"));
    let cases = [
        (request(ok, bad, bad), 200),
        (request(bad, ok, ok), 401),
        (request(None, ok, bad), 200),
        (request(None, bad, ok), 401),
        (request(None, Some(""), ok), 401),
        (request(None, None, ok), 200),
        (request(None, None, Some(&bearer)), 200),
        (request(None, None, Some(&quoted)), 200),
        (request(None, None, Some(&encoded)), 200),
        (request(None, None, bad), 401),
        (request(None, None, None), 401),
        (request(None, None, None).header("authorization", format!("bearer {good}")), 200),
        (request(None, None, ok).header("authorization", "Basic eDp5"), 200),
    ];
    for (index, (request, expected)) in cases.into_iter().enumerate() {
        assert_eq!(answer(request).await.0, expected, "case {index}");
    }
}

#[tokio::test]
async fn each_spelling_of_credentials_means_the_same_to_requests_and_handshakes() {
    let mut broker = Broker::start().await;
    let user = broker.user("ulla", "user").await;
    let token = user.token().unwrap();
    let header = |value: &str| (String::new(), format!("Authorization: {value}\r\n"));
    let query = |query: &str| (format!("?{query}"), String::new());
    let cases = [
        (header(&format!("Bearer {token}")), 200),
        (header(&format!("bearer {token}")), 200),
        (header(&format!("BEARER {token}")), 200),
        (header(&format!("Bearer    {token}  ")), 200),
        (header(&format!("Bearer\t{token}")), 401),
        (header(&format!("Bearer \t{token}")), 401),
        (header(&format!("Bearer {token} {token}")), 401),
        (header(&format!("Bearer{token}")), 401),
        (query(&format!("token={token}")), 200),
        (query(&format!("tok%65n={token}")), 200),
        (query(&format!("%74%6f%6B%65%6E={token}&a=b")), 200),
        (query(&format!("tok%65n={token}&token=bad")), 200),
        (query(&format!("tok%65n=bad&token={token}")), 401),
        (query("tok%65n=bad"), 401),
        (query(&format!("tok%2565n={token}")), 401),
    ];
    for ((query, headers), expected) in cases {
        let mut request = broker.client().request(Method::GET, &format!("/api/users/me{query}"));
        if let Some((_, value)) = headers.trim_end_matches("\r\n").split_once(": ") {
            request = request.header("authorization", value);
        }
        assert_eq!(answer(request).await.0, expected, "{query}{headers}");
        let head = RawSocket::connect(&broker).await.handshake(&format!("/ws/auth{query}"), &headers).await;
        let status = if expected == 200 { "101" } else { "401" };
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{query}{headers}: {head}");
    }
    // a token that is no good is refused where none is needed, however its name is spelt
    assert_eq!(get(&broker.client(), "/clients?tok%65n=bad").await.0, 401);
}

#[tokio::test]
async fn unusable_credentials_are_refused_also_where_none_are_needed() {
    let (broker, _) = with_weather().await;
    let nobody = broker.client();
    for path in PUBLIC_READS.into_iter().chain(["/"]) {
        assert_eq!(get(&nobody, path).await.0, 200, "{path}");
        for request in [
            nobody.request(Method::GET, path).bearer_auth("bad"),
            nobody.request(Method::GET, &format!("{path}?token=bad")),
            nobody.request(Method::GET, path).header("cookie", "access_token=bad"),
            nobody.request(Method::GET, path).header("cookie", "nonsense; access_token=bad"),
            nobody.request(Method::GET, path).header("authorization", "Bearer"),
            nobody.request(Method::GET, path).header("authorization", "Bearer\tx"),
            nobody.request(Method::GET, path).header("authorization", b"Bearer \xe4".as_slice()),
        ] {
            let (status, body) = answer(request).await;
            assert_eq!((status.as_u16(), &body["detail"]), (401, &json!("Could not validate credentials")), "{path}");
        }
    }
    for path in ["/ws", "/ws/auth", "/ws/echo"] {
        assert_eq!(refusal(within(nobody.with_token("bad").connect(path)).await).0, 401, "{path}");
    }
    // where they are not looked at
    let bad = nobody.with_token("bad");
    for path in ["/healthz", "/readyz", "/docs", "/docs/index.html", "/redoc", "/openapi.json"] {
        assert_eq!(answer(bad.request(Method::GET, path)).await.0, 200, "{path}");
    }
    assert_eq!(post(&bad, "/register", json!({ "name": "A", "uuid": Uuid::new_v4() })).await.0, 200);
    assert_eq!(post(&bad, "/register", json!({ "username": "alice", "password": "secret" })).await.0, 200);
    assert_eq!(
        post(&bad, "/api/users/", json!({ "username": "bob", "email": "b@x.org", "password": "secret" })).await.0,
        200
    );
    let (_, login) = post(&bad, "/auth/login", json!({ "username": "alice", "password": "secret" })).await;
    assert_eq!(post(&bad, "/auth/refresh", json!({ "refresh_token": login["refresh_token"] })).await.0, 200);
    let form = bad.request(Method::POST, "/token").form(&[("username", "alice"), ("password", "secret")]);
    assert_eq!(answer(form).await.0, 200);
}

#[tokio::test]
async fn a_cookie_from_a_foreign_page_is_refused_where_it_could_do_harm() {
    let broker = Broker::with().set("HTTP__CORS_ORIGINS", "https://allowed.example").start().await;
    let (nobody, (device, _)) = (broker.client(), broker.device("Alice").await);
    let token = device.token().unwrap();
    let cookie = format!("access_token={token}");
    let own = broker.url.as_str();
    let cases = [
        (None, true),
        (Some(own), true),
        (Some("https://allowed.example"), true),
        (Some("https://evil.example"), false),
        (Some("null"), false),
        (Some("http://localhost:3000"), false),
    ];
    for (index, (origin, good)) in cases.into_iter().enumerate() {
        let from = |request: RequestBuilder| match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        let create =
            || from(nobody.request(Method::POST, "/topics/create")).json(&json!({ "topic_id": format!("t{index}") }));
        let (status, body) = answer(create().header("cookie", &cookie)).await;
        if good {
            assert_eq!(status, 200, "{origin:?} {body}");
        } else {
            let expected = json!({ "detail": "Origin not allowed", "code": "origin_not_allowed" });
            assert_eq!((status.as_u16(), body), (403, expected), "{origin:?}");
            // a token that was given explicitly, or a safe method
            assert_eq!(answer(create().bearer_auth(token).header("cookie", &cookie)).await.0, 200);
        }
        let read = from(nobody.request(Method::GET, "/clients")).header("cookie", &cookie);
        assert_eq!(answer(read).await.0, 200);
        let origin = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
        for (path, headers, open) in [
            ("/ws".to_owned(), format!("{origin}Cookie: {cookie}\r\n"), good || origin.contains(own)),
            ("/ws".to_owned(), format!("{origin}Authorization: Bearer {token}\r\n"), true),
            (format!("/ws?token={token}"), format!("{origin}Cookie: {cookie}\r\n"), true),
        ] {
            // the handshake is made by hand, so the host is the one that the origin must have
            let headers = headers.replace(own, "http://broker");
            let head = RawSocket::connect(&broker).await.handshake(&path, &headers).await;
            assert!(head.starts_with(if open { "HTTP/1.1 101" } else { "HTTP/1.1 403" }), "{headers} {head}");
        }
    }
}

#[tokio::test]
async fn request_ids_are_echoed_or_created_and_in_the_log() {
    let mut broker = Broker::with().set("LOG__LEVEL", "debug").start().await;
    let nobody = broker.client();
    for path in ["/clients", "/nope", "/register", "/ws/auth"] {
        let given = format!("my-id-{}", path.len());
        let request = nobody.request(Method::GET, path).header("x-request-id", &given);
        let response = send(request.header("x-correlation-id", "my-correlation")).await;
        assert_eq!(header(&response, "x-request-id"), Some(given.as_str()), "{path}");
        assert_eq!(header(&response, "x-correlation-id"), Some("my-correlation"), "{path}");
        let created = send(nobody.request(Method::GET, path)).await;
        assert!(header(&created, "x-request-id").is_some_and(|id| !id.is_empty()), "{path}");
        assert_eq!(header(&created, "x-correlation-id"), None, "{path}");
        let log = broker.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&given)).collect();
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("my-correlation")), "{path} {log}");
    }
    let head = RawSocket::connect(&broker).await.handshake("/ws", "X-Request-ID: socket-1\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("x-request-id: socket-1"), "{head}");
}

#[tokio::test]
async fn reads_need_credentials_when_public_reads_are_off() {
    let broker = Broker::with().set("HTTP__PUBLIC_READS", "false").start().await;
    let (client, _) = broker.device("Alice").await;
    client.create_topic("weather").await.unwrap();
    for path in PUBLIC_READS {
        let (status, body) = get(&broker.client(), path).await;
        assert_eq!((status, &body["detail"]), (401, &json!("Not authenticated")), "{path}");
        assert_eq!(get(&client, path).await.0, 200, "{path}");
    }
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(get(&broker.client(), path).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn browsers_may_call_from_origins_on_the_list_alone() {
    let default = Broker::start().await;
    let listed = Broker::with().set("HTTP__CORS_ORIGINS", "https://chat.example").start().await;
    let cases = [
        (&default, "http://localhost:3000", true),
        (&default, "http://127.0.0.1:5173", true),
        (&default, "https://evil.example", false),
        (&default, "http://localhost.evil.example", false),
        (&listed, "https://chat.example", true),
        (&listed, "http://localhost:3000", false),
    ];
    for (broker, origin, allowed) in cases {
        let nobody = broker.client();
        let preflight =
            nobody.request(Method::OPTIONS, "/topics/create").header("access-control-request-method", "POST");
        let preflight = preflight.header("access-control-request-headers", "authorization,content-type");
        let simple = nobody.request(Method::GET, "/clients");
        let missing = nobody.request(Method::GET, "/nope");
        for (request, status) in [(preflight, None), (simple, Some(200)), (missing, Some(404))] {
            let response = send(request.header("origin", origin)).await;
            let granted = header(&response, "access-control-allow-origin");
            assert_eq!(granted, allowed.then_some(origin), "{origin} {}", response.url());
            assert!(status.is_none_or(|status| response.status() == status), "{origin} {}", response.status());
            if status.is_none() && allowed {
                assert_eq!(response.status(), 200);
                assert!(header(&response, "access-control-allow-methods").unwrap().contains("POST"));
                let headers = header(&response, "access-control-allow-headers").unwrap().to_lowercase();
                assert!(headers.contains("authorization") && headers.contains("content-type"), "{headers}");
            } else if status.is_none() {
                let body: Value = response.json().await.expect("an error of the usual shape");
                assert!(body["detail"].is_string() && body["code"].is_string(), "{body}");
            }
        }
    }
}

#[tokio::test]
async fn a_head_request_is_answered_like_a_get_without_the_body() {
    let (mut broker, _) = with_weather().await;
    let admin = broker.admin().await;
    for (_, path) in documented(&broker).await.into_iter().filter(|(method, _)| *method == Method::GET) {
        let (get, head) =
            (send(admin.request(Method::GET, &path)).await, send(admin.request(Method::HEAD, &path)).await);
        assert_eq!(get.status(), head.status(), "{path}");
        assert_eq!(header(&get, "content-type"), header(&head, "content-type"), "{path}");
        assert_eq!(head.bytes().await.unwrap().len(), 0, "{path}");
    }
}

#[tokio::test]
async fn health_and_readiness_tell_each_part() {
    let broker = Broker::with().alone("without Redis").start().await;
    assert_eq!(get(&broker.client(), "/healthz").await.0, 200);
    let (status, parts) = get(&broker.client(), "/readyz").await;
    assert_eq!((status, &parts["database"], &parts["redis"]), (200, &json!("ok"), &json!("disabled")));
    for part in ["status", "database", "redis", "gateways", "draining"] {
        assert!(!parts[part].is_null(), "{part} {parts}");
    }
}

#[tokio::test]
async fn the_documentation_comes_from_the_broker_alone() {
    let broker = Broker::start().await;
    let nobody = broker.client();
    let page = async |path: &str| {
        let response = send(nobody.request(Method::GET, path)).await;
        assert_eq!(response.status(), 200, "{path}");
        assert!(header(&response, "content-type").unwrap().starts_with("text/html"), "{path}");
        (response.url().join("/docs/").unwrap(), response.text().await.unwrap())
    };
    for path in ["/docs", "/docs/"] {
        let (base, page) = page(path).await;
        assert!(page.contains("<base href=\"/docs/\">"));
        let links = ["src=\"", "href=\"./", "href=\"index"].iter().flat_map(|start| page.split(start).skip(1));
        let links: Vec<_> = links.filter_map(|rest| rest.split('"').next()).collect();
        assert!(links.len() >= 6 && !page.contains("//"), "{page}");
        for link in links {
            let link = if link == ".css" { "index.css" } else { link };
            let url = base.join(link).unwrap();
            assert_eq!(answer(nobody.request(Method::GET, url.path())).await.0, 200, "{path} {link}");
        }
    }
    let (_, script) = answer(nobody.request(Method::GET, "/docs/swagger-initializer.js")).await;
    let script = script.as_str().unwrap();
    assert!(script.contains("/openapi.json") && !script.contains("//validator"), "{script}");
    // unless told otherwise, the page shows the document's address to validator.swagger.io
    assert!(script.contains("\"validatorUrl\": \"none\""), "{script}");
    let (_, redoc) = page("/redoc").await;
    assert!(redoc.contains("/openapi.json"));
    let cdn = redoc.find("https://cdn.").map(|at| &redoc[at..(at + 60).min(redoc.len())]);
    assert_eq!(cdn, None);
}

#[tokio::test]
async fn the_root_tells_programs_where_to_go_and_sends_browsers_there() {
    let broker = Broker::start().await;
    let (status, root) = get(&broker.client(), "/").await;
    assert_eq!((status, &root["documentation"]), (200, &json!("/docs")));
    for key in ["message", "version", "name"] {
        assert!(root[key].is_string(), "{key} {root}");
    }
    let sockets = root["websocket_endpoints"].as_array().unwrap();
    assert!(sockets.contains(&json!("/ws")) && sockets.iter().all(Value::is_string), "{root}");
    assert!(root["endpoints"].as_object().unwrap().values().all(Value::is_string), "{root}");
    for key in ["register", "websocket", "clients", "topics", "create_topic", "subscribe", "unsubscribe"] {
        let path = root["endpoints"][key].as_str().unwrap();
        let (_, body) = answer(broker.client().request(Method::GET, path)).await;
        assert_ne!(body["detail"], "Not Found", "{key}");
    }
    let browser = reqwest::Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    let response = send(browser.get(&broker.url).header("accept", "text/html,application/xhtml+xml,*/*;q=0.8")).await;
    assert!(response.status().is_redirection(), "{}", response.status());
    let location = header(&response, "location").unwrap().to_owned();
    assert!(location.starts_with('/'), "{location}");
    assert_eq!(answer(broker.client().request(Method::GET, &location)).await.0, 200);
}

#[tokio::test]
async fn topics_are_created_listed_and_shown_under_whatever_name() {
    let broker = Broker::start().await;
    let (client, device) = broker.device("Alice").await;
    let nobody = broker.client();
    let names = ["weather", "a/b", "a b?c;d%e", "ünïcode 🦀", "trailing/", &"ü".repeat(100)];
    for name in names {
        let (status, body) =
            post(&client, "/topics/create", json!({ "topic_id": name, "metadata": { "n": name } })).await;
        let expected = json!({ "message": "Topic created successfully", "topic_id": name, "creator": device.uuid });
        assert_eq!((status, body), (200, expected));
        let (status, body) = post(&client, "/topics/create", json!({ "topic_id": name })).await;
        assert_eq!((status, &body["detail"]), (400, &json!("Topic already exists")));
        let (status, body) = post(&client, "/topics/subscribe", json!({ "topic_id": name })).await;
        let expected = json!({ "message": "Subscribed successfully", "topic_id": name, "client_uuid": device.uuid });
        assert_eq!((status, body), (200, expected));
        let path: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (status, shown) = get(&nobody, &format!("/topics/{path}")).await;
        let expected = json!({
            "id": name, "creator": device.uuid, "metadata": { "n": name }, "subscriber_count": 1,
            "subscribers": [device.uuid],
        });
        assert_eq!((status, shown), (200, expected), "{name}");
    }
    for metadata in [json!({}), json!({ "metadata": null })] {
        let mut body = json!({ "topic_id": Uuid::new_v4().to_string() });
        body.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        assert_eq!(post(&client, "/topics/create", body.clone()).await.0, 200);
        let (_, shown) = get(&nobody, &format!("/topics/{}", body["topic_id"].as_str().unwrap())).await;
        assert_eq!((&shown["metadata"], &shown["subscriber_count"]), (&json!({}), &json!(0)));
    }
    let (_, list) = get(&nobody, "/topics").await;
    let topics = list["topics"].as_array().unwrap();
    assert_eq!((&list["count"], topics.len()), (&json!(names.len() + 2), names.len() + 2));
    let weather = topics.iter().find(|topic| topic["id"] == "weather").unwrap();
    let expected =
        json!({ "id": "weather", "creator": device.uuid, "metadata": { "n": "weather" }, "subscriber_count": 1 });
    assert_eq!(weather, &expected);
}

#[tokio::test]
async fn a_topic_may_have_the_name_of_a_route() {
    let broker = Broker::start().await;
    let (client, _) = broker.device("Alice").await;
    for name in ["create", "subscribe", "unsubscribe"] {
        client.create_topic(name).await.unwrap();
        let (status, shown) = get(&broker.client(), &format!("/topics/{name}")).await;
        assert_eq!((status, &shown["id"]), (200, &json!(name)));
    }
}

#[tokio::test]
async fn a_wrong_topic_is_refused() {
    let (broker, client) = with_weather().await;
    let big = json!({ "text": "x".repeat(4096) });
    for (body, expected) in [
        (json!({}), "missing body.topic_id"),
        (json!({ "topic_id": "" }), "string_too_short body.topic_id"),
        (json!({ "topic_id": "ü".repeat(101) }), "string_too_long body.topic_id"),
        (json!({ "topic_id": "a\0b" }), "value_error body.topic_id"),
        (json!({ "topic_id": "$SYS" }), "value_error body.topic_id"),
        (json!({ "topic_id": "t", "metadata": big }), "value_error body.metadata"),
        (json!({ "topic_id": "t", "metadata": { "a": "\0" } }), "value_error body.metadata"),
        (json!({ "topic_id": "t", "metadata": [] }), "dict_type body.metadata"),
    ] {
        let (status, answer) = post(&client, "/topics/create", body).await;
        assert_eq!((status, faults(&answer)), (422, vec![expected.to_owned()]));
    }
    let fits = json!({ "topic_id": "fits", "metadata": { "text": "x".repeat(4096 - r#"{"text":""}"#.len()) } });
    assert_eq!(post(&client, "/topics/create", fits).await.0, 200);
    let (status, body) = post(&client, "/topics/subscribe", json!({ "topic_id": "nope" })).await;
    assert_eq!((status, &body["detail"]), (404, &json!("Topic not found")));
    for path in ["/topics/create", "/topics/subscribe", "/topics/unsubscribe", "/topics/publish"] {
        let body = || json!({ "topic_id": "weather" });
        let (status, missing) = post(&broker.client(), path, body()).await;
        assert_eq!((status, faults(&missing)), (422, vec!["missing query.token".to_owned()]), "{path}");
        for (client, path) in
            [(broker.client().with_token("bad"), path.to_owned()), (broker.client(), format!("{path}?token="))]
        {
            let (status, invalid) = post(&client, &path, body()).await;
            assert_eq!((status, &invalid["detail"]), (401, &json!("Invalid token")), "{path}");
        }
        let by_query = format!("{path}?token={}", client.token().unwrap());
        assert_ne!(post(&broker.client(), &by_query, body()).await.0, 401);
    }
}

#[tokio::test]
async fn one_client_has_so_many_topics_and_subscriptions() {
    let settings = Broker::with().set("LIMITS__TOPICS_PER_CLIENT", "2").set("LIMITS__SUBSCRIPTIONS_PER_CLIENT", "1");
    let broker = settings.start().await;
    let ((alice, _), (bob, _)) = (broker.device("Alice").await, broker.device("Bob").await);
    let ask = async |client: &Client, path: &str, topic: &str, limit: Option<&str>| {
        let response = send(client.request(Method::POST, path).json(&json!({ "topic_id": topic }))).await;
        assert_eq!(response.status(), if limit.is_some() { 429 } else { 200 }, "{path} {topic}");
        assert_eq!(header(&response, "retry-after").is_some(), limit.is_some());
        assert!(response.text().await.unwrap().contains(limit.unwrap_or_default()));
    };
    ask(&alice, "/topics/create", "one", None).await;
    ask(&alice, "/topics/create", "two", None).await;
    ask(&alice, "/topics/create", "three", Some("limits.topics_per_client")).await;
    assert_eq!(post(&alice, "/topics/create", json!({ "topic_id": "two" })).await.0, 400);
    ask(&bob, "/topics/create", "three", None).await;
    ask(&alice, "/topics/subscribe", "one", None).await;
    ask(&alice, "/topics/subscribe", "one", None).await;
    ask(&alice, "/topics/subscribe", "two", Some("limits.subscriptions_per_client")).await;
    ask(&bob, "/topics/subscribe", "two", None).await;
    ask(&alice, "/topics/unsubscribe", "one", None).await;
    ask(&alice, "/topics/subscribe", "two", None).await;
}

#[tokio::test]
async fn a_subscription_made_before_the_socket_connects_counts_until_it_is_ended() {
    let broker = Broker::start().await;
    let (bob_client, _, mut bob) = broker.connected("Bob").await;
    let (alice_client, alice) = broker.device("Alice").await;
    for topic in ["weather", "news"] {
        bob_client.create_topic(topic).await.unwrap();
        bob_client.subscribe(topic).await.unwrap();
        alice_client.subscribe(topic).await.unwrap();
    }
    let unsubscribed = json!({ "message": "Unsubscribed successfully", "topic_id": "news", "client_uuid": alice.uuid });
    for _ in 0..2 {
        let (status, body) = post(&alice_client, "/topics/unsubscribe", json!({ "topic_id": "news" })).await;
        assert_eq!((status, body), (200, unsubscribed.clone()));
    }
    let mut socket = within(alice_client.connect("/ws")).await.unwrap();
    next_of_type(&mut socket, "connection").await;
    bob.publish("news", "not for Alice").await.unwrap();
    assert_eq!(next_of_type(&mut bob, "topic_sent").await["message"], "Message sent to 0 subscribers");
    bob.publish("weather", "rain").await.unwrap();
    assert_eq!(next(&mut socket).await["content"], "rain");
    assert_eq!(next_of_type(&mut bob, "topic_sent").await["message"], "Message sent to 1 subscribers");
}

#[tokio::test]
async fn pages_that_are_files_may_call_where_the_list_says_so() {
    let broker = Broker::with().set("HTTP__CORS_ORIGINS", "null,file://,https://chat.example").start().await;
    for (origin, is_allowed) in [
        ("null", true),
        ("file://", true),
        ("https://chat.example", true),
        ("https://chat.example.evil.example", false),
        ("http://localhost:3000", false),
    ] {
        let request = broker.client().request(Method::GET, "/clients").header("origin", origin);
        let response = within(request.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        let allowed = response.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap());
        assert_eq!(allowed, is_allowed.then_some(origin));
    }
    for bad in ["nul", "file:///home", "https://chat.example/", "https://user@chat.example", "chat.example"] {
        let output = Broker::with().set("HTTP__CORS_ORIGINS", bad).run(&["serve", "--bind", "127.0.0.1:0"], "");
        assert!(output.code == Some(1) && output.stderr.contains("http.cors_origins"), "{output:?}");
    }
}

#[tokio::test]
async fn localhost_origins_are_told_by_their_host() {
    let broker = Broker::start().await;
    for (origin, is_allowed) in [
        ("http://localhost", true),
        ("http://localhost:3000", true),
        ("https://127.0.0.1:8443", true),
        ("http://[::1]:5173", true),
        ("http://localhost.evil.example", false),
        ("http://localhost:3000@evil.example", false),
        ("http://evil.example#localhost", false),
        ("null", false),
    ] {
        let request = broker.client().request(Method::OPTIONS, "/clients").header("origin", origin);
        let response = within(request.header("access-control-request-method", "GET").send()).await.unwrap();
        assert_eq!(response.status().is_success(), is_allowed, "{origin}");
        assert_eq!(response.headers().contains_key("access-control-allow-origin"), is_allowed, "{origin}");
    }
}

#[tokio::test]
async fn nothing_is_sniffed_and_pages_say_what_they_may_load_and_that_nobody_may_frame_them() {
    let broker = Broker::start().await;
    for path in ["/docs", "/redoc", "/clients", "/nope", "/docs/swagger-ui.css", "/healthz"] {
        let response = within(broker.client().request(Method::GET, path).send()).await.unwrap();
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        let is_page = response.headers()["content-type"].to_str().unwrap().starts_with("text/html");
        assert_eq!(is_page, ["/docs", "/redoc"].contains(&path));
        if is_page {
            assert_eq!(response.headers()["x-frame-options"], "DENY", "{path}");
            let policy = response.headers()["content-security-policy"].to_str().unwrap();
            for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'self'"] {
                assert!(policy.contains(part), "{path} {policy}");
            }
            let script = policy.split(';').find(|part| part.trim().starts_with("script-src")).unwrap();
            assert!(!script.contains("unsafe"), "{path} {policy}");
        }
    }
}

#[tokio::test]
async fn what_is_no_http_is_no_error_in_the_log() {
    for (level, is_logged) in [("info", false), ("debug", true)] {
        let mut broker = Broker::with().set("LOG__LEVEL", level).start().await;
        let mut heads = vec!["nonsense\r\n\r\n".to_owned(), "GET / HTTP/9.9\r\n\r\n".to_owned()];
        heads.push(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(200_000)));
        for head in heads {
            let mut raw = RawSocket::connect(&broker).await.stream;
            // the broker may close before it has all of it
            let _ = raw.write_all(head.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = within(raw.read_to_end(&mut answer)).await;
        }
        // all that was to be logged is
        broker.signal("TERM");
        assert_eq!(broker.ended().await, Some(0));
        let log = broker.log();
        assert_eq!(log.contains("ERROR"), is_logged, "{level} {log}");
    }
}

#[tokio::test]
async fn a_peers_bad_frame_is_no_error_in_the_log() {
    for (level, is_logged) in [("info", false), ("debug", true)] {
        let mut broker = Broker::with().set("LOG__LEVEL", level).start().await;
        for (first, len) in [(0x09, 1), (0x0a, 1), (0x08, 2), (0x89, 126), (0x88, 126), (0xc1, 1), (0x83, 1), (0x80, 1)]
        {
            let mut socket = RawSocket::open(&broker, "/ws/echo").await;
            socket.send_frame(first, &vec![b'x'; len]).await;
            assert_eq!(socket.close_code().await, Some(1002), "{first:x}");
        }
        broker.signal("TERM");
        assert_eq!(broker.ended().await, Some(0));
        let log = broker.log();
        assert!(!log.contains("ERROR"), "{level} {log}");
        assert_eq!(log.matches("bad frame").count(), if is_logged { 8 } else { 0 }, "{level} {log}");
    }
}

#[tokio::test]
async fn a_topics_name_can_not_forge_a_line_of_the_log() {
    let mut broker = Broker::start().await;
    let (client, _) = broker.device("Alice").await;
    let name = "a\n2026-01-01T00:00:00.000000Z  INFO forged\r\u{1b}[2Jb\u{202e}";
    assert_eq!(post(&client, "/topics/create", json!({ "topic_id": name })).await.0, 200);
    for body in [json!({ "topic_id": name }), json!({ "topic_id": format!("{name} of nobody") })] {
        post(&client, "/topics/subscribe", body).await;
    }
    let path: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(answer(client.request(Method::DELETE, &format!("/topics/{path}"))).await.0, 200);
    let log = broker.log();
    assert_eq!(log.lines().filter(|line| line.contains("forged")).count(), 2, "{log}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00")), "{log}");
    assert!(!log.contains(['\r', '\u{1b}', '\u{202e}']), "{log:?}");
}
