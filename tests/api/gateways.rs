//! Gateways: probes and what follows from them (contract section 4).

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use switchboard::{
    client::{Client, Connection},
    domain::{
        gateways::{Hour, Status, Transition},
        ids::GatewayId,
    },
    store::{GatewayRecord, Record},
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Broker, ChangeBroker, answer, close_code, delete, everywhere, faults, get, next, next_of_type, nothing_came,
    own_address, post, posting, refusal, reply, until, within,
};

/// A broker that probes every second.
fn quick() -> ChangeBroker {
    Broker::with().set("PROBES__PERIOD_SECS", "1")
}

/// A port that takes connections, and the address that it has as a gateway.
fn listening() -> (TcpListener, SocketAddr, String) {
    let address = own_address();
    (TcpListener::bind(address).unwrap(), address, format!("tcp://{address}"))
}

/// Creates a gateway and tells its id.
async fn create(operator: &Client, body: Value) -> i64 {
    let (status, gateway) = post(operator, "/api/gateways", body).await;
    assert_eq!(status, 200, "{gateway}");
    gateway["id"].as_i64().unwrap()
}

async fn put(client: &Client, path: &str, body: Value) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::PUT, path).json(&body)).await;
    (status.as_u16(), body)
}

async fn gateway(operator: &Client, id: i64) -> Value {
    let (status, gateway) = get(operator, &format!("/api/gateways/{id}")).await;
    assert_eq!(status, 200, "{gateway}");
    gateway
}

/// Waits until a gateway has this status, and gives it back.
async fn has_status(operator: &Client, id: i64, status: &str) -> Value {
    everywhere(async || gateway(operator, id).await["status"] == status).await;
    gateway(operator, id).await
}

/// Reads status frames until a gateway has this word; None: until it is not in there.
async fn word(socket: &mut Connection, id: i64, word: Option<&str>) {
    while next(socket).await.get(id.to_string()).and_then(Value::as_str) != word {}
}

/// An operator's chat socket that gets `$status`.
async fn subscribed(operator: &Client) -> Connection {
    let (status, body) = post(operator, "/topics/subscribe", json!({ "topic_id": "$status" })).await;
    assert_eq!(status, 200, "{body}");
    let mut socket = within(operator.connect("/ws/auth")).await.unwrap();
    next_of_type(&mut socket, "connection_established").await;
    socket
}

/// What an event says, without its time.
fn said(mut event: Value) -> Value {
    let at = event.as_object_mut().unwrap().remove("at").expect("a time");
    assert!(at.as_str().unwrap().ends_with('Z'), "{at}");
    event
}

/// A directory for the `PATH` with a `ping` that writes down its arguments and answers as the file `answers` says. Several may
/// run at a time: each writes its line at once.
fn fake_ping(dir: &Path) {
    let script = "#!/bin/sh\ncd \"${0%/*}\" || exit 9\necho \"$(printf '<%s>' \"$@\")\" >> asked\n[ -e answers ] || exit 1\n\
                  echo '64 bytes from somewhere: icmp_seq=1 ttl=64 time=1.25 ms'\n";
    // renamed into its place, so that nobody runs half of it
    let draft = dir.join("draft");
    std::fs::write(&draft, script).unwrap();
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(draft, dir.join("ping")).unwrap();
}

