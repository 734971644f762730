//! Commands while the Journal can not record them.

use super::*;
use crate::store::StoreError;

#[actix_web::test]
async fn commands_that_can_not_be_recorded_are_refused_at_once() {
    let world = World::new().await;
    let pump = Arc::new(device("pump"));
    let mut peer = world.connect(&pump).await;
    let backlog = world.journal.backlog();
    let give = || world.commands.give(world.commands.check(world.order(&[&pump]), true).unwrap(), None);
    // more records wait than there may be
    backlog.set_for_test(None, None);
    assert!(matches!(give().await.unwrap_err(), CommandError::NotRecorded(None)));
    let refusal = within(world.run(world.order(&[&pump]))).await.unwrap().unwrap_err();
    assert!(matches!(refusal, CommandError::NotRecorded(None)));
    // the database takes nothing; what need not be stored goes on
    backlog.set_for_test(Some(1), Some(StoreError::late()));
    assert!(matches!(give().await.unwrap_err(), CommandError::NotRecorded(Some(_))));
    let end = world.run(world.order(&[&pump]));
    let frame = peer.next().await;
    world.answer(&pump, &frame, "1");
    assert_eq!(states(&within(end).await.unwrap().unwrap()), [TargetState::Succeeded]);
}
