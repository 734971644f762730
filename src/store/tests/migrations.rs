//! The migrations.

use sea_orm::ConnectionTrait;

use super::Fixture;
use crate::store::Store;

/// The migration that adds two columns to the users.
const TWO_COLUMNS: &str = "m20261121_000018_delete_users";

async fn execute(store: &Store, sql: &str) {
    let connection = store.database.connect_patiently().await.unwrap();
    connection.execute_unprepared(sql).await.unwrap();
    connection.close().await.unwrap();
}

async fn is_applied(store: &Store, name: &str) -> bool {
    store.migration_status().await.unwrap().contains(&(name, true))
}

#[tokio::test]
async fn a_migration_that_fails_halfway_leaves_nothing_and_can_be_repeated() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    while is_applied(store, TWO_COLUMNS).await {
        store.migrate_down().await.unwrap();
    }
    // the first of its statements succeeds, the second fails
    execute(store, "ALTER TABLE users ADD COLUMN deleted_at TEXT").await;
    store.migrate_up().await.unwrap_err();
    assert!(!is_applied(store, TWO_COLUMNS).await);
    execute(store, "ALTER TABLE users DROP COLUMN deleted_at").await;
    store.migrate_up().await.unwrap();
    assert!(is_applied(store, TWO_COLUMNS).await);
}

#[tokio::test]
async fn processes_that_migrate_at_the_same_time_apply_each_migration_once() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    while store.migration_status().await.unwrap().iter().any(|(_, applied)| *applied) {
        store.migrate_down().await.unwrap();
    }
    // the table of applied migrations, too, is created once
    for _ in 0..20 {
        execute(store, "DROP TABLE seaql_migrations").await;
        let status = || store.migration_status();
        let results = tokio::join!(status(), status(), status(), status());
        assert!(matches!(results, (Ok(_), Ok(_), Ok(_), Ok(_))), "{results:?}");
    }
    let results = tokio::join!(store.migrate_up(), store.migrate_up(), store.migrate_up());
    assert!(matches!(results, (Ok(()), Ok(()), Ok(()))), "{results:?}");
    assert!(store.migration_status().await.unwrap().iter().all(|(_, applied)| *applied));
}
