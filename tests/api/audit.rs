//! The audit log: who did what to whom.

use reqwest::Method;
use sea_orm::{ConnectionTrait, Statement};
use serde_json::{Value, json};
use switchboard::client::Client;
use uuid::Uuid;

use crate::{
    identity::{id_of, login, login_again, patch, refresh},
    support::{Broker, Program, answer, delete, get, next, post, reply, until},
};

/// The records that fit the query, newest first.
async fn records(admin: &Client, query: &str) -> Vec<Value> {
    let (status, list) = get(admin, &format!("/api/audit?{query}")).await;
    assert_eq!(status, 200, "{list}");
    let records = list["records"].as_array().unwrap().clone();
    assert_eq!(list["count"], records.len());
    records
}

/// Waits for the newest record of this action with this target; other nodes write within 50 ms.
async fn record_of(admin: &Client, action: &str, target: &Value) -> Value {
    let target = target.as_str().map_or(target.to_string(), str::to_owned);
    let query = format!("action={action}&limit=1&target={}", target.replace(' ', "%20"));
    let mut found = Vec::new();
    until(async || {
        found = records(admin, &query).await;
        !found.is_empty()
    })
    .await;
    found.remove(0)
}

async fn uuid_of(client: &Client) -> Value {
    get(client, "/api/users/me").await.1["uuid"].clone()
}

/// All of the table as one text.
async fn whole_table(broker: &mut Broker) -> String {
    let database = broker.database().await;
    let backend = database.get_database_backend();
    let all = "SELECT concat_ws(' ', actor, actor_name, actor_role, address, node, action, target, target_name, outcome, details) AS line FROM audit_log";
    let rows = database.query_all_raw(Statement::from_string(backend, all)).await.unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.try_get("", "line").unwrap()).collect();
    database.close().await.unwrap();
    lines.join("\n")
}

#[tokio::test]
async fn changes_of_users_and_tokens_leave_records_with_who_did_them() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let me = uuid_of(&admin).await;
    let alice = broker.user("alice", "user").await;
    let (id, uuid) = (id_of(&alice).await, uuid_of(&alice).await);
    let created = record_of(&admin, "user_created", &uuid).await;
    assert_eq!((&created["actor_role"], &created["details"]), (&json!("command_line"), &json!({ "role": "user" })));
    let in_user = record_of(&admin, "login_succeeded", &uuid).await;
    assert_eq!((&in_user["actor"], &in_user["address"]), (&uuid, &json!("127.0.0.1")));
    assert_eq!(patch(&admin, id, json!({ "role": "operator", "is_active": false })).await.0, 200);
    assert_eq!(patch(&admin, id, json!({ "is_active": true })).await.0, 200);
    // it changes nothing
    assert_eq!(patch(&admin, id, json!({ "is_active": true })).await.0, 200);
    let new = json!({ "new_password": "set by the admin" });
    assert_eq!(post(&admin, &format!("/api/users/{id}/password"), new).await.0, 200);
    let alice = broker.login("alice", "set by the admin").await;
    let own = json!({ "old_password": "set by the admin", "new_password": "set by alice" });
    assert_eq!(post(&alice, "/api/users/me/password", own).await.0, 200);
    assert_eq!(post(&alice, "/auth/logout", json!({})).await.0, 200);
    assert_eq!(post(&admin, "/admin/tokens/revoke", json!({ "client_uuid": uuid })).await.0, 200);
    let jti = Uuid::new_v4().to_string();
    assert_eq!(post(&admin, "/admin/tokens/revoke", json!({ "jti": jti })).await.0, 200);
    assert_eq!(broker.command(&["user", "set-role", "alice", "user"], "").code, Some(0));
    assert_eq!(delete(&admin, &format!("/api/users/{id}")).await.0, 200);

    let done = records(&admin, &format!("target={}&limit=1000", uuid.as_str().unwrap())).await;
    let done: Vec<_> = done.iter().rev().map(|one| (one["action"].as_str().unwrap(), &one["actor"])).collect();
    let (os_user, by_admin, by_alice) = (&created["actor"], &me, &uuid);
    let expected = [
        ("user_created", os_user),
        ("login_succeeded", by_alice),
        ("user_role_changed", by_admin),
        ("user_disabled", by_admin),
        ("user_enabled", by_admin),
        ("password_changed", by_admin),
        ("login_succeeded", by_alice),
        ("password_changed", by_alice),
        ("logged_out", by_alice),
        ("tokens_revoked", by_admin),
        ("user_role_changed", os_user),
        ("user_deleted", by_admin),
    ];
    assert_eq!(done, expected);
    let changed = record_of(&admin, "user_role_changed", &uuid).await;
    assert_eq!(changed["details"], json!({ "from": "operator", "to": "user" }));
    let deleted = record_of(&admin, "user_deleted", &uuid).await;
    assert_eq!(
        (&deleted["actor_name"], &deleted["actor_role"], &deleted["target_name"], &deleted["outcome"]),
        (&json!("admin"), &json!("admin"), &json!("alice"), &json!("succeeded"))
    );
    assert_eq!(record_of(&admin, "tokens_revoked", &json!(jti)).await["actor"], me);
    // the same is in the log
    let log = broker.log();
    assert!(log.lines().any(|line| line.contains("user_deleted") && line.contains("target_name=\"alice\"")), "{log}");
    // the first admin was created by the broker itself
    let first = record_of(&admin, "user_created", &me).await;
    assert_eq!((&first["actor"], &first["actor_role"]), (&Value::Null, &json!("system")));
}

