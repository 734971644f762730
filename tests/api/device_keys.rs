//! The device key, which belongs to one registration (contract section 3).

use serde_json::{Value, json};
use switchboard::client::Device;
use uuid::Uuid;

use crate::support::{Broker, close_code, delete, faults, get, post, until};

/// Registers the UUID once more with this key; the status, and the new key.
async fn again(broker: &Broker, uuid: Uuid, key: &str) -> (u16, String) {
    let body = json!({ "name": "again", "uuid": uuid, "device_key": key });
    let (status, body) = post(&broker.client(), "/register", body).await;
    assert!(status == 200 || (status, &body["detail"]) == (409, &json!("UUID already registered")), "{body}");
    (status, body["device_key"].as_str().unwrap_or_default().to_owned())
}

async fn claiming() -> Broker {
    Broker::with().set("DEVICES__REGISTRATION", "claim").start().await
}

#[tokio::test]
async fn each_registration_gives_another_key_and_ends_the_one_before() {
    let broker = claiming().await;
    let (client, device) = broker.device("Alice").await;
    let (status, second) = again(&broker, device.uuid, &device.device_key).await;
    assert_eq!(status, 200);
    assert_ne!(second, device.device_key);
    assert_eq!(again(&broker, device.uuid, &device.device_key).await.0, 409);
    // by a token, too
    let body = json!({ "name": "by token", "uuid": device.uuid });
    let (status, third) = post(&client, "/register", body).await;
    assert_eq!(status, 200, "{third}");
    assert_eq!(again(&broker, device.uuid, &second).await.0, 409);
    assert_eq!(again(&broker, device.uuid, third["device_key"].as_str().unwrap()).await.0, 200);
    // the same UUID with the same secret gives no key that could be known
    let (_, other) = broker.device("Bob").await;
    assert_eq!(again(&broker, device.uuid, &other.device_key).await.0, 409);
}

