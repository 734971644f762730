//! `switchboard bench`: what it counts adds up, it leaves nothing running, and it says what is in its way. No figure is
//! looked at that depends on the machine.

use std::process::Stdio;

use serde_json::Value;
use tokio::{io::AsyncReadExt, process::Command};

use crate::support::{Broker, ChangeBroker, Output, PAUSE, Program, example, get, until, within};

/// Runs a benchmark, with a duration that is just enough to count something.
fn bench(arguments: &[&str]) -> Output {
    let mut all = vec!["bench"];
    all.extend(arguments);
    if !arguments.contains(&"--duration") {
        all.extend(["--duration", "0.2"]);
    }
    all.push("--json");
    ChangeBroker::default().run(&all, "")
}

/// The report of a benchmark that must succeed.
fn report(arguments: &[&str]) -> Value {
    let output = bench(arguments);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stdout.lines().count(), 1, "{output:?}");
    serde_json::from_str(&output.stdout).expect("one JSON object")
}

/// All messages were sent, accepted and delivered to so many each, and the figures that go with them are there.
fn adds_up(report: &Value, copies: u64) {
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name}: {report}"));
    assert!(count("sent") > 0, "{report}");
    assert_eq!(count("delivered"), count("sent") * copies, "{report}");
    assert_eq!((count("lost"), count("errors")), (0, 0), "{report}");
    for name in ["sent_per_s", "delivered_per_s", "received_bytes_per_s", "duration_s", "bench_busy"] {
        assert!(report[name].is_number(), "no {name}: {report}");
    }
    latencies_are_in_order(report);
}

fn latencies_are_in_order(report: &Value) {
    let latency = &report["latency"];
    let quantiles = ["p50_us", "p90_us", "p99_us", "p99_9_us", "max_us"];
    let quantiles = quantiles.map(|name| latency[name].as_f64().unwrap_or_else(|| panic!("no {name}: {report}")));
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{report}");
}

#[tokio::test]
async fn fan_out_delivers_each_publication_to_every_other_subscriber() {
    let one = report(&["fanout", "--clients", "5"]);
    adds_up(&one, 5);
    assert_eq!(one["sent"], one["accepted"]);
    assert_eq!((&one["benchmark"], &one["clients"], &one["size_bytes"]), (&"fanout".into(), &5.into(), &128.into()));
    assert_eq!((&one["latency"]["corrected"], &one["workers"]), (&false.into(), &0.into()));
    // publishers are subscribed, too, and get what the others publish
    adds_up(&report(&["fanout", "--clients", "4", "--publishers", "3", "--workers", "2"]), 4 + 2);
}

#[tokio::test]
async fn fan_out_over_many_topics_delivers_to_the_subscribers_of_each() {
    let report_of = report(&["fanout", "--clients", "4", "--topics", "6", "--subscribers", "2", "--size", "1000"]);
    adds_up(&report_of, 2);
    assert_eq!((&report_of["topics"], &report_of["subscribers_per_topic"]), (&6.into(), &2.into()));
    // two publishers, each with two of the four topics
    adds_up(&report(&["fanout", "--clients", "4", "--topics", "4", "--publishers", "2"]), 1);
}

#[tokio::test]
async fn subscribers_that_never_read_are_told_apart_from_the_others() {
    // as long as it takes until more was sent than the kernel and the broker keep for somebody who does not read
    for secs in ["3", "15", "60"] {
        let report = report(&["fanout", "--clients", "3", "--stalled", "2", "--size", "30000", "--duration", secs]);
        adds_up(&report, 3);
        assert_eq!(report["stalled_clients"], 2);
        if report["stalled_cut"] == 2 {
            return;
        }
    }
    panic!("they are not told apart");
}

#[tokio::test]
async fn direct_messages_arrive_and_are_receipted() {
    let closed = report(&["direct", "--clients", "6"]);
    adds_up(&closed, 1);
    assert_eq!(closed["sent"], closed["accepted"]);
    let open = report(&["direct", "--clients", "2", "--rate", "200"]);
    adds_up(&open, 1);
    assert_eq!((&open["latency"]["corrected"], &open["rate_per_s"]), (&true.into(), &200.0.into()));
    assert!(open.get("in_flight").is_none(), "{open}");
}