#[tokio::test]
async fn changes_of_devices_gateways_topics_and_commands_leave_records() {
    let mut broker = Broker::with().set("DEVICES__REGISTRATION", "closed").start().await;
    let (admin, operator) = (broker.admin().await, broker.user("otto", "operator").await);
    let by = uuid_of(&operator).await;
    let uuid = json!(Uuid::new_v4());
    let (status, registered) = post(&operator, "/register", json!({ "name": "pump", "uuid": uuid })).await;
    assert_eq!(status, 200, "{registered}");
    let device = broker.client().with_token(registered["token"].as_str().unwrap());
    let path = format!("/devices/{}", uuid.as_str().unwrap());
    for client in [&device, &operator] {
        let change = json!({ "metadata": { "secret": "hidden in metadata" } });
        assert_eq!(answer(client.request(Method::PUT, &path).json(&change)).await.0, 200);
    }
    let (_, gateway) =
        post(&operator, "/api/gateways", json!({ "name": "north", "address": "tcp://127.0.0.1:9" })).await;
    let gateway_path = format!("/api/gateways/{}", gateway["id"]);
    let change = json!({ "name": "south" });
    assert_eq!(answer(operator.request(Method::PUT, &gateway_path).json(&change)).await.0, 200);
    assert_eq!(delete(&operator, &gateway_path).await.0, 200);
    assert_eq!(post(&device, "/topics/create", json!({ "topic_id": "weather" })).await.0, 200);
    assert_eq!(delete(&operator, "/topics/weather").await.0, 200);
    let mut socket = device.connect("/ws").await.unwrap();
    next(&mut socket).await;
    let command =
        json!({ "method": "POST", "url": "/unlock?pin=hidden+in+query", "data": { "pin": "hidden in data" } });
    let sending = crate::support::posting(&operator, &format!("/send-command/{}", uuid.as_str().unwrap()), &command);
    reply(&mut socket, json!("done")).await;
    assert_eq!(sending.await.unwrap().0, 200);
    let waiting =
        json!({ "target": uuid, "method": "GET", "url": "/later", "deliver_within_secs": 600, "timeout_secs": 300 });
    let later = operator.request(Method::POST, "/api/commands").header("Prefer", "respond-async").json(&waiting);
    let (_, later) = answer(later).await;
    assert_eq!(delete(&operator, &format!("/api/commands/{}", later["id"].as_str().unwrap())).await.0, 200);
    assert_eq!(delete(&operator, &path).await.0, 200);

    for (action, target, name, details) in [
        ("device_registered", &uuid, json!("pump"), json!({})),
        ("device_changed", &uuid, json!("pump"), json!({ "changed": ["metadata"] })),
        ("device_deleted", &uuid, json!("pump"), json!({})),
        ("gateway_created", &gateway["id"], json!("north"), json!({ "address": "tcp://127.0.0.1:9" })),
        (
            "gateway_changed",
            &gateway["id"],
            json!("south"),
            json!({ "changed": ["name"], "address": "tcp://127.0.0.1:9" }),
        ),
        ("gateway_deleted", &gateway["id"], json!("south"), json!({})),
        ("topic_deleted", &json!("weather"), Value::Null, json!({})),
        ("command_cancelled", &later["id"], Value::Null, json!({})),
    ] {
        let record = record_of(&admin, action, target).await;
        assert_eq!((&record["actor"], &record["actor_role"]), (&by, &json!("operator")), "{record}");
        assert_eq!((&record["target_name"], &record["details"]), (&name, &details), "{record}");
    }
    let mut given = Vec::new();
    until(async || {
        given = records(&admin, "action=command_given").await;
        given.len() == 2
    })
    .await;
    let unlock = given.iter().find(|one| one["details"]["method"] == "POST").unwrap();
    assert_eq!((&unlock["actor"], &unlock["target"], &unlock["target_name"]), (&by, &uuid, &json!("pump")));
    assert_eq!((&unlock["details"]["url"], &unlock["details"]["targets"]), (&json!("/unlock"), &json!(1)));
    assert!(Uuid::parse_str(unlock["details"]["command"].as_str().unwrap()).is_ok());
    // what the device changed of itself is not there
    assert_eq!(records(&admin, "action=device_changed").await.len(), 1);
    assert!(!whole_table(&mut broker).await.contains("hidden"));
}

