//! The clock of the machine is set, forward and back, while the broker runs.

use reqwest::Method;
use serde_json::{Value, json};
use switchboard::client::{Client, Connection};

use crate::{
    identity::{id_of, login_again, patch, refresh},
    support::{Broker, SteppedClock, answer, close_code, delete, get, next_of_type, post, until, within},
};

/// Seconds before and after the step.
const STEPS: [(i64, i64); 2] = [(3600, 0), (0, 3600)];

/// A broker whose tokens outlive every step, and its clock. It reads every second what the command line has changed.
async fn stepping() -> (SteppedClock, Broker) {
    let because = "a jump ends the leases of nodes, and what they wait for";
    let settings =
        Broker::with().alone(because).set("AUTH__ACCESS_TOKEN_MINUTES", "1440").set("AUTH__RECHECK_SECS", "1");
    let (clock, settings) = SteppedClock::of(settings);
    (clock, settings.start().await)
}

/// What the broker takes for the time: seconds since 1970.
async fn time_of(broker: &Broker) -> f64 {
    let (client, _) = broker.device("clock").await;
    let greeting = next_of_type(&mut connect(&client, "/ws").await, "connection").await;
    greeting["timestamp"].as_f64().expect("a time")
}

async fn connect(client: &Client, path: &str) -> Connection {
    within(client.connect(path)).await.expect("connected")
}

async fn me(client: &Client) -> u16 {
    get(client, "/api/users/me").await.0
}

#[tokio::test]
async fn the_clock_of_a_broker_can_be_set() {
    let (clock, broker) = stepping().await;
    let before = time_of(&broker).await;
    clock.set_date(3600);
    assert!(time_of(&broker).await >= before + 3600.0);
    clock.set_date(-3600);
    assert!(time_of(&broker).await < before);
}

#[tokio::test]
async fn a_user_is_disabled_and_deleted_at_once_whatever_the_clock_says() {
    for (before, after) in STEPS {
        let (clock, mut broker) = stepping().await;
        clock.set_date(before);
        let admin = broker.admin().await;
        let user = broker.user("alice", "user").await;
        let id = id_of(&user).await;
        let mut sockets = [connect(&user, "/ws").await, connect(&user, "/ws/auth").await];
        clock.set_date(after);
        assert_eq!(patch(&admin, id, json!({ "is_active": false })).await.0, 200);
        assert_eq!(me(&user).await, 400, "{before} {after}");
        for socket in &mut sockets {
            assert_eq!(close_code(socket).await, 4403);
        }
        assert_eq!(patch(&admin, id, json!({ "is_active": true })).await.0, 200);
        assert_eq!(me(&user).await, 200);
        // from the command line, and with the clock set once more
        let mut socket = connect(&user, "/ws/auth").await;
        clock.set_date(before);
        assert_eq!(broker.command(&["user", "disable", "alice"], "").code, Some(0));
        assert_eq!(close_code(&mut socket).await, 4403);
        assert_eq!(broker.command(&["user", "enable", "alice"], "").code, Some(0));
        until(async || me(&user).await == 200).await;
        let mut socket = connect(&user, "/ws/auth").await;
        clock.set_date(after);
        assert_eq!(delete(&admin, &format!("/api/users/{id}")).await.0, 200);
        assert_eq!(me(&user).await, 401);
        assert_eq!(close_code(&mut socket).await, 4401);
    }
}

#[tokio::test]
async fn tokens_are_revoked_at_once_whatever_the_clock_says() {
    for (before, after) in STEPS {
        let (clock, mut broker) = stepping().await;
        clock.set_date(before);
        let admin = broker.admin().await;
        let other = broker.user("alice", "user").await;
        let (user, login) = login_again(&broker, "alice").await;
        let (device, registered) = broker.device("box").await;
        let (mut socket, mut others) = (connect(&user, "/ws/auth").await, connect(&other, "/ws").await);
        let mut devices = connect(&device, "/ws").await;
        clock.set_date(after);
        let revoke = async |what: Value| assert_eq!(post(&admin, "/admin/tokens/revoke", what).await.0, 200);
        revoke(json!({ "token": login.access_token })).await;
        assert_eq!((me(&user).await, me(&other).await), (401, 200), "{before} {after}");
        assert_eq!(close_code(&mut socket).await, 4401);
        revoke(json!({ "client_uuid": registered.uuid })).await;
        assert_eq!(get(&device, "/clients").await.0, 401);
        assert_eq!(refresh(&broker, &json!(registered.refresh_token)).await.0, 401);
        assert_eq!(close_code(&mut devices).await, 4401);
        // and by a password
        let body = json!({ "old_password": "password of alice", "new_password": "good enough" });
        let (own, _) = login_again(&broker, "alice").await;
        assert_eq!(post(&own, "/api/users/me/password", body).await.0, 200);
        assert_eq!((me(&other).await, me(&own).await), (401, 200));
        assert_eq!(close_code(&mut others).await, 4401);
        // what is issued from now on is good, and stays so when the clock is set back
        let (user, device) = (broker.login("alice", "good enough").await, broker.device("other").await.0);
        clock.set_date(before);
        assert_eq!((me(&user).await, me(&own).await, get(&device, "/clients").await.0), (200, 200, 200));
    }
}

#[tokio::test]
async fn a_device_is_deleted_at_once_and_comes_back_whatever_the_clock_says() {
    for (before, after) in STEPS {
        let (clock, mut broker) = stepping().await;
        clock.set_date(before);
        let admin = broker.admin().await;
        let (device, registered, mut socket) = broker.connected("box").await;
        clock.set_date(after);
        assert_eq!(delete(&admin, &format!("/devices/{}", registered.uuid)).await.0, 200);
        assert_eq!(get(&device, "/clients").await.0, 401, "{before} {after}");
        assert_eq!(close_code(&mut socket).await, 4401);
        // who registers the UUID again is another one: the old token does not come back with it
        let body = json!({ "name": "box", "uuid": registered.uuid });
        let (status, again) = answer(broker.client().request(Method::POST, "/register").json(&body)).await;
        assert_eq!(status, 200, "{again}");
        let again = broker.client().with_token(again["token"].as_str().unwrap());
        assert_eq!(get(&again, "/clients").await.0, 200);
        assert_eq!(get(&device, "/clients").await.0, 401, "{before} {after}");
    }
}