fn asked(dir: &Path) -> Vec<String> {
    let asked = std::fs::read_to_string(dir.join("asked")).unwrap_or_default();
    asked.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_port_that_closes_and_opens_turns_status_sockets_events_and_history() {
    let mut broker = quick().alone("the node that probes writes the history a little later").start().await;
    let (operator, nobody) = (broker.user("olga", "operator").await, broker.client());
    let (listener, address, text) = listening();
    let id = create(&operator, json!({ "name": "Plant north", "address": text })).await;
    has_status(&operator, id, "connected").await;
    let mut events = subscribed(&operator).await;
    let mut status = within(nobody.connect("/ws/status/")).await.unwrap();
    assert_eq!(next(&mut status).await, json!({ id.to_string(): "connected" }));
    let event = |word: &str, status: &str, reason: Value| {
        json!({
            "event": format!("gateway_{word}"), "topic_id": "$status", "gateway_id": id, "name": "Plant north",
            "address": text, "status": status, "reason": reason,
        })
    };

    drop(listener);
    word(&mut status, id, Some("disconnected")).await;
    assert_eq!(get(&nobody, "/device_status/").await, (200, json!({ id.to_string(): "disconnected" })));
    assert_eq!(said(next(&mut events).await), event("disconnected", "disconnected", json!("refused")));
    let down = gateway(&operator, id).await;
    assert_eq!(
        (&down["status"], &down["reason"], &down["rtt_ms"]),
        (&json!("disconnected"), &json!("refused"), &Value::Null)
    );

    let listener = TcpListener::bind(address).unwrap();
    word(&mut status, id, Some("connected")).await;
    assert_eq!(get(&nobody, "/device_status").await, (200, json!({ id.to_string(): "connected" })));
    assert_eq!(said(next(&mut events).await), event("connected", "connected", Value::Null));
    drop(listener);

    let (_, history) = get(&operator, &format!("/api/gateways/{id}/history")).await;
    let transitions = history["transitions"].as_array().unwrap();
    let words: Vec<_> =
        transitions.iter().map(|one| (one["status"].as_str().unwrap(), one["reason"].as_str())).collect();
    assert_eq!(words[..3], [("connected", None), ("disconnected", Some("refused")), ("connected", None)], "{history}");
    let samples = history["samples"].as_array().unwrap();
    assert!(samples.iter().any(|sample| sample["rtt_ms"].is_null()), "{history}");
    assert!(samples.iter().any(|sample| sample["rtt_ms"].as_f64().is_some_and(|ms| ms > 0.0)), "{history}");
    let uptime = history["uptime_percent"].as_f64().unwrap();
    assert!(uptime > 0.0 && uptime < 100.0, "{history}");
    assert_eq!((&history["id"], &history["truncated"]), (&json!(id), &json!(false)));
    // a span before all that
    let span = format!("/api/gateways/{id}/history?from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z");
    let (_, before) = get(&operator, &span).await;
    assert_eq!(
        (&before["transitions"], &before["samples"], &before["uptime_percent"]),
        (&json!([]), &json!([]), &Value::Null)
    );
}

#[tokio::test]
async fn ping_gets_a_list_of_arguments_with_an_address_and_nothing_else() {
    let mut setup = quick().set("PROBES__ICMP", "ping");
    let dir = setup.dir();
    fake_ping(&dir);
    std::fs::write(dir.join("answers"), "").unwrap();
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let mut broker = setup.env("PATH", &path).start().await;
    let operator = broker.admin().await;
    let four = create(&operator, json!({ "name": "four", "address": "192.0.2.7" })).await;
    let six = create(&operator, json!({ "name": "six", "address": "2001:db8::7" })).await;
    let name = create(&operator, json!({ "name": "name", "address": "localhost" })).await;
    for id in [four, six, name] {
        let gateway = has_status(&operator, id, "connected").await;
        // as it printed it
        assert_eq!(gateway["rtt_ms"], 1.25, "{gateway}");
    }
    let asked_so_far = asked(&dir);
    for address in ["192.0.2.7", "2001:db8::7"] {
        let expected = format!("<-n><-c><1><-W><2><{address}>");
        assert!(asked_so_far.contains(&expected), "{asked_so_far:?}");
    }
    let of_name = |line: &String| ["127.0.0.1", "::1"].iter().any(|ip| *line == format!("<-n><-c><1><-W><2><{ip}>"));
    assert!(asked_so_far.iter().any(of_name), "{asked_so_far:?}");
    assert!(asked_so_far.iter().all(|line| line.starts_with("<-n><-c><1><-W><2><") && line.matches('<').count() == 6));

    // one failure is no failure: it is asked once more before it is disconnected
    assert_eq!(delete(&operator, &format!("/api/gateways/{six}")).await.0, 200);
    assert_eq!(delete(&operator, &format!("/api/gateways/{name}")).await.0, 200);
    std::fs::remove_file(dir.join("answers")).unwrap();
    let down = has_status(&operator, four, "disconnected").await;
    assert_eq!(down["reason"], "timeout");
    assert!(down["loss_percent"].as_f64().unwrap() > 0.0, "{down}");
    // one that was not run in time has asked nothing
    until(async || {
        let (_, history) = get(&operator, &format!("/api/gateways/{four}/history")).await;
        let lost = history["samples"].as_array().unwrap().iter().filter(|sample| sample["rtt_ms"].is_null()).count();
        let answered = history["samples"].as_array().unwrap().len() - lost;
        asked(&dir).iter().filter(|line| line.contains("192.0.2.7")).count() > answered + lost + 1
    })
    .await;
}

#[tokio::test]
async fn a_missing_ping_is_one_warning_and_a_detail_and_no_gateway_is_disconnected_by_it() {
    let mut setup = quick().set("PROBES__ICMP", "ping");
    let dir = setup.dir().join("empty");
    std::fs::create_dir(&dir).unwrap();
    let mut broker = setup.env("PATH", &dir.display().to_string()).start().await;
    let operator = broker.admin().await;
    let (_listener, _, text) = listening();
    let pinged = create(&operator, json!({ "name": "pinged", "address": "192.0.2.7" })).await;
    let other = create(&operator, json!({ "name": "pinged, too", "address": "192.0.2.8" })).await;
    let connected = create(&operator, json!({ "name": "connected", "address": text })).await;
    has_status(&operator, connected, "connected").await;
    let detail = |parts: &Value| parts["gateways"].as_str().unwrap().to_owned();
    until(async || detail(&get(&operator, "/readyz").await.1).contains("not probed: 2")).await;
    let (status, parts) = get(&operator, "/readyz").await;
    assert_eq!((status, &parts["status"]), (200, &json!("degraded")), "{parts}");
    assert!(detail(&parts).contains("ping is not installed"), "{parts}");
    assert_eq!(get(&operator, "/device_status").await.1, json!({ connected.to_string(): "connected" }));
    for id in [pinged, other] {
        assert_eq!(gateway(&operator, id).await["status"], "unknown");
    }
    // it is installed
    fake_ping(&dir);
    std::fs::write(dir.join("answers"), "").unwrap();
    // the script needs no other program, and finds none
    for id in [pinged, other] {
        has_status(&operator, id, "connected").await;
    }
    until(async || get(&operator, "/readyz").await.1["gateways"] == "ok").await;
    let log = broker.log();
    let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains("ping is not installed")).count();
    assert_eq!(warnings, 1, "{log}");
}