#[tokio::test]
async fn refusals_are_recorded_once_and_counted_when_they_come_again() {
    let settings = Broker::with().alone("each node counts for itself").set("LIMITS__LOGIN_FAILURES_PER_MINUTE", "4");
    let mut broker = settings.start().await;
    let admin = broker.admin().await;
    let (alice, (device, registered)) = (broker.user("alice", "user").await, broker.device("pump").await);
    let uuid = uuid_of(&alice).await;
    for _ in 0..3 {
        assert_eq!(login(&broker, "alice", "wrong password").await.0, 401);
        assert_eq!(get(&alice, "/api/users/").await.0, 403);
        assert_eq!(get(&alice, "/api/audit").await.0, 403);
    }
    // a password in the wrong field
    assert_eq!(login(&broker, "hunter2 hunter2", "alice").await.0, 401);
    while login(&broker, "alice", "wrong password").await.0 != 429 {}
    assert_eq!(delete(&device, &format!("/devices/{}", registered.uuid)).await.0, 403);
    assert_eq!(
        post(&alice, &format!("/send-command/{}", registered.uuid), json!({ "method": "GET", "url": "/" })).await.0,
        403
    );
    let wrong = json!({ "old_password": "wrong password", "new_password": "good enough" });
    let refused = post(&alice, "/api/users/me/password", wrong).await.0;
    assert!([401, 429].contains(&refused), "{refused}");

    let wrong = record_of(&admin, "login_refused", &uuid).await;
    assert_eq!((&wrong["actor"], &wrong["address"]), (&Value::Null, &json!("127.0.0.1")));
    assert_eq!((&wrong["details"]["reason"], &wrong["outcome"]), (&json!("incorrect_login"), &json!("refused")));
    for (who, target) in [
        (&uuid, "GET /api/users"),
        (&uuid, "GET /api/audit"),
        (&uuid, "POST /send-command/{target}"),
        (&json!(registered.uuid), "DELETE /devices/{device_id}"),
    ] {
        let record = record_of(&admin, "access_refused", &json!(target)).await;
        assert_eq!(&record["actor"], who, "{record}");
        assert_eq!(
            records(&admin, &format!("action=access_refused&target={}", target.replace(' ', "%20"))).await.len(),
            1
        );
    }
    assert_eq!(record_of(&admin, "password_refused", &uuid).await["actor"], uuid);
    // the counts come when the minute is over, or with the end
    broker.signal("TERM");
    assert_eq!(broker.ended().await, Some(0));
    let mut broker = broker.kill().await.start().await;
    let admin = broker.admin().await;
    let of_alice = records(&admin, &format!("action=login_refused&target={}", uuid.as_str().unwrap())).await;
    let counted = of_alice.iter().find(|record| record["details"]["repeated"].is_u64()).expect("a count");
    assert!(counted["details"]["repeated"].as_u64() >= Some(2), "{counted}");
    let list = records(&admin, "action=access_refused&target=GET%20%2Fapi%2Fusers").await;
    assert_eq!(list[0]["details"], json!({ "repeated": 2 }));
    assert!(!whole_table(&mut broker).await.contains("hunter2"));
}

#[tokio::test]
async fn a_refresh_token_that_is_used_twice_is_recorded() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    broker.user("alice", "user").await;
    let (alice, tokens) = login_again(&broker, "alice").await;
    let uuid = uuid_of(&alice).await;
    for status in [200, 401] {
        assert_eq!(refresh(&broker, &json!(tokens.refresh_token)).await.0, status);
    }
    let record = record_of(&admin, "token_reused", &uuid).await;
    assert_eq!((&record["actor"], &record["address"]), (&Value::Null, &json!("127.0.0.1")));
}

