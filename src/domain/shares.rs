//! A limit on a total amount and on each holder's share of it, for amounts that are held for a while and given back.
//!
//! The share shrinks as the total fills up, as the queues of a switch with a shared buffer do (dynamic thresholds): a holder
//! may have at most a quarter of what the others leave. So each holder leaves at least three quarters of what it found, and
//! a newcomer finds some however many came before it.

use std::{collections::HashMap, hash::Hash};

/// What the others leave is divided by this: one holder may have the result.
const PARTS: usize = 4;

/// The limit that a request would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The share of the holder.
    Share,
    /// The total of all holders, or so much of it that too little is left for this one.
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
    /// At most `total` for all holders together and `share` for one; 0: no limit. If there is none for one, a holder may have
    /// the total.
    pub fn new(total: usize, share: usize) -> Self {
        Self { total, share, held: 0, holders: HashMap::new() }
    }

    /// The limits from now on; see [`Self::new`].
    pub fn set_limits(&mut self, total: usize, share: usize) {
        (self.total, self.share) = (total, share);
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
        if self.total > 0 && self.held > had && own + amount > self.most_of_total(own) {
            return Err(Exhausted::Total);
        }
        self.hold_anyway(holder, amount);
        Ok(())
    }

    /// What a holder of so much may have of the total, given what the others hold.
    fn most_of_total(&self, own: usize) -> usize {
        let left = self.total.saturating_sub(self.held - own);
        if self.share > 0 { left / PARTS } else { left }
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
        let own = self.holders.get(holder).copied().unwrap_or_default();
        if self.share > 0 && own >= self.share {
            Err(Exhausted::Share)
        } else if self.total > 0 && own >= self.most_of_total(own) {
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
    fn a_holder_has_its_share_and_not_more_than_a_quarter_of_what_others_leave() {
        let mut shares = Shares::new(100, 20);
        shares.hold(&'a', 20).unwrap();
        assert_eq!(shares.hold(&'a', 1), Err(Exhausted::Share));
        assert_eq!(shares.check(&'a'), Err(Exhausted::Share));
        shares.hold(&'b', 20).unwrap();
        assert_eq!(shares.hold(&'c', 16), Err(Exhausted::Total));
        shares.hold(&'c', 15).unwrap();
        assert_eq!(shares.check(&'c'), Err(Exhausted::Total));
        shares.check(&'d').unwrap();
        shares.give_back(&'a', 20);
        shares.hold(&'c', 5).unwrap();
        for holder in ['b', 'c'] {
            shares.give_back(&holder, 20);
        }
        assert!(shares.holders.is_empty() && shares.held == 0);
    }

    #[test]
    fn however_many_take_all_that_they_can_a_newcomer_finds_some() {
        const MIB: usize = 1 << 20;
        let mut shares = Shares::new(64 * MIB, 8 * MIB);
        for stranger in 0..8 {
            while shares.hold(&stranger, 64 * 1024).is_ok() {}
        }
        shares.hold(&8, 2 * MIB).unwrap();
        for stranger in 9..20 {
            while shares.hold(&stranger, 1024).is_ok() {}
        }
        shares.hold(&20, 64 * 1024).unwrap();
    }

    #[test]
    fn what_is_larger_than_a_limit_is_had_alone() {
        let mut shares = Shares::new(100, 10);
        shares.hold(&'a', 1_000).unwrap();
        assert_eq!(shares.hold(&'b', 1), Err(Exhausted::Total));
        shares.give_back(&'a', 1_000);
        shares.hold(&'b', 1).unwrap();
        shares.hold(&'c', 24).unwrap();
        assert_eq!(shares.hold_more(&'c', 24, 1), Err(Exhausted::Total));
        shares.give_back(&'b', 1);
        shares.hold_more(&'c', 24, 100).unwrap();
    }

    #[test]
    fn without_a_share_one_may_have_the_total() {
        let mut shares = Shares::new(100, 0);
        shares.hold(&'a', 10).unwrap();
        shares.hold(&'b', 90).unwrap();
        assert_eq!(shares.hold(&'b', 1), Err(Exhausted::Total));
        assert_eq!(shares.check(&'c'), Err(Exhausted::Total));
    }

    #[test]
    fn limits_of_zero_are_none() {
        let mut shares = Shares::new(0, 0);
        (0..10).for_each(|_| shares.hold(&'a', usize::MAX / 16).unwrap());
        shares.check(&'a').unwrap();
    }
}
