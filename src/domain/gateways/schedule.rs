//! The times of probes: a new gateway is probed at once, then at its own moment of each period, so that the probes of many
//! gateways are spread over the period.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::domain::ids::GatewayId;

/// The golden ratio: its multiples modulo 1 are spread evenly, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

#[derive(Debug)]
struct Slot {
    /// its moment of the next period
    next: Instant,
    /// when it is due; `None` while it is probed
    due: Option<Instant>,
    /// the next probe is due as soon as the present one ends
    again: bool,
}

/// When each gateway is due.
#[derive(Debug)]
pub struct Schedule {
    period: Duration,
    slots: HashMap<GatewayId, Slot>,
    due: BTreeSet<(Instant, GatewayId)>,
    added: u32,
}

impl Schedule {
    /// A schedule that probes each gateway once per period.
    pub fn new(period: Duration) -> Self {
        Self { period, slots: HashMap::new(), due: BTreeSet::new(), added: 0 }
    }

    /// Adds or changes a gateway, which is due now.
    pub fn add(&mut self, id: GatewayId, now: Instant) {
        if self.slots.contains_key(&id) {
            return self.at_once(id, now);
        }
        self.added = self.added.wrapping_add(1);
        let next = now + self.period.mul_f64((f64::from(self.added) * GOLDEN).fract());
        self.slots.insert(id, Slot { next, due: Some(now), again: false });
        self.due.insert((now, id));
    }

    /// Removes a gateway.
    pub fn remove(&mut self, id: GatewayId) {
        if let Some(Slot { due: Some(due), .. }) = self.slots.remove(&id) {
            self.due.remove(&(due, id));
        }
    }

    /// Makes a gateway due now, or again after its present probe.
    pub fn at_once(&mut self, id: GatewayId, now: Instant) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        match &mut slot.due {
            None => slot.again = true,
            Some(due) => {
                self.due.remove(&(*due, id));
                *due = now.min(*due);
                self.due.insert((*due, id));
            }
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes the gateway that has been due for longest, with the time at which it was due. It is due again only after
    /// [`done`](Self::done).
    pub fn take(&mut self, now: Instant) -> Option<(GatewayId, Instant)> {
        let (due, id) = self.due.first().copied().filter(|(due, _)| *due <= now)?;
        self.due.remove(&(due, id));
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.due = None;
        }
        Some((id, due))
    }

    /// Ends the probe of a gateway.
    pub fn done(&mut self, id: GatewayId, now: Instant) {
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.due.is_none()) else { return };
        if slot.next <= now {
            // skips the moments that have passed in the meantime
            let missed = (now - slot.next).as_nanos() / self.period.as_nanos().max(1) + 1;
            slot.next += self.period * u32::try_from(missed).unwrap_or(u32::MAX);
        }
        let due = if std::mem::take(&mut slot.again) { now } else { slot.next };
        slot.due = Some(due);
        self.due.insert((due, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);

    #[test]
    fn a_new_gateway_is_due_at_once_and_then_once_per_period() {
        let start = Instant::now();
        let mut schedule = Schedule::new(PERIOD);
        schedule.add(GatewayId(1), start);
        let mut dues = Vec::new();
        for _ in 0..4 {
            let due = schedule.next().unwrap();
            assert_eq!(schedule.take(due), Some((GatewayId(1), due)));
            assert_eq!((schedule.take(due), schedule.next()), (None, None));
            schedule.done(GatewayId(1), due);
            dues.push(due);
        }
        assert_eq!(dues[0], start);
        assert!(dues[1] - dues[0] <= PERIOD);
        assert_eq!((dues[2] - dues[1], dues[3] - dues[2]), (PERIOD, PERIOD));
    }

    #[test]
    fn many_gateways_are_spread_over_the_period() {
        let start = Instant::now();
        let mut schedule = Schedule::new(PERIOD);
        (0..1000).for_each(|id| schedule.add(GatewayId(id), start));
        while let Some((id, _)) = schedule.take(start) {
            schedule.done(id, start);
        }
        let mut per_second = [0; 10];
        while let Some((_, due)) = schedule.take(start + PERIOD) {
            per_second[(due - start).as_secs().min(9) as usize] += 1;
        }
        assert!(per_second.iter().all(|count| (98..=102).contains(count)), "{per_second:?}");
    }

    #[test]
    fn moments_that_were_missed_are_left_out() {
        let start = Instant::now();
        let mut schedule = Schedule::new(PERIOD);
        schedule.add(GatewayId(1), start);
        schedule.take(start).unwrap();
        schedule.done(GatewayId(1), start);
        let moment = schedule.next().unwrap();
        schedule.take(moment).unwrap();
        schedule.done(GatewayId(1), moment + PERIOD * 3 + Duration::from_secs(1));
        assert_eq!(schedule.next(), Some(moment + PERIOD * 4));
    }

    #[test]
    fn a_probe_at_once_comes_after_the_one_under_way_and_moves_no_moment() {
        let start = Instant::now();
        let mut schedule = Schedule::new(PERIOD);
        schedule.add(GatewayId(1), start);
        schedule.take(start).unwrap();
        schedule.at_once(GatewayId(1), start);
        assert_eq!(schedule.next(), None);
        schedule.done(GatewayId(1), start);
        assert_eq!(schedule.take(start), Some((GatewayId(1), start)));
        schedule.done(GatewayId(1), start);
        let moment = schedule.next().unwrap();
        schedule.at_once(GatewayId(1), start);
        assert_eq!(schedule.take(start), Some((GatewayId(1), start)));
        schedule.done(GatewayId(1), start);
        assert_eq!(schedule.next(), Some(moment));
    }

    #[test]
    fn a_removed_gateway_is_never_due() {
        let start = Instant::now();
        let mut schedule = Schedule::new(PERIOD);
        schedule.add(GatewayId(1), start);
        schedule.add(GatewayId(2), start);
        assert_eq!(schedule.take(start), Some((GatewayId(1), start)));
        schedule.remove(GatewayId(1));
        schedule.remove(GatewayId(2));
        schedule.done(GatewayId(1), start);
        assert_eq!(schedule.next(), None);
    }
}
