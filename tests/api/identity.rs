//! Who is who: registration, tokens, roles, disabled users (contract section 3).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use jsonwebtoken::{EncodingKey, Header};
use reqwest::{Method, StatusCode};
use sea_orm::{ActiveModelTrait, ConnectionTrait, Set, Statement};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use switchboard::{
    client::{Client, Login},
    hs256,
};
use uuid::Uuid;

use crate::support::{Broker, answer, close_code, faults, get, next, next_of_type, post, refusal, until, within};

pub const SECRET: &str = "a secret that the tests know, too";

/// What a token says, without asking whether it is authentic.
fn claims(token: &str) -> Value {
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

/// The same token with another end, signed with [`SECRET`].
pub fn ending_at(token: &str, exp: i64) -> String {
    let mut claims = claims(token);
    claims["exp"] = exp.into();
    hs256::install();
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

pub async fn login(broker: &Broker, username: &str, password: &str) -> (u16, Value) {
    let form = [("username", username), ("password", password)];
    let (status, body) = answer(broker.client().request(Method::POST, "/token").form(&form)).await;
    (status.as_u16(), body)
}

/// Logs a user of [`Broker::user`] in once more.
pub async fn login_again(broker: &Broker, username: &str) -> (Client, Login) {
    let mut client = broker.client();
    let login = within(client.login(username, &format!("password of {username}"))).await.unwrap();
    (client, login)
}

pub async fn refresh(broker: &Broker, token: &Value) -> (u16, Value) {
    post(&broker.client(), "/auth/refresh", json!({ "refresh_token": token })).await
}

/// The integer id of whom the client is.
pub async fn id_of(client: &Client) -> i64 {
    get(client, "/api/users/me/").await.1["id"].as_i64().unwrap()
}

pub async fn patch(client: &Client, id: i64, change: Value) -> (u16, Value) {
    let (status, body) = answer(client.request(Method::PATCH, &format!("/api/users/{id}")).json(&change)).await;
    (status.as_u16(), body)
}

#[tokio::test]
async fn a_device_registers_under_any_spelling_of_its_uuid_and_any_name() {
    let broker = Broker::start().await;
    let canonical = "123e4567-e89b-12d3-a456-426614174000";
    let spellings =
        [canonical.to_owned(), canonical.to_uppercase(), canonical.replace('-', ""), format!("{{{canonical}}}")];
    for (uuid, name) in spellings.iter().zip(["Alice", "", "Ünïcode 🦀", "Alice"]) {
        let (status, body) = post(&broker.client(), "/register", json!({ "name": name, "uuid": uuid })).await;
        assert_eq!(status, 200, "{uuid} {body}");
        assert_eq!((&body["uuid"], &body["name"]), (&json!(canonical), &json!(name)));
        assert_eq!((&body["message"], &body["token_type"]), (&json!("Registration successful"), &json!("bearer")));
        assert_eq!(body["token"], body["access_token"]);
        let texts =
            ["access_token", "access_token_expires_at", "refresh_token", "refresh_token_expires_at", "device_key"];
        assert!(texts.iter().all(|key| body[key].as_str().is_some_and(|text| !text.is_empty())), "{body}");
        assert!((1..=3600).contains(&body["access_token_expires_in"].as_i64().unwrap()));
        assert!((1..=30 * 86_400).contains(&body["refresh_token_expires_in"].as_i64().unwrap()));
        let token = body["token"].as_str().unwrap();
        let claims = claims(token);
        assert!(
            ["sub", "kind", "name", "role", "jti", "iat", "exp"].iter().all(|key| !claims[key].is_null()),
            "{claims}"
        );
        let mut socket = within(broker.client().connect(&format!("/ws?token={token}"))).await.unwrap();
        let greeting = next_of_type(&mut socket, "connection").await;
        assert_eq!((&greeting["uuid"], &greeting["name"]), (&json!(canonical), &json!(name)));
    }
}

#[tokio::test]
async fn users_register_with_the_bodies_of_all_systems_and_a_role_in_the_body_grants_nothing() {
    let broker = Broker::start().await;
    let cases = [
        ("/register", json!({ "username": "ann", "email": "a@x.org", "full_name": "A", "role": "admin" }), "ann", "A"),
        ("/register", json!({ "username": "bob", "email": null, "is_active": false }), "bob", ""),
        ("/register", json!({ "email": "c@x.org", "name": "C", "role": "admin" }), "c@x.org", "C"),
        ("/api/users/", json!({ "username": "dave", "email": "d@x.org" }), "dave", ""),
    ];
    for (path, mut body, username, name) in cases {
        body["password"] = json!("secret");
        let (status, user) = post(&broker.client(), path, body.clone()).await;
        assert_eq!((status, &user["username"], &user["is_active"]), (200, &json!(username), &json!(true)), "{user}");
        assert_eq!(user.get("email"), Some(&body["email"]));
        if path == "/register" {
            assert_eq!((&user["name"], &user["full_name"]), (&user["full_name"], &user["name"]));
            assert_eq!(user["name"].as_str().unwrap_or_default(), name);
        }
        assert!(user["id"].is_i64(), "{user}");
        assert!(path != "/register" || (user["message"].is_string() && user["uuid"].is_string()), "{user}");
        let client = broker.login(username, "secret").await;
        let (_, me) = get(&client, "/api/users/me/").await;
        assert_eq!((&me["id"], &me["role"], &me["is_active"]), (&user["id"], &json!("user"), &json!(true)));
        assert!(me["uuid"].is_string() && me.get("email") == Some(&body["email"]));
        assert_eq!(get(&client, "/api/users/").await.0, 403);
        let (_, hello) = get(&client, "/protected-data/").await;
        assert_eq!(hello["message"], format!("Hello {username}, this is protected data!"));
        let (_, protected) = get(&client, "/protected/").await;
        assert_eq!(protected["user"]["username"], username);
        assert!(!protected.to_string().contains("argon2"));
    }
}

#[tokio::test]
async fn a_wrong_body_is_refused_with_every_fault_in_it() {
    let mut broker = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "0").start().await;
    let long = |chars| "x".repeat(chars);
    let both_short = json!({ "username": "al", "password": "12345" });
    let both_long = json!({ "username": long(51), "password": long(129) });
    let cases = [
        (json!({ "uuid": "no" }), "missing body.name, uuid_parsing body.uuid"),
        (json!({ "name": "A", "uuid": 5 }), "uuid_parsing body.uuid"),
        (json!({ "name": "A\0", "uuid": Uuid::new_v4() }), "value_error body.name"),
        (json!({ "name": "A", "password": "secret" }), "missing body"),
        (json!({ "full_name": "A", "password": "secret" }), "missing body.username"),
        (both_short, "string_too_short body.username, string_too_short body.password"),
        (both_long, "string_too_long body.username, string_too_long body.password"),
        (json!({ "username": "alice", "password": "secret", "email": "no" }), "value_error body.email"),
        (json!({ "username": "ali\0ce", "password": "secret" }), "value_error body.username"),
        (json!({ "email": "no" }), "value_error body.email, missing body.password"),
    ];
    let cases = cases.into_iter().map(|(body, expected)| ("/register", body, expected)).chain([
        ("/api/users/", json!({}), "missing body.username, missing body.email, missing body.password"),
        ("/auth/login", json!({ "username": "alice" }), "missing body.password"),
        ("/auth/refresh", json!({}), "missing body.refresh_token"),
    ]);
    for (path, body, expected) in cases {
        let (status, answer) = post(&broker.client(), path, body).await;
        assert_eq!((status, faults(&answer).join(", ").as_str()), (422, expected), "{path}");
        assert!(!answer.to_string().contains("12345") && !answer.to_string().contains(&long(129)), "{answer}");
    }
    let (_, none) = post(&broker.client(), "/register", json!({})).await;
    let msg = none["detail"][0]["msg"].as_str().unwrap();
    assert!(["uuid", "username", "email"].iter().all(|key| msg.contains(key)), "{msg}");
    for text in ["{", "{\"name\":}", "nonsense", "{\"a\":1}x"] {
        let (status, body) = answer(broker.client().request(Method::POST, "/register").body(text)).await;
        assert_eq!((status.as_u16(), &body["detail"][0]["type"]), (422, &json!("json_invalid")), "{text} {body}");
        assert_eq!(body["detail"][0]["loc"][0], "body");
    }
    // an answer is not as large as what it refuses
    for body in [json!(long(500_000)), json!({ "uuid": long(500_000), "name": vec![0; 200_000] })] {
        let (status, answer) = post(&broker.client(), "/register", body).await;
        assert_eq!(status, 422);
        assert!(answer.to_string().len() < 4_000 && answer.to_string().contains('…'), "{answer}");
    }
    // at the edges all is well
    let email = format!("{}@x.org", long(60));
    for (username, password) in [("abc", long(6)), (&long(50), "ü".repeat(128)), (&email, long(6))] {
        let body = json!({ "username": username, "password": password });
        assert_eq!(post(&broker.client(), "/register", body).await.0, 200);
        assert_eq!(login(&broker, username, &password).await.0, 200);
    }
    let admin = broker.admin().await;
    let (_, page) = get(&admin, "/api/users/?skip=x&limit=y").await;
    assert_eq!(faults(&page), ["int_parsing query.skip", "int_parsing query.limit"]);
    let (status, body) = answer(admin.request(Method::PATCH, "/api/users/me2").json(&json!({}))).await;
    assert_eq!((status.as_u16(), faults(&body)), (422, vec!["int_parsing path.id".to_owned()]));
    let (status, body) = patch(&admin, 1, json!({ "role": "god", "is_active": "no" })).await;
    assert_eq!((status, faults(&body)[0].as_str()), (422, "value_error body.role"));
    let (status, body) = patch(&admin, 1, json!({ "role": "g".repeat(21) })).await;
    assert_eq!((status, faults(&body)[0].as_str()), (422, "string_too_long body.role"));
}

#[tokio::test]
async fn usernames_and_emails_share_one_name_space() {
    let broker = Broker::start().await;
    let (username, email) = ("Username already registered", "Email already registered");
    let cases = [
        (json!({ "username": "alice", "email": "alice@x.org" }), None),
        (json!({ "username": "alice" }), Some(username)),
        (json!({ "username": "alice", "email": "other@x.org" }), Some(username)),
        (json!({ "username": "alice2", "email": "alice@x.org" }), Some(email)),
        // an email as a username could take over another's logins
        (json!({ "username": "alice@x.org" }), Some(username)),
        (json!({ "email": "alice@x.org" }), Some(email)),
        (json!({ "username": "bob@x.org" }), None),
        (json!({ "username": "bob2", "email": "bob@x.org" }), Some(email)),
        (json!({ "email": "bob@x.org" }), Some(email)),
        (json!({ "email": "carol@x.org" }), None),
        (json!({ "email": "carol@x.org" }), Some(email)),
    ];
    for (mut body, refused) in cases {
        body["password"] = json!("secret");
        let (status, answer) = post(&broker.client(), "/register", body.clone()).await;
        match refused {
            None => assert_eq!(status, 200, "{body} {answer}"),
            Some(why) => assert_eq!((status, &answer["detail"]), (400, &json!(why)), "{body}"),
        }
    }
    let body = json!({ "username": "alice", "email": "new@x.org", "password": "secret" });
    assert_eq!(post(&broker.client(), "/api/users/", body).await.1["detail"], username);
}

#[tokio::test]
async fn a_login_takes_a_form_or_json_and_a_username_or_an_email() {
    let broker = Broker::with().set("HTTP__TRUSTED_PROXIES", "127.0.0.1").start().await;
    let (nobody, tls) = (broker.client(), ("x-forwarded-proto", "https"));
    post(&nobody, "/register", json!({ "username": "alice", "email": "a@x.org", "password": "secret" })).await;
    for (path, username) in [("/token", "alice"), ("/api/token", "a@x.org"), ("/api/token/", "alice")] {
        let form = [("username", username), ("password", "secret"), ("grant_type", "password"), ("scope", "")];
        let (status, body) = answer(nobody.request(Method::POST, path).form(&form)).await;
        assert_eq!((status, &body["token_type"]), (StatusCode::OK, &json!("bearer")), "{path} {body}");
        assert!(body["refresh_token"].is_string());
        let client = nobody.with_token(body["access_token"].as_str().unwrap());
        assert_eq!(get(&client, "/api/users/me").await.1["username"], "alice");
    }
    for secure in [false, true] {
        let request =
            nobody.request(Method::POST, "/auth/login").json(&json!({ "username": "a@x.org", "password": "secret" }));
        let request = if secure { request.header(tls.0, tls.1) } else { request };
        let response = within(request.send()).await.unwrap();
        let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
        let body: Value = response.json().await.unwrap();
        let mut parts: Vec<_> = cookie.split("; ").collect();
        assert_eq!(parts.remove(0), format!("access_token={}", body["access_token"].as_str().unwrap()));
        for part in ["HttpOnly", "Path=/", "SameSite=Lax"] {
            assert!(parts.contains(&part), "{cookie}");
        }
        assert_eq!(parts.contains(&"Secure"), secure, "{cookie}");
        let (_, me) = answer(nobody.request(Method::GET, "/api/users/me").header("cookie", &cookie)).await;
        assert_eq!(me["username"], "alice");
    }
    // nobody learns who exists
    let wrong = login(&broker, "alice", "wrong!").await;
    assert_eq!((wrong.0, &wrong.1["detail"]), (401, &json!("Incorrect username or password")));
    assert_eq!(login(&broker, "nobody", "secret").await, wrong);
    assert_eq!(login(&broker, "alice", &"x".repeat(200)).await, wrong);
    assert_eq!(post(&nobody, "/auth/login", json!({ "username": "nobody", "password": "secret" })).await, wrong);
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_its_reuse_ends_the_login() {
    let mut broker = Broker::start().await;
    broker.user("alice", "user").await;
    let (other, other_login) = login_again(&broker, "alice").await;
    let (client, first) = login_again(&broker, "alice").await;
    let mut socket = within(client.connect("/ws/auth")).await.unwrap();
    let mut other_socket = within(other.connect("/ws/auth")).await.unwrap();
    let (status, second) = refresh(&broker, &json!(first.refresh_token)).await;
    assert_eq!((status, &second["token_type"]), (200, &json!("bearer")));
    let renewed = broker.client().with_token(second["access_token"].as_str().unwrap());
    assert_eq!(get(&renewed, "/api/users/me").await.0, 200);
    let (status, reused) = refresh(&broker, &json!(first.refresh_token)).await;
    assert_eq!((status, &reused["detail"]), (401, &json!("Invalid refresh token")));
    // whoever has the successor, owner or thief, is out; other logins are not
    assert_eq!(refresh(&broker, &second["refresh_token"]).await.0, 401);
    assert_eq!(get(&renewed, "/api/users/me").await.0, 401);
    assert_eq!(close_code(&mut socket).await, 4401);
    assert_eq!(get(&other, "/api/users/me").await.0, 200);
    other_socket.send_text(r#"{"type":"ping"}"#).await.unwrap();
    while next(&mut other_socket).await["type"] != "pong" {}
    assert_eq!(refresh(&broker, &json!(other_login.refresh_token)).await.0, 200);
    for bad in [json!("nonsense"), json!(first.access_token)] {
        assert_eq!(refresh(&broker, &bad).await.0, 401);
    }
    let (_, device) = broker.device("Alice").await;
    assert_eq!(refresh(&broker, &json!(device.refresh_token)).await.0, 200);
}

#[tokio::test]
async fn a_login_is_one_row_however_often_it_is_refreshed_and_any_used_token_ends_it() {
    let mut broker = Broker::start().await;
    broker.user("alice", "user").await;
    let (_, login) = login_again(&broker, "alice").await;
    let database = broker.database().await;
    let rows = async || {
        let count = "SELECT CAST(COUNT(*) AS BIGINT) FROM refresh_tokens";
        let row = database.query_one_raw(Statement::from_string(database.get_database_backend(), count)).await.unwrap();
        row.unwrap().try_get_by_index::<i64>(0).unwrap()
    };
    let before = rows().await;
    let mut used = vec![json!(login.refresh_token)];
    for _ in 0..5 {
        let (status, pair) = refresh(&broker, used.last().unwrap()).await;
        assert_eq!(status, 200, "{pair}");
        used.push(pair["refresh_token"].clone());
    }
    assert_eq!(rows().await, before);
    let newest = used.pop().unwrap();
    assert_eq!(refresh(&broker, &used[1]).await.0, 401, "one from long ago");
    assert_eq!(refresh(&broker, &newest).await.0, 401, "the login has ended");
    assert_eq!(rows().await, before - 1);
}

#[tokio::test]
async fn of_two_who_refresh_with_one_token_at_once_one_wins_and_the_login_ends() {
    let mut broker = Broker::start().await;
    broker.user("alice", "user").await;
    for _ in 0..5 {
        let (_, login) = login_again(&broker, "alice").await;
        let token = json!(login.refresh_token);
        let (one, other) = tokio::join!(refresh(&broker, &token), refresh(&broker, &token));
        let mut statuses = [one.0, other.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401]);
        let winner = if one.0 == 200 { one.1 } else { other.1 };
        assert_eq!(refresh(&broker, &winner["refresh_token"]).await.0, 401);
    }
}

#[tokio::test]
async fn a_refresh_token_of_an_earlier_version_is_good_once_as_well() {
    let mut broker = Broker::start().await;
    let user = broker.user("alice", "user").await;
    let uuid: Uuid = get(&user, "/api/users/me").await.1["uuid"].as_str().unwrap().parse().unwrap();
    // 43 characters that say nothing of their family
    let token = "an-old-token-of-256-random-bits-in-base64-x";
    let hash: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
    let row = entity::refresh_tokens::ActiveModel {
        token_hash: Set(hash),
        family: Set(Uuid::new_v4()),
        client_uuid: Set(uuid),
        client_kind: Set("user".to_owned()),
        expires_at: Set((Utc::now() + TimeDelta::days(1)).into()),
        legacy_hash: Set(None),
    };
    row.insert(&broker.database().await).await.unwrap();
    let (status, first) = refresh(&broker, &json!(token)).await;
    assert_eq!(status, 200, "{first}");
    let (status, second) = refresh(&broker, &first["refresh_token"]).await;
    assert_eq!(status, 200, "{second}");
    assert_eq!(refresh(&broker, &json!(token)).await.0, 401);
    assert_eq!(refresh(&broker, &second["refresh_token"]).await.0, 401, "the login has ended");
}

#[tokio::test]
async fn a_logout_ends_its_login_and_no_other() {
    let mut broker = Broker::start().await;
    let other = broker.user("alice", "user").await;
    let (client, login) = login_again(&broker, "alice").await;
    let mut socket = within(client.connect("/ws")).await.unwrap();
    let response = within(client.request(Method::POST, "/auth/logout").send()).await.unwrap();
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("access_token=;") && cookie.contains("Max-Age=0"), "{cookie}");
    assert_eq!(response.json::<Value>().await.unwrap(), json!({ "message": "Logged out" }));
    let (status, body) = get(&client, "/api/users/me").await;
    assert_eq!((status, &body["detail"]), (401, &json!("Could not validate credentials")));
    assert_eq!(refresh(&broker, &json!(login.refresh_token)).await.0, 401);
    assert_eq!(close_code(&mut socket).await, 4401);
    assert_eq!(get(&other, "/api/users/me").await.0, 200);
    assert_eq!(post(&broker.client(), "/auth/logout", json!({})).await.1["detail"], "Not authenticated");
}

#[tokio::test]
async fn a_revoked_token_counts_no_more_and_its_sockets_are_closed() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    broker.user("alice", "user").await;
    for by in ["token", "refresh token", "jti", "client_uuid"] {
        let (user, login) = login_again(&broker, "alice").await;
        let user_uuid = get(&user, "/api/users/me").await.1["uuid"].clone();
        let (device, registered, mut device_socket) = broker.connected("Device").await;
        let mut user_socket = within(user.connect("/ws/auth")).await.unwrap();
        let (_, _, mut bystander) = broker.connected("Bystander").await;
        let pair = |access: &str, refresh: &str, uuid: Value| match by {
            "token" => json!({ "token": access }),
            "refresh token" => json!({ "token": refresh }),
            "jti" => json!({ "jti": claims(access)["jti"] }),
            _ => json!({ "client_uuid": uuid }),
        };
        for body in [
            pair(&login.access_token, &login.refresh_token, user_uuid),
            pair(&registered.access_token, &registered.refresh_token, json!(registered.uuid)),
        ] {
            let (status, revoked) = post(&admin, "/admin/tokens/revoke", body).await;
            assert_eq!(status, 200, "{by} {revoked}");
            assert!(revoked["revoked"].as_u64().unwrap() >= 1, "{by} {revoked}");
        }
        for client in [&user, &device] {
            assert_eq!(refusal(within(client.connect("/ws")).await).0, 401, "{by}");
            assert_eq!(get(client, "/clients").await.0, 401, "{by}");
        }
        assert_eq!((close_code(&mut user_socket).await, close_code(&mut device_socket).await), (4401, 4401), "{by}");
        if by.starts_with('c') || by.starts_with('r') {
            assert_eq!(refresh(&broker, &json!(login.refresh_token)).await.0, 401, "{by}");
        }
        bystander.send_text(r#"{"type":"ping"}"#).await.unwrap();
        next_of_type(&mut bystander, "pong").await;
    }
    // who logs in again is welcome
    assert_eq!(get(&login_again(&broker, "alice").await.0, "/api/users/me").await.0, 200);
    assert_eq!(post(&admin, "/admin/tokens/revoke", json!({ "client_uuid": Uuid::new_v4() })).await.0, 404);
    assert_eq!(faults(&post(&admin, "/admin/tokens/revoke", json!({})).await.1), ["missing body"]);
}

#[tokio::test]
async fn a_role_includes_the_roles_below_it_and_nothing_above() {
    let mut broker = Broker::with().set("AUTH__RECHECK_SECS", "1").start().await;
    let (nobody, (device, _)) = (broker.client(), broker.device("Device").await);
    let (user, operator) = (broker.user("alice", "user").await, broker.user("oscar", "operator").await);
    let admin = broker.user("anna", "admin").await;
    let clients = [&nobody, &device, &user, &operator, &admin];
    for (path, expected) in [("/api/users/me", [401, 403, 200, 200, 200]), ("/api/users/", [401, 403, 403, 403, 200])] {
        for (client, expected) in clients.iter().zip(expected) {
            assert_eq!(get(client, path).await.0, expected, "{path}");
        }
    }
    for (client, expected) in clients.iter().zip([401, 403, 403, 403, 200]) {
        assert_eq!(post(client, "/admin/tokens/revoke", json!({ "jti": Uuid::new_v4() })).await.0, expected);
        assert_eq!(patch(client, 1, json!({})).await.0, expected);
    }
    assert_eq!(patch(&admin, 4711, json!({ "role": "user" })).await.1["detail"], "User not found");
    // a change counts for tokens that are out already: at once by HTTP, soon from the command line
    let alice = id_of(&user).await;
    let (_, changed) = patch(&admin, alice, json!({ "role": "admin" })).await;
    assert_eq!((&changed["username"], &changed["role"]), (&json!("alice"), &json!("admin")));
    assert_eq!(get(&user, "/api/users/").await.0, 200);
    let output = broker.command(&["user", "set-role", "alice", "user"], "");
    assert_eq!(output.code, Some(0), "{output:?}");
    until(async || get(&user, "/api/users/").await.0 == 403).await;
}

#[tokio::test]
async fn a_disabled_user_is_out_at_once_and_in_again_when_enabled() {
    let mut broker = Broker::start().await;
    let (admin, user) = (broker.admin().await, broker.user("alice", "user").await);
    let (_, tokens) = login_again(&broker, "alice").await;
    let mut sockets = [within(user.connect("/ws")).await.unwrap(), within(user.connect("/ws/auth")).await.unwrap()];
    let id = id_of(&user).await;
    assert_eq!(patch(&admin, id, json!({ "is_active": false })).await.1["is_active"], false);
    for socket in &mut sockets {
        assert_eq!(close_code(socket).await, 4403);
    }
    let inactive = (400, json!("Inactive user"));
    let detail = |(status, body): (u16, Value)| (status, body["detail"].clone());
    assert_eq!(detail(get(&user, "/api/users/me").await), inactive);
    assert_eq!(detail(get(&user, "/clients").await), inactive);
    assert_eq!(detail(post(&user, "/topics/create", json!({ "topic_id": "t" })).await), inactive);
    assert_eq!(detail(login(&broker, "alice", "password of alice").await), inactive);
    assert_eq!(login(&broker, "alice", "wrong password").await.0, 401);
    for path in ["/ws", "/ws/auth"] {
        let (status, code, _) = refusal(within(user.connect(path)).await);
        assert_eq!((status, &*code), (403, "inactive_user"), "{path}");
    }
    assert_ne!(refresh(&broker, &json!(tokens.refresh_token)).await.0, 200);
    assert_eq!(patch(&admin, id, json!({ "is_active": true })).await.1["is_active"], true);
    assert_eq!(get(&user, "/api/users/me").await.0, 200);
    assert_eq!(login(&broker, "alice", "password of alice").await.0, 200);
    assert!(within(user.connect("/ws")).await.is_ok());
}

#[tokio::test]
async fn a_user_disabled_on_the_command_line_is_out_soon() {
    let mut broker = Broker::with()
        .alone("each node looks by itself for what the command line has changed")
        .set("AUTH__RECHECK_SECS", "1")
        .start()
        .await;
    let user = broker.user("alice", "user").await;
    let mut sockets = [within(user.connect("/ws")).await.unwrap(), within(user.connect("/ws/auth")).await.unwrap()];
    assert_eq!(broker.command(&["user", "disable", "alice"], "").code, Some(0));
    for socket in &mut sockets {
        assert_eq!(close_code(socket).await, 4403);
    }
    assert_eq!(get(&user, "/api/users/me").await.0, 400);
    assert_eq!(refusal(within(user.connect("/ws")).await).0, 403);
    assert_eq!(broker.command(&["user", "enable", "alice"], "").code, Some(0));
    until(async || get(&user, "/api/users/me").await.0 == 200).await;
}

#[tokio::test]
async fn in_open_mode_anyone_registers_a_uuid_again_but_not_a_users() {
    let mut broker = Broker::start().await;
    let (first, device) = broker.device("Alice").await;
    let (status, again) = post(&broker.client(), "/register", json!({ "name": "Alicia", "uuid": device.uuid })).await;
    assert_eq!((status, &again["name"]), (200, &json!("Alicia")));
    assert_eq!(get(&first, "/clients").await.0, 200);
    let user = broker.user("alice", "user").await;
    let uuid = get(&user, "/api/users/me").await.1["uuid"].clone();
    assert_eq!(post(&broker.client(), "/register", json!({ "name": "A", "uuid": uuid })).await.0, 409);
}

#[tokio::test]
async fn in_claim_mode_a_uuid_belongs_to_whom_registered_it_first() {
    let mut broker = Broker::with().set("DEVICES__REGISTRATION", "claim").env("SECRET_KEY", SECRET).start().await;
    let (nobody, admin) = (broker.client(), broker.admin().await);
    let (_, other) = broker.device("Other").await;
    let (alice, device) = broker.device("Alice").await;
    let expired = |token: &str| ending_at(token, 1_500_000_000);
    let claim = async |client: &Client, proof: &[(&str, &str)]| {
        let mut body = json!({ "name": "Alicia", "uuid": device.uuid.to_string().to_uppercase() });
        for (key, value) in proof {
            body[*key] = json!(value);
        }
        let (status, body) = post(client, "/register", body).await;
        if status != 200 {
            assert_eq!((status, &body["detail"]), (409, &json!("UUID already registered")), "{proof:?}");
        }
        status
    };
    let forged = expired(&device.access_token).replace('.', ".e30");
    for proof in [
        vec![],
        vec![("device_key", "nonsense")],
        vec![("device_key", &other.device_key)],
        vec![("token", &other.access_token)],
        vec![("token", &device.refresh_token)],
        vec![("device_key", &device.refresh_token)],
        vec![("token", admin.token().unwrap())],
        vec![("token", &forged)],
    ] {
        assert_eq!(claim(&nobody, &proof).await, 409, "{proof:?}");
    }
    assert_eq!(claim(&nobody.with_token(&other.access_token), &[]).await, 409);
    assert_eq!(claim(&alice, &[]).await, 200, "a token in the header");
    assert_eq!(claim(&nobody, &[("token", &device.access_token)]).await, 200);
    assert_eq!(claim(&nobody, &[("token", &expired(&device.access_token))]).await, 200);
    assert_eq!(claim(&nobody.with_token(&expired(&device.access_token)), &[]).await, 200, "expired, in the header");
    // once revoked, a token proves nothing any more, expired or not
    let revoked = post(&admin, "/admin/tokens/revoke", json!({ "token": device.access_token })).await;
    assert_eq!(revoked.0, 200);
    for token in [device.access_token.clone(), expired(&device.access_token)] {
        assert_eq!(claim(&nobody, &[("token", &token)]).await, 409);
        assert_eq!(claim(&nobody.with_token(&token), &[]).await, 409);
    }
}

#[tokio::test]
async fn in_closed_mode_operators_alone_create_devices() {
    let mut broker = Broker::with().set("DEVICES__REGISTRATION", "closed").start().await;
    let (user, operator) = (broker.user("alice", "user").await, broker.user("oscar", "operator").await);
    let body = || json!({ "name": "A", "uuid": Uuid::new_v4() });
    let (status, created) = post(&operator, "/register", body()).await;
    assert_eq!(status, 200, "{created}");
    let device = broker.client().with_token(created["token"].as_str().unwrap());
    for (client, expected) in [(&broker.client(), 401), (&device, 403), (&user, 403), (&broker.admin().await, 200)] {
        assert_eq!(post(client, "/register", body()).await.0, expected);
    }
    // people may come all the same
    assert_eq!(post(&broker.client(), "/register", json!({ "username": "bob", "password": "secret" })).await.0, 200);
}

/// Asserts a refusal for a limit, in answer to this request.
pub async fn assert_limited(request: reqwest::RequestBuilder, status: u16, limit: &str) {
    let response = within(request.send()).await.unwrap();
    let seconds = response.headers().get("retry-after").map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
    assert_eq!(response.status(), status, "{limit}");
    assert!(seconds.is_some_and(|seconds| (1..=61).contains(&seconds)), "{limit} {seconds:?}");
    let body: Value = response.json().await.unwrap();
    assert!(body["detail"].as_str().unwrap().contains(limit) && body["code"].is_string(), "{body}");
}

#[tokio::test]
async fn registrations_are_limited_per_address() {
    let settings = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "2");
    let broker = settings.set("HTTP__TRUSTED_PROXIES", "127.0.0.1").start().await;
    let register = || broker.client().request(Method::POST, "/register");
    let device = || register().json(&json!({ "name": "A", "uuid": Uuid::new_v4() }));
    assert_eq!(answer(device()).await.0, 200);
    assert_eq!(answer(register().json(&json!({ "username": "alice", "password": "secret" }))).await.0, 200);
    for request in [
        device(),
        register().json(&json!({ "username": "bob", "password": "secret" })),
        broker
            .client()
            .request(Method::POST, "/api/users/")
            .json(&json!({ "username": "bob", "email": "b@x.org", "password": "secret" })),
    ] {
        assert_limited(request, 429, "limits.registrations_per_minute").await;
    }
    assert_eq!(answer(device().header("x-forwarded-for", "203.0.113.7")).await.0, 200);
    // addresses of one /64 are one
    let from = |address: &str| device().header("x-forwarded-for", address);
    for address in ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"] {
        assert_eq!(answer(from(address)).await.0, 200, "{address}");
    }
    assert_limited(from("2001:db8:0:1::3"), 429, "limits.registrations_per_minute").await;
    assert_eq!(answer(from("2001:db8:0:2::3")).await.0, 200);
}

