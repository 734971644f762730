//! Users as accounts: their passwords, their end, and who is left to administer them (contract section 3).

use reqwest::Method;
use sea_orm::{ConnectionTrait, DbBackend, Statement, TransactionTrait};
use serde_json::{Value, json};
use switchboard::client::Connection;
use uuid::Uuid;

use crate::{
    identity::{assert_limited, id_of, login, login_again, patch, refresh},
    support::{
        Broker, answer, close_code, create_database, delete, faults, get, next, post, posting, refusal, until, within,
    },
};

/// The socket is open and answers.
async fn is_alive(socket: &mut Connection) {
    socket.send_text(r#"{"type":"ping"}"#).await.unwrap();
    while next(socket).await["type"] != "pong" {}
}

fn passwords(old: &str, new: &str) -> Value {
    json!({ "old_password": old, "new_password": new })
}

#[tokio::test]
async fn who_knows_the_old_password_sets_a_new_one_and_all_other_logins_end() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    broker.user("alice", "user").await;
    let (own, own_login) = login_again(&broker, "alice").await;
    let (other, other_login) = login_again(&broker, "alice").await;
    let mut own_socket = within(own.connect("/ws/auth")).await.unwrap();
    let mut other_socket = within(other.connect("/ws/auth")).await.unwrap();
    let (path, old) = ("/api/users/me/password", "password of alice");
    for (body, expected) in [
        (json!({}), vec!["missing body.old_password", "missing body.new_password"]),
        (passwords(old, "short"), vec!["string_too_short body.new_password"]),
        (passwords(old, &"x".repeat(129)), vec!["string_too_long body.new_password"]),
        (
            json!({ "old_password": old, "new_password": "good enough", "role": "admin" }),
            vec!["extra_forbidden body.role"],
        ),
    ] {
        let (status, answer) = post(&own, path, body).await;
        assert_eq!((status, faults(&answer)), (422, expected.into_iter().map(str::to_owned).collect()));
    }
    let (status, wrong) = post(&own, path, passwords("wrong!", "good enough")).await;
    assert_eq!((status, &wrong["detail"]), (401, &json!("Incorrect password")));
    assert_eq!(post(&broker.client(), path, passwords(old, "good enough")).await.1["detail"], "Not authenticated");
    assert_eq!(post(&broker.device("box").await.0, path, passwords(old, "good enough")).await.0, 403);
    let changed = post(&own, path, passwords(old, "good enough")).await;
    assert_eq!(changed, (200, json!({ "message": "Password changed" })));
    assert_eq!(close_code(&mut other_socket).await, 4401);
    assert_eq!(get(&other, "/api/users/me").await.0, 401);
    assert_eq!(refresh(&broker, &json!(other_login.refresh_token)).await.0, 401);
    // the login that did it goes on
    is_alive(&mut own_socket).await;
    assert_eq!(get(&own, "/api/users/me").await.0, 200);
    let (status, renewed) = refresh(&broker, &json!(own_login.refresh_token)).await;
    assert_eq!(status, 200, "{renewed}");
    let renewed = broker.client().with_token(renewed["access_token"].as_str().unwrap());
    assert_eq!((get(&own, "/api/users/me").await.0, get(&renewed, "/api/users/me").await.0), (200, 200));
    assert_eq!(login(&broker, "alice", old).await.0, 401);
    let new = broker.login("alice", "good enough").await;
    // and ends like any other
    let uuid = get(&new, "/api/users/me").await.1["uuid"].clone();
    assert_eq!(post(&admin, "/admin/tokens/revoke", json!({ "client_uuid": uuid })).await.0, 200);
    assert_eq!(close_code(&mut own_socket).await, 4401);
    for client in [&own, &renewed, &new] {
        assert_eq!(get(client, "/api/users/me").await.0, 401);
    }
}

#[tokio::test]
async fn wrong_old_passwords_count_as_failed_logins() {
    let mut broker = Broker::with().set("LIMITS__LOGIN_FAILURES_PER_MINUTE", "2").start().await;
    let user = broker.user("alice", "user").await;
    for _ in 0..2 {
        assert_eq!(post(&user, "/api/users/me/password", passwords("wrong!", "good enough")).await.0, 401);
    }
    let right = passwords("password of alice", "good enough");
    let request = user.request(Method::POST, "/api/users/me/password").json(&right);
    assert_limited(request, 429, "limits.login_failures_per_minute").await;
}