#[tokio::test]
async fn no_record_and_no_log_line_has_a_secret() {
    let mut broker = Broker::with().env("SECRET_KEY", "the secret that signs the tokens of this test").start().await;
    let admin = broker.admin().await;
    let mut secrets =
        vec!["the secret that signs".to_owned(), "password of alice".to_owned(), "second password".to_owned()];
    broker.user("alice", "admin").await;
    let (alice, tokens) = login_again(&broker, "alice").await;
    secrets.extend([tokens.access_token.clone(), tokens.refresh_token.clone()]);
    let body = json!({ "name": "pump", "uuid": Uuid::new_v4() });
    let (_, registered) = post(&broker.client(), "/register", body).await;
    for field in ["token", "refresh_token", "device_key"] {
        secrets.push(registered[field].as_str().unwrap().to_owned());
    }
    assert_eq!(post(&admin, "/admin/tokens/revoke", json!({ "token": registered["token"] })).await.0, 200);
    assert_eq!(post(&admin, "/admin/tokens/revoke", json!({ "token": registered["refresh_token"] })).await.0, 200);
    let change = json!({ "old_password": "password of alice", "new_password": "second password" });
    assert_eq!(post(&alice, "/api/users/me/password", change).await.0, 200);
    assert_eq!(login(&broker, "alice", "third password").await.0, 401);
    secrets.push("third password".to_owned());
    assert_eq!(get(&broker.client(), &format!("/api/audit?token={}", tokens.access_token)).await.0, 200);
    assert_eq!(post(&alice, "/auth/logout", json!({})).await.0, 200);
    record_of(&admin, "login_refused", &uuid_of(&broker.login("alice", "second password").await).await).await;
    let (table, log) = (whole_table(&mut broker).await, broker.log());
    assert!(table.contains("broker_started") && log.contains("broker_started"), "{log}");
    for secret in secrets {
        assert!(!table.contains(&secret), "{secret}: {table}");
        assert!(!log.contains(&secret), "{secret}: {log}");
    }
}

#[tokio::test]
async fn a_start_is_recorded_with_the_settings_that_differ_from_the_defaults() {
    let settings = Broker::with()
        .set("LIMITS__METADATA_BYTES", "100")
        .env("SECRET_KEY", "a secret of this test with 40 characters");
    let mut broker = settings.alone("the second node would have started last").start().await;
    let admin = broker.admin().await;
    let started = records(&admin, "action=broker_started").await;
    assert_eq!(started.len(), 1);
    let details = &started[0]["details"];
    assert_eq!((&details["version"], &started[0]["actor_role"]), (&json!(env!("CARGO_PKG_VERSION")), &json!("system")));
    assert_eq!(details["settings"]["limits.metadata_bytes"], "100");
    assert_eq!(details["settings"]["auth.secret"], "\"***\"");
    assert!(details["settings"].get("limits.frame_bytes").is_none());
    assert!(started[0]["node"].as_str().unwrap().ends_with(broker.address()), "{}", started[0]);
}

#[tokio::test]
async fn admins_alone_read_the_log_by_pages_and_filters() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let operator = broker.user("otto", "operator").await;
    for client in [&operator, &broker.user("uma", "user").await, &broker.device("pump").await.0] {
        assert_eq!(get(client, "/api/audit").await.0, 403);
    }
    assert_eq!(get(&broker.client(), "/api/audit").await.0, 401);
    for (query, faults) in [
        ("action=nonsense", 1),
        ("since=yesterday&until=tomorrow", 2),
        ("limit=0", 1),
        ("limit=1001", 1),
        ("cursor=%21", 1),
        ("actor=", 1),
    ] {
        let (status, body) = get(&admin, &format!("/api/audit?{query}")).await;
        assert_eq!((status, body["detail"].as_array().map(Vec::len)), (422, Some(faults)), "{query} {body}");
    }
    for round in 0..5 {
        let id = id_of(&operator).await;
        let role = ["operator", "user"][round % 2];
        assert_eq!(patch(&admin, id, json!({ "role": role })).await.0, 200);
    }
    let otto = uuid_of(&operator).await;
    let otto = otto.as_str().unwrap();
    let query = format!("target={otto}&action=user_role_changed");
    let all = records(&admin, &query).await;
    assert_eq!(all.len(), 4, "the first round changes nothing");
    assert!(all.is_sorted_by(|newer, older| newer["id"].as_i64() > older["id"].as_i64()));
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, page) = get(&admin, &format!("/api/audit?{query}&limit=3{cursor}")).await;
        paged.extend(page["records"].as_array().unwrap().clone());
        let Some(next) = page["cursor"].as_str() else { break };
        assert_eq!((&page["truncated"], page["records"].as_array().unwrap().len()), (&json!(true), 3));
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, all);
    let at = |record: &Value| record["at"].as_str().unwrap().to_owned();
    let since = records(&admin, &format!("{query}&since={}", at(&all[1]))).await;
    assert_eq!(since, all[..2]);
    let until = records(&admin, &format!("{query}&until={}", at(&all[1]))).await;
    assert_eq!(until, all[2..]);
    let by_otto = records(&admin, &format!("actor={otto}&action=login_succeeded")).await;
    assert_eq!(by_otto.len(), 1);
    assert_eq!(records(&admin, "actor=nobody").await, Vec::<Value>::new());
}

