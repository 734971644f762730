//! `GET /metrics` (contract section 9).

use std::{
    fs,
    io::Write,
    net::TcpListener,
    process::{Command, Stdio},
};

use reqwest::Method;
use serde_json::json;
use switchboard::client::Client;

use crate::support::{Broker, RawSocket, answer, next, next_of_type, own_address, post, reply, until};

/// The metrics as text.
async fn text(client: &Client) -> String {
    let (status, text) = answer(client.request(Method::GET, "/metrics")).await;
    assert_eq!(status.as_u16(), 200, "{text}");
    text.as_str().unwrap().to_owned()
}

/// Waits until a series has this value.
async fn shows(client: &Client, series: &str, value: u32) {
    let line = format!("\nswitchboard_{series} {value}\n");
    until(async || text(client).await.contains(&line)).await;
}

#[tokio::test]
async fn metrics_are_for_this_machine_and_operators_unless_the_configuration_says_otherwise() {
    let mut broker = Broker::with().alone("metrics of one node").start().await;
    let operator = broker.user("operator", "operator").await;
    let (device, _) = broker.device("device").await;
    let status = async |client: &Client, forwarded: Option<&str>| {
        let request = client.request(Method::GET, "/metrics");
        let request = forwarded.iter().fold(request, |request, address| request.header("X-Forwarded-For", *address));
        answer(request).await.0.as_u16()
    };
    let anybody = broker.client();
    assert_eq!(status(&anybody, None).await, 200);
    // a proxy on this machine passes on the requests of others, whatever it says of them
    assert_eq!(status(&anybody, Some("127.0.0.1")).await, 401);
    assert_eq!(status(&device, Some("192.0.2.1")).await, 403);
    assert_eq!(status(&operator, Some("192.0.2.1")).await, 200);
    // tokens are not looked at where none is needed
    assert_eq!(status(&anybody.with_token("nonsense"), None).await, 200);
    assert_eq!(status(&anybody.with_token("nonsense"), Some("192.0.2.1")).await, 401);

    // nor one that is trusted and names nobody
    let change = Broker::with().alone("metrics of one node").set("HTTP__TRUSTED_PROXIES", "127.0.0.1");
    let broker = change.start().await;
    let request = broker.client().request(Method::GET, "/metrics").header("X-Real-IP", "192.0.2.1");
    assert_eq!(answer(request).await.0.as_u16(), 401);

    for (readers, own, forwarded) in [("", 403, 403), ("192.0.2.0/24", 403, 200), ("any", 200, 200)] {
        let change = Broker::with().alone("metrics of one node").set("HTTP__METRICS", readers);
        let broker = change.set("HTTP__TRUSTED_PROXIES", "127.0.0.1").start().await;
        let client = broker.client();
        assert_eq!(
            (status(&client, None).await, status(&client, Some("192.0.2.1")).await),
            (own, forwarded),
            "{readers}"
        );
    }
}

