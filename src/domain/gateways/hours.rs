//! The probes of each gateway, collected into hourly records.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::ids::GatewayId;

/// How long probes are added to the same record.
const SPAN: TimeDelta = TimeDelta::hours(1);

/// How often an unfinished record is stored: a crash loses at most the probes of this time.
const UNRECORDED: TimeDelta = TimeDelta::seconds(60);

/// The probes of about an hour.
#[derive(Debug, Clone, PartialEq)]
pub struct Hour {
    /// The time of the first.
    pub began_at: DateTime<Utc>,
    /// The number of probes.
    pub probes: u32,
    /// The number of answered probes.
    pub answered: u32,
    /// Their mean round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Each probe: milliseconds since the first, and its round trip in milliseconds. `None`: no longer kept.
    pub samples: Option<Vec<(u32, Option<f64>)>>,
}

#[derive(Debug)]
struct Gathering {
    began_at: DateTime<Utc>,
    samples: Vec<(u32, Option<f64>)>,
    /// when it was last recorded, or began
    recorded_at: DateTime<Utc>,
    is_recorded: bool,
}

/// The unfinished hours.
#[derive(Debug, Default)]
pub struct Hours(HashMap<GatewayId, Gathering>);

impl Hours {
    /// Adds a probe. Returns the hours to be stored now: one that is over, and an unfinished one if `may_record`.
    pub fn add(&mut self, id: GatewayId, at: DateTime<Utc>, rtt_ms: Option<f64>, may_record: bool) -> Vec<Hour> {
        let mut due = Vec::new();
        if self.0.get(&id).is_some_and(|hour| !(TimeDelta::zero()..SPAN).contains(&(at - hour.began_at))) {
            due.extend(self.record(id));
            self.0.remove(&id);
        }
        let hour = self.0.entry(id).or_insert_with(|| Gathering {
            began_at: at,
            samples: Vec::new(),
            recorded_at: at,
            is_recorded: false,
        });
        let offset = (at - hour.began_at).num_milliseconds().try_into().unwrap_or(0);
        // microseconds are more exact than any probe, and take less space than nanoseconds
        hour.samples.push((offset, rtt_ms.map(|ms| (ms * 1000.0).round() / 1000.0)));
        hour.is_recorded = false;
        if may_record && at - hour.recorded_at >= UNRECORDED {
            hour.recorded_at = at;
            due.extend(self.record(id));
        }
        due
    }

    /// The hour of a gateway that is not stored yet.
    pub fn record(&mut self, id: GatewayId) -> Option<Hour> {
        let hour = self.0.get_mut(&id).filter(|hour| !hour.is_recorded)?;
        hour.is_recorded = true;
        let answered: Vec<f64> = hour.samples.iter().filter_map(|(_, rtt)| *rtt).collect();
        Some(Hour {
            began_at: hour.began_at,
            probes: hour.samples.len() as u32,
            answered: answered.len() as u32,
            rtt_ms: (!answered.is_empty()).then(|| answered.iter().sum::<f64>() / answered.len() as f64),
            samples: Some(hour.samples.clone()),
        })
    }

    /// All hours that are not stored yet, by gateway.
    pub fn record_all(&mut self) -> Vec<(GatewayId, Hour)> {
        let ids: Vec<GatewayId> = self.0.keys().copied().collect();
        ids.into_iter().filter_map(|id| Some((id, self.record(id)?))).collect()
    }

    /// Forgets a gateway.
    pub fn remove(&mut self, id: GatewayId) {
        self.0.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_recorded_once_a_minute_when_it_is_over_and_when_asked() {
        let mut hours = Hours::default();
        let mut recorded = Vec::new();
        for second in (0..=3600).step_by(10) {
            let at = DateTime::UNIX_EPOCH + TimeDelta::seconds(second);
            let rtt = (second % 20 == 0).then_some(second as f64);
            recorded.extend(hours.add(GatewayId(1), at, rtt, true));
        }
        let sizes: Vec<_> = recorded.iter().map(|hour| hour.probes).collect();
        let expected: Vec<_> = (1..=59).map(|minute| minute * 6 + 1).chain([360]).collect();
        assert_eq!(sizes, expected);
        let whole = recorded.last().unwrap();
        assert_eq!((whole.began_at, whole.answered, whole.rtt_ms), (DateTime::UNIX_EPOCH, 180, Some(1790.0)));
        assert_eq!(whole.samples.as_ref().unwrap()[..2], [(0, Some(0.0)), (10_000, None)]);
        let next = hours.record(GatewayId(1)).unwrap();
        assert_eq!((next.probes, next.began_at), (1, DateTime::UNIX_EPOCH + TimeDelta::hours(1)));
        assert_eq!((hours.record(GatewayId(1)), hours.record_all().len()), (None, 0));
        hours.add(GatewayId(2), next.began_at, None, true);
        assert_eq!(hours.record_all()[0].0, GatewayId(2));
        hours.add(GatewayId(2), next.began_at, None, true);
        hours.remove(GatewayId(2));
        assert_eq!(hours.record_all(), []);
    }

    #[test]
    fn a_clock_that_is_set_back_begins_a_new_hour() {
        let mut hours = Hours::default();
        let at = DateTime::UNIX_EPOCH + TimeDelta::hours(5);
        hours.add(GatewayId(1), at, None, true);
        assert_eq!(hours.add(GatewayId(1), at - TimeDelta::hours(1), None, true).len(), 1);
        assert_eq!(hours.record(GatewayId(1)).unwrap().began_at, at - TimeDelta::hours(1));
    }
}