#[tokio::test]
async fn an_admin_and_the_command_line_set_any_password_and_the_users_logins_end() {
    let mut broker = Broker::with().set("AUTH__RECHECK_SECS", "1").start().await;
    let admin = broker.admin().await;
    let user = broker.user("alice", "user").await;
    let (id, own_id) = (id_of(&user).await, id_of(&admin).await);
    let path = format!("/api/users/{id}/password");
    let body = || json!({ "new_password": "set by the admin" });
    assert_eq!(post(&user, &path, body()).await.0, 403);
    assert_eq!(post(&admin, "/api/users/4711/password", body()).await.1["detail"], "User not found");
    assert_eq!(faults(&post(&admin, &path, json!({ "new_password": 5 })).await.1), ["string_type body.new_password"]);
    let mut socket = within(user.connect("/ws/auth")).await.unwrap();
    assert_eq!(post(&admin, &path, body()).await, (200, json!({ "message": "Password changed" })));
    assert_eq!(close_code(&mut socket).await, 4401);
    assert_eq!(get(&user, "/api/users/me").await.0, 401);
    let user = broker.login("alice", "set by the admin").await;
    let mut socket = within(user.connect("/ws/auth")).await.unwrap();
    // one's own login goes on
    assert_eq!(post(&admin, &format!("/api/users/{own_id}/password"), body()).await.0, 200);
    assert_eq!(get(&admin, "/api/users/me").await.0, 200);
    let output = broker.command(&["user", "set-password", "alice", "--password-stdin"], "set on the command line\n");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(close_code(&mut socket).await, 4401);
    assert_eq!(get(&user, "/api/users/me").await.0, 401);
    assert_eq!(login(&broker, "alice", "set by the admin").await.0, 401);
    assert_eq!(login(&broker, "alice", "set on the command line").await.0, 200);
    for (arguments, password, why) in [
        (["user", "set-password", "alice", "--password-stdin"], "short\n", "at least 6 characters"),
        (["user", "set-password", "nobody", "--password-stdin"], "good enough\n", "there is no user nobody"),
    ] {
        let output = broker.command(&arguments, password);
        assert!(output.code == Some(1) && output.stderr.contains(why), "{output:?}");
    }
}

#[tokio::test]
async fn production_asks_for_longer_passwords_and_refuses_what_everybody_tries() {
    let overlay = include_str!("../../config/production.toml");
    for line in ["password_min_chars = 10", "refuse_common_passwords = true"] {
        assert!(overlay.contains(line), "{line}");
    }
    let settings = Broker::with().set("AUTH__PASSWORD_MIN_CHARS", "10").set("AUTH__REFUSE_COMMON_PASSWORDS", "true");
    let mut broker = settings.start().await;
    let admin = broker.admin().await;
    let new = |password: &str| json!({ "username": "longname-alice", "email": "a@x.org", "password": password });
    for (password, fault) in [
        ("secret", "string_too_short body.password"),
        ("Password123", "value_error body.password"),
        ("qwertyuiop", "value_error body.password"),
        ("longname-alice", "value_error body.password"),
    ] {
        for path in ["/register", "/api/users/"] {
            let (status, body) = post(&broker.client(), path, new(password)).await;
            assert_eq!((status, faults(&body)), (422, vec![fault.to_owned()]), "{path} {password}");
        }
        let arguments = ["user", "create", "--username", "longname-alice", "--role", "user", "--password-stdin"];
        let output = broker.command(&arguments, password);
        assert!(
            output.code == Some(1) && output.stderr.contains("password must") || output.stderr.contains("too common"),
            "{output:?}"
        );
        assert!(!output.stderr.contains(password) || password == "longname-alice", "{output:?}");
    }
    let (status, user) = post(&broker.client(), "/register", new("wet-lantern-93")).await;
    assert_eq!(status, 200, "{user}");
    let path = format!("/api/users/{}/password", user["id"]);
    for password in ["Password123", "longname-alice"] {
        let (status, body) = post(&admin, &path, json!({ "new_password": password })).await;
        assert_eq!((status, faults(&body)), (422, vec!["value_error body.new_password".to_owned()]));
    }
}