#[tokio::test]
async fn metrics_count_what_clients_do() {
    let mut broker = Broker::with().alone("metrics of one node").set("LIMITS__TOPICS_PER_CLIENT", "1").start().await;
    let operator = broker.user("operator", "operator").await;
    let (_, device, mut socket) = broker.connected("device").await;
    let (other_client, other, mut other_socket) = broker.connected("other").await;
    let reader = broker.client();
    shows(&reader, r#"connections{dialect="device"}"#, 2).await;

    let direct = json!({ "to": other.uuid, "msgid": "1", "content": "Hello!" });
    socket.send_text(direct.to_string()).await.unwrap();
    next_of_type(&mut socket, "sent").await;
    next(&mut other_socket).await;
    shows(&reader, r#"direct_messages_total{outcome="delivered"}"#, 1).await;
    shows(&reader, r#"frames_received_total{dialect="device"}"#, 1).await;
    // two greetings, the message and its receipt
    shows(&reader, r#"frames_sent_total{dialect="device"}"#, 4).await;

    let acknowledged = json!({ "to": other.uuid, "msgid": "2", "content": "Hello!", "acknowledge": true });
    socket.send_text(acknowledged.to_string()).await.unwrap();
    next_of_type(&mut socket, "sent").await;
    next(&mut other_socket).await;
    other_socket.send_text(json!({ "type": "ack", "msgid": "2" }).to_string()).await.unwrap();
    next_of_type(&mut socket, "delivery_update").await;
    shows(&reader, r#"acknowledged_messages_ended_total{state="delivered"}"#, 1).await;

    let absent = json!({ "to": uuid::Uuid::new_v4(), "msgid": "3", "content": "Hello!" });
    socket.send_text(absent.to_string()).await.unwrap();
    next_of_type(&mut socket, "error").await;
    shows(&reader, r#"error_frames_total{code="recipient_not_connected"}"#, 1).await;

    // a handshake that is refused is no connection
    let opened = r#"connections_opened_total{dialect="device"}"#;
    assert!(other_client.connect("/ws/room/77").await.is_err());
    shows(&reader, opened, 2).await;

    let command = json!({ "method": "GET", "url": "/status" });
    let path = format!("/send-command/{}", device.uuid);
    let (answered, _) = tokio::join!(post(&operator, &path, command), reply(&mut socket, json!("fine")));
    assert_eq!(answered.0, 200, "{}", answered.1);
    shows(&reader, r#"command_seconds_count{outcome="succeeded"}"#, 1).await;
    shows(&reader, r#"http_requests_total{method="POST",route="/send-command/{target}",status="200"}"#, 1).await;

    for (topic, status) in [("one", 200), ("two", 429)] {
        assert_eq!(post(&other_client, "/topics/create", json!({ "topic_id": topic })).await.0, status);
    }
    shows(&reader, r#"refusals_total{limit="limits.topics_per_client"}"#, 1).await;
    let wrong = json!({ "username": "operator", "password": "not the password" });
    assert_eq!(post(&reader, "/auth/login", wrong).await.0, 401);
    shows(&reader, r#"logins_total{outcome="failed"}"#, 1).await;

    other_socket.close().await.unwrap();
    shows(&reader, r#"connections_closed_total{by="client",code="1000"}"#, 1).await;
    shows(&reader, r#"connections{dialect="device"}"#, 1).await;
}

#[tokio::test]
async fn commands_that_wait_are_counted_after_a_start_as_well() {
    let mut broker = Broker::with().alone("metrics of one node").start().await;
    let operator = broker.user("operator", "operator").await;
    let (_, device) = broker.device("offline").await;
    let command = json!({ "target": device.uuid, "method": "GET", "url": "/", "deliver_within_secs": 600 });
    assert_eq!(post(&operator, "/api/commands", command).await.0, 202);
    shows(&broker.client(), "commands_under_way", 1).await;
    let broker = broker.kill().await.start().await;
    shows(&broker.client(), "commands_under_way", 1).await;
}

#[tokio::test]
async fn prometheus_finds_nothing_wrong_with_the_metrics() {
    let broker = Broker::with().alone("metrics of one node").start().await;
    let (_, _, _socket) = broker.connected("device").await;
    let text = text(&broker.client()).await;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool of the Debian package prometheus");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_alerts_fire_when_they_should_and_not_before() {
    let mut promtool = Command::new("promtool");
    promtool.args(["test", "rules", "alerts.test.yml"]);
    let output =
        promtool.current_dir("docs/deploy/prometheus").output().expect("promtool of the Debian package prometheus");
    let (told, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{failed}");
}

#[tokio::test]
async fn prometheus_scrapes_brokers_and_its_alerts_fire_on_a_stopped_gateway_a_slow_consumer_and_a_full_disk() {
    let gateway = TcpListener::bind(own_address()).unwrap();
    let address = gateway.local_addr().unwrap();
    let gateways =
        format!("[probes]\nperiod_secs = 1\n[[gateways]]\nid = 1\nname = \"north\"\naddress = \"tcp://{address}\"\n");
    let busy = Broker::with().alone("metrics of one node").file("my.toml", &gateways);
    let busy = busy.argument("--config").argument("my.toml").start().await;
    let full =
        Broker::with().alone("metrics of one node").set("STORAGE__MIN_FREE_BYTES", "1000000000000000").start().await;
    let folder = tempfile::tempdir().unwrap();
    let rules = include_str!("../../docs/deploy/prometheus/alerts.yml");
    // at once, since the times are tested elsewhere
    let rules = rules.lines().filter(|line| !line.trim_start().starts_with("for: ")).collect::<Vec<_>>().join("\n");
    let config = include_str!("../../docs/deploy/prometheus/prometheus.yml").replace("15s", "1s");
    let targets = format!(r#"["{}", "{}"]"#, busy.address(), full.address());
    let config = config.replace(r#"["127.0.0.1:8000"]"#, &targets);
    fs::write(folder.path().join("alerts.yml"), rules).unwrap();
    fs::write(folder.path().join("prometheus.yml"), config).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut prometheus = tokio::process::Command::new("prometheus");
    prometheus.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"]);
    prometheus.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _prometheus =
        prometheus.current_dir(folder.path()).kill_on_drop(true).spawn().expect("the Debian package prometheus");
    let prometheus = Client::new(&format!("http://127.0.0.1:{port}")).unwrap();
    let asked = async |path: &str| match prometheus.request(Method::GET, path).send().await {
        Ok(response) => response.text().await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    until(async || asked("/api/v1/query?query=count(up==1)").await.contains(r#""2"]"#)).await;

    shows(&busy.client(), r#"gateways{state="connected"}"#, 1).await;
    drop(gateway);
    let (_, _, mut sender) = busy.connected("sender").await;
    let (client, slow) = busy.device("slow").await;
    let mut socket = RawSocket::connect_narrow(&busy).await;
    socket.handshake(&format!("/ws?token={}", client.token().unwrap()), "").await;
    loop {
        sender.send_direct(slow.uuid, &"x".repeat(20_000)).await.unwrap();
        if next(&mut sender).await["type"] == "error" {
            break;
        }
    }
    let fires = async |alert: &str, broker: &Broker| {
        let alerts: serde_json::Value = serde_json::from_str(&asked("/api/v1/alerts").await).unwrap_or_default();
        let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        alerts.iter().any(|found| {
            let labels = &found["labels"];
            labels["alertname"] == alert && labels["instance"] == broker.address() && found["state"] == "firing"
        })
    };
    until(async || fires("SwitchboardGatewayDown", &busy).await).await;
    until(async || fires("SwitchboardSlowConsumers", &busy).await).await;
    until(async || fires("SwitchboardStorageNearlyFull", &full).await).await;
    assert!(!fires("SwitchboardDown", &busy).await && !fires("SwitchboardStorageNearlyFull", &busy).await);
}
