//! Gateways: their addresses, their state and its history.

mod address;
mod hours;
mod schedule;
mod table;
mod window;

use std::{
    collections::HashSet,
    fmt,
    ops::{Bound, RangeBounds, RangeInclusive},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};

pub use address::{Address, EXPECTED, Host, Target, is_one_machine};
pub use hours::{Hour, Hours};
pub use schedule::Schedule;
pub use table::{Delta, Effects, Found, GatewayTable};
pub use window::Window;

use super::ids::GatewayId;

/// The longest name in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// Whether this can be the name of a gateway.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_CHARS).contains(&name.chars().count()) && !name.contains(char::is_control)
}

/// The range of `max_rtt_ms`.
pub const RTTS: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Excluded(f64::INFINITY));

/// The range of `max_loss_percent`.
pub const PERCENTS: RangeInclusive<f64> = 0.0..=100.0;

/// Whether this can be a `max_rtt_ms`.
pub fn is_rtt(ms: f64) -> bool {
    RTTS.contains(&ms)
}

/// Whether this can be a `max_loss_percent`.
pub fn is_percent(percent: f64) -> bool {
    PERCENTS.contains(&percent)
}

/// Where a gateway is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In the configuration; it can only be changed there.
    Config,
    /// Created over HTTP.
    Api,
}

impl Source {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Api => "api",
        }
    }
}

/// A router or machine that is probed, and through which devices are reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Unique among all gateways.
    pub id: GatewayId,
    /// The name to show.
    pub name: String,
    /// The address that is probed.
    pub address: Address,
    /// The gateway that this one is behind.
    pub parent_id: Option<GatewayId>,
    /// The gateway is degraded above this mean round trip.
    pub max_rtt_ms: Option<f64>,
    /// The gateway is degraded above this loss.
    pub max_loss_percent: Option<f64>,
    /// Where it is defined.
    pub source: Source,
}

/// Whether a gateway with this parent would be behind itself, given the parents of the others.
pub fn is_behind_itself(id: GatewayId, parent: GatewayId, parent_of: impl Fn(GatewayId) -> Option<GatewayId>) -> bool {
    let mut seen = HashSet::new();
    let mut above = Some(parent);
    // a cycle without this gateway
    while let Some(one) = above.filter(|one| seen.insert(*one)) {
        if one == id {
            return true;
        }
        above = parent_of(one);
    }
    false
}

/// The status of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not yet probed.
    Unknown,
    /// It answers probes.
    Connected,
    /// It answers probes, but exceeds one of its thresholds.
    Degraded,
    /// It does not answer probes, or its parent is down.
    Disconnected,
}

impl Status {
    /// The word on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Connected => "connected",
            Self::Degraded => "degraded",
            Self::Disconnected => "disconnected",
        }
    }

    /// The status of that word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Unknown, Self::Connected, Self::Degraded, Self::Disconnected]
            .into_iter()
            .find(|status| status.as_str() == text)
    }

    /// Whether it answers probes; `None` before the first.
    pub fn is_up(self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Connected | Self::Degraded => Some(true),
            Self::Disconnected => Some(false),
        }
    }
}

/// Why a gateway is degraded or disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No answer in time.
    Timeout,
    /// No program listens at the port.
    Refused,
    /// There is no route to it.
    Unreachable,
    /// Its name does not resolve.
    Unresolvable,
    /// Its parent is down.
    ParentDown,
    /// The mean round trip is above `max_rtt_ms`.
    HighRtt,
    /// The loss is above `max_loss_percent`.
    HighLoss,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::Timeout,
        Self::Refused,
        Self::Unreachable,
        Self::Unresolvable,
        Self::ParentDown,
        Self::HighRtt,
        Self::HighLoss,
    ];

    /// The word on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Unresolvable => "unresolvable",
            Self::ParentDown => "parent_down",
            Self::HighRtt => "high_rtt",
            Self::HighLoss => "high_loss",
        }
    }

    /// The reason of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The result of a probe with its retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Attempts that were not answered.
    pub lost: u32,
    /// The round trip of the answered attempt, or the reason why the last one failed.
    pub answer: Result<Duration, Reason>,
}

