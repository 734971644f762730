//! The records of brokers.

use sea_orm::{ConnectionTrait, DbBackend};
use uuid::Uuid;

use super::*;
use crate::store::{ServingBroker, Sharing};

fn broker(number: u128) -> ServingBroker {
    ServingBroker {
        instance: Uuid::from_u128(number),
        host: "here".to_owned(),
        process_id: 1,
        address: "127.0.0.1:8000".to_owned(),
        password_rules: None,
    }
}

#[actix::test]
async fn a_broker_whose_record_found_no_space_proves_writes_with_that_of_an_earlier_start() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    if store.read.backend() == DbBackend::Postgres {
        // it does not start without its record
        return;
    }
    let mut lock = store.lock(Sharing::Alone).await.unwrap();
    store.register_broker(&broker(1), &mut lock).await.unwrap();
    store.prove_write().await.unwrap();
    let other = format!("UPDATE brokers SET instance = x'{}'", Uuid::from_u128(2).simple());
    store.write.execute_unprepared(&other).await.unwrap();
    store.prove_write().await.unwrap();
}