#[tokio::test]
async fn what_is_behind_a_gateway_that_is_down_is_down_without_an_event_of_its_own() {
    let mut broker = quick().start().await;
    let operator = broker.user("olga", "operator").await;
    let (parent_port, parent_address, parent_text) = listening();
    let (_child_port, _, child_text) = listening();
    let parent = create(&operator, json!({ "name": "parent", "address": parent_text })).await;
    let child = create(&operator, json!({ "name": "child", "address": child_text, "parent_id": parent })).await;
    let grandchild =
        create(&operator, json!({ "name": "grandchild", "address": child_text, "parent_id": child })).await;
    for id in [parent, child, grandchild] {
        has_status(&operator, id, "connected").await;
    }
    let mut events = subscribed(&operator).await;
    drop(parent_port);
    has_status(&operator, parent, "disconnected").await;
    for id in [child, grandchild] {
        let gateway = gateway(&operator, id).await;
        assert_eq!((&gateway["status"], &gateway["reason"]), (&json!("disconnected"), &json!("parent_down")));
    }
    let (_, words) = get(&operator, "/device_status").await;
    assert!(
        words.as_object().unwrap().values().all(|word| word == "disconnected") && words.as_object().unwrap().len() == 3
    );
    let _parent_port = TcpListener::bind(parent_address).unwrap();
    for id in [parent, child, grandchild] {
        has_status(&operator, id, "connected").await;
    }
    for word in ["gateway_disconnected", "gateway_connected"] {
        let event = next(&mut events).await;
        assert_eq!((&event["event"], &event["gateway_id"]), (&json!(word), &json!(parent)));
    }
    nothing_came(&mut events).await;
    let (_, history) = get(&operator, &format!("/api/gateways/{grandchild}/history")).await;
    assert_eq!(history["transitions"][1]["reason"], "parent_down", "{history}");
}

#[tokio::test]
async fn parents_must_be_there_and_not_behind_their_children() {
    let mut broker = quick().start().await;
    let operator = broker.admin().await;
    let body = |parent: Value| json!({ "name": "x", "address": "tcp://127.0.0.1:1", "parent_id": parent });
    let not_found = (404, json!({ "detail": "Parent gateway not found", "code": "not_found" }));
    assert_eq!(post(&operator, "/api/gateways", body(json!(99))).await, not_found);
    let top = create(&operator, body(Value::Null)).await;
    let below = create(&operator, body(json!(top))).await;
    for (id, parent) in [(top, below), (top, top)] {
        let (status, body) = put(&operator, &format!("/api/gateways/{id}"), json!({ "parent_id": parent })).await;
        assert_eq!((status, faults(&body)), (422, vec!["value_error body.parent_id".to_owned()]));
    }
    assert_eq!(put(&operator, &format!("/api/gateways/{top}"), json!({ "parent_id": 99 })).await, not_found);
    // one that goes leaves nobody behind it
    has_status(&operator, top, "disconnected").await;
    assert_eq!(gateway(&operator, below).await["reason"], "parent_down");
    assert_eq!(
        delete(&operator, &format!("/api/gateways/{top}")).await,
        (200, json!({ "message": "Gateway deleted" }))
    );
    until(async || gateway(&operator, below).await["reason"] == "refused").await;
    assert_eq!(gateway(&operator, below).await["parent_id"], Value::Null);
}

#[tokio::test]
async fn gateways_of_the_configuration_are_in_the_same_list_and_changed_there_alone() {
    let (_listener, _, text) = listening();
    let config = format!(
        "[probes]\nperiod_secs = 1\n[[gateways]]\nid = 7\nname = \"Plant\"\naddress = \"{text}\"\n\
         [[gateways]]\nid = 3\nname = \"Behind it\"\naddress = \"{text}\"\nparent_id = 7\nmax_rtt_ms = 0.0001\n"
    );
    let mut broker = Broker::with().file("my.toml", &config).argument("--config").argument("my.toml").start().await;
    let operator = broker.admin().await;
    let created = create(&operator, json!({ "name": "by HTTP", "address": text, "parent_id": 7 })).await;
    assert_eq!(created, 8, "above all others");
    for (id, status) in [(3, "degraded"), (7, "connected"), (8, "connected")] {
        has_status(&operator, id, status).await;
    }
    // degraded is up
    let words = json!({ "3": "connected", "7": "connected", "8": "connected" });
    assert_eq!(get(&broker.client(), "/device_status/").await, (200, words));
    let (_, list) = get(&operator, "/api/gateways").await;
    let of = |key: &str| list["gateways"].as_array().unwrap().iter().map(|one| one[key].clone()).collect::<Vec<_>>();
    assert_eq!(
        (&list["count"], of("id"), of("source")),
        (&json!(3), vec![json!(3), json!(7), json!(8)], vec![json!("config"), json!("config"), json!("api")])
    );
    assert_eq!((of("parent_id"), of("reason")[0].clone()), (vec![json!(7), Value::Null, json!(7)], json!("high_rtt")));
    let forbidden =
        json!({ "detail": "Gateway is from the configuration and can be changed there alone", "code": "forbidden" });
    assert_eq!(put(&operator, "/api/gateways/7", json!({ "name": "x" })).await, (403, forbidden.clone()));
    assert_eq!(delete(&operator, "/api/gateways/7").await, (403, forbidden));
    let taken = json!({ "name": "x", "address": text, "id": 7 });
    assert_eq!(
        post(&operator, "/api/gateways", taken).await,
        (400, json!({ "detail": "Gateway id already exists", "code": "already_exists" }))
    );
    assert_eq!(get(&operator, "/api/gateways/7/history").await.1["transitions"][0]["status"], "connected");

    // an id that is taken by one that was created stops the start, in one line
    let mut setup = broker.kill().await;
    setup = setup.file("my.toml", &config.replace("id = 3", "id = 8"));
    let output = setup.run(&["serve", "--bind", "127.0.0.1:0", "--config", "my.toml"], "");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("gateway 8 has been created over HTTP already"), "{output:?}");
}

