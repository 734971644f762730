//! A total that all draw from, and a share of it that one may have: for what is held for a while and given back.

use std::{collections::HashMap, hash::Hash};

/// Why something may not be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The holder has its share.
    Share,
    /// All together have the total.
    Total,
}

/// What is held, by whom. Memory is bounded by what is held.
#[derive(Debug)]
pub struct Shares<K> {
    total: usize,
    share: usize,
    held: usize,
    holders: HashMap<K, usize>,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// At most `total` in all and `share` of it for one holder; 0 is no limit.
    pub fn new(total: usize, share: usize) -> Self {
        Self { total, share, held: 0, holders: HashMap::new() }
    }

    /// Holds an amount. A holder that has nothing gets any amount, as does everybody while nothing is held: what is
    /// larger than a limit could never be had otherwise.
    ///
    /// # Errors
    /// What is exhausted; then nothing is held.
    pub fn hold(&mut self, holder: &K, amount: usize) -> Result<(), Exhausted> {
        self.hold_more(holder, 0, amount)
    }

    /// Holds more for something of which the holder has `had` already: that alone keeps nothing from growing.
    ///
    /// # Errors
    /// What is exhausted; then no more is held.
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

    /// Holds an amount, whatever the limits say.
    pub fn hold_anyway(&mut self, holder: &K, amount: usize) {
        self.held += amount;
        *self.holders.entry(holder.clone()).or_default() += amount;
    }

    /// Whether the holder has its share, or all together have the total.
    ///
    /// # Errors
    /// What is exhausted.
    pub fn check(&self, holder: &K) -> Result<(), Exhausted> {
        if self.share > 0 && self.holders.get(holder).is_some_and(|own| *own >= self.share) {
            Err(Exhausted::Share)
        } else if self.total > 0 && self.held >= self.total {
            Err(Exhausted::Total)
        } else {
            Ok(())
        }
    }

    /// Gives back what was held.
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
