//! Nodes whose clocks differ.

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use serde_json::json;

use crate::{
    api::support::{SteppedClock, chat::Person, close_code, get, next, nothing_came, until},
    nodes::{Shared, at, connect, knows, listed},
    proxy::{Proxy, Way},
};

#[tokio::test]
async fn a_device_sends_from_a_node_that_has_not_heard_of_its_socket_at_one_with_a_later_clock() {
    let shared = Shared::start().await;
    let proxy = Proxy::of(shared.redis.address()).await;
    let node = || shared.node().set("AUTH__ACCESS_TOKEN_MINUTES", "1440");
    let mut one = node().env("REDIS_URL", &proxy.url()).start().await;
    let (clock, later) = SteppedClock::of(node());
    clock.set_date(3600);
    let two = later.start().await;
    let operator = one.admin().await;
    let (client, device) = one.device("moves").await;
    proxy.set(Way::Cut);
    until(async || get(&operator, "/readyz").await.1["redis"] == "away").await;
    until(async || get(&at(&operator, &two), "/api/cluster").await.1["nodes"].as_array().map(Vec::len) == Some(1))
        .await;
    let mut old = connect(&client, &two).await;
    let mut connected = None;
    until(async || {
        // the first attempt tells the node of the other socket
        connected = at(&client, &one).connect("/ws").await.ok();
        connected.is_some()
    })
    .await;
    let mut new = connected.unwrap();
    next(&mut new).await;
    let frame = json!({ "to": device.uuid, "msgid": "1", "content": 1, "acknowledge": true });
    new.send_text(frame.to_string()).await.unwrap();
    assert_eq!(next(&mut new).await["type"], "sent");
    assert_eq!(next(&mut new).await["content"], 1);
    // it stays the newest when the nodes hear each other
    proxy.set(Way::Open);
    knows(&operator, 2).await;
    assert_eq!(close_code(&mut old).await, 4409);
    nothing_came(&mut new).await;
    assert_eq!(listed(&two.client()).await, [device.uuid]);
}

#[tokio::test]
async fn events_of_rooms_are_kept_by_the_clock_of_the_database() {
    let shared = Shared::start().await;
    let (clock, earlier) = SteppedClock::of(shared.node().set("AUTH__ACCESS_TOKEN_MINUTES", "1440"));
    clock.set_date(-3600);
    let mut one = earlier.start().await;
    let person = Person::user(&one, "writer").await;
    let room = person.room("room").await;
    person.say(room, "recent").await;
    let database = one.database().await;
    let old = "INSERT INTO room_events SELECT room_id, 1000, broker, event, now() - interval '1 hour' FROM room_events WHERE sequence = 1";
    database.execute_unprepared(old).await.unwrap();
    let left = async || {
        let count = "SELECT count(*) AS recent, count(*) FILTER (WHERE sequence = 1000) AS old FROM room_events";
        let row = database.query_one_raw(Statement::from_string(DbBackend::Postgres, count)).await.unwrap().unwrap();
        (row.try_get::<i64>("", "recent").unwrap(), row.try_get::<i64>("", "old").unwrap())
    };
    let before = left().await;
    assert_eq!(before.1, 1);
    // it deletes what is old when it starts
    let (clock, later) = SteppedClock::of(shared.node());
    clock.set_date(3600);
    let _two = later.start().await;
    until(async || left().await.1 == 0).await;
    assert_eq!(left().await.0, before.0 - 1);
}
