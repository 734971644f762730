//! What probes and changes of gateways come to.

use std::time::Duration;

use super::*;
use crate::domain::gateways::{Address, Source};

fn gateway(id: i64, parent_id: Option<i64>) -> Gateway {
    Gateway {
        id: GatewayId(id),
        name: format!("gateway {id}"),
        address: Address::parse("192.0.2.1").unwrap(),
        parent_id: parent_id.map(GatewayId),
        max_rtt_ms: None,
        max_loss_percent: None,
        source: Source::Api,
    }
}

const ANSWERED: Outcome = Outcome { lost: 0, answer: Ok(Duration::from_millis(5)) };
const LOST: Outcome = Outcome { lost: 2, answer: Err(Reason::Timeout) };

/// A table with a clock that moves on a second with each probe.
struct Lab {
    table: GatewayTable,
    now: DateTime<Utc>,
}

impl Lab {
    fn with(gateways: &[(i64, Option<i64>)]) -> Self {
        let mut lab = Self { table: GatewayTable::default(), now: DateTime::UNIX_EPOCH };
        for (id, parent) in gateways {
            lab.table.put(gateway(*id, *parent), None, lab.now);
        }
        lab
    }

    fn probe(&mut self, id: i64, outcome: Outcome) -> Effects {
        let began = self.now;
        self.now += TimeDelta::seconds(1);
        let id = GatewayId(id);
        let version = self.table.entries[&id].version;
        self.table.probed(id, version, began, outcome, self.now)
    }

    fn status(&self, id: i64) -> (Status, Option<Reason>) {
        let known = self.table.known(GatewayId(id)).unwrap();
        (known.status, known.reason)
    }
}

fn events(effects: &Effects) -> Vec<i64> {
    effects.changes.iter().filter(|(_, change)| change.event).map(|(id, _)| id.0).collect()
}

fn probes(effects: &Effects) -> Vec<i64> {
    effects.probe.iter().map(|id| id.0).collect()
}

fn transitions(effects: &Effects) -> Vec<(i64, Status)> {
    effects.changes.iter().filter_map(|(id, change)| Some((id.0, change.transition?.status))).collect()
}

#[test]
fn a_gateway_is_unknown_until_its_first_probe_and_changes_are_told_once() {
    let mut lab = Lab::with(&[(1, None)]);
    assert_eq!(lab.status(1), (Status::Unknown, None));
    let effects = lab.probe(1, ANSWERED);
    assert_eq!((events(&effects), transitions(&effects)), (vec![1], vec![(1, Status::Connected)]));
    let known = lab.table.known(GatewayId(1)).unwrap();
    assert_eq!((known.rtt_ms, known.loss_percent, known.since), (Some(5.0), Some(0.0), lab.now));
    let effects = lab.probe(1, ANSWERED);
    assert_eq!((events(&effects), transitions(&effects), effects.changes.len()), (vec![], vec![], 1));
    let effects = lab.probe(1, LOST);
    assert_eq!((events(&effects), transitions(&effects)), (vec![1], vec![(1, Status::Disconnected)]));
    assert_eq!(lab.status(1), (Status::Disconnected, Some(Reason::Timeout)));
    let since = lab.table.known(GatewayId(1)).unwrap().since;
    let effects = lab.probe(1, Outcome { lost: 1, answer: Err(Reason::Refused) });
    assert_eq!((events(&effects), transitions(&effects)), (vec![], vec![]));
    let known = lab.table.known(GatewayId(1)).unwrap();
    assert_eq!((known.reason, known.since, known.rtt_ms), (Some(Reason::Refused), since, None));
    let effects = lab.probe(1, ANSWERED);
    assert_eq!((events(&effects), lab.status(1)), (vec![1], (Status::Connected, None)));
}

#[test]
fn a_retry_that_is_answered_counts_as_loss_and_not_as_disconnected() {
    let mut lab = Lab::with(&[(1, None)]);
    lab.probe(1, ANSWERED);
    let effects = lab.probe(1, Outcome { lost: 1, answer: Ok(Duration::from_millis(5)) });
    assert_eq!((events(&effects), lab.status(1)), (vec![], (Status::Connected, None)));
    assert!((lab.table.known(GatewayId(1)).unwrap().loss_percent.unwrap() - 100.0 / 3.0).abs() < 1e-9);
}

