//! How much each of many may spend in the long run, such as bytes stored per minute.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Keys with a budget of their own; further ones share one budget.
const MAX_KEYS: usize = 100_000;

/// Time between removals of keys that owe nothing.
const SWEEPING: Duration = Duration::from_secs(10);

/// A client, or an address, has reached a limit of its own. The text is that of HTTP answers and error frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Too many requests ({limit})")]
pub struct OverLimit {
    /// The key of the limit.
    pub limit: &'static str,
    /// Seconds until the client should try again.
    pub retry_after: u64,
}

impl OverLimit {
    /// For a client that may try again after `wait`, in whole seconds.
    pub fn for_at_least(limit: &'static str, wait: Duration) -> Self {
        Self { limit, retry_after: wait.as_secs() + 1 }
    }
}

/// What each key has spent and not yet regained. Memory is bounded: a key that owes nothing is forgotten.
#[derive(Debug)]
pub struct Budgets<K> {
    per_second: f64,
    most: f64,
    debts: HashMap<K, Debt>,
    /// of the keys beyond [`MAX_KEYS`]
    others: Option<Debt>,
    swept: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Debt {
    amount: f64,
    at: Instant,
}

impl Debt {
    fn now(self, per_second: f64, now: Instant) -> f64 {
        (self.amount - now.saturating_duration_since(self.at).as_secs_f64() * per_second).max(0.0)
    }
}

impl<K: Eq + Hash> Budgets<K> {
    /// Each key may spend `per_second` in the long run and `most` at once; 0 never limits.
    pub fn new(per_second: f64, most: f64) -> Self {
        Self { per_second, most, debts: HashMap::new(), others: None, swept: None }
    }

    /// What each key may spend from now on; see [`Self::new`].
    pub fn set_rate(&mut self, per_second: f64, most: f64) {
        (self.per_second, self.most) = (per_second, most);
    }

    /// Spends an amount. A key that owes nothing may spend any amount, since more than `most` could never be spent
    /// otherwise.
    ///
    /// # Errors
    /// How long until there is enough; then nothing is spent.
    pub fn spend(&mut self, key: K, amount: f64, now: Instant) -> Result<(), Duration> {
        if self.per_second <= 0.0 {
            return Ok(());
        }
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEPING) {
            self.debts.retain(|_, debt| debt.now(self.per_second, now) > 0.0);
            self.swept = Some(now);
        }
        let known = self.debts.get(&key).copied();
        let has_room = known.is_some() || self.debts.len() < MAX_KEYS;
        let debt = if has_room { known } else { self.others };
        let owed = debt.map_or(0.0, |debt| debt.now(self.per_second, now));
        if owed > 0.0 && owed + amount > self.most {
            return Err(Duration::from_secs_f64((owed + amount - self.most).min(owed) / self.per_second));
        }
        let debt = Debt { amount: owed + amount, at: now };
        if has_room {
            self.debts.insert(key, debt);
        } else {
            self.others = Some(debt);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_spends_its_budget_at_once_and_then_as_it_grows() {
        let start = Instant::now();
        let mut budgets = Budgets::new(10.0, 100.0);
        budgets.spend('a', 60.0, start).unwrap();
        budgets.spend('a', 40.0, start).unwrap();
        assert_eq!(budgets.spend('a', 20.0, start), Err(Duration::from_secs(2)));
        budgets.spend('b', 100.0, start).unwrap();
        budgets.spend('a', 20.0, start + Duration::from_secs(2)).unwrap();
    }

    #[test]
    fn what_is_more_than_the_budget_is_spent_by_those_who_owe_nothing() {
        let start = Instant::now();
        let mut budgets = Budgets::new(10.0, 100.0);
        budgets.spend('a', 500.0, start).unwrap();
        assert_eq!(budgets.spend('a', 500.0, start), Err(Duration::from_secs(50)));
        budgets.spend('a', 500.0, start + Duration::from_secs(50)).unwrap();
    }

    #[test]
    fn a_budget_of_zero_never_limits() {
        let mut budgets = Budgets::new(0.0, 0.0);
        (0..100).for_each(|_| budgets.spend('a', 1e9, Instant::now()).unwrap());
    }

    #[test]
    fn keys_that_owe_nothing_are_forgotten_and_too_many_share_one_budget() {
        let start = Instant::now();
        let mut budgets = Budgets::new(1.0, 2.0);
        (0..MAX_KEYS).for_each(|key| budgets.spend(key, 1.0, start).unwrap());
        budgets.spend(MAX_KEYS, 2.0, start).unwrap();
        assert!(budgets.spend(MAX_KEYS + 1, 1.0, start).is_err());
        assert!(budgets.spend(0, 1.0, start).is_ok(), "known keys keep their own budget");
        budgets.spend(MAX_KEYS + 1, 1.0, start + SWEEPING).unwrap();
        assert_eq!(budgets.debts.len(), 1);
    }
}
