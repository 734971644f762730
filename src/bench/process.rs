//! Memory and CPU time of processes on this machine (Linux: `/proc`).

use std::time::Duration;

/// The processes of a server on this machine, by their ids. Their figures are `None` if there is none, if one has ended, or if the
/// system does not provide them.
#[derive(Debug, Clone, Default)]
pub(super) struct Processes(pub Vec<u32>);

impl Processes {
    /// The resident memory of all, in bytes.
    pub(super) fn memory(&self) -> Option<u64> {
        let each: Option<Vec<_>> = self.0.iter().map(|id| Self::memory_of(*id)).collect();
        each.filter(|each| !each.is_empty()).map(|each| each.iter().sum())
    }

    /// The CPU time that all have used so far.
    pub(super) fn cpu(&self) -> Option<Duration> {
        let each: Option<Vec<_>> = self.0.iter().map(|id| Self::cpu_of(*id)).collect();
        each.filter(|each| !each.is_empty()).map(|each| each.iter().sum())
    }

    fn memory_of(id: u32) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }

    fn cpu_of(id: u32) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
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
        let me = Processes(vec![std::process::id()]);
        assert!(me.memory().unwrap() > 100_000);
        assert!(me.cpu().is_some());
        let twice = Processes(vec![std::process::id(); 2]);
        assert!(twice.memory().unwrap() > me.memory().unwrap());
        for ids in [vec![], vec![0], vec![std::process::id(), 0]] {
            assert!(Processes(ids.clone()).memory().is_none() && Processes(ids).cpu().is_none());
        }
    }
}
