//! The gateways and how they are, as their probes tell.
//!
//! What is behind a gateway that is down is down with it (`parent_down`), and nobody is told of that twice. A failure
//! of a gateway that has a parent is believed only when the parent has been probed after it: else the first sign of a
//! site that lost its power would be an event for each machine in it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Gateway, GatewayState, Outcome, Reason, Status, Transition, Window, is_behind_itself};
use crate::domain::ids::GatewayId;

#[derive(Debug)]
struct Entry {
    gateway: Arc<Gateway>,
    /// changes with the address: what a probe of another address found says nothing
    version: u64,
    window: Window,
    status: Status,
    reason: Option<Reason>,
    since: DateTime<Utc>,
    probed_at: Option<DateTime<Utc>>,
    /// when the last probe that is over began
    began_at: Option<DateTime<Utc>>,
    /// how it was before the process started; goes on if the first probe says the same
    before: Option<Transition>,
    /// up or down, as the events have it
    told: Option<bool>,
    /// a failure that waits for the parent's probe, and when its own began
    suspect: Option<(Reason, DateTime<Utc>)>,
}

/// What follows from a change or a probe.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The gateways of which something changed, be it a figure.
    pub changes: BTreeMap<GatewayId, Delta>,
    /// Gateways that should be probed at once.
    pub probe: Vec<GatewayId>,
}

/// What is different about one gateway.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Its status changed.
    pub transition: Option<Transition>,
    /// It came or went by itself: an event for those who watch.
    pub event: bool,
}

/// All gateways.
#[derive(Debug, Default)]
pub struct GatewayTable {
    entries: HashMap<GatewayId, Entry>,
    /// versions given so far; none is given twice, also not to another gateway of the same id
    versions: u64,
    children: HashMap<GatewayId, BTreeSet<GatewayId>>,
}

impl GatewayTable {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A gateway and how it is.
    pub fn known(&self, id: GatewayId) -> Option<GatewayState> {
        let entry = self.entries.get(&id)?;
        Some(GatewayState {
            gateway: entry.gateway.clone(),
            status: entry.status,
            reason: entry.reason,
            since: entry.since,
            probed_at: entry.probed_at,
            rtt_ms: entry.window.last(),
            loss_percent: entry.window.loss_percent(),
        })
    }

    /// What a probe of it needs: the gateway, its version, and whether it is down. None: it is not to be probed, since
    /// what it is behind is down.
    pub fn to_probe(&self, id: GatewayId) -> Option<(Arc<Gateway>, u64, bool)> {
        let entry = self.entries.get(&id).filter(|_| !self.is_behind_down(id))?;
        Some((entry.gateway.clone(), entry.version, entry.status == Status::Disconnected))
    }