#[tokio::test]
async fn failed_logins_are_limited_also_when_they_come_all_at_once() {
    let broker = Broker::with().set("LIMITS__LOGIN_FAILURES_PER_MINUTE", "3").start().await;
    let attempts = join_all((0..20).map(|_| login(&broker, "admin", "wrong!"))).await;
    let count = |status: u16| attempts.iter().filter(|(got, _)| *got == status).count();
    assert_eq!((count(401), count(429)), (3, 17));
}

#[tokio::test]
async fn more_password_hashes_than_may_wait_are_refused_until_later() {
    let settings = Broker::with().set("LIMITS__PASSWORD_HASHES_QUEUED", "1").set("HTTP__WORKERS", "1");
    let broker = settings.set("LIMITS__REGISTRATIONS_PER_MINUTE", "0").start().await;
    let register = |i: usize| {
        let body = json!({ "username": format!("user {i}"), "password": "secret" });
        broker.client().request(Method::POST, "/register").json(&body)
    };
    let (mut count, mut refused) = (0, Vec::new());
    // one by one they would all be hashed
    until(async || {
        let responses = join_all((count..count + 40).map(|i| within(register(i).send()))).await;
        count += 40;
        let responses = responses.into_iter().map(Result::unwrap);
        let (done, others): (Vec<_>, Vec<_>) = responses.partition(|response| response.status() == 200);
        assert!(!done.is_empty());
        refused = others;
        !refused.is_empty()
    })
    .await;
    for response in refused {
        assert_eq!((response.status().as_u16(), response.headers().contains_key("retry-after")), (503, true));
        assert!(response.text().await.unwrap().contains("limits.password_hashes_queued"));
    }
    assert_eq!(answer(register(count)).await.0, 200);
}

