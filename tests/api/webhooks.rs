//! Webhooks: events that are sent to receivers.

use std::{
    collections::{BTreeMap, VecDeque},
    net::TcpListener as Port,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use switchboard::client::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::support::{Broker, ChangeBroker, Program, answer, get, next, posting, until, within};

const SECRET: &str = "the secret of a receiver";

/// A delivery as it came.
#[derive(Debug)]
struct Delivery {
    headers: BTreeMap<String, String>,
    body: String,
    json: Value,
}

/// An HTTP server that records what it gets.
struct Receiver {
    url: String,
    came: mpsc::UnboundedReceiver<Delivery>,
    /// the statuses of the next answers; then 204
    answers: Arc<Mutex<VecDeque<u16>>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?key=hidden-in-query", listener.local_addr().unwrap());
        let (sender, came) = mpsc::unbounded_channel();
        let answers = Arc::<Mutex<VecDeque<u16>>>::default();
        let statuses = answers.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(receive(socket, sender.clone(), statuses.clone()));
            }
        });
        Self { url, came, answers }
    }

    fn answers_with(&self, statuses: &[u16]) {
        self.answers.lock().unwrap().extend(statuses);
    }

    /// The next delivery of this type, with a good signature.
    async fn next(&mut self, event: &str) -> Delivery {
        loop {
            let delivery = within(self.came.recv()).await.expect("a delivery");
            let header = |name: &str| delivery.headers.get(name).unwrap_or_else(|| panic!("{delivery:?}")).clone();
            let signed = format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), delivery.body);
            let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap().chain_update(signed);
            let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
            assert_eq!(header("webhook-signature"), expected);
            assert_eq!(header("content-type"), "application/json");
            assert_eq!(delivery.json["id"], header("webhook-id"));
            let now = chrono::Utc::now().timestamp();
            assert!((now - header("webhook-timestamp").parse::<i64>().unwrap()).abs() < 3600);
            if delivery.json["type"] == event {
                return delivery;
            }
        }
    }

    fn entry(&self, events: &str, more: &str) -> String {
        format!("[[webhooks]]\nurl = \"{}\"\nevents = {events}\nsecret = \"{SECRET}\"\n{more}\n", self.url)
    }
}

async fn receive(
    mut socket: TcpStream,
    sender: mpsc::UnboundedSender<Delivery>,
    answers: Arc<Mutex<VecDeque<u16>>>,
) -> Option<()> {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let headers: BTreeMap<_, _> = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        if body.len() == headers["content-length"].parse::<usize>().unwrap() {
            break (headers, body.to_owned());
        }
    };
    let status = answers.lock().unwrap().pop_front().unwrap_or(204);
    let _ = sender.send(Delivery { headers: head, json: serde_json::from_str(&body).unwrap(), body });
    let response =
        format!("HTTP/1.1 {status} X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    socket.write_all(response.as_bytes()).await.ok()
}

fn with(config: &str) -> ChangeBroker {
    Broker::with().file("hooks.toml", config).argument("--config").argument("hooks.toml")
}

async fn state(admin: &Client) -> Value {
    let (status, list) = get(admin, "/api/webhooks").await;
    assert_eq!((status, &list["count"]), (200, &json!(1)), "{list}");
    list["webhooks"][0].clone()
}

