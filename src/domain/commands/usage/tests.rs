use std::{sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};

use super::*;
use crate::domain::{commands::Target, ids::ClientKind};

const LIMITS: CommandLimits = CommandLimits {
    pending: 20,
    pending_per_identity: 3,
    queued: 20,
    queued_per_identity: 8,
    queued_per_target: 2,
    bytes: 1_000,
    bytes_per_identity: 400,
};

fn command(requester: ClientId, targets: &[ClientId], queued: bool, bytes: usize) -> Command {
    let target = |client: &ClientId| Target::new(*client, ClientKind::Device, String::new(), None);
    Command {
        id: CommandId::new(Utc::now()),
        requested_by: requester,
        requester: String::new(),
        method: "GET".to_owned(),
        url: String::new(),
        data: Some(Arc::from("x".repeat(bytes))),
        timeout: Duration::from_secs(30),
        deliver_until: queued.then(|| Utc::now() + TimeDelta::days(7)),
        created_at: Utc::now(),
        finished_at: None,
        version: 0,
        targets: targets.iter().map(target).collect(),
    }
}

fn clients<const N: usize>() -> [ClientId; N] {
    std::array::from_fn(|_| ClientId::random())
}

fn end(usage: &mut Usage, command: &Command) {
    command.targets.iter().for_each(|target| usage.target_ended(command.id, target.client));
}

#[test]
fn each_class_has_places_of_its_own() {
    let mut usage = Usage::new(LIMITS);
    let [operator, a, b] = clients();
    let queued: Vec<_> = [a, b, a, b].map(|target| command(operator, &[target], true, 0)).into();
    queued.iter().for_each(|command| usage.reserve(command).unwrap());
    assert_eq!(usage.reserve(&command(operator, &[a], true, 0)), Err(Exceeded::QueuedPerTarget));
    let pending: Vec<_> = [a, a, a].map(|target| command(operator, &[target], false, 0)).into();
    pending.iter().for_each(|command| usage.reserve(command).unwrap());
    assert_eq!(usage.reserve(&command(operator, &[a], false, 0)), Err(Exceeded::PendingPerIdentity));
    assert_eq!(usage.targets(), 7);
    queued.iter().chain(&pending).for_each(|command| end(&mut usage, command));
    assert!(usage.is_empty());
}

#[test]
fn a_requester_has_no_more_than_its_share_and_others_still_have_theirs() {
    let mut usage = Usage::new(LIMITS);
    let [one, other] = clients();
    usage.reserve(&command(one, &clients::<8>(), true, 0)).unwrap();
    assert_eq!(usage.reserve(&command(one, &clients::<1>(), true, 0)), Err(Exceeded::QueuedPerIdentity));
    usage.reserve(&command(other, &clients::<8>(), true, 0)).unwrap();
    assert_eq!(usage.reserve(&command(clients::<1>()[0], &clients::<5>(), true, 0)), Err(Exceeded::Queued));
}

#[test]
fn a_gather_that_fills_the_node_leaves_places_for_those_who_have_few() {
    let mut usage = Usage::new(LIMITS);
    let [operator, other] = clients();
    let gather = command(operator, &clients::<20>(), false, 0);
    usage.reserve(&gather).unwrap();
    assert_eq!(usage.reserve(&command(operator, &clients::<1>(), false, 0)), Err(Exceeded::Pending));
    usage.reserve(&command(other, &clients::<2>(), false, 0)).unwrap();
    assert_eq!(usage.reserve(&command(other, &clients::<1>(), false, 0)), Err(Exceeded::Pending));
    end(&mut usage, &gather);
    usage.reserve(&command(operator, &clients::<18>(), false, 0)).unwrap();
}

#[test]
fn commands_of_plain_users_take_half_of_the_node_at_most() {
    let mut usage = Usage::new(LIMITS);
    for user in clients::<10>() {
        usage.reserve(&command(user, &[user], true, 0)).unwrap();
        usage.reserve(&command(user, &[user], false, 0)).unwrap();
    }
    let [user, operator, device] = clients();
    assert_eq!(usage.reserve(&command(user, &[user], true, 0)), Err(Exceeded::Queued));
    assert_eq!(usage.reserve(&command(user, &[user], false, 0)), Err(Exceeded::Pending));
    usage.reserve(&command(operator, &[device], true, 0)).unwrap();
    usage.reserve(&command(operator, &[device], false, 0)).unwrap();
}

#[test]
fn commands_and_results_are_bounded_in_bytes() {
    let mut usage = Usage::new(LIMITS);
    let [one, a, b] = clients();
    let gather = command(one, &[a, b], false, 300);
    usage.reserve(&gather).unwrap();
    assert_eq!(usage.reserve(&command(one, &[a], true, 101)), Err(Exceeded::BytesPerIdentity));
    assert!(usage.keep_result(gather.id, 100));
    assert!(!usage.keep_result(gather.id, 1));
    for requester in clients::<2>() {
        usage.reserve(&command(requester, &[a], false, 300)).unwrap();
    }
    assert_eq!(usage.reserve(&command(clients::<1>()[0], &[a], false, 1)), Err(Exceeded::Bytes));
    end(&mut usage, &gather);
    usage.reserve(&command(one, &[a], true, 101)).unwrap();
}

#[test]
fn what_was_reserved_and_never_begun_is_given_back() {
    let mut usage = Usage::new(LIMITS);
    let [one, a, b] = clients();
    for queued in [true, false] {
        let refused = command(one, &[a, b], queued, 10);
        usage.reserve(&refused).unwrap();
        usage.release(refused.id);
        assert!(usage.is_empty());
    }
}

#[test]
fn a_limit_of_zero_is_none() {
    let mut usage = Usage::new(CommandLimits::default());
    let [one, a] = clients();
    (0..100).for_each(|_| usage.reserve(&command(one, &[a], true, 1_000)).unwrap());
    (0..100).for_each(|_| usage.reserve(&command(one, &[one], false, 1_000)).unwrap());
    assert!(usage.keep_result(CommandId::new(Utc::now()), usize::MAX));
}

#[test]
fn what_is_there_already_counts_whatever_the_limits_say() {
    let mut usage = Usage::new(LIMITS);
    let [one, a] = clients();
    let recovered: Vec<_> = (0..5).map(|_| command(one, &[a], true, 0)).collect();
    recovered.iter().for_each(|command| usage.take(command));
    assert_eq!(usage.reserve(&command(one, &[a], true, 0)), Err(Exceeded::QueuedPerTarget));
    recovered.iter().for_each(|command| end(&mut usage, command));
    assert!(usage.is_empty());
}
