//! How many logins may fail, and from where somebody has logged in before.
//!
//! Failures are counted per address and per name as it was typed: a count per account would tell that a username and an
//! email are the same person's. Who has logged in from an address before has a count of its own there, so that strangers
//! who fail on purpose keep nobody out.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::rate_limit::PerMinute;

/// How long a login is remembered.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// Logins that are remembered; the oldest ones go first.
const MOST_REMEMBERED: usize = 65_536;

/// A name as it was typed, hashed with a key of this process.
type Name = u64;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    Name(Name),
    /// of a name that has logged in from this address before
    Known(Name, IpAddr),
}

/// A login that is under way; it counts as failed until it is known to be none.
#[derive(Debug)]
#[must_use]
pub struct Attempt {
    name: Name,
    address: Option<IpAddr>,
    keys: Vec<Key>,
}

/// See the module.
#[derive(Debug)]
pub struct LoginLimit {
    failures: PerMinute<Key>,
    remembered: HashMap<(Name, IpAddr), Instant>,
    hasher: RandomState,
}

impl LoginLimit {
    /// At most `limit` failures a minute of one name, or from one address; 0 never limits.
    pub fn new(limit: u32) -> Self {
        Self { failures: PerMinute::new(limit), remembered: HashMap::new(), hasher: RandomState::new() }
    }

    /// Somebody tries to log in. Counted before the password is looked at, or many at once would all be in time.
    ///
    /// # Errors
    /// How long to wait, if too many have failed.
    pub fn begin(&mut self, name: &str, address: Option<IpAddr>, now: Instant) -> Result<Attempt, Duration> {
        let name = self.hasher.hash_one(name);
        let is_known = |address: &IpAddr| {
            let last = self.remembered.get(&(name, *address));
            last.is_some_and(|last| now.saturating_duration_since(*last) < REMEMBERED)
        };
        let own = match address.filter(is_known) {
            Some(address) => Key::Known(name, address),
            None => Key::Name(name),
        };
        let keys: Vec<_> = address.map(Key::Address).into_iter().chain([own]).collect();
        self.failures.take(&keys, now)?;
        Ok(Attempt { name, address, keys })
    }

    /// The password was right.
    pub fn succeeded(&mut self, attempt: Attempt, now: Instant) {
        if let Some(address) = attempt.address {
            if self.remembered.len() >= MOST_REMEMBERED {
                let mut times: Vec<Instant> = self.remembered.values().copied().collect();
                let middle = times.len() / 2;
                let (_, median, _) = times.select_nth_unstable(middle);
                let median = *median;
                self.remembered.retain(|_, last| *last > median);
            }
            self.remembered.insert((attempt.name, address), now);
        }
        self.undecided(attempt);
    }

    /// The password was not looked at.
    pub fn undecided(&mut self, attempt: Attempt) {
        self.failures.give_back(&attempt.keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));

    fn stranger(n: u32) -> Option<IpAddr> {
        Some(IpAddr::V4((0xCB00_7100 + n).into()))
    }

    #[test]
    fn strangers_lock_a_name_but_not_for_who_has_logged_in_from_there_before() {
        let now = Instant::now();
        let mut limit = LoginLimit::new(2);
        let login = limit.begin("alice", HOME, now).unwrap();
        limit.succeeded(login, now);
        for n in 0..2 {
            let _failed = limit.begin("alice", stranger(n), now).unwrap();
        }
        assert!(limit.begin("alice", stranger(9), now).is_err());
        // at home there is a count of its own, which is a limit as well
        for _ in 0..2 {
            let _failed = limit.begin("alice", HOME, now).unwrap();
        }
        assert!(limit.begin("alice", HOME, now).is_err());
        // some day the address may be somebody else's
        let later = now + REMEMBERED;
        for n in 0..2 {
            let _failed = limit.begin("alice", stranger(n), later).unwrap();
        }
        assert!(limit.begin("alice", HOME, later).is_err());
    }

    #[test]
    fn right_passwords_and_those_not_looked_at_do_not_count() {
        let now = Instant::now();
        let mut limit = LoginLimit::new(1);
        for _ in 0..5 {
            let attempt = limit.begin("alice", HOME, now).unwrap();
            limit.succeeded(attempt, now);
            let attempt = limit.begin("bob", HOME, now).unwrap();
            limit.undecided(attempt);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest_stays() {
        let start = Instant::now();
        let mut limit = LoginLimit::new(0);
        for n in 0..100_000 {
            let now = start + Duration::from_millis(n);
            let attempt = limit.begin(&n.to_string(), HOME, now).unwrap();
            limit.succeeded(attempt, now);
        }
        assert!(limit.remembered.len() <= MOST_REMEMBERED);
        let newest = limit.hasher.hash_one("99999");
        assert!(HOME.is_some_and(|home| limit.remembered.contains_key(&(newest, home))));
    }
}
