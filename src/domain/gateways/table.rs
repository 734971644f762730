//! The gateways and how they are, as their probes tell.
//!
//! What is behind a gateway that is down is down with it (`parent_down`), and nobody is told of that twice. A failure
//! of a gateway that has a parent is believed only when the parent has been probed after it: else the first sign of a
//! site that lost its power would be an event for each machine in it.

#[cfg(test)]
mod tests;

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
