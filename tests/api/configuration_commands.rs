//! `switchboard config`, `token`, `status`, `doctor`, `completions` and `man`.

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::Client;

use crate::support::{Broker, Output, chat::call, get, post, until};

fn succeeded(output: Output) -> String {
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    output.stdout
}

fn json_of(output: Output) -> Value {
    let text = succeeded(output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Waits for a record of this action with this detail.
async fn is_audited(admin: &Client, action: &str, name: &str, value: &Value) {
    until(async || {
        let (_, records) = get(admin, &format!("/api/audit?action={action}")).await;
        records["records"].as_array().is_some_and(|records| records.iter().any(|one| one["details"][name] == *value))
    })
    .await;
}

#[test]
fn the_default_configuration_is_a_file_that_a_broker_starts_with() {
    let mut setup = Broker::with();
    let default = succeeded(setup.run(&["config", "default"], ""));
    assert!(default.contains("\n[limits]\n") && default.contains("\nframe_bytes = 65536\n"));
    let mut with_it = Broker::with().file("all.toml", &default);
    let checked = succeeded(with_it.run(&["config", "check", "--config", "all.toml"], ""));
    assert!(checked.starts_with("the settings are valid; the database is SQLite in "), "{checked}");
}

#[test]
fn a_configuration_is_checked_without_a_broker() {
    let mut wrong = Broker::with().file("my.toml", "[limits]\nbody_byte = 1\n");
    let refused = wrong.run(&["config", "check", "--config", "my.toml"], "");
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert_eq!(refused.stderr, "switchboard: unknown key `limits.body_byte` (my.toml)\n");
    let mut weak = Broker::with().file("my.toml", "[auth]\nsecret_policy = \"strong\"\n");
    let refused = weak.run(&["config", "check", "--config", "my.toml"], "");
    assert!(refused.code == Some(1) && refused.stderr.contains("set SECRET_KEY"), "{refused:?}");
    let mut loud = Broker::with().set("LOG__LEVEL", "loud");
    let refused = loud.run(&["config", "check"], "");
    assert!(refused.code == Some(1) && refused.stderr.contains("`log.level`"), "{refused:?}");
    // what is valid and probably a mistake
    let mut risky = Broker::with().env("SECRET_KEY", "short");
    let warned = risky.run(&["config", "check"], "");
    assert!(warned.code == Some(0) && warned.stderr.contains("shorter than 32 bytes"), "{warned:?}");
}

#[test]
fn each_setting_is_shown_with_its_layer_and_secrets_are_hidden() {
    let mut setup = Broker::with()
        .file("my.toml", "[limits]\nbody_bytes = 7\n[[gateways]]\nid = 1\nname = \"a\"\naddress = \"192.0.2.1\"\n")
        .file(".env", "REDIS_URL=redis://:hush@localhost:6379\n")
        .env("SECRET_KEY", "hush-hush-hush-hush-hush-hush-hush-hush");
    let arguments = ["config", "show", "--changed", "--json", "--config", "my.toml", "--data-dir", "here"];
    let shown = json_of(setup.run(&arguments, ""));
    let entry = |key: &str| {
        let entries = shown.as_array().unwrap();
        entries.iter().find(|entry| entry["key"] == key).unwrap_or_else(|| panic!("{key} in {shown}")).clone()
    };
    let layer = |key: &str, value: Value, layer: &str| {
        assert_eq!(entry(key), json!({ "key": key, "value": value, "layer": layer }));
    };
    layer("limits.body_bytes", json!(7), "my.toml");
    layer("redis.url", json!("redis://***@localhost:6379"), ".env, REDIS_URL");
    layer("auth.secret", json!("***"), "environment, SECRET_KEY");
    layer("storage.data_dir", json!("here"), "flag --data-dir");
    assert_eq!(entry("gateways")["value"][0]["name"], "a");
    let text = succeeded(setup.run(&["config", "show", "--config", "my.toml"], ""));
    assert!(!text.contains("hush"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("body_bytes = 7 ") && line.ends_with("# my.toml")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("frame_bytes = 65536 ") && line.ends_with("# default")), "{text}");
    // it can be read as a file again
    let mut again = Broker::with().file("shown.toml", &text);
    let checked = again.run(&["config", "check", "--config", "shown.toml"], "");
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[tokio::test]
async fn a_token_is_made_on_the_brokers_machine_for_a_user_or_a_device() {
    let mut broker = Broker::start().await;
    let (_, device) = broker.device("press").await;
    broker.user("olga", "operator").await;
    for client in ["olga", &device.uuid.to_string()] {
        let made = broker.command(&["token", client, "--minutes", "5"], "");
        assert!(made.code == Some(0) && made.stderr.contains("valid until"), "{made:?}");
        let token = made.stdout.trim();
        let client = broker.client().with_token(token);
        let (status, messages) = get(&client, "/api/messages").await;
        assert_eq!(status, 200, "{messages}");
    }
    let admin = broker.admin().await;
    let (_, records) = get(&admin, "/api/audit?action=token_issued").await;
    assert_eq!((&records["count"], &records["records"][0]["target_name"]), (&json!(2), &json!("press")));
    let unknown = broker.command(&["token", "nobody"], "");
    assert!(unknown.code == Some(1) && unknown.stderr.contains("no user or device nobody"), "{unknown:?}");
    let disabled = broker.command(&["user", "disable", "olga"], "");
    assert_eq!(disabled.code, Some(0));
    let refused = broker.command(&["token", "olga"], "");
    assert!(refused.code == Some(1) && refused.stderr.contains("disabled"), "{refused:?}");
}

#[tokio::test]
async fn the_status_of_a_broker_has_its_readiness_connections_and_rates() {
    let mut broker = Broker::with().alone("the metrics are those of one node").start().await;
    let (_, _, _socket) = broker.connected("press").await;
    let url = broker.url.clone();
    let status = json_of(broker.command(&["status", "--json", "--url", &url], ""));
    assert_eq!(status["readiness"]["status"], "ready");
    assert_eq!(status["rates"]["connections"], json!({ "device": 1.0 }));
    let text = succeeded(broker.command(&["status", "--url", &url], ""));
    assert!(text.starts_with(&format!("{url} is ready\n")) && text.contains("connections  1 (device 1)"), "{text}");
    assert_eq!(succeeded(broker.command(&["status", "--quiet", "--url", &url], "")), "");
    let mut setup = broker.kill().await;
    let gone = setup.run(&["status", "--quiet", "--url", &url], "");
    assert!(gone.code == Some(1) && gone.stdout.is_empty() && !gone.stderr.is_empty(), "{gone:?}");
}

#[tokio::test]
async fn the_status_of_a_broker_that_shows_its_metrics_to_nobody_is_its_readiness() {
    let mut broker = Broker::with().set("HTTP__METRICS", "").start().await;
    let url = broker.url.clone();
    let text = succeeded(broker.command(&["status", "--url", &url, "--token", "none"], ""));
    assert!(text.contains("rates        not shown"), "{text}");
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong_and_says_how_to_mend_it() {
    let mut broker = Broker::with().alone("its own data directory").start().await;
    let findings = json_of(broker.command(&["doctor", "--json"], ""));
    let of = |findings: &Value, subject: &str| {
        let found = findings.as_array().unwrap().iter().find(|finding| finding["subject"] == subject);
        found.unwrap_or_else(|| panic!("{subject}: {findings}")).clone()
    };
    assert_eq!(of(&findings, "database")["state"], "ok", "{findings}");
    let data = of(&findings, "data");
    assert!(data["text"].as_str().unwrap().contains("is used by the broker with process"), "{data}");
    // nobody listens there
    let mut sick = Broker::with()
        .alone("its own services")
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:9/none")
        .env("REDIS_URL", "redis://127.0.0.1:9")
        .set("STORAGE__MIN_FREE_BYTES", "0");
    let examined = sick.run(&["doctor", "--json"], "");
    assert_eq!(examined.code, Some(1), "{examined:?}");
    let findings: Value = serde_json::from_str(&examined.stdout).unwrap();
    for subject in ["settings", "database", "redis"] {
        let finding = of(&findings, subject);
        assert!(finding["state"] == "wrong" && finding["remedy"].is_string(), "{finding}");
    }
    let text = sick.run(&["doctor"], "").stdout;
    assert!(text.contains("wrong    redis") && text.contains("mend it: check REDIS_URL"), "{text}");
}

#[test]
fn completions_and_manual_pages_are_made_of_all_commands() {
    let mut setup = Broker::with();
    for shell in ["bash", "zsh", "fish"] {
        let script = succeeded(setup.run(&["completions", shell], ""));
        assert!(script.contains("send-message"), "{shell}");
    }
    assert!(succeeded(setup.run(&["man"], "")).contains(".TH switchboard"));
    let dir = setup.dir();
    succeeded(setup.run(&["man", "--out", dir.to_str().unwrap()], ""));
    for page in ["switchboard.1", "switchboard-gateways-add.1"] {
        assert!(dir.join(page).exists(), "{page}");
    }
}

#[tokio::test]
async fn the_log_level_is_changed_by_admins_while_the_broker_runs() {
    let mut broker = Broker::with().alone("each node has its own log").start().await;
    let (admin, operator) = (broker.admin().await, broker.user("olga", "operator").await);
    assert_eq!(get(&operator, "/admin/log-level").await.0, 403);
    assert_eq!(get(&admin, "/admin/log-level").await, (200, json!({ "level": "info", "configured": "info" })));
    let put = async |body: Value| call(&admin, Method::PUT, "/admin/log-level", Some(body)).await;
    let (status, changed) = put(json!({ "level": "debug" })).await;
    assert_eq!((status, changed), (200, json!({ "level": "debug", "configured": "info" })));
    assert_eq!(put(json!({ "level": "loud" })).await.0, 422);
    assert_eq!(put(json!({ "level": "warn", "seconds": 0 })).await.0, 422);
    let (status, reset) = call(&admin, Method::DELETE, "/admin/log-level", None).await;
    assert_eq!((status, &reset["level"]), (200, &json!("info")));
    assert!(broker.log().contains("the log level has changed"));
    is_audited(&admin, "log_level_changed", "level", &json!("debug")).await;
}

#[tokio::test]
async fn a_signal_has_all_logged_for_a_minute() {
    let mut broker = Broker::with().alone("each node has its own log").start().await;
    let admin = broker.admin().await;
    broker.signal("USR1");
    until(async || get(&admin, "/admin/log-level").await.1["level"] == "debug").await;
}

#[tokio::test]
async fn a_broker_reloads_its_settings_at_a_signal() {
    let directory = "the configuration file of one node";
    let setup = Broker::with().alone(directory).file("my.toml", "[limits]\nbody_bytes = 500\n");
    let mut setup = setup.argument("--config").argument("my.toml");
    let file = setup.dir().join("my.toml");
    let mut broker = setup.start().await;
    let long = json!({ "name": "x".repeat(600) });
    let too_long = async |broker: &Broker| post(&broker.client(), "/register", long.clone()).await;
    assert_eq!(too_long(&broker).await.0, 413);
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write(
        "[limits]\nbody_bytes = 700\n[http]\nworkers = 7\ncors_origins = [\"https://new.example\"]\n[log]\nlevel = \"warn\"\n[[gateways]]\nid = 7\nname = \"new\"\naddress = \"tcp://127.0.0.1:9\"\n",
    );
    broker.signal("HUP");
    until(async || too_long(&broker).await.0 != 413).await;
    let admin = broker.admin().await;
    until(async || get(&admin, "/api/gateways/7").await.0 == 200).await;
    until(async || get(&admin, "/admin/log-level").await.1["configured"] == "warn").await;
    let preflight = broker
        .client()
        .request(Method::OPTIONS, "/clients")
        .header("Origin", "https://new.example")
        .header("Access-Control-Request-Method", "GET");
    let allowed = preflight.send().await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://new.example");
    is_audited(
        &admin,
        "settings_reloaded",
        "changed",
        &json!(["gateways", "http.cors_origins", "limits.body_bytes", "log.level"]),
    )
    .await;
    assert!(broker.log().contains("need a restart") && broker.log().contains("http.workers"), "{}", broker.log());
    // one that was behind another is before it now
    let gateway = |id: u8, parent: &str| {
        format!("[[gateways]]\nid = {id}\nname = \"{id}\"\naddress = \"tcp://127.0.0.1:9\"\n{parent}\n")
    };
    let parent_of = async |id: u8| get(&admin, &format!("/api/gateways/{id}")).await.1["parent_id"].clone();
    for (one, two) in [("", "parent_id = 7"), ("parent_id = 8", "")] {
        write(&format!("[limits]\nbody_bytes = 700\n{}{}", gateway(7, one), gateway(8, two)));
        broker.signal("HUP");
        let expected = if one.is_empty() { (Value::Null, json!(7)) } else { (json!(8), Value::Null) };
        until(async || (parent_of(7).await, parent_of(8).await) == expected).await;
    }
    // with something wrong all stays as it is
    for wrong in ["nope = 1", "[log]\nlevel = \"loud\"", "[probes]\nperiod_secs = 0"] {
        write(&format!("[limits]\nbody_bytes = 1\n{wrong}\n"));
        let told = broker.log().matches("cannot reload the settings").count();
        broker.signal("HUP");
        until(async || broker.log().matches("cannot reload the settings").count() > told).await;
    }
    assert_ne!(too_long(&broker).await.0, 413);
    // what is gone is gone
    write("[limits]\nbody_bytes = 500\n");
    broker.signal("HUP");
    until(async || get(&admin, "/api/gateways/7").await.0 == 404).await;
    assert_eq!(too_long(&broker).await.0, 413);
}
