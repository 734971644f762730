//! The link of a node to Redis.

use serde_json::{Value, json};
use switchboard::client::Client;

use crate::{
    api::support::{Broker, get, next_of_type, until},
    nodes::{SECRET, Shared, at, knows},
    redis::Redis,
};

/// `/readyz`: its status, and what it says of Redis.
async fn readiness(client: &Client) -> (u16, Value, Value) {
    let (status, body) = get(client, "/readyz").await;
    (status, body["status"].clone(), body["redis"].clone())
}

async fn linked(client: &Client) {
    until(async || readiness(client).await == (200, json!("ready"), json!("ok"))).await;
}

async fn away(client: &Client) {
    until(async || readiness(client).await == (200, json!("degraded"), json!("away"))).await;
}

/// What `GET /api/cluster` says of the only Redis server.
async fn server(operator: &Client) -> Value {
    let (status, body) = get(operator, "/api/cluster").await;
    assert_eq!((status, body["redis"].as_array().map(Vec::len)), (200, Some(1)), "{body}");
    body["redis"][0].clone()
}

async fn nodes(operator: &Client) -> Vec<Value> {
    get(operator, "/api/cluster").await.1["nodes"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_node_has_a_record_in_redis_for_as_long_as_it_runs() {
    let redis = Redis::start().await;
    let mut broker = Broker::with().env("REDIS_URL", &redis.url()).env("SECRET_KEY", SECRET).start().await;
    let operator = broker.admin().await;
    linked(&operator).await;
    let (_, _, _socket) = broker.connected("device").await;
    let listed = nodes(&operator).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0]["is_this"], &listed[0]["sockets"]), (&json!(true), &json!(1)));
    assert!(broker.url.ends_with(listed[0]["address"].as_str().unwrap()), "{listed:?}");
    let server = server(&operator).await;
    assert_eq!(
        (&server["address"], &server["status"]),
        (&json!(format!("redis://{}/0", redis.address())), &json!("ok"))
    );
    assert!(server["round_trip_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{server}");
    let url = broker.url.clone();
    let shown = broker.command(&["cluster", "--url", &url], "").stdout;
    assert!(shown.contains("(this)") && shown.contains(&redis.address().to_string()), "{shown}");

    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    assert_eq!(keys.len(), 2, "{keys:?}");
    broker.signal("TERM");
    assert_eq!(broker.ended().await, Some(0));
    assert_eq!(redis.ask::<Vec<String>>(&["KEYS", "*"]).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_node_starts_without_redis_and_links_to_it_when_it_comes_or_comes_back_empty() {
    let mut redis = Redis::stopped(None);
    let mut broker = Broker::with().env("REDIS_URL", &redis.url()).env("SECRET_KEY", SECRET).start().await;
    let operator = broker.admin().await;
    away(&operator).await;
    until(async || server(&operator).await["error"].is_string()).await;
    // what needs no other node works
    let (_, _, mut socket) = broker.connected("device").await;
    socket.send_text(r#"{"type":"ping"}"#).await.unwrap();
    next_of_type(&mut socket, "pong").await;
    for _ in 0..2 {
        redis.run().await;
        linked(&operator).await;
        assert_eq!(server(&operator).await["error"], Value::Null);
        redis.kill().await;
        away(&operator).await;
    }
}

#[tokio::test]
async fn a_redis_that_stops_answering_is_away_until_it_answers() {
    let redis = Redis::start().await;
    let mut broker = Broker::with().env("REDIS_URL", &redis.url()).env("SECRET_KEY", SECRET).start().await;
    let operator = broker.admin().await;
    linked(&operator).await;
    redis.signal("STOP").await;
    away(&operator).await;
    assert_eq!(get(&operator, "/clients").await.0, 200);
    redis.signal("CONT").await;
    linked(&operator).await;
}

#[tokio::test]
async fn an_inbox_that_is_closed_is_opened_again_and_garbage_in_it_does_no_harm() {
    let redis = Redis::start().await;
    let mut broker = Broker::with().env("REDIS_URL", &redis.url()).env("SECRET_KEY", SECRET).start().await;
    let operator = broker.admin().await;
    linked(&operator).await;
    let inbox: Vec<String> = redis.ask(&["PUBSUB", "CHANNELS"]).await;
    assert_eq!(inbox.len(), 1, "{inbox:?}");
    for garbage in ["", "x", "\u{1}too short", &"\u{1}".repeat(100)] {
        assert_eq!(redis.ask::<i64>(&["PUBLISH", &inbox[0], garbage]).await, 1);
    }
    let closed: i64 = redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    assert_eq!(closed, 1);
    until(async || redis.ask::<Vec<String>>(&["PUBSUB", "CHANNELS"]).await == inbox).await;
    linked(&operator).await;
}

#[tokio::test]
async fn the_variables_of_the_earlier_systems_name_a_server_with_password_and_database() {
    let mut redis = Redis::stopped(Some("open-sesame"));
    redis.run().await;
    let port = redis.address().port().to_string();
    let with = |password: &str| {
        Broker::with()
            .env("REDIS_HOST", &redis.address().ip().to_string())
            .env("REDIS_PORT", &port)
            .env("REDIS_DB", "3")
            .env("REDIS_PASSWORD", password)
            .env("SECRET_KEY", SECRET)
    };
    let mut broker = with("open-sesame").start().await;
    let operator = broker.admin().await;
    linked(&operator).await;
    assert_eq!(server(&operator).await["address"], format!("redis://{}/3", redis.address()));
    let keyspace: String = redis.ask(&["INFO", "keyspace"]).await;
    assert!(keyspace.contains("db3:keys=2"), "{keyspace}");

    let mut broker = with("wrong-password").start().await;
    let operator = broker.admin().await;
    away(&operator).await;
    until(async || server(&operator).await["error"].is_string()).await;
    let error = server(&operator).await["error"].to_string();
    assert!(!error.contains("wrong-password") && !error.contains("open-sesame"), "{error}");
}

#[tokio::test]
async fn nodes_with_one_database_see_each_other_until_their_leases_end() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    // the same server and secret, and another database
    let mut stranger = Broker::with().env("REDIS_URL", &shared.redis.url()).env("SECRET_KEY", SECRET).start().await;
    let elsewhere = stranger.admin().await;
    linked(&elsewhere).await;
    assert_eq!(nodes(&elsewhere).await.len(), 1);
    assert_eq!(nodes(&operator).await.len(), 2);
    // without the chance to end its lease
    two.kill().await;
    knows(&at(&operator, &one), 1).await;
    assert_eq!(nodes(&operator).await[0]["is_this"], true);
}

#[tokio::test]
async fn without_postgresql_a_second_node_is_refused_though_both_have_redis() {
    let redis = Redis::start().await;
    let setup = || Broker::with().env("REDIS_URL", &redis.url()).env("SECRET_KEY", SECRET);
    let mut one = setup().start().await;
    let database = format!("sqlite:///{}", one.data_dir().join("switchboard.db").display());
    let refused = setup().env("DATABASE_URL", &database).run(&["serve", "--bind", "127.0.0.1:0"], "");
    assert!(refused.stderr.contains("another broker uses this database"), "{refused:?}");
    linked(&one.admin().await).await;
}

#[tokio::test]
async fn redis_needs_a_secret_that_is_given() {
    let output = Broker::with().env("REDIS_URL", "redis://localhost").run(&["serve", "--bind", "127.0.0.1:0"], "");
    assert!(output.stderr.contains("set SECRET_KEY"), "{output:?}");
}
