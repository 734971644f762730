//! Senders, receivers and messages: shared by the benchmarks `fanout`, `history`, `direct`, `ack` and `room`.

use std::time::Duration;

use anyhow::{Context, bail};

use super::{
    engine::{Ended, Engine, Handler},
    entrance::{Entrance, Opening, Seat, explain},
    meter::{Control, Meter, PATIENCE},
    pace::Pace,
    report::Report,
    stamp::{self, Stamps, Template},
    wire::{Incoming, Protocol},
};

/// The sockets, the senders and the load of a run.
pub(super) struct Plan {
    pub protocol: Protocol,
    pub host: String,
    /// Identifies the messages of this run.
    pub run: String,
    pub seats: Vec<Seat>,
    pub senders: Vec<Sender>,
    pub window: Window,
    /// Whether recipients acknowledge messages. A message has then arrived when its sender is told of the acknowledgement.
    pub is_acknowledged: bool,
    /// Messages per second, all senders together; `None`: as fast as the window allows.
    pub rate: Option<f64>,
    /// Seconds to measure.
    pub duration: f64,
    /// Number of HTTP connections that log in continuously.
    pub login_flood: usize,
}

/// A seat that sends.
pub(super) struct Sender {
    pub seat: usize,
    /// Sent in turn.
    pub messages: Vec<Outgoing>,
    pub next: usize,
}

/// A message that is sent repeatedly.
pub(super) struct Outgoing {
    pub template: Template,
    /// The number of recipients.
    pub copies: u64,
}

/// The most messages in flight if no rate is given.
pub(super) enum Window {
    /// This many publications, all senders together.
    Together(usize),
    /// This many messages of each sender. The list gives, for each seat, the sender whose messages (or news of their
    /// acknowledgement) arrive there.
    EachSender(usize, Vec<Option<usize>>),
}

/// The number of publications in flight that keeps a broker busy without exceeding the budget of any socket.
pub(super) fn window(copies: usize, size: usize) -> usize {
    (16_000 / copies).clamp(8, 64).min((256 * 1024 / size).max(1))
}

struct Run {
    protocol: Protocol,
    entrance: Entrance,
    stamps: Stamps,
    senders: Vec<Sender>,
    window: Window,
    meter: Option<Meter>,
    /// expected copies of all messages sent
    expected: u64,
    /// the next sender if all take turns
    turn: usize,
    /// senders whose message arrived, so that they send the next one
    again: Vec<usize>,
    /// how recipients acknowledge messages, if they do
    acknowledgement: Option<Template>,
    login: Vec<u8>,
    /// reading what stalled clients have not read; it is not counted
    is_draining: bool,
    stalled_cut: usize,
    failure: Option<String>,
}

/// Runs the plan and fills in the report.
pub(super) fn run(engine: &mut Engine, plan: Plan, control: &Control, report: &mut Report) -> anyhow::Result<()> {
    let Plan { protocol, host, run, seats, senders, window, is_acknowledged, rate, duration, login_flood } = plan;
    let memory_before = control.processes.memory();
    let count = seats.len();
    let login = format!("username=bench-{run}&password=not-the-password");
    let login = format!(
        "POST /token HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{login}",
        login.len()
    );
    let mut all = Run {
        protocol,
        entrance: Entrance::new(protocol, &host, seats)?,
        stamps: Stamps::new(&run),
        senders,
        window,
        meter: None,
        expected: 0,
        turn: 0,
        again: Vec::new(),
        acknowledgement: is_acknowledged.then(|| Template::new(&run, Protocol::acknowledgement(&stamp::msgid(&run)))),
        login: login.into_bytes(),
        is_draining: false,
        stalled_cut: 0,
        failure: None,
    };
    enter(engine, &mut all, count, control)?;

    let mut meter = Meter::new(control, engine.now(), duration)?;
    if login_flood > 0 {
        report.login_flood_clients = Some(login_flood);
    }
    meter.tick(engine, 0);
    all.meter = Some(meter);
    for _ in 0..login_flood {
        engine.open(None)?;
    }
    all.go(engine, rate, control)?;

    let stalled: Vec<_> = (0..count).filter(|seat| all.entrance.seats[*seat].is_stalled).collect();
    if !stalled.is_empty() {
        control.progress.wait("reading the backlog of stalled clients");
        all.drain(engine, &stalled, control)?;
        report.stalled_clients = Some(stalled.len());
        report.stalled_cut = Some(all.stalled_cut);
    }
    let of = if is_acknowledged { "from sending to the delivery_update" } else { "from sending to arrival" };
    if let Some(meter) = &all.meter {
        meter.report(report, all.expected, of, rate.is_some());
    }
    report.memory_before_bytes = memory_before;
    Ok(())
}

