//! How many connections there may be: as many as the process has descriptors for, less what it needs for itself.

/// Descriptors of one connection: its socket, the duplicate that a session writes to, and another one while that waits for
/// a slow peer.
const PER_CONNECTION: u64 = 3;

/// Connections beyond the limit that may be silent: they are told that the server is full, or ask for its health.
const SPARE: usize = 16;

/// For each of these so many are held: one that is silent, and two that are being answered or closed.
const HELD_PER_SPARE: usize = 3;

/// Descriptors of one of them: its socket and the duplicate.
const PER_SPARE: usize = 2;

/// HTTP connections beside the sockets that `limits.connections` admits.
const BESIDE_SOCKETS: usize = 5_000;

/// How many connections are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    served: usize,
    /// silent ones beyond these, per worker
    spare_per_worker: usize,
}

impl Capacity {
    /// For a process that may have so many descriptors open and needs so many for itself, and so many sockets
    /// (0: as many as the descriptors allow).
    pub fn of(descriptors: u64, own: u64, sockets: usize, workers: usize) -> Self {
        let workers = workers.max(1);
        let possible = usize::try_from(descriptors.saturating_sub(own) / PER_CONNECTION).unwrap_or(usize::MAX);
        // most of few descriptors are for connections that are served
        let spare_per_worker = (SPARE.min(possible / 4) / workers).max(1);
        let spare = (spare_per_worker * workers * HELD_PER_SPARE * PER_SPARE).div_ceil(PER_CONNECTION as usize);
        let wanted = if sockets == 0 { usize::MAX } else { sockets.saturating_add(BESIDE_SOCKETS) };
        Self { served: possible.saturating_sub(spare).min(wanted).max(1), spare_per_worker }
    }

    /// Connections that are served.
    pub fn served(self) -> usize {
        self.served
    }

    /// Silent connections beyond them that one worker keeps.
    pub fn spare_per_worker(self) -> usize {
        self.spare_per_worker
    }

    /// Connections that one worker of so many holds at a time, of all kinds. Further ones wait to be accepted: however many
    /// come at once, they do not take the descriptors of those that are served.
    pub fn most_per_worker(self, workers: usize) -> usize {
        self.served.div_ceil(workers.max(1)).saturating_add(HELD_PER_SPARE * self.spare_per_worker)
    }

    /// Whether idle connections should make room for others, when so many are served.
    pub fn is_scarce(self, served: usize) -> bool {
        served > self.served / 8 * 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_what_the_descriptors_allow_and_the_limit_asks_for() {
        assert_eq!(Capacity::of(346, 100, 20_000, 2).served(), 50);
        assert_eq!(Capacity::of(1_000_000, 100, 20_000, 2).served(), 25_000);
        assert_eq!(Capacity::of(1_500_096, 0, 0, 2).served(), 500_000);
        assert_eq!(Capacity::of(200, 120, 20_000, 2).served(), 14);
        assert_eq!(Capacity::of(64, 100, 20_000, 2).served(), 1, "too few descriptors for anything");
        assert!(Capacity::of(u64::MAX, 0, 0, 2).served() > 1_000_000);
    }

    #[test]
    fn connections_of_all_workers_need_no_more_descriptors_than_there_are() {
        for (descriptors, workers) in [(200, 1), (200, 2), (346, 4), (1_024, 8), (65_536, 16)] {
            let capacity = Capacity::of(descriptors, 100, 0, workers);
            let held = capacity.most_per_worker(workers) * workers;
            let spare = held - capacity.served();
            let needed = capacity.served() as u64 * PER_CONNECTION + (spare * PER_SPARE) as u64;
            // for a number of connections that can't be divided among the workers
            let uneven = (workers * PER_SPARE) as u64;
            assert!(needed <= descriptors - 100 + uneven, "{needed} of {descriptors}, {workers} workers");
        }
    }

    #[test]
    fn connections_are_scarce_when_an_eighth_is_left() {
        let capacity = Capacity::of(346, 100, 20_000, 2);
        assert!(!capacity.is_scarce(42) && capacity.is_scarce(43));
    }
}