#[tokio::test]
async fn receivers_are_told_of_clients_commands_and_gateways_with_a_signature() {
    let mut receiver = Receiver::start().await;
    let mut broker = with(&receiver.entry("[\"client_*\", \"command_failed\", \"gateway_*\"]", "allow_private = true"))
        .set("PROBES__PERIOD_SECS", "1")
        .start()
        .await;
    let admin = broker.admin().await;
    let (_, pump, mut socket) = broker.connected("pump").await;
    let connected = receiver.next("client_connected").await.json;
    assert_eq!(connected["data"], json!({ "uuid": pump.uuid, "kind": "device", "name": "pump" }));
    let command = json!({ "method": "POST", "url": "/fail?pin=hidden", "data": "hidden" });
    let failing = posting(&admin, &format!("/send-command/{}", pump.uuid), &command);
    let frame = next(&mut socket).await;
    let reply = json!({ "command_id": frame["command_id"], "result": { "error": "hidden" } });
    socket.send_text(reply.to_string()).await.unwrap();
    failing.await.unwrap();
    let failed = receiver.next("command_failed").await;
    assert_eq!(
        (&failed.json["data"]["command_id"], &failed.json["data"]["url"]),
        (&frame["command_id"], &json!("/fail"))
    );
    assert_eq!((&failed.json["data"]["state"], &failed.json["data"]["name"]), (&json!("failed"), &json!("pump")));
    assert!(!failed.body.contains("hidden"), "{}", failed.body);
    drop(socket);
    assert_eq!(receiver.next("client_disconnected").await.json["data"]["uuid"], json!(pump.uuid));

    let gateway = Port::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", gateway.local_addr().unwrap());
    let new = json!({ "name": "north", "address": address });
    let (_, created) = crate::support::post(&admin, "/api/gateways", new).await;
    let up = receiver.next("gateway_connected").await.json;
    assert_eq!((&up["data"]["gateway_id"], &up["data"]["address"]), (&created["id"], &json!(address)));
    drop(gateway);
    let down = receiver.next("gateway_disconnected").await.json;
    assert_eq!((&down["data"]["name"], &down["data"]["status"]), (&json!("north"), &json!("disconnected")));
}

#[tokio::test]
async fn a_delivery_that_fails_is_tried_again_also_after_a_restart() {
    let mut receiver = Receiver::start().await;
    let mut broker = with(&receiver.entry("[\"client_connected\"]", "allow_private = true")).start().await;
    let admin = broker.admin().await;
    receiver.answers_with(&[500, 302]);
    let (_, _, _socket) = broker.connected("pump").await;
    let first = receiver.next("client_connected").await;
    let again = receiver.next("client_connected").await;
    let third = receiver.next("client_connected").await;
    assert!(first.body == again.body && first.body == third.body, "a redirect is no success");
    until(async || state(&admin).await["last_success"].is_string()).await;
    let told = state(&admin).await;
    assert_eq!((&told["pending"], &told["last_failure"]["reason"]), (&json!(0), &json!("status 302")));
    // it fails until the broker is killed
    receiver.answers_with(&[503; 50]);
    let (_, _, _other) = broker.connected("valve").await;
    let before = receiver.next("client_connected").await;
    until(async || state(&admin).await["last_failure"]["reason"] == "status 503").await;
    assert_eq!(state(&admin).await["pending"], 1);
    let setup = broker.kill().await;
    receiver.answers.lock().unwrap().clear();
    let mut broker = setup.start().await;
    let after = receiver.next("client_connected").await;
    assert_eq!(before.json["id"], after.json["id"]);
    let admin = broker.admin().await;
    until(async || state(&admin).await["pending"] == 0).await;
}

#[tokio::test]
async fn nothing_is_sent_to_a_private_address_that_a_name_turns_out_to_have() {
    let mut receiver = Receiver::start().await;
    let config = receiver.entry("[\"*\"]", "").replace("127.0.0.1", "localhost");
    let mut broker = with(&config).start().await;
    let admin = broker.admin().await;
    let (_, _, _socket) = broker.connected("pump").await;
    until(async || state(&admin).await["last_failure"].is_object()).await;
    let told = state(&admin).await;
    assert!(told["last_failure"]["reason"].as_str().unwrap().contains("no public address"), "{told}");
    assert!(receiver.came.try_recv().is_err());
}

#[tokio::test]
async fn admins_alone_see_webhooks_and_nobody_sees_their_secrets() {
    let receiver = Receiver::start().await;
    let url = receiver.url.replace("http://", "http://user:hidden-password@");
    let config = receiver.entry("[\"client_connected\"]", "allow_private = true").replace(&receiver.url, &url);
    let mut broker = with(&config).start().await;
    let admin = broker.admin().await;
    let (device, _, _socket) = broker.connected("pump").await;
    for client in [&device, &broker.user("otto", "operator").await] {
        assert_eq!(get(client, "/api/webhooks").await.0, 403);
    }
    until(async || state(&admin).await["last_success"].is_string()).await;
    let told = state(&admin).await;
    assert_eq!(told["events"], json!(["client_connected"]));
    let host = receiver.url.split('/').nth(2).unwrap();
    assert!(told["url"].as_str().unwrap().starts_with(&format!("http://{host}")), "{told}");
    let (_, audit) = get(&admin, "/api/audit?action=broker_started").await;
    for text in [told.to_string(), audit.to_string(), broker.log()] {
        assert!(!text.contains("hidden") && !text.contains(SECRET), "{text}");
    }
    let (_, metrics) = answer(admin.request(reqwest::Method::GET, "/metrics")).await;
    assert!(metrics.as_str().unwrap().contains("switchboard_webhook_deliveries_pending "), "{metrics}");
}

