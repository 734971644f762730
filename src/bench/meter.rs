//! Counts during a run, in three phases: warm-up, measured time, and waiting for the last messages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use hdrhistogram::Histogram;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

use super::{
    engine::Engine,
    process::Processes,
    progress::Progress,
    report::{self, Latency, Report, thousands},
};

/// Longest warm-up; it takes a quarter of the measured time.
const WARMING_UP: f64 = 1.0;

/// Time without arrivals after which missing messages count as lost, in nanoseconds.
pub(super) const PATIENCE: u64 = 15_000_000_000;

/// Time between two samples of the broker's memory, in nanoseconds.
const LOOK: u64 = 50_000_000;

const INTERRUPTED: &str = "interrupted";

/// Handles Ctrl-C and SIGTERM, so that the benchmark cleans up before it ends.
#[derive(Default)]
pub(super) struct Stop {
    is_wanted: AtomicBool,
    notify: Notify,
}

impl Stop {
    /// Installs the signal handlers.
    pub(super) fn listen() -> std::io::Result<Arc<Self>> {
        let stop = Arc::new(Self::default());
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let ours = stop.clone();
        actix_web::rt::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            ours.notify.notify_one();
        });
        Ok(stop)
    }
}

/// Progress line, signals and processes of a benchmark.
#[derive(Clone)]
pub(super) struct Control {
    pub progress: Progress,
    pub stop: Arc<Stop>,
    /// The broker's processes, if known.
    pub processes: Processes,
    /// Whether to poll without sleeping.
    pub spin: bool,
}

impl Control {
    /// Fails after Ctrl-C.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.stop.is_wanted.load(Ordering::Relaxed) {
            bail!(INTERRUPTED);
        }
        Ok(())
    }

    /// Runs the work until it ends or a signal stops the benchmark.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            done = work => done,
            () = self.stop.notify.notified() => {
                // `check` on the engine's thread sees it
                self.stop.is_wanted.store(true, Ordering::Relaxed);
                bail!(INTERRUPTED)
            }
        }
    }

    /// The longest time to wait for events.
    pub(super) fn timeout(&self) -> Duration {
        if self.spin { Duration::ZERO } else { Duration::from_millis(10) }
    }
}

/// The counters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub sent: u64,
    pub accepted: u64,
    pub delivered: u64,
    pub acknowledged: u64,
    pub logins_answered: u64,
    pub logins_refused: u64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Snapshot {
    at: u64,
    counts: Counts,
    received: u64,
    idle: u64,
    cpu: Option<Duration>,
}

/// The phase of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmingUp,
    Measuring,
    WaitingForTheLast,
}

/// The counters and latencies of a run.
pub(super) struct Meter {
    control: Control,
    begin: u64,
    measure_from: u64,
    end: u64,
    phase: Phase,
    first: Snapshot,
    last: Snapshot,
    looked_at: u64,
    progress: (u64, u64),
    /// The counters so far.
    pub counts: Counts,
    /// Latencies during the measured time, in nanoseconds.
    pub latencies: Histogram<u64>,
    pub errors: u64,
    pub first_error: Option<String>,
    memory_peak: Option<u64>,
}

impl Meter {
    /// Starts the warm-up at `begin`. `seconds` is the time to measure.
    pub(super) fn new(control: &Control, begin: u64, seconds: f64) -> anyhow::Result<Self> {
        let measure_from = begin + ((seconds / 4.0).min(WARMING_UP) * 1e9) as u64;
        Ok(Self {
            control: control.clone(),
            begin,
            measure_from,
            end: measure_from + (seconds * 1e9) as u64,
            phase: Phase::WarmingUp,
            first: Snapshot::default(),
            last: Snapshot::default(),
            looked_at: 0,
            progress: (0, begin),
            counts: Counts::default(),
            latencies: report::histogram()?,
            errors: 0,
            first_error: None,
            memory_peak: None,
        })
    }

    /// Whether the measured time is running.
    #[inline]
    pub(super) fn is_measuring(&self) -> bool {
        self.phase == Phase::Measuring
    }

