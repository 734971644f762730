//! Memory and CPU time of a process on this machine (Linux: `/proc`).

use std::time::Duration;

/// A process on this machine, by its id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process(pub u32);

impl Process {
    /// Resident memory in bytes. `None` if the system does not provide it, or the process has ended.
    pub(super) fn memory(self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }

    /// CPU time used so far.
    pub(super) fn cpu(self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        // fields are counted after the name, which may contain any characters
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        // Linux reports hundredths of a second here, independent of the kernel's tick rate
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
