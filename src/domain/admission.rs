//! How many connections there may be: as many as the process has descriptors for, less what it needs for itself.

/// Descriptors of one connection: its socket, the duplicate that a session writes to, and another one while that waits for
/// a slow peer.
const PER_CONNECTION: u64 = 3;

/// Connections beyond the limit that may wait for their request, to be told so or to ask for the server's health.
const SPARE: usize = 16;

/// HTTP connections beside the sockets that `limits.connections` admits.
const BESIDE_SOCKETS: usize = 5_000;

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is served.
    Served,
    /// It is told that the server is full, and may ask for its health.
    Spare,
    /// It is closed at once.
    Refused,
}

/// How many connections are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    served: usize,
    /// beyond these: silent ones up to a number per worker, and as many that are being answered
    spare_per_worker: usize,
    spare: usize,
}

impl Capacity {
    /// For a process that may have so many descriptors open and needs so many for itself, and so many sockets
    /// (0: as many as the descriptors allow).
    pub fn of(descriptors: u64, own: u64, sockets: usize, workers: usize) -> Self {
        let workers = workers.max(1);
        let possible = usize::try_from(descriptors.saturating_sub(own) / PER_CONNECTION).unwrap_or(usize::MAX);
        // of few descriptors most are for those who are served
        let spare_per_worker = (SPARE.min(possible / 4) / workers).max(1);
        let spare = 2 * spare_per_worker * workers;
        let wanted = if sockets == 0 { usize::MAX } else { sockets.saturating_add(BESIDE_SOCKETS) };
        let served = possible.saturating_sub(spare).min(wanted).max(1);
        Self { served, spare_per_worker, spare }
    }

    /// The number.
    pub fn connections(self) -> usize {
        self.served
    }

    /// Connections beyond it that one worker lets wait for their request.
    pub fn spare_per_worker(self) -> usize {
        self.spare_per_worker
    }

    /// Connections that one worker of so many holds at a time, those included that it is about to close. Further ones wait
    /// to be accepted: however many come at once, they do not take the descriptors of those that are served.
    pub fn most_per_worker(self, workers: usize) -> usize {
        self.served.saturating_add(2 * self.spare).div_ceil(workers.max(1))
    }

    /// What becomes of one more beside so many.
    pub fn admit(self, open: usize) -> Admission {
        if open < self.served {
            Admission::Served
        } else if open < self.served + self.spare {
            Admission::Spare
        } else {
            Admission::Refused
        }
    }

    /// Whether connections that are idle should make room for others.
    pub fn is_scarce(self, open: usize) -> bool {
        open > self.served / 8 * 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_what_the_descriptors_allow_and_the_limit_asks_for() {
        assert_eq!(Capacity::of(346, 100, 20_000, 2).connections(), 50);
        assert_eq!(Capacity::of(1_000_000, 100, 20_000, 2).connections(), 25_000);
        assert_eq!(Capacity::of(1_500_096, 0, 0, 2).connections(), 500_000);
        assert_eq!(Capacity::of(200, 120, 20_000, 2).connections(), 14);
        assert_eq!(Capacity::of(64, 100, 20_000, 2).connections(), 1, "too few descriptors for anything");
        assert!(Capacity::of(u64::MAX, 0, 0, 2).connections() > 1_000_000);
    }

    #[test]
    fn beyond_the_capacity_some_are_told_and_the_rest_are_closed() {
        let capacity = Capacity::of(346, 100, 20_000, 2);
        assert_eq!(capacity.admit(49), Admission::Served);
        assert_eq!(capacity.admit(50), Admission::Spare);
        assert_eq!(capacity.admit(81), Admission::Spare);
        assert_eq!(capacity.admit(82), Admission::Refused);
        assert!(!capacity.is_scarce(42) && capacity.is_scarce(43));
    }
}
