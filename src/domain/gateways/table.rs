//! The state of all gateways, determined by their probes.
//!
//! Gateways behind one that is down are down with it (`parent_down`), without events of their own. A failure of a gateway
//! with a parent counts only after a later probe of the parent: otherwise a site that loses its power would cause an event
//! for each machine in it.

mod following;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};

pub use self::following::Found;
use super::{Gateway, GatewayState, Outcome, Reason, Status, Transition, Window, is_behind_itself};
use crate::domain::ids::GatewayId;

#[derive(Debug)]
struct Entry {
    gateway: Arc<Gateway>,
    /// changes with the address, so that results of probes of an earlier address are dropped
    version: u64,
    window: Window,
    status: Status,
    reason: Option<Reason>,
    since: DateTime<Utc>,
    probed_at: Option<DateTime<Utc>>,
    /// when the last finished probe began
    began_at: Option<DateTime<Utc>>,
    /// its state before this process started; it continues if the first probe has the same result
    before: Option<Transition>,
    /// the time of the last change that may be in its history; those to come are later
    latest: Option<DateTime<Utc>>,
    /// up or down, as the last event said
    told: Option<bool>,
    /// a failure that waits for a probe of the parent, and when the failed probe began
    suspect: Option<(Reason, DateTime<Utc>)>,
}

/// The consequences of a change or a probe.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The gateways of which anything has changed, also only a figure.
    pub changes: BTreeMap<GatewayId, Delta>,
    /// Gateways that should be probed at once.
    pub probe: Vec<GatewayId>,
}

/// What has changed of one gateway.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Its status changed.
    pub transition: Option<Transition>,
    /// It went up or down, not only with its parent: there is an event.
    pub event: bool,
}

/// All gateways.
#[derive(Debug, Default)]
pub struct GatewayTable {
    entries: HashMap<GatewayId, Entry>,
    /// the last version given; no version is given twice, even if an id is used again
    versions: u64,
    children: HashMap<GatewayId, BTreeSet<GatewayId>>,
    /// another node probes the gateways
    follows: bool,
}

impl GatewayTable {
    /// The number of gateways.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no gateways.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A gateway and its state.
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

    /// The input of a probe: the gateway, its version, and whether it is down. `None`: it is not probed, since its parent is
    /// down.
    pub fn to_probe(&self, id: GatewayId) -> Option<(Arc<Gateway>, u64, bool)> {
        let entry = self.entries.get(&id).filter(|_| !self.is_behind_down(id))?;
        Some((entry.gateway.clone(), entry.version, entry.status == Status::Disconnected))
    }

    /// Whether this is still the gateway's version.
    pub fn is_current(&self, id: GatewayId, version: u64) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.version == version)
    }

    /// Adds or changes a gateway. `before` is its state when the last process ended.
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
                    // the gateways behind it were down with it, or wait for a probe that will be dropped
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
                // there was no event when it went down with its parent
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
                    latest: before.map(|before| before.at),
                    told,
                    suspect: None,
                };
                self.entries.insert(id, entry);
                // gateways with this parent may have been added before it
                effects.probe.extend(self.children_of(id));
            }
        }
        if let Some(parent) = parent {
            self.children.entry(parent).or_default().insert(id);
        }
        effects.touch(id);
        // else the other node does
        if !self.follows && self.is_behind_down(id) {
            self.drag_down(id, now, &mut effects);
        }
        effects
    }

    /// Removes a gateway. The gateways behind it have no parent afterwards.
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

    /// Handles the result of a probe that began at this time.
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

    /// Handles a probe that began at this time and could not be made. The gateway's state stays, but failures that waited for
    /// this probe count now.
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
            // each of them is probed again
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

    /// The parent's probe is over and did not find it down: earlier failures of the gateways behind it count.
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

    /// Its parent is down.
    fn drag_down(&mut self, id: GatewayId, now: DateTime<Utc>, effects: &mut Effects) {
        // a loop, since a long chain of parents would overflow the stack
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
            // changes stay in order even if the clock has gone back, or is another node's
            let now = entry.latest.map_or(now, |last| now.max(last + TimeDelta::microseconds(1)));
            let continued = entry.before.take().filter(|before| was_unknown && before.status == status);
            entry.status = status;
            entry.since = continued.map_or(now, |before| before.at);
            transition = continued.is_none().then_some(Transition { at: now, status, reason });
            entry.latest = transition.map(|transition| transition.at).or(entry.latest);
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
    /// The status of a gateway that answers, by its window.
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
