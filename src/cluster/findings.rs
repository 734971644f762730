//! What the node that probes gateways tells the others.
//!
//! Its messages are numbered. A node that misses one, or hears of a new prober, asks for all that is known.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{
    gateways::{Found, Reason, Status, Window},
    ids::GatewayId,
};

/// The period of the messages when nothing changes. Round trips wait for the next one, changes of status do not.
pub const PERIOD: Duration = Duration::from_secs(1);

/// A prober that has said nothing for so long is not heard: what it finds is read from the database.
pub const SILENCE: Duration = Duration::from_millis(1500);

/// Gateways in one message.
pub const AT_ONCE: usize = 256;

/// A message of the node that probes gateways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// The term of its lease: messages of an earlier one come too late.
    pub term: i64,
    /// One more than that of the message before, or the same in an answer to who has asked for all.
    pub number: u64,
    /// Whether all that was asked for is told with this one.
    pub is_end: bool,
    /// What keeps it from probing as it should.
    pub trouble: Option<String>,
    /// What it has found.
    pub gateways: Vec<FoundGateway>,
}

/// What the prober knows of a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoundGateway {
    id: i64,
    address: String,
    /// the words for clients, as the reason
    status: String,
    reason: Option<String>,
    /// in microseconds since 1970, as the next
    since: i64,
    probed_at: Option<i64>,
    /// round trips in milliseconds, the oldest first
    attempts: Vec<Option<f64>>,
}

impl FoundGateway {
    /// What was found of the gateway with this id.
    pub fn new(id: GatewayId, found: Found) -> Self {
        Self {
            id: id.0,
            address: found.address,
            status: found.status.as_str().to_owned(),
            reason: found.reason.map(|reason| reason.as_str().to_owned()),
            since: found.since.timestamp_micros(),
            probed_at: found.probed_at.map(|at| at.timestamp_micros()),
            attempts: found.window.attempts().collect(),
        }
    }

    /// The gateway's id, and what was found of it. `None`: another version of the program says it in other words.
    pub fn read(self) -> Option<(GatewayId, Found)> {
        let reason = match self.reason {
            Some(word) => Some(Reason::parse(&word)?),
            None => None,
        };
        let found = Found {
            address: self.address,
            status: Status::parse(&self.status)?,
            reason,
            since: DateTime::<Utc>::from_timestamp_micros(self.since)?,
            probed_at: self.probed_at.and_then(DateTime::from_timestamp_micros),
            window: Window::of(self.attempts),
        };
        Some((GatewayId(self.id), found))
    }
}

/// What a node has heard of the prober.
#[derive(Debug, Default)]
pub struct Hearing {
    prober: Option<Uuid>,
    term: i64,
    number: u64,
    at: Option<Instant>,
    /// nothing is missing
    is_complete: bool,
}

impl Hearing {
    /// A message has come from a node. False: it comes too late, and says nothing.
    pub fn received(&mut self, from: Uuid, findings: &Findings, now: Instant) -> bool {
        if findings.term < self.term {
            return false;
        }
        let is_same = self.prober == Some(from) && self.term == findings.term;
        let is_next = is_same && (findings.number == self.number + 1 || findings.number == self.number);
        (self.prober, self.term) = (Some(from), findings.term);
        (self.number, self.at) = (findings.number, Some(now));
        self.is_complete = findings.is_end || (is_next && self.is_complete);
        true
    }

    /// The prober, if it was heard of late.
    pub fn prober(&self, now: Instant) -> Option<Uuid> {
        let is_late = self.at.is_none_or(|at| now.saturating_duration_since(at) > SILENCE);
        self.prober.filter(|_| !is_late)
    }

    /// Whether something that it has said may be missing.
    pub fn misses_something(&self) -> bool {
        !self.is_complete
    }

    /// All has to be asked for again, since more gateways are known now.
    pub fn ask_again(&mut self) {
        self.is_complete = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    fn message(term: i64, number: u64, is_end: bool) -> Findings {
        Findings { term, number, is_end, trouble: None, gateways: Vec::new() }
    }

    #[test]
    fn what_was_found_is_read_as_it_was_written() {
        let now = DateTime::from_timestamp_micros(1_700_000_000_123_456);
        for (status, reason) in [(Status::Connected, None), (Status::Disconnected, Some(Reason::ParentDown))] {
            let found = Found {
                address: "tcp://192.0.2.1:80".to_owned(),
                status,
                reason,
                since: now.unwrap(),
                probed_at: now,
                window: Window::of([None, Some(1.25)]),
            };
            let written = FoundGateway::new(GatewayId(7), found.clone());
            assert_eq!(written.clone().read(), Some((GatewayId(7), found)));
            let of_another_version = FoundGateway { status: "asleep".to_owned(), ..written };
            assert_eq!(of_another_version.read(), None);
        }
    }

    #[test]
    fn all_is_asked_for_at_first_after_a_gap_and_of_a_new_prober() {
        let (mut hearing, now) = (Hearing::default(), Instant::now());
        assert!(hearing.received(A, &message(1, 5, false), now) && hearing.misses_something());
        // the answer in two parts, and what follows it
        assert!(hearing.received(A, &message(1, 6, false), now) && hearing.misses_something());
        assert!(hearing.received(A, &message(1, 6, true), now) && !hearing.misses_something());
        assert!(hearing.received(A, &message(1, 7, false), now) && !hearing.misses_something());
        assert!(hearing.received(A, &message(1, 9, false), now) && hearing.misses_something());
        assert!(hearing.received(A, &message(1, 9, true), now) && !hearing.misses_something());
        assert!(hearing.received(B, &message(2, 10, false), now) && hearing.misses_something());
        assert!(hearing.received(B, &message(2, 10, true), now) && !hearing.misses_something());
    }

    #[test]
    fn a_former_prober_says_nothing_any_more() {
        let (mut hearing, now) = (Hearing::default(), Instant::now());
        assert!(hearing.received(B, &message(2, 1, true), now));
        assert!(!hearing.received(A, &message(1, 9, true), now));
        assert_eq!(hearing.prober(now), Some(B));
        assert_eq!(hearing.prober(now + SILENCE * 2), None);
    }
}