#[test]
fn thresholds_degrade_without_an_event() {
    let mut lab = Lab::with(&[]);
    let mut slow = gateway(1, None);
    (slow.max_rtt_ms, slow.max_loss_percent) = (Some(10.0), Some(20.0));
    lab.table.put(slow, None, lab.now);
    assert_eq!(events(&lab.probe(1, Outcome { lost: 0, answer: Ok(Duration::from_millis(30)) })), [1]);
    assert_eq!(lab.status(1), (Status::Degraded, Some(Reason::HighRtt)));
    assert_eq!(Status::Degraded.is_up(), Some(true));
    lab.probe(1, Outcome { lost: 1, answer: Ok(Duration::from_millis(1)) });
    assert_eq!(lab.status(1), (Status::Degraded, Some(Reason::HighLoss)));
    for _ in 0..20 {
        let effects = lab.probe(1, ANSWERED);
        assert!(events(&effects).is_empty());
    }
    assert_eq!(lab.status(1), (Status::Connected, None));
}

#[test]
fn children_go_down_with_their_parent_and_are_found_again_after_it_without_events() {
    let mut lab = Lab::with(&[(1, None), (2, Some(1)), (3, Some(2)), (4, None)]);
    for id in 1..=4 {
        lab.probe(id, ANSWERED);
    }
    let effects = lab.probe(1, LOST);
    assert_eq!(events(&effects), [1]);
    let down = |id| (id, Status::Disconnected);
    assert_eq!(transitions(&effects), [down(1), down(2), down(3)]);
    for id in [2, 3] {
        assert_eq!(lab.status(id), (Status::Disconnected, Some(Reason::ParentDown)));
        assert!(lab.table.to_probe(GatewayId(id)).is_none());
    }
    assert_eq!(lab.status(4).0, Status::Connected);
    // a probe that was running when the parent went down changes nothing
    let effects = lab.probe(2, ANSWERED);
    assert_eq!((transitions(&effects), lab.status(2).1), (vec![], Some(Reason::ParentDown)));
    let effects = lab.probe(1, ANSWERED);
    assert_eq!((events(&effects), probes(&effects)), (vec![1], vec![2]));
    assert_eq!(lab.status(2).1, Some(Reason::ParentDown));
    let effects = lab.probe(2, ANSWERED);
    assert_eq!(
        (events(&effects), transitions(&effects), probes(&effects)),
        (vec![], vec![(2, Status::Connected)], vec![3])
    );
    // what is found to be down by itself is told
    lab.probe(3, LOST);
    let effects = lab.probe(2, ANSWERED);
    assert_eq!((events(&effects), transitions(&effects)), (vec![3], vec![]));
    assert_eq!(lab.status(3), (Status::Disconnected, Some(Reason::Timeout)));
}

#[test]
fn a_failure_waits_for_the_parents_probe() {
    let mut lab = Lab::with(&[(1, None), (2, Some(1)), (3, Some(2))]);
    for id in 1..=3 {
        lab.probe(id, ANSWERED);
    }
    let effects = lab.probe(3, LOST);
    assert_eq!((events(&effects), transitions(&effects), probes(&effects)), (vec![], vec![], vec![2]));
    let effects = lab.probe(2, LOST);
    assert_eq!((events(&effects), transitions(&effects), probes(&effects)), (vec![], vec![], vec![1]));
    let effects = lab.probe(1, LOST);
    assert_eq!(events(&effects), [1]);
    assert_eq!((lab.status(2).1, lab.status(3).1), (Some(Reason::ParentDown), Some(Reason::ParentDown)));
}

#[test]
fn a_failure_is_its_own_when_the_parent_answers_or_can_not_be_probed() {
    let mut lab = Lab::with(&[(1, None), (2, Some(1))]);
    lab.probe(1, ANSWERED);
    lab.probe(2, ANSWERED);
    assert_eq!(probes(&lab.probe(2, LOST)), [1]);
    // a parent's probe that began before the failure proves nothing
    let early = lab.table.probed(GatewayId(1), 0, DateTime::UNIX_EPOCH, ANSWERED, lab.now);
    assert!(events(&early).is_empty());
    assert_eq!(events(&lab.probe(1, ANSWERED)), [2]);
    assert_eq!(lab.status(2), (Status::Disconnected, Some(Reason::Timeout)));
    lab.probe(2, ANSWERED);
    lab.probe(2, LOST);
    let effects = lab.table.not_probed(GatewayId(1), lab.now, lab.now);
    assert_eq!(events(&effects), [2]);
}