#[tokio::test]
async fn acknowledged_messages_make_round_trips() {
    let closed = report(&["ack", "--clients", "6", "--in-flight", "3", "--workers", "2"]);
    adds_up(&closed, 1);
    assert_eq!((&closed["accepted"], &closed["acknowledged"]), (&closed["sent"], &closed["sent"]));
    assert_eq!((&closed["benchmark"], &closed["in_flight"]), (&"ack".into(), &3.into()));
    assert!(closed["plain_delivered_per_s"].is_number() && closed["of_plain"].is_number(), "{closed}");
    let open = report(&["ack", "--clients", "2", "--rate", "100"]);
    adds_up(&open, 1);
    assert_eq!((&open["acknowledged"], &open["latency"]["corrected"]), (&open["sent"], &true.into()));
}

#[tokio::test]
async fn logins_go_on_beside_direct_messages() {
    let report = report(&["direct", "--clients", "2", "--login-flood", "2"]);
    adds_up(&report, 1);
    assert_eq!(report["login_flood_clients"], 2);
    assert!(report["logins_answered_per_s"].is_number() && report["logins_refused_per_s"].is_number(), "{report}");
}

#[tokio::test]
async fn commands_are_answered() {
    adds_up(&report(&["command", "--clients", "3", "--in-flight", "4"]), 1);
    adds_up(&report(&["command", "--clients", "2", "--in-flight", "2", "--rate", "100"]), 1);
}

#[tokio::test]
async fn the_minimal_server_of_the_comparisons_serves_every_benchmark_that_compares() {
    let mut setup = ChangeBroker::default().env("SWITCHBOARD_PASSWORD", "any");
    let mut floor = Program::start_of(&mut setup, &example("floor"), &["0"]);
    let line = floor.says("listens on ").await;
    let url = &line[line.find("http").expect("its address")..];
    for benchmark in ["fanout", "direct", "command", "connect", "idle"] {
        let arguments = ["bench", benchmark, "--url", url, "--username", "operator", "--duration", "0.2", "--json"];
        let sizes = if benchmark == "command" { vec![] } else { vec!["--clients", "4"] };
        let output = setup.run(&[&arguments[..], &sizes].concat(), "");
        assert_eq!(output.code, Some(0), "{benchmark}: {output:?}");
        let report: Value = serde_json::from_str(&output.stdout).expect("one JSON object");
        assert_eq!(report["errors"], 0, "{report}");
    }
}

#[tokio::test]
async fn chat_messages_reach_every_member_of_the_room() {
    let report = report(&["room", "--clients", "4", "--publishers", "2"]);
    adds_up(&report, 4);
    assert_eq!((&report["clients"], &report["publishers"]), (&4.into(), &2.into()));
    let mut broker = Broker::start().await;
    let url = broker.url.clone();
    // the second time the room is there already
    for _ in 0..2 {
        let output = broker
            .command(&["bench", "room", "--url", &url, "--clients", "2", "--rate", "50", "--duration", "0.2"], "");
        assert_eq!(output.code, Some(0), "{output:?}");
    }
    let admin = broker.admin().await;
    let (_, rooms) = get(&admin, "/api/rooms/").await;
    assert_eq!(rooms.as_array().map(Vec::len), Some(1), "{rooms}");
    // nobody is a member any more, its creator neither
    let (status, _) = get(&admin, &format!("/api/rooms/{}/messages", rooms[0]["id"])).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn connections_are_opened_counted_and_closed() {
    let idle = report(&["idle", "--clients", "20"]);
    assert_eq!((&idle["handshakes"], &idle["errors"]), (&20.into(), &0.into()), "{idle}");
    latencies_are_in_order(&idle);
    if cfg!(target_os = "linux") {
        for name in ["memory_before_bytes", "memory_open_bytes", "memory_peak_bytes", "memory_after_bytes"] {
            assert!(idle[name].as_u64() > Some(1_000_000), "{name}: {idle}");
        }
        assert!(idle["memory_per_connection_bytes"].is_number(), "{idle}");
    }
    let connect = report(&["connect", "--clients", "4"]);
    assert!(connect["handshakes"].as_u64() >= Some(4) && connect["handshakes_per_s"].is_number(), "{connect}");
}

#[tokio::test]
async fn a_running_broker_is_measured_and_left_as_it_was() {
    let mut broker = Broker::with().alone("it sends all commands through one connection").start().await;
    let url = broker.url.clone();
    for _ in 0..2 {
        let output = broker
            .command(&["bench", "fanout", "--url", &url, "--clients", "3", "--rate", "50", "--duration", "0.2"], "");
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(output.stdout.contains("corrected for coordinated omission"), "{output:?}");
        assert!(output.stderr.contains("the broker keeps"), "{output:?}");
    }
    let admin = broker.admin().await;
    // its sockets may just be going
    until(async || get(&admin, "/topics/bench-00000").await.1["subscriber_count"] == 0).await;
    until(async || get(&admin, "/clients").await.1["count"] == 0).await;
    // the first admin's password lies in ./data
    let output = broker.command(&["bench", "command", "--url", &url, "--clients", "2", "--duration", "0.1"], "");
    assert_eq!(output.code, Some(0), "{output:?}");
}

#[tokio::test]
async fn a_limit_that_is_in_the_way_is_named() {
    let mut broker = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "2").start().await;
    let url = broker.url.clone();
    let output = broker.command(&["bench", "idle", "--url", &url, "--clients", "5"], "");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("limits.registrations_per_minute"), "{output:?}");

    let mut broker = Broker::with().set("LIMITS__CONNECTIONS", "2").start().await;
    let url = broker.url.clone();
    let output = broker.command(&["bench", "idle", "--url", &url, "--clients", "5"], "");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("limits.connections"), "{output:?}");

    let mut broker =
        Broker::with().set("LIMITS__FRAMES_PER_SECOND", "1").set("LIMITS__FRAMES_BURST", "1").start().await;
    let url = broker.url.clone();
    let output = broker.command(&["bench", "direct", "--url", &url, "--clients", "2", "--in-flight", "50"], "");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("limits.frames_per_second"), "{output:?}");
}

