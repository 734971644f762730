use std::sync::Arc;

use actix::Arbiter;
use chrono::TimeDelta;

use super::*;
use crate::{
    domain::{
        gateways::{Status, Transition},
        ids::{ClientId, GatewayId},
        rooms::{Participant, Placed, RoomChange, RoomOutcome, RoomRefusal},
    },
    settings::built_in,
    store::{
        GatewayRecord,
        tests::{Fixture, start},
    },
};

fn turned(minutes: i64, status: Status) -> Record {
    let transition = Transition { at: start() + TimeDelta::minutes(minutes), status, reason: None };
    Record::Gateway(GatewayRecord::Transition { gateway: GatewayId(1), transition })
}

fn create(name: &str) -> Arc<[RoomChange]> {
    let creator = Participant { client: ClientId::random(), user_id: None, username: "anna".into() };
    [RoomChange::Create { creator, name: name.to_owned(), description: None, is_private: false }].into()
}

async fn perform(journal: &Journal) -> Performed<RoomChange> {
    journal.recipient().send(Perform(create("room"))).await.unwrap()
}

fn journal(fixture: &Fixture) -> Journal {
    Journal::start(&Arbiter::current(), fixture.store.clone(), built_in().into())
}

#[actix_web::test]
async fn all_that_was_recorded_before_a_flush_is_written_in_its_order_when_that_ends() {
    let fixture = Fixture::new().await;
    let journal = journal(&fixture);
    journal.record_soon(vec![turned(0, Status::Connected)]);
    journal.record(vec![turned(1, Status::Disconnected)]);
    journal.record_soon(vec![Record::Gateway(GatewayRecord::Deleted(GatewayId(1))), turned(2, Status::Connected)]);
    journal.flush().await.unwrap();
    let (from, to) = (start() - TimeDelta::hours(1), start() + TimeDelta::hours(1));
    let kept = fixture.store.gateway_history(GatewayId(1), from, to, 10).await.unwrap().transitions;
    assert_eq!(kept.iter().map(|kept| kept.at).collect::<Vec<_>>(), [start() + TimeDelta::minutes(2)]);
    assert!(journal.backlog().failure().is_none() && !journal.backlog().is_busy());
    // with nothing to write it ends, too
    journal.flush().await.unwrap();
}

#[actix_web::test]
async fn changes_of_rooms_are_decided_whatever_is_recorded_with_them() {
    let fixture = Fixture::new().await;
    let journal = journal(&fixture);
    // one that no database takes: its target is of no command
    let target = crate::domain::commands::Target::new(
        ClientId::random(),
        crate::domain::ids::ClientKind::Device,
        "device".to_owned(),
        None,
    );
    journal.record_soon(vec![
        Record::Target { command: crate::domain::ids::CommandId::new(start()), target },
        turned(0, Status::Connected),
    ]);
    let Performed::Done(Ok(decided)) = perform(&journal).await else { panic!() };
    assert!(matches!(decided[..], [Ok(Placed { outcome: RoomOutcome::Created(_), .. })]), "{decided:?}");
    let Performed::Done(Ok(decided)) = perform(&journal).await else { panic!() };
    assert!(matches!(decided[..], [Err(RoomRefusal::NameTaken)]), "{decided:?}");
    journal.flush().await.unwrap();
    assert_eq!(fixture.store.last_gateway_transitions().await.unwrap().len(), 1);
}

#[actix_web::test]
async fn records_wait_for_the_database_and_changes_of_rooms_do_not() {
    let fixture = Fixture::new().await;
    let journal = journal(&fixture);
    fixture.store.close().await;
    let Performed::Done(Err(StoreError::Unavailable(_))) = perform(&journal).await else { panic!() };
    // nothing waits, so nothing tells that the database is back
    assert!(journal.backlog().failure().is_none());
    journal.record_soon((0..6000).map(|minute| turned(minute, Status::Connected)).collect());
    assert!(matches!(journal.flush().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(journal.backlog().failure(), Some(StoreError::Unavailable(_))));
    assert!(journal.backlog().is_busy() && journal.backlog().is_stuck() && !journal.backlog().is_behind());
}