#[test]
fn what_was_so_before_the_start_goes_on() {
    let mut lab = Lab::with(&[]);
    let at = lab.now - TimeDelta::days(1);
    let before = Transition { at, status: Status::Disconnected, reason: Some(Reason::Timeout) };
    lab.table.put(gateway(1, None), Some(before), lab.now);
    lab.table.put(gateway(2, None), Some(before), lab.now);
    assert_eq!(lab.status(1).0, Status::Unknown);
    let effects = lab.probe(1, LOST);
    assert_eq!((events(&effects), transitions(&effects)), (vec![], vec![]));
    assert_eq!(lab.table.known(GatewayId(1)).unwrap().since, at);
    let effects = lab.probe(2, ANSWERED);
    assert_eq!((events(&effects), transitions(&effects)), (vec![2], vec![(2, Status::Connected)]));
}

#[test]
fn the_last_change_is_the_latest_also_when_the_clock_goes_back() {
    let mut lab = Lab::with(&[(1, None)]);
    lab.probe(1, ANSWERED);
    let up = lab.table.known(GatewayId(1)).unwrap().since;
    lab.now -= TimeDelta::hours(1);
    lab.probe(1, LOST);
    assert!(lab.table.known(GatewayId(1)).unwrap().since > up);
}

#[test]
fn another_address_begins_anew_and_probes_of_the_old_one_do_not_count() {
    let mut lab = Lab::with(&[(1, None), (2, Some(1))]);
    lab.probe(1, LOST);
    let moved = Gateway { address: Address::parse("192.0.2.2").unwrap(), ..gateway(1, None) };
    let effects = lab.table.put(moved, None, lab.now);
    assert_eq!((lab.status(1).0, probes(&effects)), (Status::Unknown, vec![1, 2]));
    assert_eq!(lab.table.probed(GatewayId(1), 0, lab.now, LOST, lab.now), Effects::default());
    assert_eq!(lab.status(1).0, Status::Unknown);
    // a new name does not change the state
    lab.probe(1, ANSWERED);
    let renamed = Gateway { name: "x".into(), ..Gateway::clone(&lab.table.known(GatewayId(1)).unwrap().gateway) };
    lab.table.put(renamed, None, lab.now);
    assert_eq!(lab.status(1).0, Status::Connected);
}

#[test]
fn parents_can_be_given_taken_and_removed_but_not_in_a_circle() {
    let mut lab = Lab::with(&[(1, None), (2, Some(1)), (3, Some(2))]);
    lab.table.put(gateway(1, Some(3)), None, lab.now);
    assert_eq!(lab.table.known(GatewayId(1)).unwrap().gateway.parent_id, None);
    lab.probe(2, ANSWERED);
    lab.probe(1, LOST);
    assert_eq!(lab.status(2).1, Some(Reason::ParentDown));
    // a gateway whose new parent is down is down
    assert_eq!(transitions(&lab.table.put(gateway(4, Some(1)), None, lab.now)), [(4, Status::Disconnected)]);
    assert_eq!(probes(&lab.table.put(gateway(4, None), None, lab.now)), [4]);
    assert!(lab.table.to_probe(GatewayId(4)).is_some());
    let effects = lab.table.remove(GatewayId(1));
    assert_eq!(probes(&effects), [2]);
    assert_eq!(lab.table.known(GatewayId(2)).unwrap().gateway.parent_id, None);
    assert!(lab.table.to_probe(GatewayId(2)).is_some() && lab.table.known(GatewayId(1)).is_none());
    assert_eq!(lab.table.len(), 3);
}

#[test]
fn what_a_probe_of_a_deleted_gateway_found_says_nothing_of_the_next_one_with_its_id() {
    let mut lab = Lab::with(&[(1, None)]);
    let (_, version, _) = lab.table.to_probe(GatewayId(1)).unwrap();
    lab.table.remove(GatewayId(1));
    lab.table.put(gateway(1, None), None, lab.now);
    assert!(!lab.table.is_current(GatewayId(1), version));
    assert_eq!(lab.table.probed(GatewayId(1), version, lab.now, LOST, lab.now), Effects::default());
    assert_eq!(lab.status(1), (Status::Unknown, None));
}

#[test]
fn a_chain_of_gateways_of_any_length_goes_down_with_its_first() {
    const LENGTH: i64 = 100_000;
    let mut lab = Lab::with(&[(1, None)]);
    for id in 2..=LENGTH {
        // a check for cycles would walk the whole chain each time
        lab.table.put(gateway(id, None), None, lab.now);
        lab.table.children.entry(GatewayId(id - 1)).or_default().insert(GatewayId(id));
    }
    lab.probe(1, ANSWERED);
    lab.probe(1, LOST);
    assert_eq!(lab.status(LENGTH), (Status::Disconnected, Some(Reason::ParentDown)));
}
