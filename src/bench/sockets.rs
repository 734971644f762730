//! `bench idle` and `bench connect`: the memory of idle sockets, and the rate of handshakes.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::{
    Bench, TargetArguments,
    engine::{Ended, Engine, Handler},
    entrance::{Entrance, Opening, Seat, explain},
    meter::{Control, PATIENCE},
    report::{Latency, Report},
    wire::{Incoming, Protocol},
};

/// Time between two samples of the broker's memory, in nanoseconds.
const LOOK: u64 = 20_000_000;

/// An allocator returns free memory gradually: the longest time to wait for that, and the longest pause in it, in
/// nanoseconds.
const SETTLING: u64 = 20_000_000_000;
const PAUSE: u64 = 2_000_000_000;

#[derive(Args)]
pub(super) struct IdleArguments {
    /// Connections, all opened as fast as possible
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = super::count())]
    clients: usize,
    /// Seconds that they stay open
    #[arg(long, value_name = "SECS", default_value_t = 2.0, value_parser = super::seconds)]
    duration: f64,
    #[command(flatten)]
    target: TargetArguments,
}

#[derive(Args)]
pub(super) struct ConnectArguments {
    /// Connections, each opened, greeted, closed and opened again
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = super::count())]
    clients: usize,
    /// Seconds to measure
    #[arg(long, value_name = "SECS", default_value_t = 5.0, value_parser = super::seconds)]
    duration: f64,
    #[command(flatten)]
    target: TargetArguments,
}

pub(super) async fn idle(arguments: IdleArguments) -> anyhow::Result<()> {
    let IdleArguments { clients, duration, target } = arguments;
    let report = Report { benchmark: "idle", clients, duration_s: duration, ..Report::default() };
    run(target, report, move |run, engine, control, report| run.idle(engine, duration, control, report)).await
}

pub(super) async fn connect(arguments: ConnectArguments) -> anyhow::Result<()> {
    let ConnectArguments { clients, duration, target } = arguments;
    let report = Report { benchmark: "connect", clients, duration_s: duration, ..Report::default() };
    run(target, report, move |run, engine, control, report| run.connect(engine, duration, control, report)).await
}

async fn run(
    target: TargetArguments,
    report: Report,
    work: impl FnOnce(&mut Run, &mut Engine, &Control, &mut Report) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let mut bench = Bench::prepare(target).await?;
    let control = bench.control.clone();
    let done = async {
        let devices = bench.devices(report.clients).await?;
        let (protocol, host) = (bench.protocol, bench.target.host.clone());
        let seats = devices.into_iter().map(|identity| {
            let subjects = protocol.own_subject(identity.uuid);
            Seat::device(identity, subjects)
        });
        let seats = seats.collect();
        bench
            .engine(report, move |engine, control, report| {
                let entrance = Entrance::new(protocol, &host, seats)?;
                let mut run = Run { protocol, entrance, is_churning: false, failure: None };
                work(&mut run, engine, control, report)?;
                let of = "from opening a connection to the greeting";
                report.latency = Latency::of(of, false, &run.entrance.handshakes);
                Ok(())
            })
            .await
    };
    let done = control.unless_stopped(done).await;
    bench.finish(done).await
}

struct Run {
    protocol: Protocol,
    entrance: Entrance,
    /// whether sockets are closed after the greeting
    is_churning: bool,
    failure: Option<String>,
}

impl Run {
    fn check(&mut self, control: &Control) -> anyhow::Result<()> {
        control.check()?;
        self.failure.take().map_or(Ok(()), |failure| bail!(failure))
    }

    fn idle(
        &mut self,
        engine: &mut Engine,
        duration: f64,
        control: &Control,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let count = self.entrance.seats.len();
        let memory = || control.processes.memory();
        let before = self.settled_memory(engine, control)?;
        let mut peak = before;
        let (mut seats, mut opening) = (0..count, Opening::begin(engine, count, control));
        let begin = engine.now();
        let (cpu, mut looked_at) = (control.processes.cpu(), begin);
        while self.entrance.ready < count {
            self.entrance.open(engine, &mut seats).context("cannot open a socket")?;
            engine.poll(control.timeout(), self)?;
            self.check(control)?;
            if engine.now() - looked_at > LOOK {
                looked_at = engine.now();
                peak = peak.max(memory());
            }
            opening.check(engine, self.entrance.ready, self.entrance.ready, control)?;
        }
        let seconds = (engine.now() - begin) as f64 / 1e9;
        report.handshakes = Some(self.entrance.taken);
        report.handshakes_per_s = Some(self.entrance.taken as f64 / seconds);
        if let (Some(first), Some(last)) = (cpu, control.processes.cpu()) {
            report.broker_cpu_cores = Some((last.saturating_sub(first)).as_secs_f64() / seconds);
        }
        self.hold(engine, duration, control)?;
        report.memory_peak_bytes = peak.max(memory());
        let open = self.settled_memory(engine, control)?;
        report.memory_before_bytes = before;
        report.memory_open_bytes = open;
        if let (Some(before), Some(open)) = (before, open) {
            report.memory_per_connection_bytes = Some((open as f64 - before as f64) / count as f64);
        }
        for seat in 0..count {
            self.entrance.close(engine, seat);
        }
        report.memory_after_bytes = self.settled_memory(engine, control)?;
        Ok(())
    }