#[tokio::test]
async fn a_deleted_user_is_gone_and_what_they_said_stays() {
    let mut broker = Broker::with().set("AUTH__RECHECK_SECS", "1").start().await;
    let admin = broker.admin().await;
    for by in ["http", "command line"] {
        let user = broker.user("alice", "user").await;
        let (_, tokens) = login_again(&broker, "alice").await;
        let me = get(&user, "/api/users/me").await.1;
        let (_, room) = post(&user, "/api/rooms/", json!({ "name": by })).await;
        let room = format!("/api/rooms/{}", room["id"]);
        let said =
            json!({ "content": "remember me", "room_id": room.rsplit_once('/').unwrap().1.parse::<i64>().unwrap() });
        assert_eq!(post(&user, &format!("{room}/messages"), said).await.0, 200);
        assert_eq!(post(&admin, &format!("{room}/join"), json!({})).await.0, 200);
        let mut sockets = [within(user.connect("/ws")).await.unwrap(), within(user.connect("/ws/auth")).await.unwrap()];
        let path = format!("/api/users/{}", me["id"]);
        if by == "http" {
            assert_eq!(delete(&user, &path).await.0, 403);
            assert_eq!(delete(&admin, &path).await, (200, json!({ "message": "User deleted" })));
        } else {
            let output = broker.command(&["user", "delete", "alice"], "");
            assert!(output.code == Some(0) && output.stdout.contains("deleted alice"), "{output:?}");
        }
        for socket in &mut sockets {
            assert_eq!(close_code(socket).await, 4401, "{by}");
        }
        assert_eq!(get(&user, "/api/users/me").await.1["detail"], "Could not validate credentials");
        assert_eq!(refusal(within(user.connect("/ws")).await).0, 401);
        assert_eq!(refresh(&broker, &json!(tokens.refresh_token)).await.0, 401);
        assert_eq!(login(&broker, "alice", "password of alice").await.0, 401);
        // the room has passed on, and has what was said in it
        let members = get(&admin, &format!("{room}/members")).await.1;
        assert_eq!(members.to_string().matches("\"owner\"").count(), 1, "{members}");
        assert!(!members.to_string().contains("alice"), "{members}");
        let messages = get(&admin, &format!("{room}/messages")).await.1;
        assert_eq!((&messages[0]["content"], &messages[0]["username"]), (&json!("remember me"), &json!("alice")));
        // it is in no list, can't be changed, and its UUID is nobody's
        let users = get(&admin, "/api/users/").await.1;
        assert!(!users.to_string().contains(me["uuid"].as_str().unwrap()), "{users}");
        assert_eq!(delete(&admin, &path).await.1["detail"], "User not found");
        assert_eq!(patch(&admin, me["id"].as_i64().unwrap(), json!({ "is_active": true })).await.0, 404);
        let device = json!({ "name": "impostor", "uuid": me["uuid"] });
        assert_eq!(post(&broker.client(), "/register", device).await.0, 409);
        assert_eq!(broker.command(&["user", "enable", "alice"], "").code, Some(1));
        // the name is free again, for somebody else
        let again = broker.user("alice", "user").await;
        let now = get(&again, "/api/users/me").await.1;
        assert!(now["id"] != me["id"] && now["uuid"] != me["uuid"], "{now}");
        assert_eq!(delete(&admin, &format!("/api/users/{}", now["id"])).await.0, 200);
    }
    assert_eq!(delete(&admin, "/api/users/x").await.0, 422);
    assert_eq!(delete(&admin, "/api/users/4711").await.0, 404);
}

#[tokio::test]
async fn the_last_active_admin_stays() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let id = id_of(&admin).await;
    let (_, room) = post(&admin, "/api/rooms/", json!({ "name": "lobby" })).await;
    for change in
        [json!({ "role": "user" }), json!({ "is_active": false }), json!({ "role": "operator", "is_active": true })]
    {
        let (status, refused) = patch(&admin, id, change).await;
        assert_eq!((status, &refused["code"]), (409, &json!("last_admin")), "{refused}");
    }
    assert_eq!(delete(&admin, &format!("/api/users/{id}")).await.1["code"], "last_admin");
    assert_eq!(get(&admin, &format!("/api/rooms/{}", room["id"])).await.1["role"], "owner");
    for arguments in [vec!["delete", "admin"], vec!["disable", "admin"], vec!["set-role", "admin", "user"]] {
        let output = broker.command(&[vec!["user"], arguments].concat(), "");
        assert!(output.code == Some(1) && output.stderr.contains("last active admin"), "{output:?}");
    }
    assert_eq!(patch(&admin, id, json!({ "role": "admin", "is_active": true })).await.0, 200);
    // a disabled one does not count
    let second = broker.user("anna", "admin").await;
    let second_id = id_of(&second).await;
    assert_eq!(patch(&admin, second_id, json!({ "is_active": false })).await.0, 200);
    assert_eq!(patch(&admin, id, json!({ "role": "user" })).await.0, 409);
    assert_eq!(patch(&admin, second_id, json!({ "is_active": true })).await.0, 200);
    assert_eq!(patch(&second, id, json!({ "role": "user" })).await.0, 200);
}

