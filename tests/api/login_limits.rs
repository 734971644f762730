//! How many logins may fail, by address and by name (contract section 10).

use reqwest::{Method, RequestBuilder};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;

use crate::{
    identity::assert_limited,
    support::{Broker, answer, post},
};

const LIMIT: &str = "limits.login_failures_per_minute";

fn attempt(broker: &Broker, address: &str, username: &str, password: &str) -> RequestBuilder {
    let body = json!({ "username": username, "password": password });
    broker.client().request(Method::POST, "/auth/login").json(&body).header("x-forwarded-for", address)
}

async fn register(broker: &Broker, names: &[&str]) {
    for name in names {
        let body = json!({ "username": name, "email": format!("{name}@x.org"), "password": "secret" });
        assert_eq!(post(&broker.client(), "/register", body).await.0, 200);
    }
}

#[tokio::test]
async fn failed_logins_are_limited_per_address_and_per_name() {
    let settings = Broker::with().set("LIMITS__LOGIN_FAILURES_PER_MINUTE", "2");
    let broker = settings.set("HTTP__TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    register(&broker, &["alice", "bob"]).await;
    assert_eq!(answer(attempt(&broker, "203.0.113.1", "alice", "wrong!")).await.0, 401);
    assert_eq!(answer(attempt(&broker, "203.0.113.1", "nobody", "wrong!")).await.0, 401);
    // the right password does not help a guesser any more, and others are not concerned
    assert_limited(attempt(&broker, "203.0.113.1", "bob", "secret"), 429, LIMIT).await;
    assert_eq!(answer(attempt(&broker, "203.0.113.2", "bob", "secret")).await.0, 200);
    assert_eq!(answer(attempt(&broker, "203.0.113.3", "alice", "wrong!")).await.0, 401);
    assert_limited(attempt(&broker, "203.0.113.4", "alice", "wrong!"), 429, LIMIT).await;
    // addresses of one subscriber are one
    for host in ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"] {
        assert_eq!(answer(attempt(&broker, host, &format!("nobody at {host}"), "wrong!")).await.0, 401);
    }
    assert_limited(attempt(&broker, "2001:db8:0:1::3", "bob", "secret"), 429, LIMIT).await;
    assert_eq!(answer(attempt(&broker, "2001:db8:0:2::3", "bob", "secret")).await.0, 200);
}

#[tokio::test]
async fn whether_there_is_such_an_account_no_limit_tells() {
    let settings = Broker::with().set("LIMITS__LOGIN_FAILURES_PER_MINUTE", "2");
    let broker = settings.set("HTTP__TRUSTED_PROXIES", "127.0.0.1").start().await;
    register(&broker, &["alice"]).await;
    // alice is there, with that email; nobody is not
    for name in ["alice", "nobody"] {
        let mut answers = Vec::new();
        for (n, username) in [name, name, name, &format!("{name}@x.org")].into_iter().enumerate() {
            let (status, body) = answer(attempt(&broker, &format!("198.51.100.{n}"), username, "wrong!")).await;
            answers.push((status.as_u16(), body["code"].as_str().unwrap().to_owned()));
        }
        let expected =
            [(401, "incorrect_login"), (401, "incorrect_login"), (429, "too_many_requests"), (401, "incorrect_login")];
        assert_eq!(answers, expected.map(|(status, code)| (status, code.to_owned())), "{name}");
    }
}

