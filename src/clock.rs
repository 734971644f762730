//! The time. It is passed to all who need it, so that tests can set it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, SubsecRound, Utc};

/// Tells the time; clones tell the same.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<Mutex<Stopped>>>);

/// What a clock shows that only moves when it is told to.
#[derive(Debug, Clone, Copy)]
struct Stopped {
    now: DateTime<Utc>,
    instant: Instant,
}

impl Clock {
    /// One that only moves when it is told to, for tests.
    pub fn stopped(now: DateTime<Utc>) -> Self {
        Self(Some(Arc::new(Mutex::new(Stopped { now: stored(now), instant: Instant::now() }))))
    }

    /// Moves a stopped clock; the system's moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Some(mut stopped) = self.read_stopped() {
            stopped.now = stored(stopped.now + by);
            stopped.instant += by;
        }
    }

    /// The date and time, as exact as every database stores it.
    pub fn now(&self) -> DateTime<Utc> {
        self.read_stopped().map_or_else(|| stored(Utc::now()), |stopped| stopped.now)
    }

    /// For measuring how long something takes: nobody sets it.
    pub fn instant(&self) -> Instant {
        self.read_stopped().map_or_else(Instant::now, |stopped| stopped.instant)
    }

    fn read_stopped(&self) -> Option<MutexGuard<'_, Stopped>> {
        self.0.as_ref().map(|stopped| stopped.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A time as exact as every database stores it: to the microsecond.
pub fn stored(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_clock_moves_only_when_it_is_told_to() {
        let at = DateTime::UNIX_EPOCH + Duration::from_nanos(1_500);
        let clock = Clock::stopped(at);
        let began = clock.instant();
        assert_eq!((clock.now(), clock.instant()), (DateTime::UNIX_EPOCH + Duration::from_micros(1), began));
        clock.clone().advance(Duration::from_secs(2));
        assert_eq!(clock.now(), DateTime::UNIX_EPOCH + Duration::from_micros(2_000_001));
        assert_eq!(clock.instant() - began, Duration::from_secs(2));
    }

    #[test]
    fn the_clock_of_the_system_tells_times_as_exact_as_they_are_stored() {
        let clock = Clock::default();
        let now = clock.now();
        assert_eq!(now, stored(now));
        assert!(clock.instant() <= Instant::now());
    }
}