#[tokio::test]
async fn of_two_admins_who_remove_each_other_at_once_one_stays() {
    let mut broker = Broker::start().await;
    for round in 0..4 {
        // there is one; make it two of this round
        let admin =
            if round == 0 { broker.admin().await } else { broker.user(&format!("keeper{round}"), "admin").await };
        let (one, other) = (format!("one{round}"), format!("other{round}"));
        let (one, other) = (broker.user(&one, "admin").await, broker.user(&other, "admin").await);
        let (id, other_id) = (id_of(&one).await, id_of(&other).await);
        let users = get(&admin, "/api/users/").await.1;
        for user in users.as_array().unwrap() {
            let is_spare = user["role"] == "admin" && user["id"] != id && user["id"] != other_id;
            if is_spare {
                assert_eq!(patch(&one, user["id"].as_i64().unwrap(), json!({ "role": "user" })).await.0, 200);
            }
        }
        let (path, other_path) = (format!("/api/users/{id}"), format!("/api/users/{other_id}"));
        let (a, b) = match round {
            0 => tokio::join!(delete(&one, &other_path), delete(&other, &path)),
            1 => tokio::join!(
                patch(&one, other_id, json!({ "role": "user" })),
                patch(&other, id, json!({ "is_active": false }))
            ),
            _ => tokio::join!(
                patch(&one, id, json!({ "role": "user" })),
                patch(&other, other_id, json!({ "role": "user" }))
            ),
        };
        assert!((a.0 == 200) != (b.0 == 200), "{a:?} {b:?}");
        let output = broker.command(&["user", "list"], "");
        let columns = |line: &str| line.split_whitespace().skip(1).take(2).map(str::to_owned).collect::<Vec<_>>();
        let admins = output.stdout.lines().filter(|line| columns(line) == ["admin", "active"]);
        assert_eq!(admins.count(), 1, "{output:?}");
    }
}

#[tokio::test]
async fn what_another_process_revokes_or_deletes_ends_here_soon_and_only_once() {
    let mut broker = Broker::with().set("AUTH__RECHECK_SECS", "1").start().await;
    let store = broker.store().await;
    let user = broker.user("alice", "user").await;
    let (device, registered, mut device_socket) = broker.connected("box").await;
    let mut user_socket = within(user.connect("/ws/auth")).await.unwrap();
    let uuid: Uuid = get(&user, "/api/users/me").await.1["uuid"].as_str().unwrap().parse().unwrap();
    assert!(store.revoke_client(uuid.into()).await.unwrap().is_some());
    assert_eq!(close_code(&mut user_socket).await, 4401);
    assert!(store.delete_device(registered.uuid.into()).await.unwrap().is_some());
    assert_eq!(close_code(&mut device_socket).await, 4401);
    assert_eq!((get(&user, "/api/users/me").await.0, get(&device, "/clients").await.0), (401, 401));
    // what was registered again since then is another one
    let body = json!({ "name": "box", "uuid": registered.uuid });
    let (_, again) = post(&broker.client(), "/register", body).await;
    let again = broker.client().with_token(again["token"].as_str().unwrap());
    let mut socket = within(again.connect("/ws")).await.unwrap();
    let user = broker.login("alice", "password of alice").await;
    let (jti_user, login) = login_again(&broker, "alice").await;
    let mut doomed = within(jti_user.connect("/ws/auth")).await.unwrap();
    let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(&login.access_token).unwrap().claims;
    let jti = claims["jti"].as_str().unwrap().parse().unwrap();
    let until = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    assert!(store.revoke(jti, until).await.unwrap());
    assert_eq!(close_code(&mut doomed).await, 4401);
    is_alive(&mut socket).await;
    assert_eq!(get(&user, "/api/users/me").await.0, 200);
}

