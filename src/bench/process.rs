//! What a process on this machine has used (Linux: `/proc`).

use std::time::Duration;

/// A process on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process(pub u32);

impl Process {
    /// Bytes of memory it has resident now. None where the system does not tell, and after its end.
    pub(super) fn memory(self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }

    /// The time it has been running on a processor.
    pub(super) fn cpu(self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        // the name before it may hold anything
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        // in hundredths of a second, whatever the kernel's own clock does
        Some(Duration::from_millis((user + system) * 10))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_this_process_are_there() {
        let me = Process(std::process::id());
        assert!(me.memory().unwrap() > 100_000);
        assert!(me.cpu().is_some());
        assert!(Process(0).memory().is_none());
    }
}
