//! How commands go from their callers to their targets and back.

mod deletions;
mod refusals;
mod world;

use chrono::TimeDelta;
use serde_json::Value;

use self::world::{PATIENCE, World};
use super::{outcome::Given, preparing::Prepared, *};
use crate::domain::{
    accounts::{Account, tests::device},
    commands::{Exceeded, Order, TargetState},
    ids::ClientRef,
};

fn id(frame: &Value) -> CommandId {
    CommandId::parse(frame["command_id"].as_str().unwrap()).unwrap()
}

fn states(command: &Command) -> Vec<TargetState> {
    command.targets.iter().map(|target| target.state).collect()
}

/// What became of a command, when it has.
async fn within<T>(end: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, end).await.unwrap()
}

#[actix_web::test]
async fn a_command_is_sent_to_its_target_ends_with_the_answer_and_is_recorded() {
    let world = World::new().await;
    let pump = Arc::new(device("pump"));
    let mut peer = world.connect(&pump).await;
    let end = world.run(world.order(&[&pump]));
    let frame = peer.next().await;
    assert_eq!((&frame["method"], &frame["url"]), (&Value::from("GET"), &Value::from("/status")));
    assert_eq!(frame["data"].to_string(), r#"{"a":1.0}"#);
    // somebody else answers nothing
    world.answer(&device("pump"), &frame, "0");
    world.answer(&pump, &frame, "1");
    let command = within(end).await.unwrap().unwrap();
    assert_eq!((command.id, states(&command)), (id(&frame), vec![TargetState::Succeeded]));
    assert_eq!(command.targets[0].result.as_deref(), Some("1"));
    let recorded = world.recorded(command.id).await;
    assert_eq!((states(&recorded), recorded.finished_at), (states(&command), command.finished_at));
    assert_eq!(recorded.targets[0].sent_at, command.targets[0].sent_at);
}

#[actix_web::test]
async fn a_command_that_may_not_wait_ends_at_once_for_targets_that_are_not_connected() {
    let world = World::new().await;
    let (pump, valve) = (Arc::new(device("pump")), Arc::new(device("valve")));
    let mut peer = world.connect(&valve).await;
    let end = world.run(world.order(&[&pump, &valve]));
    let frame = peer.next().await;
    world.answer(&valve, &frame, "1");
    let command = within(end).await.unwrap().unwrap();
    assert_eq!(states(&command), [TargetState::Offline, TargetState::Succeeded]);
}

#[actix_web::test]
async fn a_target_that_does_not_answer_in_time_times_out_and_its_answer_is_recorded_as_late() {
    let world = World::new().await;
    let pump = Arc::new(device("pump"));
    let mut peer = world.connect(&pump).await;
    let end = world.run(Order { timeout: Duration::ZERO, ..world.order(&[&pump]) });
    let command = within(end).await.unwrap().unwrap();
    assert_eq!(states(&command), [TargetState::TimedOut]);
    let frame = peer.next().await;
    world.answer(&pump, &frame, "2");
    world.until(command.id, |target| target.late_result.as_deref() == Some("2")).await;
    assert_eq!(states(&world.recorded(command.id).await), [TargetState::TimedOut]);
}

#[actix_web::test]
async fn a_lost_socket_ends_what_was_sent_to_it_and_nothing_else() {
    let world = World::new().await;
    let (pump, valve) = (Arc::new(device("pump")), Arc::new(device("valve")));
    let (mut lost, mut other) = (world.connect(&pump).await, world.connect(&valve).await);
    let end = world.run(world.order(&[&pump, &valve]));
    let frame = lost.next().await;
    other.next().await;
    world.commands.recipient().do_send(SessionGone { client: pump.id, session: lost.session.clone() });
    world.until(id(&frame), |target| target.state == TargetState::Disconnected).await;
    assert_eq!(states(&world.recorded(id(&frame)).await), [TargetState::Disconnected, TargetState::Sent]);
    world.answer(&valve, &frame, "1");
    let command = within(end).await.unwrap().unwrap();
    assert_eq!(states(&command), [TargetState::Disconnected, TargetState::Succeeded]);
}

#[actix_web::test]
async fn a_cancelled_command_ends_for_all_targets_and_those_to_which_it_was_sent_are_told() {
    let world = World::new().await;
    let (pump, valve) = (Arc::new(device("pump")), Arc::new(device("valve")));
    let mut peer = world.connect(&pump).await;
    let order = Order { deliver_within: Some(TimeDelta::hours(1)), ..world.order(&[&pump, &valve]) };
    let given = world.give(order).await;
    let frame = peer.next().await;
    let command = id(&frame);
    assert_eq!(states(&world.recorded(command).await), [TargetState::Sent, TargetState::Queued]);
    let stranger = device("stranger");
    let refusal = world.commands.cancel(command, &stranger, None).await.unwrap_err();
    assert!(matches!(refusal, CommandError::NotFound));
    let page = world.commands.cancel(command, &world.operator, None).await.unwrap();
    assert_eq!(states(&page.command), [TargetState::Cancelled; 2]);
    assert_eq!(peer.next().await, serde_json::json!({ "type": "cancel", "command_id": frame["command_id"] }));
    let Outcome::Finished(command) = world.commands.outcome(given, PATIENCE).await.unwrap() else {
        panic!("it is finished")
    };
    assert_eq!(states(&command), [TargetState::Cancelled; 2]);
}

#[actix_web::test]
async fn after_a_restart_what_was_queued_is_sent_and_what_was_sent_is_disconnected() {
    let mut world = World::new().await;
    let (pump, valve) = (Arc::new(device("pump")), Arc::new(device("valve")));
    let mut peer = world.connect(&pump).await;
    let order = Order { deliver_within: Some(TimeDelta::hours(1)), ..world.order(&[&pump, &valve]) };
    world.give(order).await;
    let frame = peer.next().await;
    let command = id(&frame);
    world.restart().await;
    world.until(command, |target| target.state == TargetState::Disconnected).await;
    assert_eq!(states(&world.recorded(command).await), [TargetState::Disconnected, TargetState::Queued]);
    let mut peer = world.connect(&valve).await;
    assert_eq!(id(&peer.next().await), command);
    world.answer(&pump, &frame, "1");
    world.until(command, |target| target.late_result.as_deref() == Some("1")).await;
    world.answer(&valve, &frame, "2");
    let mut follow = world.commands.follow(command, &world.operator, 0).await.unwrap();
    let finished = async {
        loop {
            let event = follow.next().await.unwrap().unwrap();
            if let EventContent::Finished(_) = event.content {
                return event.version;
            }
        }
    };
    let version = within(finished).await;
    let recorded = world.recorded(command).await;
    assert_eq!(states(&recorded), [TargetState::Disconnected, TargetState::Succeeded]);
    assert_eq!(recorded.version, version);
}

#[actix_web::test]
async fn a_repeated_request_finds_its_command_and_another_request_with_its_key_is_refused() {
    let world = World::new().await;
    let pump = Arc::new(device("pump"));
    let key = |digest: &str| IdempotencyKey { key: "k".to_owned(), digest: digest.to_owned() };
    let mut peer = world.connect(&pump).await;
    let commands = &world.commands;
    assert!(commands.given_before(world.operator.id, &key("a")).await.unwrap().is_none());
    let prepare = || commands.check(world.order(&[&pump]), true).unwrap();
    let first = commands.give(prepare(), Some(key("a"))).await.unwrap();
    let frame = peer.next().await;
    let second = commands.give(prepare(), Some(key("a"))).await.unwrap();
    let third = commands.given_before(world.operator.id, &key("a")).await.unwrap().unwrap();
    for refused in [
        commands.give(prepare(), Some(key("b"))).await,
        commands.given_before(world.operator.id, &key("b")).await.map(Option::unwrap),
    ] {
        assert!(matches!(refused.unwrap_err(), CommandError::KeyReused));
    }
    // also if a new command would be refused
    let too_many = |key| {
        let new = NewCommand {
            requester: world.operator.clone(),
            targets: Targets::Named(vec![ClientRef::Client(pump.id); 10_001]),
            method: "GET".to_owned(),
            url: "/".to_owned(),
            data: None,
            timeout: PATIENCE,
            deliver_within: None,
            address: None,
        };
        commands.create(new, key, Duration::ZERO)
    };
    let Outcome::Stored { page, .. } = too_many(Some(key("a"))).await.unwrap() else { panic!("not waited for") };
    assert_eq!(page.command.id, id(&frame));
    assert!(matches!(too_many(Some(key("b"))).await.unwrap_err(), CommandError::KeyReused));
    assert!(matches!(too_many(None).await.unwrap_err(), CommandError::TooManyTargets { most: 10_000, given: 10_001 }));
    world.answer(&pump, &frame, "1");
    for given in [first, second, third] {
        let Outcome::Finished(command) = commands.outcome(given, PATIENCE).await.unwrap() else { panic!("finished") };
        assert_eq!(command.id, id(&frame));
    }
}

#[actix_web::test]
async fn limits_are_checked_when_a_command_is_given_and_freed_when_it_ends() {
    let world = World::with(|settings| settings.limits.pending_commands_per_identity = 1).await;
    let pump = Arc::new(device("pump"));
    let mut peer = world.connect(&pump).await;
    let (first, second) = (world.run(world.order(&[&pump])), world.run(world.order(&[&pump])));
    let frame = peer.next().await;
    let over = |refusal| matches!(refusal, CommandError::Limit(Exceeded::PendingPerIdentity));
    assert!(over(within(second).await.unwrap().unwrap_err()));
    let stored = world.commands.check(world.order(&[&pump]), true).unwrap();
    assert!(over(world.commands.give(stored, None).await.unwrap_err()));
    world.answer(&pump, &frame, "1");
    within(first).await.unwrap().unwrap();
    let third = world.run(world.order(&[&pump]));
    let frame = peer.next().await;
    world.answer(&pump, &frame, "1");
    within(third).await.unwrap().unwrap();
}

#[actix_web::test]
async fn when_the_broker_stops_nobody_waits_any_more() {
    let world = World::new().await;
    let pump = Arc::new(device("pump"));
    let mut peer = world.connect(&pump).await;
    let end = world.run(world.order(&[&pump]));
    let given = world.give(world.order(&[&pump])).await;
    peer.next().await;
    world.commands.stop_waiting();
    assert!(matches!(within(end).await.unwrap().unwrap_err(), CommandError::Stopping));
    let late = world.give(world.order(&[&pump])).await;
    for given in [given, late] {
        let outcome = within(world.commands.outcome(given, PATIENCE)).await.unwrap();
        assert!(matches!(outcome, Outcome::Stored { stopping: true, .. }));
    }
}