#[tokio::test]
async fn of_two_who_register_with_one_key_at_once_one_wins() {
    let broker = claiming().await;
    let (_, device) = broker.device("Alice").await;
    let (one, other) =
        tokio::join!(again(&broker, device.uuid, &device.device_key), again(&broker, device.uuid, &device.device_key));
    let mut statuses = [one.0, other.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
}

#[tokio::test]
async fn revocation_and_deletion_end_the_key() {
    let mut broker = claiming().await;
    let admin = broker.admin().await;
    let (_, device) = broker.device("Alice").await;
    let revoke = json!({ "client_uuid": device.uuid });
    assert_eq!(post(&admin, "/admin/tokens/revoke", revoke).await.0, 200);
    assert_eq!(again(&broker, device.uuid, &device.device_key).await.0, 409);
    assert_eq!(again(&broker, device.uuid, "").await.0, 409);
    // an operator frees the UUID; then it is whose who comes first
    assert_eq!(delete(&admin, &format!("/devices/{}", device.uuid)).await.0, 200);
    let (status, new) = again(&broker, device.uuid, "").await;
    assert_eq!(status, 200);
    assert_eq!(again(&broker, device.uuid, &device.device_key).await.0, 409);
    assert_eq!(again(&broker, device.uuid, &new).await.0, 200);
}

const KEY: &str = "a-key-that-the-device-has-chosen-itself-0001";

/// A registration with a key that the client has chosen.
fn choosing(uuid: Uuid, device_key: Option<&str>, new_device_key: &str) -> Value {
    json!({ "name": "Alice", "uuid": uuid, "device_key": device_key, "new_device_key": new_device_key })
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_can_be_repeated() {
    let broker = claiming().await;
    let (client, uuid) = (broker.client(), Uuid::new_v4());
    let first = choosing(uuid, None, KEY);
    let (status, registered) = post(&client, "/register", first.clone()).await;
    assert_eq!((status, &registered["device_key"]), (200, &json!(KEY)), "{registered}");
    let next_key = KEY.replace('1', "2");
    let second = choosing(uuid, Some(KEY), &next_key);
    for (body, key) in [(&first, KEY), (&second, &next_key), (&second, &next_key)] {
        let (status, repeated) = post(&client, "/register", body.clone()).await;
        assert_eq!((status, &repeated["device_key"]), (200, &json!(key)), "{repeated}");
        let device = client.with_token(repeated["access_token"].as_str().unwrap());
        assert_eq!(get(&device, "/clients").await.0, 200);
    }
    // what was given out before is good until it expires, as after any registration
    assert_eq!(get(&client.with_token(registered["access_token"].as_str().unwrap()), "/clients").await.0, 200);
    // the key of before is not, and a chosen key is proof of nothing but itself
    assert_eq!(again(&broker, uuid, KEY).await.0, 409);
    assert_eq!(post(&client, "/register", choosing(uuid, None, KEY)).await.0, 409);
    let (status, key) = again(&broker, uuid, &next_key).await;
    assert!(status == 200 && key != next_key && key != KEY, "{key}");
    assert_eq!(post(&client, "/register", second).await.0, 409);
}

#[tokio::test]
async fn a_request_that_comes_twice_at_once_registers_with_its_key() {
    let broker = claiming().await;
    let (client, uuid) = (broker.client(), Uuid::new_v4());
    let next_key = KEY.replace('1', "2");
    for body in [choosing(uuid, None, KEY), choosing(uuid, Some(KEY), &next_key)] {
        let (one, other) =
            tokio::join!(post(&client, "/register", body.clone()), post(&client, "/register", body.clone()));
        assert_eq!((one.0, other.0), (200, 200), "{} {}", one.1, other.1);
        assert_eq!(one.1["device_key"], body["new_device_key"]);
        assert_eq!(other.1["device_key"], body["new_device_key"]);
    }
    // two that want different keys: one wins
    let another = choosing(uuid, Some(&next_key), &KEY.replace('1', "3"));
    let other = choosing(uuid, Some(&next_key), &KEY.replace('1', "4"));
    let (one, other) = tokio::join!(post(&client, "/register", another), post(&client, "/register", other));
    let mut statuses = [one.0, other.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
}

#[tokio::test]
async fn a_lost_registration_is_not_repeated_after_a_revocation() {
    let mut broker = claiming().await;
    let admin = broker.admin().await;
    let (client, uuid) = (broker.client(), Uuid::new_v4());
    let body = choosing(uuid, None, KEY);
    assert_eq!(post(&client, "/register", body.clone()).await.0, 200);
    assert_eq!(post(&admin, "/admin/tokens/revoke", json!({ "client_uuid": uuid })).await.0, 200);
    assert_eq!(post(&client, "/register", body.clone()).await.0, 409);
    // deleted, it is a first registration again
    assert_eq!(delete(&admin, &format!("/devices/{uuid}")).await.0, 200);
    assert_eq!(post(&client, "/register", body.clone()).await.0, 200);
    assert_eq!(post(&client, "/register", body).await.0, 200);
}

#[tokio::test]
async fn a_key_can_be_chosen_under_every_policy() {
    let broker = Broker::start().await;
    let (client, uuid) = (broker.client(), Uuid::new_v4());
    let body = choosing(uuid, None, KEY);
    let (status, open) = post(&client, "/register", body.clone()).await;
    assert_eq!((status, &open["device_key"]), (200, &json!(KEY)), "{open}");
    let mut broker = broker.kill().await.set("DEVICES__REGISTRATION", "claim").start().await;
    let (client, old) = (broker.client(), broker.client().with_token(open["token"].as_str().unwrap()));
    assert_eq!(get(&old, "/clients").await.0, 200);
    let (status, bound) = post(&client, "/register", body.clone()).await;
    assert_eq!(status, 200, "{bound}");
    assert_eq!(get(&old, "/clients").await.0, 401, "anybody could have got it");
    // a repetition does not end the tokens of the registration that it repeats
    assert_eq!(post(&client, "/register", body.clone()).await.0, 200);
    assert_eq!(get(&client.with_token(bound["token"].as_str().unwrap()), "/clients").await.0, 200);
    let admin = broker.admin().await;
    let token = admin.token().unwrap().to_owned();
    let broker = broker.kill().await.set("DEVICES__REGISTRATION", "closed").start().await;
    assert_eq!(post(&broker.client(), "/register", body.clone()).await.0, 401, "only operators register devices");
    let next_key = KEY.replace('1', "2");
    let (status, closed) =
        post(&broker.client().with_token(&token), "/register", choosing(uuid, None, &next_key)).await;
    assert_eq!((status, &closed["device_key"]), (200, &json!(next_key)), "{closed}");
}

#[tokio::test]
async fn a_chosen_key_has_the_length_and_characters_of_256_random_bits() {
    let broker = claiming().await;
    let client = broker.client();
    for (key, fault) in [
        (json!("k".repeat(31)), "string_too_short"),
        (json!("k".repeat(129)), "string_too_long"),
        (json!(format!("{KEY} {KEY}")), "value_error"),
        (json!(format!("{KEY}ü")), "value_error"),
        (json!(5), "string_type"),
    ] {
        let body = json!({ "name": "Alice", "uuid": Uuid::new_v4(), "new_device_key": key });
        let (status, answer) = post(&client, "/register", body).await;
        assert_eq!((status, faults(&answer)), (422, vec![format!("{fault} body.new_device_key")]));
        assert_eq!(answer["detail"][0]["input"], Value::Null, "a key is a secret");
    }
    for key in [json!(null), json!("k".repeat(32)), json!("f".repeat(64)), json!("k".repeat(128))] {
        let body = json!({ "name": "Alice", "uuid": Uuid::new_v4(), "new_device_key": key });
        let (status, answer) = post(&client, "/register", body).await;
        assert_eq!(status, 200, "{answer}");
        assert!(key.is_null() || answer["device_key"] == key, "{answer}");
    }
}

#[tokio::test]
async fn a_device_of_the_open_time_comes_over_with_proof_and_its_tokens_of_that_time_end() {
    let broker = Broker::start().await;
    let (_, device) = broker.device("Alice").await;
    // whoever comes last holds the UUID, but has the tokens of before not taken away
    let (status, key) = again(&broker, device.uuid, "").await;
    assert_eq!(status, 200);
    let mut broker = broker.kill().await.set("DEVICES__REGISTRATION", "claim").start().await;
    assert!(broker.log().contains("were registered without proof"), "{}", broker.log());
    let old = broker.client().with_token(&device.access_token);
    let mut socket = old.connect("/ws").await.unwrap();
    assert_eq!(again(&broker, device.uuid, "").await.0, 409);
    assert_eq!(again(&broker, device.uuid, &device.device_key).await.0, 409, "a later registration has ended it");
    let body = json!({ "name": "Alice", "uuid": device.uuid, "device_key": key });
    let (status, bound) = post(&broker.client(), "/register", body).await;
    assert_eq!(status, 200, "{bound}");
    assert_eq!(close_code(&mut socket).await, 4401);
    assert_eq!(get(&old, "/clients").await.0, 401);
    assert_eq!(refresh(&broker, &device).await, 401);
    let body = json!({ "name": "Mallory", "uuid": device.uuid, "token": device.access_token });
    assert_eq!(post(&broker.client(), "/register", body).await.0, 409, "no proof any more");
    let new = broker.client().with_token(bound["token"].as_str().unwrap());
    assert_eq!(get(&new, "/clients").await.0, 200);
    // from here on registering ends no tokens
    let (status, _) = again(&broker, device.uuid, bound["device_key"].as_str().unwrap()).await;
    assert_eq!((status, get(&new, "/clients").await.0), (200, 200));
    let warnings = |log: String| log.matches("were registered without proof").count();
    let before = warnings(broker.log());
    let mut broker = broker.kill().await.start().await;
    assert_eq!(warnings(broker.log()), before, "all of them have come over");
}

async fn refresh(broker: &Broker, device: &Device) -> u16 {
    post(&broker.client(), "/auth/refresh", json!({ "refresh_token": device.refresh_token })).await.0
}

#[tokio::test]
async fn when_a_device_was_last_seen_is_told_whatever_the_clock_says() {
    let mut broker = Broker::start().await;
    let operator = broker.admin().await;
    let (client, device) = broker.device("Alice").await;
    // the clock was ahead when it registered
    let ahead = "UPDATE devices SET created_at = '2999-01-01 00:00:00+00:00'";
    sea_orm::ConnectionTrait::execute_unprepared(&broker.database().await, ahead).await.unwrap();
    drop(client.connect("/ws").await.unwrap());
    let last_seen = async || get(&operator, &format!("/devices/{}", device.uuid)).await.1["last_seen"].clone();
    until(async || last_seen().await != Value::Null).await;
    assert!(!last_seen().await.as_str().unwrap().starts_with("2999"));
}