/// Opens the sockets of all seats.
fn enter(engine: &mut Engine, all: &mut Run, count: usize, control: &Control) -> anyhow::Result<()> {
    let (mut seats, mut opening) = (0..count, Opening::begin(engine, count, control));
    while all.entrance.ready < count {
        all.entrance.open(engine, &mut seats).context("cannot open a socket")?;
        engine.poll(control.timeout(), all)?;
        control.check()?;
        all.check()?;
        opening.check(engine, all.entrance.ready, all.entrance.ready, control)?;
    }
    Ok(())
}

impl Run {
    fn check(&mut self) -> anyhow::Result<()> {
        self.failure.take().map_or(Ok(()), |failure| bail!(failure))
    }

    /// Sends until the time is over, and waits for the last messages.
    fn go(&mut self, engine: &mut Engine, rate: Option<f64>, control: &Control) -> anyhow::Result<()> {
        let mut pace = rate.map(|rate| Pace::new(engine.now(), rate));
        if pace.is_none()
            && let Window::EachSender(window, _) = self.window
        {
            self.again = (0..window).flat_map(|_| 0..self.senders.len()).collect();
        }
        loop {
            control.check()?;
            self.check()?;
            let Some(meter) = &mut self.meter else { return Ok(()) };
            if !meter.tick(engine, self.expected) {
                return Ok(());
            }
            let mut timeout = control.timeout();
            if meter.is_over() {
                self.again.clear();
            } else if let Some(pace) = &mut pace {
                let now = engine.now();
                while let Some(due) = pace.take(now) {
                    self.send_next(engine, due);
                }
                self.again.clear();
                timeout = timeout.min(until(pace.next(), engine.now()));
            } else {
                self.fill_window(engine);
            }
            engine.poll(timeout, self)?;
        }
    }

    fn fill_window(&mut self, engine: &mut Engine) {
        match self.window {
            Window::Together(window) => loop {
                let sender = &self.senders[self.turn % self.senders.len()];
                let copies = sender.messages[sender.next].copies;
                let delivered = self.meter.as_ref().map_or(0, |meter| meter.counts.delivered);
                if self.expected + copies > delivered + copies * window as u64 {
                    break;
                }
                self.send_next(engine, engine.now());
            },
            Window::EachSender(..) => {
                let mut again = std::mem::take(&mut self.again);
                for sender in again.drain(..) {
                    self.send(engine, sender, engine.now());
                }
                self.again = again;
            }
        }
    }

    /// Sends a message of the next sender.
    fn send_next(&mut self, engine: &mut Engine, time: u64) {
        let sender = self.turn % self.senders.len();
        self.turn += 1;
        self.send(engine, sender, time);
    }

    fn send(&mut self, engine: &mut Engine, sender: usize, time: u64) {
        let Sender { seat, messages, next } = &mut self.senders[sender];
        let this = *next;
        *next = (this + 1) % messages.len();
        let message = &mut messages[this];
        if let (Some(id), Some(meter)) = (self.entrance.socket(*seat), &mut self.meter) {
            engine.send(id, self.protocol.opcode(), message.template.stamped(time));
            meter.counts.sent += 1;
            self.expected += message.copies;
        }
    }

    #[inline]
    fn arrived(&mut self, id: usize, message: &[u8], now: u64) {
        let Some(meter) = self.meter.as_mut().filter(|_| !self.is_draining) else { return };
        let Some(sent_at) = self.stamps.find(message) else { return };
        meter.counts.delivered += 1;
        if meter.is_measuring() {
            meter.latencies.saturating_record(now.saturating_sub(sent_at));
        }
        if let Window::EachSender(_, senders) = &self.window
            && let Some(sender) = senders[self.entrance.seat(id)]
        {
            self.again.push(sender);
        }
    }