    /// Waits until the broker's memory no longer falls. Returns it.
    fn settled_memory(&mut self, engine: &mut Engine, control: &Control) -> anyhow::Result<Option<u64>> {
        let memory = || control.processes.memory();
        let Some(mut now) = memory() else { return Ok(None) };
        control.progress.wait("waiting until the broker's memory has settled");
        let begin = engine.now();
        let (mut fell_to, mut fell_at) = (now, begin);
        while engine.now() - begin < SETTLING && engine.now() - fell_at < PAUSE {
            engine.poll(Duration::from_millis(100), self)?;
            self.check(control)?;
            now = memory().unwrap_or(now);
            if now < fell_to - fell_to / 200 {
                (fell_to, fell_at) = (now, engine.now());
            }
        }
        Ok(Some(now))
    }

    fn hold(&mut self, engine: &mut Engine, duration: f64, control: &Control) -> anyhow::Result<()> {
        let begin = engine.now();
        let (whole, mut elapsed) = (Duration::from_secs_f64(duration), Duration::ZERO);
        while elapsed < whole {
            control.progress.running(elapsed, whole, "connected".to_owned());
            engine.poll(whole.saturating_sub(elapsed).min(Duration::from_millis(50)), self)?;
            self.check(control)?;
            elapsed = Duration::from_nanos(engine.now() - begin);
        }
        Ok(())
    }

    fn connect(
        &mut self,
        engine: &mut Engine,
        duration: f64,
        control: &Control,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let count = self.entrance.seats.len();
        let memory = || control.processes.memory();
        report.memory_before_bytes = memory();
        self.is_churning = true;
        let begin = engine.now();
        let (whole, cpu) = (Duration::from_secs_f64(duration), control.processes.cpu());
        let mut peak = memory();
        let (mut seats, mut elapsed, mut looked_at) = (0..0, Duration::ZERO, begin);
        let mut progress = (0, begin);
        while elapsed < whole {
            if seats.is_empty() {
                seats = 0..count;
            }
            // a seat gets a new socket when its last one has ended
            while !seats.is_empty() && self.entrance.socket(seats.start).is_none() {
                let mut one = seats.start..seats.start + 1;
                self.entrance.open(engine, &mut one).context("cannot open a socket")?;
                if !one.is_empty() {
                    break;
                }
                seats.start += 1;
            }
            engine.poll(control.timeout(), self)?;
            self.check(control)?;
            let now = engine.now();
            elapsed = Duration::from_nanos(now - begin);
            if now - looked_at > LOOK {
                looked_at = now;
                peak = peak.max(memory());
                let doing = format!("{} handshakes", self.entrance.taken);
                control.progress.running(elapsed, whole, doing);
            }
            if self.entrance.taken != progress.0 {
                progress = (self.entrance.taken, now);
            } else if now - progress.1 > 10 * PATIENCE {
                bail!("the server stopped sending greetings after {} handshakes", self.entrance.taken);
            }
        }
        report.duration_s = elapsed.as_secs_f64();
        report.handshakes = Some(self.entrance.taken);
        let rate = self.entrance.taken as f64 / report.duration_s;
        report.handshakes_per_s = Some(rate);
        if let (Some(first), Some(last)) = (cpu, control.processes.cpu()) {
            let cores = (last.saturating_sub(first)).as_secs_f64() / report.duration_s;
            report.broker_cpu_cores = Some(cores);
            if cores > 0.05 {
                report.per_core_per_s = Some(rate / cores);
            }
        }
        report.memory_peak_bytes = peak;
        for seat in 0..count {
            self.entrance.close(engine, seat);
        }
        Ok(())
    }
}

impl Handler for Run {
    fn opened(&mut self, _: &mut Engine, _: usize) {}

    fn frame(&mut self, engine: &mut Engine, id: usize, payload: &[u8]) {
        let mut rest = self.entrance.rest(id);
        let mut is_greeted = false;
        self.protocol.read(&mut rest, payload, |incoming| {
            if let Incoming::Error(text) = &incoming {
                self.failure.get_or_insert(format!("the server says: {text}"));
            }
            is_greeted |= self.entrance.take(engine, id, &incoming);
        });
        self.entrance.keep(id, rest);
        if self.is_churning && is_greeted && self.entrance.is_ready(id) {
            self.entrance.close(engine, self.entrance.seat(id));
        }
    }

    fn answer(&mut self, _: &mut Engine, _: usize, _: u16, _: &[u8]) {}

    fn ended(&mut self, _: &mut Engine, id: usize, why: Ended) {
        self.entrance.ended(id);
        self.failure.get_or_insert(explain(&why));
    }
}