#[tokio::test]
async fn an_address_is_a_host_or_a_port_and_anything_else_is_told_what_it_may_be() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let bad = [
        "",
        " ",
        "-c1",
        "--help",
        "a b",
        "a;b",
        "$(id)",
        "`id`",
        "a|b",
        "a&b",
        "'a'",
        "a\nb",
        "a\u{7}",
        "http://a",
        "udp://a:1",
        "file:///etc/passwd",
        "tcp://a",
        "tcp://a:0",
        "tcp://a:65536",
        "tcp://a:x",
        "tcp://-a:1",
        "tcp://a b:1",
        "a:80",
        "[::1]",
        "1.2.3",
        "0x7f000001",
        "0.0.0.0",
        "255.255.255.255",
        "ff02::1",
        "tcp://a:1/x",
        "gäte",
        &"a".repeat(400),
    ];
    for address in bad {
        let (status, body) = post(&operator, "/api/gateways", json!({ "name": "x", "address": address })).await;
        assert_eq!(status, 422, "{address:?}");
        let fault = &body["detail"][0];
        assert_eq!(fault["loc"], json!(["body", "address"]), "{address:?}");
        let said = fault["msg"].as_str().unwrap();
        assert!(said.contains("tcp://host:port") || said.starts_with("String should have"), "{said}");
    }
    let body =
        json!({ "name": "a\nb", "address": 1, "id": -1, "parent_id": "x", "max_rtt_ms": 0, "max_loss_percent": 101 });
    let expected = [
        "value_error body.name",
        "string_type body.address",
        "greater_than_equal body.id",
        "int_parsing body.parent_id",
        "value_error body.max_rtt_ms",
        "value_error body.max_loss_percent",
    ];
    let (status, body) = post(&operator, "/api/gateways", body).await;
    assert_eq!((status, faults(&body)), (422, expected.map(str::to_owned).to_vec()));
    assert_eq!(
        faults(&post(&operator, "/api/gateways", json!({})).await.1),
        ["missing body.name", "missing body.address"]
    );
    assert_eq!(get(&operator, "/api/gateways").await.1, json!({ "count": 0, "gateways": [] }));
    for query in ["from=yesterday", "to=1", "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z"] {
        let id = create(&operator, json!({ "name": "x", "address": "tcp://127.0.0.1:1" })).await;
        assert_eq!(get(&operator, &format!("/api/gateways/{id}/history?{query}")).await.0, 422, "{query}");
    }
    for path in ["/api/gateways/x", "/api/gateways/1.5/history"] {
        assert_eq!(faults(&get(&operator, path).await.1), ["int_parsing path.id"]);
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_disconnected_for_that_reason() {
    let mut broker = quick().start().await;
    let operator = broker.admin().await;
    for address in ["no-such-host.invalid", "tcp://no-such-host.invalid:80"] {
        let id = create(&operator, json!({ "name": "x", "address": address })).await;
        assert_eq!(has_status(&operator, id, "disconnected").await["reason"], "unresolvable", "{address}");
    }
}

#[tokio::test]
async fn a_gateway_is_created_changed_and_deleted_at_once() {
    let mut broker = quick().start().await;
    let operator = broker.user("olga", "operator").await;
    let (_listener, _, text) = listening();
    let body = json!({ "name": "a", "address": text, "id": 5, "max_rtt_ms": 1000, "max_loss_percent": 50.5 });
    let (status, made) = post(&operator, "/api/gateways/", body).await;
    assert_eq!((status, &made["id"], &made["name"], &made["address"]), (200, &json!(5), &json!("a"), &json!(text)));
    assert_eq!(
        (&made["max_rtt_ms"], &made["max_loss_percent"], &made["source"]),
        (&json!(1000.0), &json!(50.5), &json!("api"))
    );
    assert!(made["since"].as_str().unwrap().ends_with('Z'), "{made}");
    let up = has_status(&operator, 5, "connected").await;
    assert!(up["rtt_ms"].as_f64().unwrap() > 0.0 && up["loss_percent"] == 0.0 && up["reason"].is_null(), "{up}");
    // another name changes nothing else
    let (status, renamed) = put(&operator, "/api/gateways/5", json!({ "name": "b", "max_rtt_ms": null })).await;
    assert_eq!(
        (status, &renamed["name"], &renamed["since"], &renamed["max_rtt_ms"]),
        (200, &json!("b"), &up["since"], &Value::Null)
    );
    assert_eq!((&renamed["status"], &renamed["max_loss_percent"]), (&json!("connected"), &json!(50.5)));
    // another address is another thing
    let mut words = within(broker.client().connect("/ws/status")).await.unwrap();
    word(&mut words, 5, Some("connected")).await;
    let (_, moved) = put(&operator, "/api/gateways/5", json!({ "address": "tcp://127.0.0.1:1" })).await;
    assert_eq!((&moved["status"], &moved["loss_percent"]), (&json!("unknown"), &Value::Null));
    has_status(&operator, 5, "disconnected").await;
    word(&mut words, 5, Some("disconnected")).await;
    assert_eq!(delete(&operator, "/api/gateways/5/").await, (200, json!({ "message": "Gateway deleted" })));
    word(&mut words, 5, None).await;
    let gone = json!({ "detail": "Gateway not found", "code": "not_found" });
    for (method, path) in [
        (Method::GET, "/api/gateways/5"),
        (Method::DELETE, "/api/gateways/5"),
        (Method::GET, "/api/gateways/5/history"),
    ] {
        let (status, body) = answer(operator.request(method, path)).await;
        assert_eq!((status.as_u16(), &body), (404, &gone), "{path}");
    }
    assert_eq!(put(&operator, "/api/gateways/5", json!({ "name": "c" })).await, (404, gone));
    assert_eq!(get(&operator, "/device_status").await.1, json!({}));
    // the history went with it
    let again = json!({ "name": "again", "address": text, "id": 5 });
    create(&operator, again).await;
    has_status(&operator, 5, "connected").await;
    let (_, history) = get(&operator, "/api/gateways/5/history").await;
    assert_eq!(history["transitions"].as_array().unwrap().len(), 1, "{history}");
}

#[tokio::test]
async fn gateways_are_for_operators() {
    let mut broker = Broker::start().await;
    let (device, _) = broker.device("Alice").await;
    let user = broker.user("ulla", "user").await;
    let nobody = broker.client();
    let body = || json!({ "name": "x", "address": "localhost" });
    let requests = [
        (Method::GET, "/api/gateways"),
        (Method::POST, "/api/gateways"),
        (Method::GET, "/api/gateways/1"),
        (Method::PUT, "/api/gateways/1"),
        (Method::DELETE, "/api/gateways/1"),
        (Method::GET, "/api/gateways/1/history"),
    ];
    for (method, path) in requests {
        for (client, expected) in [(&nobody, 401), (&device, 403), (&user, 403)] {
            let (status, body) = answer(client.request(method.clone(), path).json(&body())).await;
            assert_eq!(status.as_u16(), expected, "{method} {path} {body}");
        }
    }
}

#[tokio::test]
async fn as_many_gateways_as_the_limit_says() {
    let mut broker = Broker::with().set("LIMITS__GATEWAYS", "1").start().await;
    let operator = broker.admin().await;
    let body = || json!({ "name": "x", "address": "tcp://127.0.0.1:1" });
    let id = create(&operator, body()).await;
    let (status, refused) = post(&operator, "/api/gateways", body()).await;
    assert_eq!((status, &refused["detail"]), (429, &json!("Too many requests (limits.gateways)")));
    assert_eq!(delete(&operator, &format!("/api/gateways/{id}")).await.0, 200);
    create(&operator, body()).await;
}

#[tokio::test]
async fn what_is_known_of_a_gateway_outlives_the_process() {
    let mut broker = quick().alone("the node that probes writes the history a little later").start().await;
    let operator = broker.admin().await;
    let (listener, _, text) = listening();
    let up = create(&operator, json!({ "name": "up", "address": text })).await;
    let down = create(&operator, json!({ "name": "down", "address": "tcp://127.0.0.1:1", "parent_id": up })).await;
    let since = has_status(&operator, up, "connected").await["since"].clone();
    let down_since = has_status(&operator, down, "disconnected").await["since"].clone();
    // who has read it has it on record
    let (_, history) = get(&operator, &format!("/api/gateways/{up}/history")).await;
    let first = history["samples"][0].clone();
    let mut broker = broker.kill().await.start().await;
    let operator = broker.admin().await;
    assert_eq!(has_status(&operator, up, "connected").await["since"], since);
    let known = has_status(&operator, down, "disconnected").await;
    assert_eq!((&known["since"], &known["parent_id"], &known["name"]), (&down_since, &json!(up), &json!("down")));
    let (_, history) = get(&operator, &format!("/api/gateways/{up}/history")).await;
    assert_eq!((&history["samples"][0], history["transitions"].as_array().unwrap().len()), (&first, 1), "{history}");
    // what turned meanwhile is found
    let mut setup = broker.kill().await;
    drop(listener);
    setup = setup.set("LOG__LEVEL", "info");
    let mut broker = setup.start().await;
    let operator = broker.admin().await;
    let known = has_status(&operator, up, "disconnected").await;
    assert_ne!(known["since"], since);
}

#[tokio::test]
async fn history_is_thinned_out_with_age_and_an_answer_has_a_bounded_size() {
    let mut broker = Broker::with().alone("the node that probes writes the history a little later").start().await;
    let operator = broker.admin().await;
    let id = create(&operator, json!({ "name": "x", "address": "tcp://127.0.0.1:1", "id": 1 })).await;
    has_status(&operator, id, "disconnected").await;
    let (_, history) = get(&operator, "/api/gateways/1/history").await;
    assert_eq!(history["transitions"].as_array().unwrap().len(), 1);
    let mut setup = broker.kill().await;
    let store = setup.store().await;
    let now = Utc::now().trunc_subsecs(6);
    let ago = |hours: i64| now - TimeDelta::hours(hours);
    let hour = |began_at, samples: Vec<(u32, Option<f64>)>| {
        let answered: Vec<_> = samples.iter().filter_map(|(_, rtt)| *rtt).collect();
        let rtt_ms = Some(answered.iter().sum::<f64>() / answered.len() as f64);
        let (probes, answered) = (samples.len() as u32, answered.len() as u32);
        Record::Gateway(GatewayRecord::Hour {
            gateway: GatewayId(1),
            hour: Hour { began_at, probes, answered, rtt_ms, samples: Some(samples) },
        })
    };
    let turned = |gateway, hours, status| {
        let transition = Transition { at: ago(hours), status, reason: None };
        Record::Gateway(GatewayRecord::Transition { gateway: GatewayId(gateway), transition })
    };
    let full = || (0..3600).map(|second| (second * 1000, Some(f64::from(second)))).collect::<Vec<_>>();
    let mut records = vec![
        hour(ago(24 * 31), full()),
        hour(ago(48), vec![(0, Some(1.0)), (1000, None), (2000, Some(2.0))]),
        turned(1, 24 * 40, Status::Connected),
        turned(1, 24 * 31, Status::Disconnected),
        turned(1, 24 * 29, Status::Connected),
        turned(2, 24 * 40, Status::Connected),
        turned(2, 24 * 35, Status::Disconnected),
    ];
    records.extend((2..=5).map(|hours| hour(ago(hours), full())));
    store
        .write_journal(&records, switchboard::store::Changes::default(), switchboard::store::ChangeLimits::default())
        .await
        .unwrap();
    let two = json!({ "name": "two", "address": "tcp://127.0.0.1:1", "id": 2 });
    let mut broker = setup.start().await;
    let operator = broker.admin().await;
    let span = |from: i64, to: i64| {
        let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
        format!("/api/gateways/1/history?from={}&to={}", text(ago(from)), text(ago(to)))
    };
    // it begins with the start
    until(async || get(&operator, &span(24 * 60, 47)).await.1["samples"].as_array().unwrap().len() == 1).await;
    let (_, old) = get(&operator, &span(24 * 60, 47)).await;
    let sample = &old["samples"][0];
    assert_eq!(
        (&sample["rtt_ms"], &sample["probes"], &sample["answered"]),
        (&json!(1.5), &json!(3), &json!(2)),
        "{old}"
    );
    until(async || get(&operator, &span(24 * 60, 47)).await.1["transitions"].as_array().unwrap().len() == 1).await;
    assert_eq!(get(&operator, &span(24 * 60, 47)).await.1["transitions"][0]["status"], "connected");
    // each of the probes of today, the newest first if there are too many
    let (_, today) = get(&operator, &span(4, 3)).await;
    assert_eq!((today["samples"].as_array().unwrap().len(), &today["truncated"]), (3601, &json!(false)));
    assert_eq!((&today["samples"][1]["rtt_ms"], &today["uptime_percent"]), (&json!(1.0), &json!(100.0)));
    let (_, today) = get(&operator, &span(10, 1)).await;
    let samples = today["samples"].as_array().unwrap();
    assert_eq!((samples.len(), &today["truncated"], &samples[9_999]["rtt_ms"]), (10_000, &json!(true), &json!(3599.0)));
    // page by page each of them comes once, and so does each change
    for limit in ["", "&limit=1000"] {
        let path = format!("{}{limit}", span(24 * 60, 1));
        let (mut samples, mut transitions, mut cursor) = (Vec::new(), Vec::new(), String::new());
        loop {
            let (_, page) = get(&operator, &format!("{path}{cursor}")).await;
            let part = |list: &str| page[list].as_array().unwrap().iter().rev().cloned().collect::<Vec<_>>();
            samples.extend(part("samples"));
            transitions.extend(part("transitions"));
            assert_eq!(page["truncated"] == true, page["cursor"].is_string());
            let Some(next) = page["cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!((samples.len(), transitions.len()), (4 * 3600 + 1, 1), "{limit}");
        let newer_first = |pair: &[Value]| pair[0]["at"].as_str() > pair[1]["at"].as_str();
        assert!(samples.windows(2).all(newer_first));
    }
    // of a gateway of which there is nothing newer, the last change stays
    let mut setup = broker.kill().await;
    let kept = setup.store().await.last_gateway_transitions().await.unwrap();
    assert!(kept.iter().any(|(id, last)| (*id, last.status) == (GatewayId(2), Status::Disconnected)), "{kept:?}");
    // but it is not a new gateway's
    let mut broker = setup.start().await;
    let operator = broker.admin().await;
    let (_, created) = post(&operator, "/api/gateways", two).await;
    assert_eq!(created["id"], 2);
    let (_, history) = get(&operator, "/api/gateways/2/history?from=2020-01-01T00:00:00Z").await;
    let begun = format!("{}", ago(24).format("%Y-%m-%d"));
    let later = |change: &Value| change["at"].as_str().unwrap() > begun.as_str();
    assert!(history["transitions"].as_array().unwrap().iter().all(later), "{history}");
}

#[tokio::test]
async fn a_status_socket_tells_and_does_not_listen() {
    let mut broker =
        Broker::with().alone("limits.connections is per node").set("LIMITS__CONNECTIONS", "2").start().await;
    let nobody = broker.client();
    let mut socket = within(nobody.connect("/ws/status")).await.unwrap();
    assert_eq!(next(&mut socket).await, json!({}));
    for text in ["{\"type\":\"ping\"}", "no JSON", "", "{\"type\":\"auth\",\"token\":\"x\"}", "{\"result\":1}"] {
        socket.send_text(text).await.unwrap();
    }
    socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    // the next thing that comes is the same again, five seconds after the first
    assert_eq!(next(&mut socket).await, json!({}));
    let second = within(nobody.connect("/ws/status/")).await.unwrap();
    let refused = refusal(within(nobody.connect("/ws/status")).await);
    assert_eq!((refused.0, refused.2.as_str()), (503, "Server is at its limit (limits.connections)"));
    assert_eq!(refusal(within(nobody.with_token("bad").connect("/ws/status")).await).0, 401);
    drop(second);
    broker.signal("TERM");
    assert_eq!(close_code(&mut socket).await, 1001);
    assert_eq!(broker.ended().await, Some(0));
}

#[tokio::test]
async fn a_status_socket_with_a_token_ends_with_the_token() {
    let mut broker = Broker::with().set("HTTP__PUBLIC_READS", "false").start().await;
    let (nobody, user) = (broker.client(), broker.user("ulla", "user").await);
    for path in ["/ws/status", "/ws/status/"] {
        let refused = refusal(within(nobody.connect(path)).await);
        assert_eq!((refused.0, refused.2.as_str()), (401, "Not authenticated"));
    }
    assert_eq!(get(&nobody, "/device_status/").await.0, 401);
    let mut socket = within(user.connect("/ws/status")).await.unwrap();
    assert_eq!(next(&mut socket).await, json!({}));
    assert_eq!(post(&user, "/auth/logout", json!({})).await.0, 200);
    assert_eq!(close_code(&mut socket).await, 4401);
}

#[tokio::test]
async fn the_status_topic_is_for_operators_and_nobody_publishes_there() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    let user = broker.user("ulla", "user").await;
    let (device, _, mut socket) = broker.connected("Alice").await;
    let name = || json!({ "topic_id": "$status" });
    for client in [&user, &device] {
        let (status, body) = post(client, "/topics/subscribe", name()).await;
        assert_eq!(
            (status, &body["detail"], &body["code"]),
            (403, &json!("Operator role required"), &json!("forbidden"))
        );
    }
    assert_eq!(post(&operator, "/topics/subscribe", json!({ "topic_id": "$other" })).await.0, 404);
    for client in [&operator, &device] {
        let (status, body) = post(client, "/topics/create", name()).await;
        assert_eq!((status, faults(&body)), (422, vec!["value_error body.topic_id".to_owned()]));
    }
    let publish = json!({ "topic_id": "$status", "msgid": "1", "content": "x" });
    socket.send_text(publish.to_string()).await.unwrap();
    assert_eq!(next_of_type(&mut socket, "error").await["message"], "Not subscribed to topic $status");
    let subscribers = async || get(&operator, "/topics/%24status").await.1["subscriber_count"].clone();
    assert_eq!(subscribers().await, 0);
    let _events = subscribed(&operator).await;
    let (status, topic) = get(&broker.client(), "/topics/$status").await;
    assert_eq!((status, &topic["id"], &topic["subscriber_count"]), (200, &json!("$status"), &json!(1)));
    assert_eq!(get(&operator, "/topics").await.1["count"], 0);
    assert_eq!(post(&operator, "/topics/unsubscribe", name()).await.0, 200);
    assert_eq!(subscribers().await, 0);
}

#[tokio::test]
async fn operators_hear_of_clients_that_come_and_go_but_not_of_themselves() {
    let mut broker = Broker::start().await;
    let operator = broker.user("olga", "operator").await;
    let mut events = subscribed(&operator).await;
    let (client, device, first) = broker.connected("Alice").await;
    let event = |word: &str, uuid: &Value, name: &str, kind: &str| json!({ "event": format!("client_{word}"), "topic_id": "$status", "uuid": uuid, "name": name, "kind": kind });
    let alice = json!(device.uuid);
    assert_eq!(said(next(&mut events).await), event("connected", &alice, "Alice", "device"));
    // a takeover is no coming and going
    let mut second = within(client.connect("/ws")).await.unwrap();
    next_of_type(&mut second, "connection").await;
    drop(first);
    second.close().await.unwrap();
    assert_eq!(said(next(&mut events).await), event("disconnected", &alice, "Alice", "device"));
    let user = broker.user("ulla", "user").await;
    let (_, me) = get(&user, "/api/users/me").await;
    let agent = within(user.connect("/ws")).await.unwrap();
    assert_eq!(said(next(&mut events).await), event("connected", &me["uuid"], "ulla", "user"));
    agent.close().await.unwrap();
    assert_eq!(said(next(&mut events).await), event("disconnected", &me["uuid"], "ulla", "user"));
    nothing_came(&mut events).await;

    // an operator without another socket hears it on the one for commands
    let admin = broker.admin().await;
    let mut agent = within(admin.connect("/ws")).await.unwrap();
    next(&mut events).await;
    assert_eq!(post(&admin, "/topics/subscribe", json!({ "topic_id": "$status" })).await.0, 200);
    let _alice = within(client.connect("/ws")).await.unwrap();
    for socket in [&mut events, &mut agent] {
        assert_eq!(said(next(socket).await), event("connected", &alice, "Alice", "device"));
    }
}

#[tokio::test]
async fn who_is_no_operator_any_more_hears_nothing_more() {
    let mut broker = Broker::with().set("AUTH__RECHECK_SECS", "1").start().await;
    let admin = broker.admin().await;
    let subscribers = async || get(&admin, "/topics/$status").await.1["subscriber_count"].clone();
    // over HTTP, at once
    let operator = broker.user("olga", "operator").await;
    let mut events = subscribed(&operator).await;
    let (_, me) = get(&operator, "/api/users/me").await;
    let path = format!("/api/users/{}", me["id"]);
    let (status, _) = answer(admin.request(Method::PATCH, &path).json(&json!({ "role": "user" }))).await;
    assert_eq!((status.as_u16(), subscribers().await), (200, json!(0)));
    let _alice = broker.connected("Alice").await;
    nothing_came(&mut events).await;
    assert_eq!(post(&operator, "/topics/subscribe", json!({ "topic_id": "$status" })).await.0, 403);
    // on the command line, and before the socket is there
    let other = broker.user("otto", "operator").await;
    assert_eq!(post(&other, "/topics/subscribe", json!({ "topic_id": "$status" })).await.0, 200);
    assert_eq!(subscribers().await, 1);
    assert_eq!(broker.command(&["user", "set-role", "otto", "user"], "").code, Some(0));
    until(async || subscribers().await == 0).await;
}

#[tokio::test]
async fn a_command_for_a_device_behind_a_gateway_that_is_down_fails_at_once_unless_it_may_wait() {
    let mut broker = quick().start().await;
    let operator = broker.admin().await;
    let (listener, address, text) = listening();
    let id = create(&operator, json!({ "name": "Plant \"north\"", "address": text })).await;
    has_status(&operator, id, "connected").await;
    let (client, device, mut socket) = broker.connected("Alice").await;
    let (_, other, mut other_socket) = broker.connected("Bob").await;
    assert_eq!(put(&client, &format!("/devices/{}", device.uuid), json!({ "gateway_id": id })).await.0, 200);
    let (send, one) = (format!("/send-command/{}", device.uuid), json!({ "method": "GET", "url": "/x" }));
    let asking = posting(&operator, &send, &one);
    reply(&mut socket, json!(1)).await;
    assert_eq!(within(asking).await.unwrap().0, 200);

    drop(listener);
    has_status(&operator, id, "disconnected").await;
    let down = (503, json!({ "detail": "Gateway Plant \"north\" is down", "code": "gateway_down" }));
    assert_eq!(post(&operator, &send, one.clone()).await, down);
    let full = |more: Value| {
        let mut body = json!({ "method": "GET", "url": "/x" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for body in
        [full(json!({ "target": device.uuid })), full(json!({ "targets": [device.uuid], "deliver_within_secs": 0 }))]
    {
        let response = within(operator.request(Method::POST, "/api/commands").json(&body).send()).await.unwrap();
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!((response.status().as_u16(), response.json::<Value>().await.unwrap()), down, "{body}");
    }
    nothing_came(&mut socket).await;
    // it may wait, or somebody else is meant as well
    let may_wait =
        posting(&operator, "/api/commands", &full(json!({ "target": device.uuid, "deliver_within_secs": 60 })));
    reply(&mut socket, json!(2)).await;
    assert_eq!(within(may_wait).await.unwrap().1["targets"][0]["state"], "succeeded");
    let waits = json!({ "targets": [device.uuid, other.uuid], "deliver_within_secs": 60 });
    let both = posting(&operator, "/api/commands", &full(waits));
    reply(&mut socket, json!(3)).await;
    reply(&mut other_socket, json!(3)).await;
    assert_eq!(within(both).await.unwrap().0, 200);
    // else those that are behind it are passed over
    for whom in [json!({ "targets": [device.uuid, other.uuid] }), json!({ "select": { "kind": "device" } })] {
        let both = posting(&operator, "/api/commands", &full(whom));
        reply(&mut other_socket, json!(3)).await;
        let (status, body) = within(both).await.unwrap();
        let targets: Vec<_> =
            body["targets"].as_array().unwrap().iter().map(|of| [&of["name"], &of["state"], &of["reason"]]).collect();
        let alice = [&json!("Alice"), &json!("offline"), &json!("gateway_down")];
        assert_eq!((status, targets), (200, vec![alice, [&json!("Bob"), &json!("succeeded"), &Value::Null]]));
        let (_, shown) = get(&operator, &format!("/api/commands/{}", body["id"].as_str().unwrap())).await;
        assert_eq!(shown, body);
    }
    let all = posting(&operator, "/broadcast-command", &one);
    reply(&mut other_socket, json!(3)).await;
    let expected =
        json!({ device.uuid.to_string(): { "error": "The client's gateway is down." }, other.uuid.to_string(): 3 });
    assert_eq!(within(all).await.unwrap().1["results"], expected);
    nothing_came(&mut socket).await;
    // up again, or not behind it any more
    let _listener = TcpListener::bind(address).unwrap();
    has_status(&operator, id, "connected").await;
    let asking = posting(&operator, &send, &one);
    reply(&mut socket, json!(4)).await;
    assert_eq!(within(asking).await.unwrap().0, 200);
}

#[tokio::test]
async fn an_id_is_not_given_twice() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let body = |id: Value| json!({ "name": "x", "address": "tcp://127.0.0.1:1", "id": id });
    let first = create(&operator, body(Value::Null)).await;
    assert_eq!(delete(&operator, &format!("/api/gateways/{first}")).await.0, 200);
    let second = create(&operator, body(Value::Null)).await;
    assert!(second > first);
    // whoever asks for a certain id gets it, and it counts as used
    let chosen = create(&operator, body(json!(second + 10))).await;
    for id in [second, chosen] {
        assert_eq!(delete(&operator, &format!("/api/gateways/{id}")).await.0, 200);
    }
    let mut broker = broker.kill().await.start().await;
    let operator = broker.admin().await;
    assert!(create(&operator, body(Value::Null)).await > chosen);
}

#[actix_web::test]
async fn a_gateway_is_deleted_with_its_history_or_not_at_all() {
    let mut broker = quick().start().await;
    let admin = broker.admin().await;
    let (listener, _, target) = listening();
    let id = create(&admin, json!({ "name": "site", "address": target })).await;
    has_status(&admin, id, "connected").await;
    let path = format!("/api/gateways/{id}");
    let (status, history) = get(&admin, &format!("{path}/history")).await;
    assert_eq!((status, history["transitions"].as_array().unwrap().len()), (200, 1), "{history}");
    broker.execute("ALTER TABLE gateway_transitions RENAME TO elsewhere").await;
    assert_eq!(delete(&admin, &path).await.0, 500);
    broker.execute("ALTER TABLE elsewhere RENAME TO gateway_transitions").await;
    assert_eq!(gateway(&admin, id).await["name"], "site");
    assert_eq!(delete(&admin, &path).await.0, 200);
    drop(listener);
    let kept = broker.store().await.last_gateway_transitions().await.unwrap();
    assert!(kept.is_empty(), "{kept:?}");
}