#[tokio::test]
async fn others_who_fail_keep_nobody_out_who_has_logged_in_from_there_before() {
    let settings = Broker::with().set("LIMITS__LOGIN_FAILURES_PER_MINUTE", "2");
    let broker = settings.set("HTTP__TRUSTED_PROXIES", "127.0.0.1").start().await;
    register(&broker, &["alice"]).await;
    let home = "192.0.2.1";
    assert_eq!(answer(attempt(&broker, home, "alice", "secret")).await.0, 200);
    for n in 1..=2 {
        assert_eq!(answer(attempt(&broker, &format!("203.0.113.{n}"), "alice", "wrong!")).await.0, 401);
    }
    assert_limited(attempt(&broker, "203.0.113.9", "alice", "secret"), 429, LIMIT).await;
    assert_eq!(answer(attempt(&broker, home, "alice", "secret")).await.0, 200);
    // nor at the same address, which many may share
    for name in ["nobody", "somebody"] {
        assert_eq!(answer(attempt(&broker, home, name, "wrong!")).await.0, 401);
    }
    assert_limited(attempt(&broker, home, "another", "secret"), 429, LIMIT).await;
    assert_eq!(answer(attempt(&broker, home, "alice", "secret")).await.0, 200);
    // who sits there may guess no more often than anybody else
    for _ in 1..=2 {
        assert_eq!(answer(attempt(&broker, home, "alice", "wrong!")).await.0, 401);
    }
    assert_limited(attempt(&broker, home, "alice", "secret"), 429, LIMIT).await;
}

#[tokio::test]
async fn a_restart_does_not_forget_who_has_logged_in_from_where() {
    let settings = Broker::with().set("LIMITS__LOGIN_FAILURES_PER_MINUTE", "2");
    let broker = settings.set("HTTP__TRUSTED_PROXIES", "127.0.0.1").start().await;
    register(&broker, &["alice", "bob"]).await;
    let home = "2001:db8:0:1::1";
    assert_eq!(answer(attempt(&broker, home, "alice", "secret")).await.0, 200);
    assert_eq!(answer(attempt(&broker, "192.0.2.1", "bob", "secret")).await.0, 200);
    let mut broker = broker.kill().await.start().await;
    // by either name, and from all of the subscriber's network
    for (n, name) in ["alice", "alice@x.org"].into_iter().enumerate() {
        for stranger in 1..=2 {
            assert_eq!(answer(attempt(&broker, &format!("203.0.113.{n}{stranger}"), name, "wrong!")).await.0, 401);
        }
        assert_limited(attempt(&broker, "203.0.113.99", name, "secret"), 429, LIMIT).await;
        assert_limited(attempt(&broker, "192.0.2.1", name, "secret"), 429, LIMIT).await;
        assert_eq!(answer(attempt(&broker, "2001:db8:0:1::2", name, "secret")).await.0, 200, "{name}");
    }
    // the addresses of who is deleted go as well
    assert_eq!(broker.command(&["user", "delete", "alice"], "").code, Some(0));
    let rows = "SELECT count(*) FROM known_logins";
    let database = broker.database().await;
    let count = Statement::from_string(database.get_database_backend(), rows);
    let left = database.query_one_raw(count).await.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn a_failed_login_is_logged_with_the_name_and_a_proxy_that_is_not_trusted_with_the_setting() {
    let mut broker = Broker::with().alone("each node warns once").start().await;
    let name = format!("mallory\n2026 forged line\u{1b}[31m{}", "x".repeat(150));
    assert_eq!(answer(attempt(&broker, "203.0.113.1", &name, "not-in-the-log")).await.0, 401);
    let log = broker.log();
    let line = log.lines().find(|line| line.contains("login failed")).expect("a line");
    assert!(line.contains(r"mallory\n2026 forged line") && line.contains("127.0.0.1"), "{line}");
    assert!(!log.contains("not-in-the-log") && !log.contains('\u{1b}') && !log.contains(&"x".repeat(100)), "{log}");
    assert_eq!(answer(attempt(&broker, "203.0.113.1", "alice@example.org", "wrong!")).await.0, 401);
    let log = broker.log();
    assert!(log.contains("name=alice@example.org address=127.0.0.1\n"), "{log}");
    let warning = "a proxy that is not in http.trusted_proxies";
    assert_eq!(log.matches(warning).count(), 1, "{log}");
    answer(attempt(&broker, "203.0.113.2", "alice", "wrong!")).await;
    assert_eq!(broker.log().matches(warning).count(), 1, "once in a while");
    let mut broker =
        Broker::with().alone("each node warns once").set("HTTP__TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.1").start().await;
    answer(attempt(&broker, "203.0.113.2", "alice", "wrong!")).await;
    assert!(!broker.log().contains(warning));
}
