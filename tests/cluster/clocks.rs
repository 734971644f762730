//! Nodes whose clocks differ.

use sea_orm::{ConnectionTrait, DbBackend, Statement};

use crate::{
    api::support::{SteppedClock, chat::Person, until},
    nodes::Shared,
};

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
