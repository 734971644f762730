//! Rate limits: a token bucket for one sender, and counts per minute for many.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// A token bucket: `burst` at once, `per_second` in the long run.
#[derive(Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    refilled: Instant,
}

impl TokenBucket {
    /// A full bucket; a rate of 0 never limits.
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { per_second: per_second.into(), burst: burst.into(), tokens: burst.into(), refilled: now }
    }

    /// Takes one token. False: there was none.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst);
        self.refilled = now;
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// Keys that are counted at once. When more come in a minute, those with the fewest events are forgotten.
const MOST_KEYS: usize = 65_536;

/// Counts events per key in windows of a minute. Memory is bounded: a window that is over is forgotten, and so are those
/// with the fewest events when there are too many.
#[derive(Debug)]
pub struct PerMinute<K> {
    limit: u32,
    windows: HashMap<K, Window>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    count: u32,
}

impl<K: Eq + Hash> PerMinute<K> {
    /// At most `limit` events of one key in a minute; 0 never limits.
    pub fn new(limit: u32) -> Self {
        Self { limit, windows: HashMap::new(), swept: None }
    }

    /// The limit from now on.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// How many events one key may have in a minute; 0 never limits.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Counts an event of all these keys, unless one of them has had as many as it may.
    ///
    /// # Errors
    /// The rest of the minute; then nothing is counted.
    pub fn take(&mut self, keys: &[K], now: Instant) -> Result<(), Duration>
    where
        K: Clone,
    {
        if self.limit == 0 {
            return Ok(());
        }
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= MINUTE) {
            self.windows.retain(|_, window| now.saturating_duration_since(window.began) < MINUTE);
            self.swept = Some(now);
        }
        for key in keys {
            if let Some(window) = self.windows.get(key)
                && window.count >= self.limit
            {
                let rest = (window.began + MINUTE).saturating_duration_since(now);
                if !rest.is_zero() {
                    return Err(rest);
                }
            }
        }
        if self.windows.len() + keys.len() > MOST_KEYS {
            self.forget_least();
        }
        for key in keys {
            let window = self.windows.entry(key.clone()).or_insert(Window { began: now, count: 0 });
            if now.saturating_duration_since(window.began) >= MINUTE {
                *window = Window { began: now, count: 0 };
            }
            window.count += 1;
        }
        Ok(())
    }

    /// Forgets at least half of the keys: those with the fewest events.
    fn forget_least(&mut self) {
        let mut counts: Vec<u32> = self.windows.values().map(|window| window.count).collect();
        let middle = counts.len() / 2;
        let (_, median, _) = counts.select_nth_unstable(middle);
        let median = *median;
        self.windows.retain(|_, window| window.count > median);
    }

    /// Takes an event of these keys back.
    pub fn give_back(&mut self, keys: &[K]) {
        for key in keys {
            if let Some(window) = self.windows.get_mut(key) {
                window.count = window.count.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, 3, start);
        assert!((0..3).all(|_| bucket.take(start)));
        assert!(!bucket.take(start));
        let later = start + Duration::from_millis(100);
        assert!(bucket.take(later));
        assert!(!bucket.take(later));
    }

    #[test]
    fn a_rate_of_zero_never_limits() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(0, 0, now);
        assert!((0..10_000).all(|_| bucket.take(now)));
        let mut counts = PerMinute::new(0);
        assert!((0..100).all(|_| counts.take(&["a"], now).is_ok()));
    }

    #[test]
    fn a_key_over_its_limit_waits_for_the_rest_of_the_minute_and_others_do_not() {
        let start = Instant::now();
        let mut counts = PerMinute::new(2);
        assert!(counts.take(&["a"], start).is_ok());
        assert!(counts.take(&["a"], start + Duration::from_secs(20)).is_ok());
        assert_eq!(counts.take(&["b", "a"], start + Duration::from_secs(20)), Err(Duration::from_secs(40)));
        assert!(counts.take(&["b"], start).is_ok());
        assert!(counts.take(&["b"], start).is_ok(), "a refusal counts for nobody");
        counts.give_back(&["a"]);
        assert!(counts.take(&["a"], start + Duration::from_secs(21)).is_ok());
        assert!(counts.take(&["a"], start + MINUTE).is_ok());
    }

    #[test]
    fn windows_that_are_over_are_forgotten() {
        let start = Instant::now();
        let mut counts = PerMinute::new(1);
        (0..1000).for_each(|key| counts.take(&[key], start).unwrap());
        counts.take(&[1000], start + MINUTE).unwrap();
        assert_eq!(counts.windows.len(), 1);
    }

    #[test]
    fn many_keys_in_one_minute_take_bounded_memory_and_do_not_hide_who_is_at_the_limit() {
        let now = Instant::now();
        let mut counts = PerMinute::new(2);
        (0..2).for_each(|_| counts.take(&[0], now).unwrap());
        (1..300_000).for_each(|key| counts.take(&[key], now).unwrap());
        assert!(counts.windows.len() <= MOST_KEYS);
        assert!(counts.take(&[0], now).is_err());
    }
}
