//! How many logins may fail, and from where somebody has logged in before.
//!
//! Failures are counted per address and per name as it was typed: a count per account would tell that a username and an
//! email are the same person's. Who has logged in from an address before has a count of its own there, so that strangers
//! who fail on purpose keep nobody out. That is stored as well, by account, and looked up when a name has no attempts left:
//! a restart forgets nobody.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::rate_limit::PerMinute;

/// How long a login is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// Addresses that are stored of a user; the oldest ones go first.
pub const KNOWN_PER_USER: usize = 20;

/// A login from the same address is not stored again for so long.
const STORED_AGAIN: Duration = Duration::from_secs(86_400);

/// Logins that are remembered here; the oldest ones go first.
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

/// Until when something is so. A time in the past might be before the clock began.
#[derive(Debug, Clone, Copy)]
struct Known {
    remembered: Instant,
    stored: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct LoginLimit {
    failures: PerMinute<Key>,
    remembered: HashMap<(Name, IpAddr), Known>,
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
        let known = address.filter(|address| self.knows(name, *address, now));
        let name = self.hasher.hash_one(name);
        let own = match known {
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
            self.known(attempt.name, address, now).remembered = now + REMEMBERED;
        }
        self.undecided(attempt);
    }

    /// Whether this name has logged in from this address before, as far as is known here.
    pub fn knows(&self, name: &str, address: IpAddr, now: Instant) -> bool {
        let known = self.remembered.get(&(self.hasher.hash_one(name), address));
        known.is_some_and(|known| now < known.remembered)
    }

    /// The account of this name has logged in from this address so long ago.
    pub fn recall(&mut self, name: &str, address: IpAddr, age: Duration, now: Instant) {
        let name = self.hasher.hash_one(name);
        *self.known(name, address, now) = Known {
            remembered: now + REMEMBERED.saturating_sub(age),
            stored: Some(now + STORED_AGAIN.saturating_sub(age)),
        };
    }

    /// Whether a login should be stored.
    pub fn is_to_be_stored(&self, name: &str, address: IpAddr, now: Instant) -> bool {
        let known = self.remembered.get(&(self.hasher.hash_one(name), address));
        known.and_then(|known| known.stored).is_none_or(|stored| now >= stored)
    }

    /// A login has been stored.
    pub fn stored(&mut self, name: &str, address: IpAddr, now: Instant) {
        self.recall(name, address, Duration::ZERO, now);
    }

    fn known(&mut self, name: Name, address: IpAddr, now: Instant) -> &mut Known {
        if self.remembered.len() >= MOST_REMEMBERED {
            let mut times: Vec<Instant> = self.remembered.values().map(|known| known.remembered).collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            self.remembered.retain(|_, known| known.remembered > median);
        }
        self.remembered.entry((name, address)).or_insert(Known { remembered: now, stored: None })
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
    fn a_login_that_was_stored_counts_for_the_rest_of_its_time_and_is_stored_once_a_day() {
        let now = Instant::now();
        let day = STORED_AGAIN;
        let home = HOME.unwrap();
        let mut limit = LoginLimit::new(1);
        let _failed = limit.begin("alice", stranger(0), now).unwrap();
        assert!(limit.begin("alice", HOME, now).is_err() && !limit.knows("alice", home, now));
        limit.recall("alice", home, 29 * day, now);
        let login = limit.begin("alice", HOME, now).unwrap();
        assert!(!limit.knows("alice", home, now + day));
        limit.succeeded(login, now);
        assert!(limit.knows("alice", home, now + 29 * day) && limit.is_to_be_stored("alice", home, now));
        limit.stored("alice", home, now);
        assert!(
            !limit.is_to_be_stored("alice", home, now + day / 2) && limit.is_to_be_stored("alice", home, now + day)
        );
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