    /// Whether the measured time is over, so that no more is sent.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::WaitingForTheLast
    }

    /// Counts an error that does not end the run.
    pub(super) fn error(&mut self, text: &str) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(text.to_owned());
        }
    }

    /// Updates phase, samples and progress. `expected` is the number of copies that should arrive. Returns false at the end of
    /// the run.
    pub(super) fn tick(&mut self, engine: &Engine, expected: u64) -> bool {
        let now = engine.now();
        if self.phase == Phase::WarmingUp && now >= self.measure_from {
            self.phase = Phase::Measuring;
            self.first = self.snapshot(engine, now);
        }
        if self.phase == Phase::Measuring && now >= self.end {
            self.phase = Phase::WaitingForTheLast;
            self.last = self.snapshot(engine, now);
        }
        if now - self.looked_at > LOOK {
            self.looked_at = now;
            self.memory_peak = self.memory_peak.max(self.control.processes.memory());
            let rate = self.counts.delivered as f64 * 1e9 / (now.saturating_sub(self.begin).max(1)) as f64;
            let since = |time: u64| Duration::from_nanos(time.saturating_sub(self.begin));
            self.control.progress.running(since(now), since(self.end), format!("{} delivered/s", thousands(rate)));
        }
        let Counts { sent, accepted, delivered, acknowledged, .. } = self.counts;
        let done = delivered + accepted + acknowledged + self.errors;
        // some servers send no receipts, and most messages are not acknowledged
        let is_all_here = delivered >= expected && [accepted, acknowledged].iter().all(|of| *of == 0 || *of >= sent);
        if done != self.progress.0 || is_all_here {
            self.progress = (done, now);
        }
        let is_stuck = now.saturating_sub(self.progress.1) > PATIENCE;
        if is_stuck && !self.is_over() {
            // nothing arrives any more: the measurement ends now
            self.phase = Phase::WaitingForTheLast;
            self.last = self.snapshot(engine, now);
        }
        !(is_stuck || self.is_over() && is_all_here)
    }

    fn snapshot(&self, engine: &Engine, at: u64) -> Snapshot {
        let cpu = self.control.processes.cpu();
        Snapshot { at, counts: self.counts, received: engine.received, idle: engine.idle, cpu }
    }

    /// Writes the figures into the report.
    pub(super) fn report(&self, report: &mut Report, expected: u64, of: &'static str, corrected: bool) {
        let Snapshot { at, counts, received, idle, cpu } = self.first;
        let seconds = (self.last.at.saturating_sub(at)).max(1) as f64 / 1e9;
        let rate = |first: u64, last: u64| (last.saturating_sub(first)) as f64 / seconds;
        report.duration_s = seconds;
        report.sent = Some(self.counts.sent);
        report.delivered = Some(self.counts.delivered);
        report.lost = Some(expected.saturating_sub(self.counts.delivered));
        report.errors = self.errors;
        report.first_error.clone_from(&self.first_error);
        report.sent_per_s = Some(rate(counts.sent, self.last.counts.sent));
        if self.counts.accepted > 0 {
            report.accepted = Some(self.counts.accepted);
            report.accepted_per_s = Some(rate(counts.accepted, self.last.counts.accepted));
        }
        report.acknowledged = (self.counts.acknowledged > 0).then_some(self.counts.acknowledged);
        let delivered = rate(counts.delivered, self.last.counts.delivered);
        report.delivered_per_s = Some(delivered);
        report.received_bytes_per_s = Some(rate(received, self.last.received));
        if report.login_flood_clients.is_some() {
            report.logins_answered_per_s = Some(rate(counts.logins_answered, self.last.counts.logins_answered));
            report.logins_refused_per_s = Some(rate(counts.logins_refused, self.last.counts.logins_refused));
        }
        report.latency = Latency::of(of, corrected, &self.latencies);
        if let (Some(first), Some(last)) = (cpu, self.last.cpu) {
            let cores = last.saturating_sub(first).as_secs_f64() / seconds;
            report.broker_cpu_cores = Some(cores);
            // shorter times are below the resolution of the system's CPU clock
            if cores > 0.05 {
                report.per_core_per_s = Some(delivered / cores);
            }
        }
        report.memory_peak_bytes = self.memory_peak;
        let idle = (self.last.idle.saturating_sub(idle)) as f64 / 1e9 / seconds;
        report.bench_busy = Some((1.0 - idle).clamp(0.0, 1.0));
    }
}