#[tokio::test]
async fn what_cannot_be_measured_is_said_at_once() {
    let cases: &[(&[&str], &str)] = &[
        (&["room", "--clients", "2", "--publishers", "3"], "needs as many --clients"),
        (&["direct", "--clients", "3"], "pairs need an even number"),
        (&["ack", "--clients", "3"], "pairs need an even number"),
        (&["ack", "--protocol", "nats", "--url", "http://127.0.0.1:1"], "has no acknowledged messages"),
        (&["fanout", "--clients", "2", "--subscribers", "3"], "needs as many --clients"),
        (&["fanout", "--size", "10"], "10 is not in 25..=60000"),
        (&["fanout", "--clients", "0"], "0 is not in 1..="),
        (&["direct", "--rate", "0"], "greater than 0"),
        (&["direct", "--rate", "fast"], "expected a number of messages per second"),
        (&["direct", "--protocol", "nats"], "--protocol nats needs the --url of a nats-server"),
        (&["direct", "--url", "https://127.0.0.1:1"], "a benchmark speaks no TLS"),
        (&["direct", "--url", "nonsense"], "bad URL nonsense"),
        (&["direct", "--url", "http://127.0.0.1:1"], "no broker at http://127.0.0.1:1"),
        (&["idle", "--clients", "1000000"], "the limit of open files allows"),
        (&["direct", "--url", "http://127.0.0.1:1", "--workers", "1"], "cannot be used with"),
    ];
    for (arguments, expected) in cases {
        let mut all = vec!["bench"];
        all.extend(*arguments);
        let output = ChangeBroker::default().descriptors(1024).run(&all, "");
        let is_failure = ["no broker at", "limit of open files"].iter().any(|words| expected.contains(words));
        assert_eq!(output.code, Some(if is_failure { 1 } else { 2 }), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(expected), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
    let mut broker = Broker::start().await;
    let url = broker.url.clone();
    let output = broker.command(&["bench", "command", "--url", &url, "--data-dir", "elsewhere", "--clients", "1"], "");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("this needs an operator"), "{output:?}");
}

#[tokio::test]
async fn a_benchmark_that_is_interrupted_takes_its_broker_with_it() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_switchboard"))
        .args(["bench", "idle", "--clients", "2", "--duration", "600"])
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // its broker runs as soon as there is a directory with data, and is ready when that has the admin's password
    let data = within(async {
        loop {
            if let Some(entry) = std::fs::read_dir(dir.path()).unwrap().next() {
                let data = entry.unwrap().path().join("data");
                if data.join("initial-admin-password").exists() {
                    return data;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    let lock = std::fs::read_to_string(data.join("lock")).unwrap();
    let broker = std::path::Path::new("/proc").join(lock.trim());
    assert!(!cfg!(target_os = "linux") || broker.exists());
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
    let mut errors = String::new();
    let mut stderr = child.stderr.take().unwrap();
    within(stderr.read_to_string(&mut errors)).await.unwrap();
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(1), "{errors}");
    assert!(errors.contains("interrupted"), "{errors}");
    assert!(!data.exists() && !broker.exists());
}