    /// Whether this is still the version of a gateway that counts.
    pub fn is_current(&self, id: GatewayId, version: u64) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.version == version)
    }

    /// Adds a gateway, or changes one. `before` is how it was when the last process ended.
    pub fn put(&mut self, mut gateway: Gateway, before: Option<Transition>, now: DateTime<Utc>) -> Effects {
        let id = gateway.id;
        let parent_of = |id: GatewayId| self.entries.get(&id).and_then(|entry| entry.gateway.parent_id);
        gateway.parent_id = gateway.parent_id.filter(|parent| !is_behind_itself(id, *parent, parent_of));
        let parent = gateway.parent_id;
        let mut effects = Effects { changes: BTreeMap::new(), probe: vec![id] };
        let gateway = Arc::new(gateway);
        self.versions += 1;
        let version = self.versions;
        match self.entries.get_mut(&id) {
            Some(entry) => {
                let old = std::mem::replace(&mut entry.gateway, gateway.clone());
                if old.address != gateway.address {
                    entry.version = version;
                    entry.window = Window::default();
                    (entry.status, entry.reason, entry.since) = (Status::Unknown, None, now);
                    (entry.probed_at, entry.began_at, entry.before) = (None, None, None);
                    // what is behind it was down with it, or waits for a probe that will not count
                    effects.probe.extend(self.children_of(id));
                }
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.suspect = None;
                }
                if old.parent_id != parent {
                    self.unlink(id, old.parent_id);
                }
            }
            None => {
                // what went down with something else was not told
                let told = before.and_then(|before| match before.reason {
                    Some(Reason::ParentDown) => Some(true),
                    _ => before.status.is_up(),
                });
                let entry = Entry {
                    gateway,
                    version,
                    window: Window::default(),
                    status: Status::Unknown,
                    reason: None,
                    since: now,
                    probed_at: None,
                    began_at: None,
                    before,
                    told,
                    suspect: None,
                };
                self.entries.insert(id, entry);
                // gateways that name it as their parent may have been here first
                effects.probe.extend(self.children_of(id));
            }
        }
        if let Some(parent) = parent {
            self.children.entry(parent).or_default().insert(id);
        }
        effects.touch(id);
        if self.is_behind_down(id) {
            self.drag_down(id, now, &mut effects);
        }
        effects
    }

    /// Removes a gateway. What is behind it is behind nothing then.
    pub fn remove(&mut self, id: GatewayId) -> Effects {
        let mut effects = Effects::default();
        let Some(entry) = self.entries.remove(&id) else { return effects };
        self.unlink(id, entry.gateway.parent_id);
        for child in self.children.remove(&id).unwrap_or_default() {
            let Some(entry) = self.entries.get_mut(&child) else { continue };
            Arc::make_mut(&mut entry.gateway).parent_id = None;
            entry.suspect = None;
            effects.touch(child);
            effects.probe.push(child);
        }
        effects
    }

    /// A probe that began at that time is over.
    pub fn probed(
        &mut self,
        id: GatewayId,
        version: u64,
        began: DateTime<Utc>,
        outcome: Outcome,
        now: DateTime<Utc>,
    ) -> Effects {
        let mut effects = Effects::default();
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.version == version) else { return effects };
        (0..outcome.lost).for_each(|_| entry.window.push(None));
        if let Ok(rtt) = outcome.answer {
            entry.window.push(Some(rtt.as_secs_f64() * 1000.0));
        }
        (entry.probed_at, entry.began_at) = (Some(now), Some(began));
        effects.touch(id);
        if self.is_behind_down(id) {
            return effects;
        }
        match outcome.answer {
            Ok(_) => self.up(id, now, &mut effects),
            Err(reason) => self.failed(id, reason, began, now, &mut effects),
        }
        effects
    }

    /// A probe that began at that time could not be made, which says nothing of the gateway; but who waits for it waits
    /// no longer.
    pub fn not_probed(&mut self, id: GatewayId, began: DateTime<Utc>, now: DateTime<Utc>) -> Effects {
        let mut effects = Effects::default();
        self.settle_suspects(id, began, now, &mut effects);
        effects
    }

    fn up(&mut self, id: GatewayId, now: DateTime<Utc>, effects: &mut Effects) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.suspect = None;
        let was_down = entry.status == Status::Disconnected;
        let (status, reason) = entry.verdict();
        let began = entry.began_at;
        self.set(id, status, reason, true, now, effects);
        if was_down {
            // each of them is as it is found now
            effects.probe.extend(self.children_of(id));
        }
        if let Some(began) = began {
            self.settle_suspects(id, began, now, effects);
        }
    }

    fn failed(
        &mut self,
        id: GatewayId,
        reason: Reason,
        began: DateTime<Utc>,
        now: DateTime<Utc>,
        effects: &mut Effects,
    ) {
        let Some(entry) = self.entries.get(&id) else { return };
        let is_told = entry.status == Status::Disconnected && entry.told == Some(false);
        let parent = entry.gateway.parent_id.filter(|parent| {
            let parent = self.entries.get(parent);
            parent.is_some_and(|parent| parent.began_at.is_none_or(|probed| probed < began))
        });
        match parent {
            Some(parent) if !is_told => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.suspect = Some((reason, began));
                }
                effects.probe.push(parent);
            }
            _ => self.down(id, reason, now, effects),
        }
    }

    /// The parent has been probed and is not down: failures from before that are their own.
    fn settle_suspects(&mut self, parent: GatewayId, began: DateTime<Utc>, now: DateTime<Utc>, effects: &mut Effects) {
        for child in self.children_of(parent) {
            let Some(entry) = self.entries.get(&child) else { continue };
            if let Some((reason, _)) = entry.suspect.filter(|(_, failed)| *failed <= began) {
                self.down(child, reason, now, effects);
            }
        }
    }

    fn down(&mut self, id: GatewayId, reason: Reason, now: DateTime<Utc>, effects: &mut Effects) {
        self.set(id, Status::Disconnected, Some(reason), true, now, effects);
        for child in self.children_of(id) {
            self.drag_down(child, now, effects);
        }
    }

    /// What it is behind is down.
    fn drag_down(&mut self, id: GatewayId, now: DateTime<Utc>, effects: &mut Effects) {
        // however long the chain of parents is, the stack is not
        let mut dragged = vec![id];
        while let Some(id) = dragged.pop() {
            self.set(id, Status::Disconnected, Some(Reason::ParentDown), false, now, effects);
            dragged.extend(self.children_of(id));
        }
    }

    fn set(
        &mut self,
        id: GatewayId,
        status: Status,
        reason: Option<Reason>,
        is_own: bool,
        now: DateTime<Utc>,
        effects: &mut Effects,
    ) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if status == Status::Disconnected {
            entry.suspect = None;
        }
        entry.reason = reason;
        let mut transition = None;
        if entry.status != status {
            let was_unknown = entry.status == Status::Unknown;
            // also if the clock has gone back, the last change is the latest
            let last = if was_unknown { entry.before.map(|before| before.at) } else { Some(entry.since) };
            let now = last.map_or(now, |last| now.max(last + TimeDelta::microseconds(1)));
            let continued = entry.before.take().filter(|before| was_unknown && before.status == status);
            entry.status = status;
            entry.since = continued.map_or(now, |before| before.at);
            transition = continued.is_none().then_some(Transition { at: now, status, reason });
        }
        let event = is_own && entry.told != status.is_up();
        if event {
            entry.told = status.is_up();
        }
        let change = effects.touch(id);
        change.transition = transition.or(change.transition);
        change.event |= event;
    }

    fn is_behind_down(&self, id: GatewayId) -> bool {
        let parent = self.entries.get(&id).and_then(|entry| self.entries.get(&entry.gateway.parent_id?));
        parent.is_some_and(|parent| parent.status == Status::Disconnected)
    }

    fn children_of(&self, id: GatewayId) -> Vec<GatewayId> {
        self.children.get(&id).map(|children| children.iter().copied().collect()).unwrap_or_default()
    }

    fn unlink(&mut self, id: GatewayId, parent: Option<GatewayId>) {
        if let Some(parent) = parent
            && let Some(children) = self.children.get_mut(&parent)
        {
            children.remove(&id);
            if children.is_empty() {
                self.children.remove(&parent);
            }
        }
    }
}

impl Entry {
    /// What the window says of a gateway that answers.
    fn verdict(&self) -> (Status, Option<Reason>) {
        let over = |value: Option<f64>, most: Option<f64>| value.zip(most).is_some_and(|(value, most)| value > most);
        if over(self.window.loss_percent(), self.gateway.max_loss_percent) {
            (Status::Degraded, Some(Reason::HighLoss))
        } else if over(self.window.mean_rtt_ms(), self.gateway.max_rtt_ms) {
            (Status::Degraded, Some(Reason::HighRtt))
        } else {
            (Status::Connected, None)
        }
    }
}

impl Effects {
    fn touch(&mut self, id: GatewayId) -> &mut Delta {
        self.changes.entry(id).or_default()
    }
}

#[cfg(test)]
mod tests {
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
        // a probe that was under way when the parent went down changes nothing
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
        // another name is no reason to doubt what is known
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
        // one that comes to be behind what is down is down
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
}