#[tokio::test]
async fn records_are_kept_for_a_time_and_never_changed() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let insert = "INSERT INTO audit_log (at, node, action, outcome, details) VALUES ('2020-01-01 00:00:00+00:00', 'old node', 'user_deleted', 'succeeded', '{}')";
    broker.execute(insert).await;
    let database = broker.database().await;
    let refused = database.execute_unprepared("UPDATE audit_log SET node = 'another'").await.unwrap_err();
    assert!(refused.to_string().contains("append-only"), "{refused}");
    database.close().await.unwrap();
    let old = |records: &[Value]| records.iter().filter(|record| record["node"] == "old node").count();
    assert_eq!(old(&records(&admin, "limit=1000").await), 1);
    let count = records(&admin, "limit=1000").await.len();
    let mut broker = broker.kill().await.start().await;
    let admin = broker.admin().await;
    until(async || old(&records(&admin, "limit=1000").await) == 0).await;
    assert!(records(&admin, "limit=1000").await.len() >= count, "the others are still there, and the start is new");
}

#[tokio::test]
async fn what_was_answered_as_done_is_in_the_log_after_the_broker_is_killed() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let user = json!({ "username": format!("user{n}"), "email": format!("{n}@x.org"), "password": "secret" });
        let (status, created) = post(&admin, "/api/users/", user).await;
        assert_eq!(status, 200, "{created}");
        ids.push(created["id"].as_i64().unwrap());
    }
    for id in &ids {
        assert_eq!(delete(&admin, &format!("/api/users/{id}")).await.0, 200);
    }
    let mut broker = broker.kill().await.start().await;
    let admin = broker.admin().await;
    assert_eq!(records(&admin, "action=user_deleted").await.len(), ids.len());
}

#[tokio::test]
async fn the_command_line_lists_and_follows_the_log() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let operator = broker.user("otto", "operator").await;
    let url = broker.url.clone();
    // with the first admin's password, in ./data
    let login = ["--url", &url];
    let output = broker.command(&[&["audit", "--action", "user_created"], &login[..]].concat(), "");
    assert!(output.code == Some(0) && output.stdout.contains("otto"), "{output:?}");
    assert!(output.stdout.contains("ACTION") && !output.stdout.contains("login_succeeded"), "{output:?}");
    let output = broker.command(&[&["audit", "--json", "--limit", "1"], &login[..]].concat(), "");
    let list: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(list["records"].as_array().unwrap().len(), 1);
    let output = broker.command(&[&["audit", "--action", "nonsense"], &login[..]].concat(), "");
    assert!(output.code == Some(2) && output.stderr.contains("possible values"), "{output:?}");
    let (target, follow) = (uuid_of(&operator).await, ["audit", "--follow", "--json", "--action", "user_disabled"]);
    let id = id_of(&operator).await;
    assert_eq!(patch(&admin, id, json!({ "is_active": false })).await.0, 200);
    let mut follower = Program::start(broker.setup(), &[&follow[..], &login[..]].concat());
    for _ in 0..2 {
        let record: Value = serde_json::from_str(&follower.line().await).unwrap();
        assert_eq!((&record["action"], &record["target"]), (&json!("user_disabled"), &target));
        for is_active in [true, false] {
            assert_eq!(patch(&admin, id, json!({ "is_active": is_active })).await.0, 200);
        }
    }
}
