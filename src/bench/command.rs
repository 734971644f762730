//! `bench command`: commands over HTTP to devices that answer immediately.

use std::collections::VecDeque;

use anyhow::{Context, bail};
use clap::Args;

use super::{
    Bench, LoadArguments, TargetArguments,
    engine::{Ended, Engine, Handler},
    entrance::{Entrance, Opening, Seat, explain},
    meter::{Control, Meter},
    pace::Pace,
    report::Report,
    stamp,
    wire::{Incoming, Protocol},
};

#[derive(Args)]
pub(super) struct Arguments {
    /// Devices
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = super::count())]
    clients: usize,
    /// Callers, each with at most one command in flight
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = super::count())]
    in_flight: usize,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    target: TargetArguments,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { clients, in_flight, load, target } = arguments;
    let mut bench = Bench::prepare(target).await?;
    let report = Report { benchmark: "command", clients, in_flight: Some(in_flight), ..load.report() };
    let control = bench.control.clone();
    let done = async {
        let protocol = bench.protocol;
        let token = match protocol {
            Protocol::Switchboard => bench.operator().await?.token().unwrap_or_default().to_owned(),
            Protocol::Nats => String::new(),
        };
        // with NATS, callers are clients with sockets, too; with Switchboard they use HTTP
        let callers = if protocol == Protocol::Nats { in_flight } else { 0 };
        let all = bench.devices(clients + callers).await?;
        let content = stamp::content(&bench.run, load.size);
        let requests = (0..in_flight).map(|caller| {
            let (caller, target) = (all[(clients + caller) % all.len()].uuid, all[caller % clients].uuid);
            protocol.request(&bench.target.host, &token, caller, target, &content)
        });
        let requests = requests.collect();
        let seats = all.into_iter().map(|identity| {
            let subjects = protocol.own_subject(identity.uuid);
            Seat::device(identity, subjects)
        });
        let (host, seats) = (bench.target.host.clone(), seats.collect());
        bench
            .engine(report, move |engine, control, report| {
                let mut run = Run {
                    protocol,
                    entrance: Entrance::new(protocol, &host, seats)?,
                    devices: clients,
                    callers: Vec::new(),
                    caller_of: Vec::new(),
                    requests,
                    free: VecDeque::new(),
                    due: VecDeque::new(),
                    meter: None,
                    failure: None,
                };
                run.go(engine, load.rate, load.duration, control)?;
                if let Some(meter) = &run.meter {
                    let of = "from calling to the device's answer";
                    meter.report(report, meter.counts.sent, of, load.rate.is_some());
                }
                Ok(())
            })
            .await
    };
    let done = control.unless_stopped(done).await;
    bench.finish(done).await
}

/// A client that sends commands.
struct Caller {
    /// its socket
    id: usize,
    /// when its current command was due
    sent_at: u64,
}

struct Run {
    protocol: Protocol,
    entrance: Entrance,
    devices: usize,
    callers: Vec<Caller>,
    /// by socket id
    caller_of: Vec<Option<usize>>,
    /// by caller
    requests: Vec<Vec<u8>>,
    free: VecDeque<usize>,
    /// due times of commands that wait for a free caller
    due: VecDeque<u64>,
    meter: Option<Meter>,
    failure: Option<String>,
}