#[test]
fn a_webhook_that_cannot_work_stops_the_start_without_quoting_its_secret() {
    let entry = |lines: &str| format!("[[webhooks]]\n{lines}\n");
    let good = "url = \"https://x.example/\"\nevents = [\"*\"]";
    for (config, why) in [
        (entry("url = \"https://x.example/\"\nevents = [\"*\"]"), "either secret or secret_env"),
        (entry(&format!("{good}\nsecret = \"hunter2\"")), "at least 16 characters"),
        (entry(&format!("{good}\nsecret = 1234567890")), "secret: expected a text"),
        (entry(&format!("{good}\nsecret = \"whsec_hunter2!!!!!!\"")), "base64"),
        (entry(&format!("{good}\nsecret_env = \"NOT_THERE\"")), "no variable NOT_THERE"),
        (entry("url = \"ftp://x.example/\"\nevents = [\"*\"]\nsecret = \"hunter2hunter2hunter2\""), "url: expected"),
        (entry("url = \"http://10.0.0.1/\"\nevents = [\"*\"]\nsecret = \"hunter2hunter2hunter2\""), "allow_private"),
        (
            entry("url = \"http://[::ffff:7f00:1]/\"\nevents = [\"*\"]\nsecret = \"hunter2hunter2hunter2\""),
            "allow_private",
        ),
        (entry("url = \"http://0x7f.1/\"\nevents = [\"*\"]\nsecret = \"hunter2hunter2hunter2\""), "allow_private"),
        (entry("url = \"https://x.example/\"\nevents = []\nsecret = \"hunter2hunter2hunter2\""), "events: expected"),
        (entry("url = \"https://x.example/\"\nevents = [\"gate\"]\nsecret = \"hunter2hunter2hunter2\""), "no \"gate\""),
        (entry("url = \"https://x.example/\"\nevent = \"*\""), "unknown field"),
    ] {
        let output = Broker::with()
            .file("hooks.toml", &config)
            .run(&["serve", "--config", "hooks.toml", "--bind", "127.0.0.1:0"], "");
        assert!(output.code == Some(1) && output.stderr.contains(why), "{config}: {output:?}");
        assert!(output.stderr.contains("`webhooks`") && output.stderr.contains("hooks.toml"), "{output:?}");
        assert!(!output.stderr.contains("hunter2") && !output.stderr.contains("1234567890"), "{output:?}");
    }
}

#[tokio::test]
async fn the_receiver_in_the_documentation_works() {
    let document = include_str!("../../docs/webhooks.md");
    let program = document.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let mut setup = Broker::with().file("receiver.py", program).env("WEBHOOK_SECRET", SECRET);
    let mut receiver = Program::start_of(&mut setup, "python3", &["receiver.py", "0"]);
    let port = receiver.says("listening on port").await;
    let port = port.rsplit(' ').next().unwrap().to_owned();
    let config = format!(
        "[[webhooks]]\nurl = \"http://127.0.0.1:{port}/\"\nevents = [\"client_*\"]\nsecret_env = \"WEBHOOK_SECRET\"\nallow_private = true\n"
    );
    let setup = setup.file("hooks.toml", &config).argument("--config").argument("hooks.toml");
    let broker = setup.start().await;
    let (_, pump, _socket) = broker.connected("pump").await;
    let told: Value = serde_json::from_str(&receiver.says("client_connected").await).unwrap();
    assert_eq!(told["data"]["uuid"], json!(pump.uuid));
}
