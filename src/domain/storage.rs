//! When storage is nearly full.

/// `storage.min_free_bytes` as built in; less on small file systems, see [`Threshold::new`].
const DEFAULT: u64 = 64 * 1024 * 1024;

/// Bytes of a page of SQLite.
const PAGE: u64 = 4096;

/// After how many pages SQLite copies its write-ahead log into the file: 16 MB, since under load its default would have it
/// copy several times a second. The copy may take as much space again, so on a file system of so many bytes in all it is
/// less than what the default [`Threshold`] keeps free.
pub fn checkpoint_pages(total: u64) -> u64 {
    (total / 64 / PAGE).clamp(100, 4000)
}

/// Free bytes below which nothing more is stored.
#[derive(Debug, Clone, Copy)]
pub struct Threshold {
    min_free: u64,
    nearly_full: bool,
}

impl Threshold {
    /// From `storage.min_free_bytes`; 0 is none. Left at its default it is at most a twentieth of the file system.
    pub fn new(min_free: u64, total: u64) -> Self {
        let min_free = if min_free == DEFAULT { min_free.min(total / 20) } else { min_free };
        Self { min_free, nearly_full: false }
    }

    /// Whether so few bytes are free that nothing more is to be stored. It ends when a tenth more than the threshold is
    /// free, so that it does not begin again at once.
    pub fn is_nearly_full(&mut self, free: u64) -> bool {
        let enough = if self.nearly_full { self.min_free.saturating_add(self.min_free / 10) } else { self.min_free };
        self.nearly_full = free < enough;
        self.nearly_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_at_most_a_twentieth_of_the_file_system() {
        assert_eq!(Threshold::new(DEFAULT, 1 << 40).min_free, DEFAULT);
        assert_eq!(Threshold::new(DEFAULT, 1_000_000).min_free, 50_000);
        // what somebody asked for is taken as it is
        assert_eq!(Threshold::new(DEFAULT * 2, 1_000_000).min_free, DEFAULT * 2);
    }

    #[test]
    fn the_log_of_sqlite_fits_into_what_is_kept_free() {
        for total in [24 << 20, 256 << 20, 1 << 30, 1 << 40] {
            let log = checkpoint_pages(total) * PAGE;
            assert!(2 * log <= Threshold::new(DEFAULT, total).min_free, "{log} of {total}");
        }
        assert_eq!(checkpoint_pages(1 << 40), 4000);
    }

    #[test]
    fn storage_is_nearly_full_until_there_is_a_little_more_than_the_threshold() {
        let mut threshold = Threshold::new(1000, 1_000_000);
        let told: Vec<_> = [1000, 999, 1050, 1100, 1000].map(|free| threshold.is_nearly_full(free)).into();
        assert_eq!(told, [false, true, true, false, false]);
    }

    #[test]
    fn a_threshold_of_nothing_is_never_passed() {
        assert!(!Threshold::new(0, 1_000_000).is_nearly_full(0));
    }
}