impl Run {
    fn go(&mut self, engine: &mut Engine, rate: Option<f64>, duration: f64, control: &Control) -> anyhow::Result<()> {
        let count = self.entrance.seats.len();
        let (mut seats, mut opening) = (0..count, Opening::begin(engine, count, control));
        if self.protocol == Protocol::Switchboard {
            for _ in 0..self.requests.len() {
                engine.open(None).context("cannot open a connection")?;
            }
        }
        while self.entrance.ready < count || self.callers.len() < self.requests.len() {
            self.entrance.open(engine, &mut seats).context("cannot open a socket")?;
            engine.poll(control.timeout(), self)?;
            self.check(control)?;
            if self.entrance.ready == count && self.protocol == Protocol::Nats && self.callers.is_empty() {
                for seat in self.devices..count {
                    if let Some(id) = self.entrance.socket(seat) {
                        self.is_caller(id);
                    }
                }
            }
            opening.check(engine, self.entrance.ready, self.entrance.ready + self.callers.len(), control)?;
        }
        self.free = (0..self.callers.len()).collect();
        let begin = engine.now();
        self.meter = Some(Meter::new(control, begin, duration)?);
        let mut pace = rate.map(|rate| Pace::new(begin, rate));
        loop {
            self.check(control)?;
            let Some(meter) = &mut self.meter else { return Ok(()) };
            if !meter.tick(engine, meter.counts.sent) {
                return Ok(());
            }
            let now = engine.now();
            if meter.is_over() {
                self.due.clear();
            } else if let Some(pace) = &mut pace {
                self.due.extend(std::iter::from_fn(|| pace.take(now)));
            } else {
                self.due.resize(self.free.len(), now);
            }
            while let (Some(caller), Some(due)) = (self.free.front(), self.due.pop_front()) {
                let caller = *caller;
                self.free.pop_front();
                self.call(engine, caller, due);
            }
            let timeout = match &pace {
                Some(pace) => control.timeout().min(super::messages::until(pace.next(), now)),
                None => control.timeout(),
            };
            engine.poll(timeout, self)?;
        }
    }

    fn check(&mut self, control: &Control) -> anyhow::Result<()> {
        control.check()?;
        self.failure.take().map_or(Ok(()), |failure| bail!(failure))
    }

    fn is_caller(&mut self, id: usize) {
        if self.caller_of.len() <= id {
            self.caller_of.resize(id + 1, None);
        }
        self.caller_of[id] = Some(self.callers.len());
        self.callers.push(Caller { id, sent_at: 0 });
    }

    fn call(&mut self, engine: &mut Engine, caller: usize, due: u64) {
        let Caller { id, sent_at } = &mut self.callers[caller];
        *sent_at = due;
        match self.protocol {
            Protocol::Switchboard => engine.send_raw(*id, &self.requests[caller]),
            Protocol::Nats => engine.send(*id, self.protocol.opcode(), &self.requests[caller]),
        }
        if let Some(meter) = &mut self.meter {
            meter.counts.sent += 1;
        }
    }

    fn answered(&mut self, id: usize, now: u64) {
        let (Some(Some(caller)), Some(meter)) = (self.caller_of.get(id), &mut self.meter) else { return };
        meter.counts.delivered += 1;
        if meter.is_measuring() {
            meter.latencies.saturating_record(now.saturating_sub(self.callers[*caller].sent_at));
        }
        self.free.push_back(*caller);
    }
}

impl Handler for Run {
    fn opened(&mut self, _: &mut Engine, id: usize) {
        if !self.entrance.has(id) {
            self.is_caller(id);
        }
    }

    fn frame(&mut self, engine: &mut Engine, id: usize, payload: &[u8]) {
        let now = engine.now();
        let mut rest = self.entrance.rest(id);
        self.protocol.read(&mut rest, payload, |incoming| match incoming {
            Incoming::Command(command) => {
                engine.send(id, self.protocol.opcode(), &self.protocol.reply(command));
            }
            Incoming::Message(_) => self.answered(id, now),
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

    fn answer(&mut self, engine: &mut Engine, id: usize, status: u16, body: &[u8]) {
        if status == 200 {
            return self.answered(id, engine.now());
        }
        let text = explain(&Ended::Refused(status, String::from_utf8_lossy(body).into_owned()));
        if matches!(status, 401 | 403 | 404) {
            self.failure = Some(text);
        } else if let (Some(Some(caller)), Some(meter)) = (self.caller_of.get(id), &mut self.meter) {
            meter.error(&text);
            self.free.push_back(*caller);
        }
    }

    fn ended(&mut self, _: &mut Engine, id: usize, why: Ended) {
        if self.entrance.has(id) {
            self.entrance.ended(id);
        }
        self.failure.get_or_insert(explain(&why));
    }
}
