//! The lease of a node: the right to say who is connected to it. A node renews it only after its own ping has come back
//! through its inbox, so a node that hears nothing loses its lease.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a lease lasts after the ping that renews it was sent.
pub const LEASE: Duration = Duration::from_secs(10);

/// The period of the pings.
pub const PING: Duration = Duration::from_secs(1);

/// A node's lease, as the node itself sees it: it ends here before it ends for others, who count from its renewal.
#[derive(Debug, Default)]
pub struct Lease {
    /// pings that may come back, with the times at which they were sent
    sent: VecDeque<(u64, Instant)>,
    last: u64,
    until: Option<Instant>,
}

impl Lease {
    /// The number of the ping that is sent now.
    pub fn ping(&mut self, now: Instant) -> u64 {
        self.sent.retain(|(_, sent)| now.duration_since(*sent) < LEASE);
        self.last += 1;
        self.sent.push_back((self.last, now));
        self.last
    }

    /// A ping has come back. Returns when it was sent, unless it is not one of the last [`LEASE`], or a later one came back
    /// before.
    pub fn returned(&mut self, number: u64, now: Instant) -> Option<Instant> {
        let place = self.sent.iter().position(|(sent, _)| *sent == number)?;
        let (_, sent) = self.sent.drain(..=place).next_back()?;
        (now.duration_since(sent) < LEASE).then_some(sent)
    }

    /// The lease was renewed because of a ping that was sent at this time.
    pub fn renewed(&mut self, sent: Instant) {
        self.until = self.until.max(Some(sent + LEASE));
    }

    /// Whether the node has the lease.
    pub fn is_held(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_lease_lasts_from_the_ping_that_renewed_it() {
        let (mut lease, start) = (Lease::default(), Instant::now());
        assert!(!lease.is_held(start));
        let ping = lease.ping(start);
        let sent = lease.returned(ping, start + secs(3)).unwrap();
        assert!(!lease.is_held(start + secs(3)));
        lease.renewed(sent);
        assert!(lease.is_held(start + secs(9)) && !lease.is_held(start + LEASE));
        // a later answer about an earlier ping takes nothing away
        let ping = lease.ping(start + secs(4));
        let later = lease.returned(ping, start + secs(5)).unwrap();
        lease.renewed(later);
        lease.renewed(sent);
        assert!(lease.is_held(start + secs(13)));
    }

    #[test]
    fn pings_that_come_twice_too_late_or_after_later_ones_renew_nothing() {
        let (mut lease, start) = (Lease::default(), Instant::now());
        let (first, second) = (lease.ping(start), lease.ping(start + PING));
        assert_eq!(lease.returned(second, start + secs(2)), Some(start + PING));
        assert_eq!(lease.returned(second, start + secs(2)), None);
        assert_eq!(lease.returned(first, start + secs(2)), None);
        let third = lease.ping(start + secs(3));
        assert_eq!(lease.returned(third, start + secs(13)), None);
        assert_eq!(lease.returned(99, start + secs(13)), None);
    }

    #[test]
    fn only_pings_that_may_count_are_remembered() {
        let (mut lease, start) = (Lease::default(), Instant::now());
        for second in 0..1000 {
            lease.ping(start + secs(second));
        }
        assert_eq!(lease.sent.len(), 10);
    }
}