/// A change of a gateway's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The time of the probe that found it.
    pub at: DateTime<Utc>,
    /// The new status.
    pub status: Status,
    /// The reason.
    pub reason: Option<Reason>,
}

/// The share of the time between `from` and `to` in which a gateway was up, without the time in which its status is unknown;
/// `None` if it is unknown all the time. `before` is the last change before `transitions`.
pub fn uptime_percent(
    before: Option<Transition>,
    transitions: &[Transition],
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Option<f64> {
    let (mut up, mut known) = (0.0, 0.0);
    let ends = transitions.iter().map(|transition| transition.at).chain([to]);
    let spans = before.iter().chain(transitions).zip(ends.skip(usize::from(before.is_none())));
    for (transition, end) in spans {
        let secs = (end.min(to) - transition.at.max(from)).as_seconds_f64().max(0.0);
        if let Some(is_up) = transition.status.is_up() {
            known += secs;
            up += if is_up { secs } else { 0.0 };
        }
    }
    (known > 0.0).then(|| up * 100.0 / known)
}

/// A gateway and its present state.
#[derive(Debug, Clone)]
pub struct GatewayState {
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// The status.
    pub status: Status,
    /// Why it is degraded or disconnected.
    pub reason: Option<Reason>,
    /// The time of the last change of status.
    pub since: DateTime<Utc>,
    /// The time of the last probe.
    pub probed_at: Option<DateTime<Utc>>,
    /// The last round trip in milliseconds; `None` if the last probe was lost.
    pub rtt_ms: Option<f64>,
    /// Loss over the last attempts; `None` before the first.
    pub loss_percent: Option<f64>,
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn at(secs: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(secs)
    }

    fn turned(secs: i64, status: Status) -> Transition {
        Transition { at: at(secs), status, reason: None }
    }

    #[test]
    fn uptime_is_a_part_of_the_time_that_is_known() {
        use Status::{Connected, Degraded, Disconnected};
        let changes = [turned(20, Disconnected), turned(30, Degraded), turned(40, Connected)];
        let table = [
            (Some(turned(0, Connected)), &changes[..], 10, 50, Some(75.0)),
            (None, &changes[..], 10, 50, Some(100.0 * 20.0 / 30.0)),
            (None, &changes[..], 10, 20, None),
            (Some(turned(0, Connected)), &[][..], 10, 20, Some(100.0)),
            (Some(turned(0, Disconnected)), &[][..], 10, 20, Some(0.0)),
            (None, &[][..], 10, 20, None),
            (Some(turned(0, Connected)), &[][..], 20, 20, None),
        ];
        for (index, (before, transitions, from, to, expected)) in table.into_iter().enumerate() {
            let found = uptime_percent(before, transitions, at(from), at(to));
            assert_eq!(found.map(f64::round), expected.map(f64::round), "case {index}");
        }
    }

    #[test]
    fn a_gateway_is_behind_itself_if_any_of_its_parents_is() {
        // 3 is behind 2, that is behind 1; 8 and 9 are behind each other
        let parent_of = |id: GatewayId| match id.0 {
            2 => Some(GatewayId(1)),
            3 => Some(GatewayId(2)),
            8 => Some(GatewayId(9)),
            9 => Some(GatewayId(8)),
            _ => None,
        };
        for (id, parent, expected) in [(1, 1, true), (1, 3, true), (3, 1, false), (4, 3, false), (1, 8, false)] {
            assert_eq!(is_behind_itself(GatewayId(id), GatewayId(parent), parent_of), expected, "{id} behind {parent}");
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        for status in [Status::Unknown, Status::Connected, Status::Degraded, Status::Disconnected] {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert!(is_name("ü") && !is_name("") && !is_name("a\n") && !is_name(&"a".repeat(101)));
        assert!(is_rtt(0.1) && !is_rtt(0.0) && !is_rtt(f64::INFINITY) && is_percent(0.0) && !is_percent(100.1));
    }
}
