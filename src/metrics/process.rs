//! The process as the kernel sees it.

use super::Metrics;

/// Reads memory, descriptors, threads and processor time of this process. What cannot be read keeps its value.
#[cfg(target_os = "linux")]
pub fn read(metrics: &Metrics) {
    use procfs::process::{LimitValue, Process};

    let Ok(process) = Process::myself() else { return };
    if let Ok(status) = process.status() {
        let bytes = |kib: Option<u64>| kib.unwrap_or_default() as i64 * 1024;
        metrics.process_resident_memory_bytes.set(bytes(status.vmrss));
        metrics.process_anonymous_memory_bytes.set(bytes(status.rssanon));
        metrics.process_threads.set(status.threads as i64);
    }
    if let Ok(open) = process.fd_count() {
        metrics.process_open_fds.set(open as i64);
    }
    if let Ok(limits) = process.limits()
        && let LimitValue::Value(most) = limits.max_open_files.soft_limit
    {
        metrics.process_max_fds.set(most as i64);
    }
    if let Ok(stat) = process.stat() {
        let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        let counted = metrics.process_cpu_seconds_total.get();
        metrics.process_cpu_seconds_total.inc_by((seconds - counted).max(0.0));
        if let Ok(booted) = procfs::boot_time_secs() {
            let started = booted as f64 + stat.starttime as f64 / procfs::ticks_per_second() as f64;
            metrics.process_start_time_seconds.set(started);
        }
    }
}

/// Other systems have no such files.
#[cfg(not(target_os = "linux"))]
pub fn read(_: &Metrics) {}
