//! Leases, which only PostgreSQL has.

use futures_util::future::join_all;
use sea_orm::{ConnectionTrait, DbBackend};
use uuid::Uuid;

use super::*;

const NAME: &str = "task";
const A: Uuid = Uuid::from_u128(1);
const B: Uuid = Uuid::from_u128(2);

/// A database with leases; `None` on SQLite.
async fn database() -> Option<Fixture> {
    let fixture = Fixture::with_connections(12).await;
    (fixture.store.read.backend() == DbBackend::Postgres).then_some(fixture)
}

async fn take(store: &Store, holder: Uuid) -> Option<i64> {
    store.take_lease(NAME, holder).await.unwrap()
}

/// Has a lease end, as if its time was over.
async fn expire(store: &Store) {
    store.write.execute_unprepared("UPDATE leases SET until = now() - interval '1 millisecond'").await.unwrap();
}

#[tokio::test]
async fn a_lease_has_one_holder_until_it_ends() {
    let Some(fixture) = database().await else { return };
    let store = &fixture.store;
    assert_eq!((take(store, A).await, take(store, B).await), (Some(1), None));
    assert_eq!((take(store, A).await, take(store, B).await), (Some(1), None));
    assert_eq!(store.take_lease("another task", B).await.unwrap(), Some(1));
    expire(store).await;
    assert_eq!((take(store, B).await, take(store, A).await), (Some(2), None));
    // nobody else had it in between
    expire(store).await;
    assert_eq!((take(store, B).await, take(store, A).await), (Some(2), None));
}

#[tokio::test]
async fn a_renewed_lease_lasts_longer() {
    let Some(fixture) = database().await else { return };
    let store = &fixture.store;
    assert_eq!(take(store, A).await, Some(1));
    store.write.execute_unprepared("UPDATE leases SET until = now() + interval '1 second'").await.unwrap();
    assert_eq!(take(store, A).await, Some(1));
    let left = "SELECT (until > now() + interval '5 seconds' AND until <= now() + interval '10 seconds') AS is_long FROM leases";
    let row = store.write.query_one_raw(sea_orm::Statement::from_string(DbBackend::Postgres, left)).await.unwrap();
    assert!(row.unwrap().try_get::<bool>("", "is_long").unwrap());
}

#[tokio::test]
async fn only_its_holder_releases_a_lease() {
    let Some(fixture) = database().await else { return };
    let store = &fixture.store;
    assert_eq!(take(store, A).await, Some(1));
    store.release_lease(NAME, B).await.unwrap();
    assert_eq!(take(store, B).await, None);
    store.release_lease(NAME, A).await.unwrap();
    assert_eq!((take(store, B).await, take(store, A).await), (Some(2), None));
}

#[tokio::test]
async fn of_many_that_take_a_lease_at_once_one_gets_it() {
    let Some(fixture) = database().await else { return };
    for round in 1..=20 {
        let holders = (0..10).map(|_| take(&fixture.store, Uuid::new_v4()));
        let terms: Vec<_> = join_all(holders).await.into_iter().flatten().collect();
        assert_eq!(terms, [round]);
        expire(&fixture.store).await;
    }
}
