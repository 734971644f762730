//! How many logins may fail, and which addresses a name has logged in from.
//!
//! Failures are counted per address and per name as it was typed: a count per account would reveal that a username and an
//! email belong to the same account. A name has a count of its own at each address that it has logged in from, and no other
//! count applies there, so that others who fail, elsewhere or at the same address, lock nobody out. These addresses are also stored, by account, and looked up when a name has
//! no attempts left, so that they survive a restart.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::rate_limit::PerMinute;

/// How long a login is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// How many addresses are stored of a user; the oldest are dropped first.
pub const KNOWN_PER_USER: usize = 20;

/// How long a login from the same address is not stored again.
const STORED_AGAIN: Duration = Duration::from_secs(86_400);

/// How many logins are remembered in memory; the oldest are dropped first.
const MOST_REMEMBERED: usize = 65_536;

/// A name as it was typed, hashed with a key of this process.
type Name = u64;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    Name(Name),
    /// a name at an address that it has logged in from
    Known(Name, IpAddr),
}

/// An attempt to log in. It counts as failed until its outcome is known.
#[derive(Debug)]
#[must_use]
pub struct Attempt {
    name: Name,
    address: Option<IpAddr>,
    keys: Vec<Key>,
    /// the keys as texts that are the same at all nodes
    texts: Vec<String>,
    is_counted_everywhere: bool,
}

impl Attempt {
    /// What other nodes count of it.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Other nodes have counted it.
    pub fn counted_everywhere(&mut self) {
        self.is_counted_everywhere = true;
    }

    /// What other nodes have counted of it.
    pub fn counted(&self) -> &[String] {
        if self.is_counted_everywhere { &self.texts } else { &[] }
    }
}

/// Until when a login is remembered, and until when its row is recent. The ends are kept, since an `Instant` can't go back
/// beyond the start of its clock.
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

    /// The limit from now on; see [`Self::new`].
    pub fn set_limit(&mut self, limit: u32) {
        self.failures.set_limit(limit);
    }

    /// Begins an attempt. It is counted before the password is checked; else many attempts at once would all be admitted.
    ///
    /// # Errors
    /// How long to wait, since too many attempts have failed.
    pub fn begin(&mut self, name: &str, address: Option<IpAddr>, now: Instant) -> Result<Attempt, Duration> {
        let known = address.filter(|address| self.knows(name, *address, now));
        // the last part of a text may contain anything
        let texts = match known {
            Some(address) => vec![format!("login known {address} {name}")],
            None => {
                let of_address = address.map(|address| format!("login address {address}"));
                of_address.into_iter().chain([format!("login name {name}")]).collect()
            }
        };
        let name = self.hasher.hash_one(name);
        let keys = match known {
            Some(address) => vec![Key::Known(name, address)],
            None => address.map(Key::Address).into_iter().chain([Key::Name(name)]).collect(),
        };
        self.failures.take(&keys, now)?;
        Ok(Attempt { name, address, keys, texts, is_counted_everywhere: false })
    }

    /// How many may fail in a minute; 0 never limits.
    pub fn limit(&self) -> u32 {
        self.failures.limit()
    }

    /// The password was right.
    pub fn succeeded(&mut self, attempt: Attempt, now: Instant) {
        if let Some(address) = attempt.address {
            self.known(attempt.name, address, now).remembered = now + REMEMBERED;
        }
        self.undecided(attempt);
    }

    /// Whether this name is known in memory to have logged in from this address.
    pub fn knows(&self, name: &str, address: IpAddr, now: Instant) -> bool {
        let known = self.remembered.get(&(self.hasher.hash_one(name), address));
        known.is_some_and(|known| now < known.remembered)
    }

    /// Remembers a login of this name from this address, which was so long ago.
    pub fn recall(&mut self, name: &str, address: IpAddr, age: Duration, now: Instant) {
        let name = self.hasher.hash_one(name);
        *self.known(name, address, now) = Known {
            remembered: now + REMEMBERED.saturating_sub(age),
            stored: Some(now + STORED_AGAIN.saturating_sub(age)),
        };
    }

    /// Whether a login should be written to the database.
    pub fn is_to_be_stored(&self, name: &str, address: IpAddr, now: Instant) -> bool {
        let known = self.remembered.get(&(self.hasher.hash_one(name), address));
        known.and_then(|known| known.stored).is_none_or(|stored| now >= stored)
    }

    /// Notes that a login was written to the database.
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

    /// The password was not checked.
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
    fn failures_elsewhere_do_not_lock_a_name_at_an_address_that_it_has_logged_in_from() {
        let now = Instant::now();
        let mut limit = LoginLimit::new(2);
        let login = limit.begin("alice", HOME, now).unwrap();
        limit.succeeded(login, now);
        for n in 0..2 {
            let _failed = limit.begin("alice", stranger(n), now).unwrap();
        }
        assert!(limit.begin("alice", stranger(9), now).is_err());
        // nor do others at the same address, such as a proxy's
        for name in ["bob", "carol"] {
            let _failed = limit.begin(name, HOME, now).unwrap();
        }
        assert!(limit.begin("dave", HOME, now).is_err());
        // the count at the known address is limited as well
        for _ in 0..2 {
            let _failed = limit.begin("alice", HOME, now).unwrap();
        }
        assert!(limit.begin("alice", HOME, now).is_err());
        // the address may belong to somebody else by then
        let later = now + REMEMBERED;
        for n in 0..2 {
            let _failed = limit.begin("alice", stranger(n), later).unwrap();
        }
        assert!(limit.begin("alice", HOME, later).is_err());
    }

    #[test]
    fn a_stored_login_is_remembered_for_the_rest_of_its_time_and_stored_once_a_day() {
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
    fn right_and_unchecked_passwords_do_not_count() {
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
    fn the_number_of_remembered_logins_is_bounded_and_the_newest_is_kept() {
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