#[tokio::test]
async fn unknown_fields_are_refused_except_where_clients_of_the_earlier_systems_send_more() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let (device, registered) = broker.device("box").await;
    let with = |mut body: Value| {
        body["surprise"] = json!("hunter2");
        body
    };
    let own = format!("/devices/{}", registered.uuid);
    let (_, room) = post(&admin, "/api/rooms/", with(json!({ "name": "lobby" }))).await;
    let room = format!("/api/rooms/{}", room["id"].as_i64().expect("created"));
    let (read, members) = (format!("{room}/read"), format!("{room}/members"));
    for (client, method, path, body) in [
        (&admin, Method::POST, "/api/users/", json!({ "username": "dave", "email": "d@x.org", "password": "secret" })),
        (&admin, Method::POST, "/auth/refresh", json!({ "refresh_token": "x" })),
        (&admin, Method::POST, "/admin/tokens/revoke", json!({ "jti": Uuid::new_v4() })),
        (&admin, Method::PATCH, "/api/users/1", json!({ "role": "admin" })),
        (&admin, Method::POST, "/api/users/me/password", passwords("a", "good enough")),
        (&admin, Method::POST, "/api/gateways", json!({ "name": "x", "address": "192.0.2.1" })),
        (&admin, Method::POST, "/api/commands", json!({ "target": registered.uuid, "method": "GET", "url": "/" })),
        (&admin, Method::POST, read.as_str(), json!({ "message_id": 1 })),
        (&admin, Method::POST, members.as_str(), json!({ "uuid": registered.uuid })),
        (&device, Method::PUT, &own, json!({ "name": "other" })),
    ] {
        let (status, body) = answer(client.request(method, path).json(&with(body))).await;
        assert_eq!((status.as_u16(), faults(&body)), (422, vec!["extra_forbidden body.surprise".to_owned()]), "{path}");
        assert!(!body.to_string().contains("hunter2"), "it may be a password under a mistyped name: {body}");
    }
    // two of three alternatives are one too many
    let (_, both) = post(&admin, "/admin/tokens/revoke", json!({ "jti": Uuid::new_v4(), "token": "x" })).await;
    assert_eq!(faults(&both), ["extra_forbidden body.jti"]);
    let (_, many) = post(&admin, "/auth/refresh", (0..1000).map(|n| (format!("field{n}"), json!(n))).collect()).await;
    assert_eq!(faults(&many), ["missing body.refresh_token"]);
    let mut many: serde_json::Map<_, _> = (0..1000).map(|n| (format!("field{n}"), json!(n))).collect();
    many.insert("refresh_token".to_owned(), json!("x"));
    assert_eq!(faults(&post(&admin, "/auth/refresh", many.into()).await.1).len(), 20);
    for (client, path, body) in [
        (&admin, "/register", json!({ "username": "erin", "password": "secret" })),
        (&admin, "/register", json!({ "name": "A", "uuid": Uuid::new_v4() })),
        (&admin, "/auth/login", json!({ "username": "erin", "password": "secret" })),
        (&device, "/topics/create", json!({ "topic_id": "t" })),
        (&device, "/topics/subscribe", json!({ "topic_id": "t" })),
        (&device, "/topics/unsubscribe", json!({ "topic_id": "t" })),
        (&admin, "/rooms/", json!({ "name": "other" })),
    ] {
        let (status, body) = post(client, path, with(body)).await;
        assert_eq!(status, 200, "{path} {body}");
    }
    let path = format!("/send-command/{}", registered.uuid);
    let command = with(json!({ "method": "GET", "url": "/" }));
    assert_eq!(post(&admin, &path, command).await.1["detail"], "Client is not connected");
}

#[tokio::test]
async fn who_is_deleted_while_they_change_their_password_has_no_valid_credentials() {
    // SQLite has no second writer
    let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES") else { return };
    let url = create_database(&server).await;
    let mut broker = Broker::with().env("DATABASE_URL", &url).start().await;
    let alice = broker.user("alice", "user").await;
    let session = sea_orm::Database::connect(url).await.unwrap();
    let deletion = session.begin().await.unwrap();
    deletion.execute_unprepared("UPDATE users SET deleted_at = now() WHERE username = 'alice'").await.unwrap();
    let body = passwords("password of alice", "another password");
    let change = posting(&alice, "/api/users/me/password", &body);
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until(async || {
        let rows = session.query_all_raw(Statement::from_string(DbBackend::Postgres, waiting)).await.unwrap();
        !rows.is_empty()
    })
    .await;
    deletion.commit().await.unwrap();
    let (status, answer) = within(change).await.unwrap();
    assert_eq!((status, &answer["detail"]), (401, &json!("Could not validate credentials")));
}