#[tokio::test]
async fn no_token_key_or_password_is_ever_logged() {
    // the second one asks for the libraries' lines as well
    for level in ["trace", "trace,switchboard=trace"] {
        let mut broker = Broker::with().env("RUST_LOG", level).set("DEVICES__REGISTRATION", "claim").start().await;
        let (client, device) = broker.device("Alice").await;
        let mut secrets = vec![device.access_token.clone(), device.refresh_token.clone(), device.device_key.clone()];
        let mut socket = within(broker.client().connect(&format!("/ws?token={}", device.access_token))).await.unwrap();
        next_of_type(&mut socket, "connection").await;
        let body = json!({ "name": "Alicia", "uuid": device.uuid, "device_key": device.device_key });
        secrets.push(post(&client, "/register", body).await.1["device_key"].as_str().unwrap().to_owned());
        post(&broker.client(), "/register", json!({ "username": "alice", "password": "p4ssw0rd-right" })).await;
        login(&broker, "alice", "p4ssw0rd-wrong").await;
        post(&broker.client(), "/auth/login", json!({ "username": "alice", "password": ["p4ssw0rd-list"] })).await;
        let tokens = login(&broker, "alice", "p4ssw0rd-right").await.1;
        let renewed = refresh(&broker, &tokens["refresh_token"]).await.1;
        for pair in [&tokens, &renewed] {
            secrets.extend(["access_token", "refresh_token"].map(|key| pair[key].as_str().unwrap().to_owned()));
        }
        refresh(&broker, &tokens["refresh_token"]).await;
        answer(broker.client().request(Method::POST, &format!("/topics/create?token={}x", device.access_token))).await;
        for query in ["tok%65n={}", "token=a&tok%65n={}&token={}"] {
            let query = query.replace("{}", &device.access_token);
            answer(broker.client().request(Method::GET, &format!("/clients?{query}"))).await;
            let _ = within(broker.client().connect(&format!("/ws?{query}"))).await;
        }
        let cookie = format!("access_token={}", device.access_token);
        answer(broker.client().request(Method::GET, "/clients").header("cookie", cookie)).await;
        secrets.extend(["p4ssw0rd".to_owned(), "argon2id".to_owned()]);
        let log = broker.log();
        assert!(log.contains("device registered") && log.contains("user registered"), "{log}");
        for secret in &secrets {
            let line = log.lines().find(|line| line.contains(secret.as_str()));
            assert_eq!(line, None, "{level}");
        }
    }
}
