//! The device key, which belongs to one registration (contract section 3).

use serde_json::{Value, json};
use switchboard::client::Device;
use uuid::Uuid;

use crate::support::{Broker, close_code, delete, get, post, until};

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
    let mut broker = broker.kill().await.start().await;
    assert_eq!(broker.log().matches("were registered without proof").count(), 1, "all of them have come over");
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
