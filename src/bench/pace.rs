//! The due times of messages at a constant rate, independent of delays of earlier messages. Latencies counted from the due
//! time are corrected for coordinated omission.

/// A constant rate.
#[derive(Debug)]
pub(super) struct Pace {
    begin: u64,
    per_second: f64,
    taken: u64,
}

impl Pace {
    /// A constant rate from `begin`, in nanoseconds.
    pub(super) fn new(begin: u64, per_second: f64) -> Self {
        Self { begin, per_second, taken: 0 }
    }

    /// The due time of the next message.
    pub(super) fn next(&self) -> u64 {
        self.begin + ((self.taken + 1) as f64 * 1e9 / self.per_second) as u64
    }

    /// Takes the next message if it is due. Returns its due time.
    pub(super) fn take(&mut self, now: u64) -> Option<u64> {
        let next = self.next();
        (next <= now).then(|| {
            self.taken += 1;
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missed_is_due_at_its_own_time() {
        let mut pace = Pace::new(1_000_000_000, 4.0);
        assert_eq!(pace.take(1_249_999_999), None);
        assert_eq!(pace.take(1_700_000_000), Some(1_250_000_000));
        assert_eq!(pace.take(1_700_000_000), Some(1_500_000_000));
        assert_eq!(pace.take(1_700_000_000), None);
        assert_eq!(pace.next(), 1_750_000_000);
    }

    #[test]
    fn a_rate_does_not_drift() {
        let mut pace = Pace::new(0, 3.0);
        let taken: Vec<_> = std::iter::from_fn(|| pace.take(10_000_000_000)).collect();
        assert_eq!((taken.len(), taken[29]), (30, 10_000_000_000));
    }
}
