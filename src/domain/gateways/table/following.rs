//! What a node knows of gateways while another node probes them, and how it goes on from there.

use chrono::{DateTime, Utc};

use super::{Effects, Entry, GatewayTable};
use crate::domain::{
    gateways::{Reason, Status, Transition, Window},
    ids::GatewayId,
};

/// What another node has found of a gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The address that was probed. What was found at another address says nothing.
    pub address: String,
    /// The status.
    pub status: Status,
    /// Why it is degraded or disconnected.
    pub reason: Option<Reason>,
    /// The time of the last change of status.
    pub since: DateTime<Utc>,
    /// The time of the last probe.
    pub probed_at: Option<DateTime<Utc>>,
    /// The last attempts.
    pub window: Window,
}

impl GatewayTable {
    /// Another node probes the gateways from now on.
    pub fn follow(&mut self) {
        self.follows = true;
        self.entries.values_mut().for_each(|entry| entry.suspect = None);
    }

    /// This node probes the gateways from now on, and goes on with what is known of them.
    pub fn lead(&mut self, now: DateTime<Utc>) -> Effects {
        self.follows = false;
        let mut effects = Effects::default();
        for id in self.ids() {
            let is_up = self.entries.get(&id).is_some_and(|entry| entry.status != Status::Disconnected);
            if is_up && self.is_behind_down(id) {
                self.drag_down(id, now, &mut effects);
            }
        }
        effects
    }

    /// All gateways, in no order.
    pub fn ids(&self) -> Vec<GatewayId> {
        self.entries.keys().copied().collect()
    }

    /// What is known of a gateway, for other nodes.
    pub fn found(&self, id: GatewayId) -> Option<Found> {
        let entry = self.entries.get(&id)?;
        Some(Found {
            address: entry.gateway.address.as_str().to_owned(),
            status: entry.status,
            reason: entry.reason,
            since: entry.since,
            probed_at: entry.probed_at,
            window: entry.window.clone(),
        })
    }

    /// Takes over what another node has found of a gateway. The change is in its history already.
    pub fn adopt(&mut self, id: GatewayId, found: Found) -> Effects {
        let mut effects = Effects::default();
        let Some(entry) = self.entries.get_mut(&id) else { return effects };
        if entry.gateway.address.as_str() == found.address {
            (entry.probed_at, entry.window) = (found.probed_at, found.window);
            entry.turn(found.status, found.reason, found.since, id, &mut effects);
        }
        effects
    }

    /// Takes over a change of status from a gateway's history, unless something later is known. It says nothing of round trips.
    pub fn adopt_stored(&mut self, id: GatewayId, stored: Transition) -> Effects {
        let mut effects = Effects::default();
        let Some(entry) = self.entries.get_mut(&id) else { return effects };
        if entry.latest.is_none_or(|latest| stored.at > latest) || entry.before == Some(stored) {
            (entry.probed_at, entry.window) = (Some(stored.at), Window::default());
            entry.turn(stored.status, stored.reason, stored.at, id, &mut effects);
        }
        effects
    }
}