    /// A recipient acknowledges a message.
    fn acknowledge(&mut self, engine: &mut Engine, id: usize, message: &[u8]) {
        if let (Some(template), Some(sent_at)) = (&mut self.acknowledgement, self.stamps.find(message)) {
            engine.send(id, self.protocol.opcode(), template.stamped(sent_at));
        }
    }

    /// Reads the backlog of stalled clients, until the broker's close frame or until nothing more comes.
    fn drain(&mut self, engine: &mut Engine, stalled: &[usize], control: &Control) -> anyhow::Result<()> {
        self.is_draining = true;
        for seat in stalled {
            if let Some(id) = self.entrance.socket(*seat) {
                engine.drain(id, self);
            }
        }
        // a close frame follows the bytes that the kernel had already taken
        let mut quiet_since = engine.now();
        let mut received = engine.received;
        while self.stalled_cut < stalled.len() && engine.now() - quiet_since < PATIENCE / 3 {
            engine.poll(Duration::from_millis(10), self)?;
            control.check()?;
            if engine.received != received {
                (received, quiet_since) = (engine.received, engine.now());
            }
        }
        Ok(())
    }
}

/// The time to sleep until `time`; zero if that is too short for the system's timers.
pub(super) fn until(time: u64, now: u64) -> Duration {
    let left = Duration::from_nanos(time.saturating_sub(now));
    if left > Duration::from_millis(3) { left.saturating_sub(Duration::from_millis(2)) } else { Duration::ZERO }
}

impl Handler for Run {
    fn opened(&mut self, engine: &mut Engine, id: usize) {
        if !self.entrance.has(id) {
            engine.send_raw(id, &self.login);
        }
    }

    fn frame(&mut self, engine: &mut Engine, id: usize, payload: &[u8]) {
        let now = engine.now();
        let mut rest = self.entrance.rest(id);
        self.protocol.read(&mut rest, payload, |incoming| match incoming {
            Incoming::Message(message) if self.acknowledgement.is_some() => self.acknowledge(engine, id, message),
            Incoming::Message(message) | Incoming::Acknowledged(message) => self.arrived(id, message, now),
            Incoming::Receipt | Incoming::AckReceived => {
                if let Some(meter) = &mut self.meter {
                    let is_receipt = matches!(incoming, Incoming::Receipt);
                    let count = if is_receipt { &mut meter.counts.accepted } else { &mut meter.counts.acknowledged };
                    *count += 1;
                }
            }
            Incoming::Error(text) => match &mut self.meter {
                Some(meter) => meter.error(&text),
                None => self.failure = Some(format!("the server says: {text}")),
            },
            incoming => {
                self.entrance.take(engine, id, &incoming);
            }
        });
        self.entrance.keep(id, rest);
    }

    fn answer(&mut self, engine: &mut Engine, id: usize, status: u16, _: &[u8]) {
        let Some(meter) = &mut self.meter else { return };
        match status {
            401 => meter.counts.logins_answered += 1,
            503 => meter.counts.logins_refused += 1,
            429 => {
                self.failure = Some(
                    "the broker limits failed logins: switch limits.login_failures_per_minute off with 0".to_owned(),
                );
            }
            status => meter.error(&format!("a login was answered with {status}")),
        }
        if !meter.is_over() {
            engine.send_raw(id, &self.login);
        }
    }

    fn ended(&mut self, _: &mut Engine, id: usize, why: Ended) {
        if !self.entrance.has(id) {
            if let Some(meter) = &mut self.meter {
                meter.error(&explain(&why));
            }
            return;
        }
        let seat = self.entrance.ended(id);
        if self.entrance.seats[seat].is_stalled && self.meter.is_some() {
            self.stalled_cut += 1;
        } else if self.failure.is_none() {
            self.failure = Some(explain(&why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::window;

    #[test]
    fn the_window_keeps_a_broker_busy_and_fits_into_a_socket() {
        assert_eq!([1, 100, 1_000, 5_000].map(|copies| window(copies, 128)), [64, 64, 16, 8]);
        assert_eq!(window(100, 32 * 1024), 8);
        assert_eq!(window(100, 1024 * 1024), 1);
    }
}
