//! A limit on a total amount and on each holder's share of it, for amounts that are held for a while and given back.

use std::{collections::HashMap, hash::Hash};

/// The limit that a request would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The share of the holder.
    Share,
    /// The total of all holders.
    Total,
}

/// The amounts held by each holder. Only holders with an amount take memory.
#[derive(Debug)]
pub struct Shares<K> {
    total: usize,
    share: usize,
    held: usize,
    holders: HashMap<K, usize>,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// At most `total` for all holders together and `share` for one; 0: no limit.
    pub fn new(total: usize, share: usize) -> Self {
        Self { total, share, held: 0, holders: HashMap::new() }
    }

    /// Holds an amount. The share is not checked if the holder has nothing, nor the total if nothing is held at all: otherwise
    /// an amount above a limit could never be held.
    ///
    /// # Errors
    /// The limit that is exhausted; then nothing is held.
    pub fn hold(&mut self, holder: &K, amount: usize) -> Result<(), Exhausted> {
        self.hold_more(holder, 0, amount)
    }

    /// Increases something for which the holder already holds `had`. The limits are not checked if nothing else is held: one
    /// item may grow beyond them.
    ///
    /// # Errors
    /// The limit that is exhausted; then the amount is unchanged.
    pub fn hold_more(&mut self, holder: &K, had: usize, amount: usize) -> Result<(), Exhausted> {
        let own = self.holders.get(holder).copied().unwrap_or_default();
        if self.share > 0 && own > had && own + amount > self.share {
            return Err(Exhausted::Share);
        }
        if self.total > 0 && self.held > had && self.held + amount > self.total {
            return Err(Exhausted::Total);
        }
        self.hold_anyway(holder, amount);
        Ok(())
    }

    /// Holds an amount without checking the limits.
    pub fn hold_anyway(&mut self, holder: &K, amount: usize) {
        self.held += amount;
        *self.holders.entry(holder.clone()).or_default() += amount;
    }

    /// Checks that the holder can hold more.
    ///
    /// # Errors
    /// The limit that is exhausted.
    pub fn check(&self, holder: &K) -> Result<(), Exhausted> {
        if self.share > 0 && self.holders.get(holder).is_some_and(|own| *own >= self.share) {
            Err(Exhausted::Share)
        } else if self.total > 0 && self.held >= self.total {
            Err(Exhausted::Total)
        } else {
            Ok(())
        }
    }

    /// Gives an amount back.
    pub fn give_back(&mut self, holder: &K, amount: usize) {
        self.held = self.held.saturating_sub(amount);
        if let Some(own) = self.holders.get_mut(holder) {
            *own = own.saturating_sub(amount);
            if *own == 0 {
                self.holders.remove(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_has_its_share_and_all_together_the_total() {
        let mut shares = Shares::new(100, 40);
        shares.hold(&'a', 40).unwrap();
        assert_eq!(shares.hold(&'a', 1), Err(Exhausted::Share));
        assert_eq!(shares.check(&'a'), Err(Exhausted::Share));
        shares.hold(&'b', 40).unwrap();
        shares.check(&'c').unwrap();
        assert_eq!(shares.hold(&'c', 21), Err(Exhausted::Total));
        shares.hold(&'c', 20).unwrap();
        assert_eq!(shares.check(&'d'), Err(Exhausted::Total));
        shares.give_back(&'a', 40);
        shares.hold(&'c', 20).unwrap();
        for (holder, amount) in [('b', 40), ('c', 40)] {
            shares.give_back(&holder, amount);
        }
        assert!(shares.holders.is_empty() && shares.held == 0);
    }

    #[test]
    fn what_is_larger_than_a_limit_is_had_alone() {
        let mut shares = Shares::new(100, 40);
        shares.hold(&'a', 1_000).unwrap();
        assert_eq!(shares.hold(&'b', 1), Err(Exhausted::Total));
        shares.give_back(&'a', 1_000);
        shares.hold(&'b', 41).unwrap();
    }

    #[test]
    fn limits_of_zero_are_none() {
        let mut shares = Shares::new(0, 0);
        (0..10).for_each(|_| shares.hold(&'a', usize::MAX / 16).unwrap());
        shares.check(&'a').unwrap();
    }
}