impl Entry {
    fn turn(
        &mut self,
        status: Status,
        reason: Option<Reason>,
        since: DateTime<Utc>,
        id: GatewayId,
        effects: &mut Effects,
    ) {
        (self.status, self.reason, self.since) = (status, reason, since);
        (self.before, self.suspect) = (None, None);
        self.latest = self.latest.max(Some(since));
        // as for this node's own probes
        let is_own = status != Status::Unknown && reason != Some(Reason::ParentDown);
        let event = is_own && self.told != status.is_up();
        if event {
            self.told = status.is_up();
        }
        effects.touch(id).event |= event;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::TimeDelta;

    use super::*;
    use crate::domain::gateways::{Address, Gateway, Outcome, Source};

    const ONE: GatewayId = GatewayId(1);
    const TWO: GatewayId = GatewayId(2);

    fn at(secs: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(secs)
    }

    fn gateway(id: GatewayId, address: &str, parent_id: Option<GatewayId>) -> Gateway {
        Gateway {
            id,
            name: "gateway".to_owned(),
            address: Address::parse(address).unwrap(),
            parent_id,
            max_rtt_ms: None,
            max_loss_percent: None,
            source: Source::Api,
        }
    }

    /// A table that follows, with two gateways, the second behind the first.
    fn following() -> GatewayTable {
        let mut table = GatewayTable::default();
        table.follow();
        table.put(gateway(ONE, "192.0.2.1", None), None, at(0));
        table.put(gateway(TWO, "192.0.2.2", Some(ONE)), None, at(0));
        table
    }

    fn found(address: &str, status: Status, reason: Option<Reason>, since: i64) -> Found {
        let window = Window::of([Some(1.0), None]);
        Found { address: address.to_owned(), status, reason, since: at(since), probed_at: Some(at(since)), window }
    }

    fn stored(status: Status, secs: i64) -> Transition {
        Transition { at: at(secs), status, reason: None }
    }

    fn is_event(effects: &Effects, id: GatewayId) -> bool {
        assert!(effects.probe.is_empty() && effects.changes.values().all(|change| change.transition.is_none()));
        effects.changes.get(&id).is_some_and(|change| change.event)
    }

    #[test]
    fn what_another_node_has_found_is_shown_and_is_an_event_once() {
        let mut table = following();
        assert!(is_event(&table.adopt(ONE, found("192.0.2.1", Status::Connected, None, 1)), ONE));
        assert!(!is_event(&table.adopt(ONE, found("192.0.2.1", Status::Degraded, Some(Reason::HighLoss), 2)), ONE));
        let known = table.known(ONE).unwrap();
        assert_eq!((known.status, known.since, known.loss_percent), (Status::Degraded, at(2), Some(50.0)));
        assert!(is_event(&table.adopt(ONE, found("192.0.2.1", Status::Disconnected, Some(Reason::Timeout), 3)), ONE));
        // what was stored of it comes later, by another way
        assert!(!is_event(&table.adopt_stored(ONE, stored(Status::Disconnected, 3)), ONE));
        // one that goes down with its parent, as it was never up
        assert!(!is_event(
            &table.adopt(TWO, found("192.0.2.2", Status::Disconnected, Some(Reason::ParentDown), 3)),
            TWO
        ));
        // of a former address, and of one that is gone
        assert_eq!(table.adopt(TWO, found("192.0.2.9", Status::Connected, None, 4)), Effects::default());
        assert_eq!(table.adopt(GatewayId(3), found("192.0.2.1", Status::Connected, None, 4)), Effects::default());
    }

    #[test]
    fn only_what_is_stored_later_than_all_that_is_known_counts() {
        let mut table = following();
        assert!(is_event(&table.adopt_stored(ONE, stored(Status::Connected, 5)), ONE));
        assert_eq!(table.adopt_stored(ONE, stored(Status::Disconnected, 4)), Effects::default());
        assert!(is_event(&table.adopt_stored(ONE, stored(Status::Disconnected, 6)), ONE));
        // what was found at the former address says nothing of the new one
        table.put(gateway(ONE, "192.0.2.9", None), None, at(60));
        assert_eq!(table.adopt_stored(ONE, stored(Status::Disconnected, 6)), Effects::default());
        assert_eq!(table.known(ONE).unwrap().status, Status::Unknown);
        table.adopt_stored(ONE, stored(Status::Connected, 7));
        assert_eq!(table.known(ONE).unwrap().status, Status::Connected);
    }

    #[test]
    fn at_the_start_a_node_shows_what_was_stored_last() {
        let mut table = GatewayTable::default();
        table.follow();
        table.put(gateway(ONE, "192.0.2.1", None), Some(stored(Status::Disconnected, 5)), at(9));
        assert!(!is_event(&table.adopt_stored(ONE, stored(Status::Disconnected, 5)), ONE));
        let known = table.known(ONE).unwrap();
        assert_eq!((known.status, known.since), (Status::Disconnected, at(5)));
    }

    #[test]
    fn a_node_that_takes_over_goes_on_from_what_is_known() {
        let mut table = following();
        // by a clock that is ahead
        table.adopt(ONE, found("192.0.2.1", Status::Connected, None, 100));
        table.adopt(TWO, found("192.0.2.2", Status::Connected, None, 100));
        assert_eq!(table.lead(at(10)), Effects::default());
        let (_, version, is_down) = table.to_probe(ONE).unwrap();
        assert!(!is_down);
        let answered = Outcome { lost: 0, answer: Ok(Duration::from_millis(1)) };
        let effects = table.probed(ONE, version, at(11), answered, at(12));
        assert!(!effects.changes[&ONE].event && effects.changes[&ONE].transition.is_none());
        assert!(table.known(ONE).unwrap().loss_percent.is_some_and(|percent| percent < 50.0));
        let lost = Outcome { lost: 1, answer: Err(Reason::Timeout) };
        let effects = table.probed(ONE, version, at(13), lost, at(14));
        // changes stay in order
        let transition = effects.changes[&ONE].transition.unwrap();
        assert!(effects.changes[&ONE].event && transition.at > at(100));
        assert_eq!(table.known(TWO).unwrap().reason, Some(Reason::ParentDown));
    }

    #[test]
    fn a_gateway_that_was_put_behind_one_that_is_down_is_down_once_a_node_takes_over() {
        let mut table = following();
        table.adopt(ONE, found("192.0.2.1", Status::Disconnected, Some(Reason::Timeout), 1));
        assert_eq!(table.known(TWO).unwrap().status, Status::Unknown);
        let effects = table.lead(at(2));
        assert_eq!(effects.changes[&TWO].transition.map(|change| change.status), Some(Status::Disconnected));
        assert!(table.to_probe(TWO).is_none());
    }
}
