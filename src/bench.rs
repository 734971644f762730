//! `switchboard bench`: measures a broker's throughput, latency, CPU and memory.
//!
//! A benchmark creates its identities over HTTP ([`identities`]), opens its sockets ([`entrance`]), sends and counts on one
//! thread ([`engine`], [`meter`]), and prints the figures ([`report`]). Throughput counts what arrived, not what was sent.
//!
//! A new benchmark needs a file here, a variant of `Benchmark`, and an arm in `run`.

#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic when the reader has closed the pipe

mod ack;
mod command;
mod direct;
mod engine;
mod entrance;
mod fanout;
mod frames;
mod history;
mod identities;
mod messages;
mod meter;
mod pace;
mod process;
mod progress;
mod report;
mod room;
mod sockets;
mod stamp;
mod target;
mod wire;

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand, builder::TypedValueParser};
use uuid::Uuid;

use crate::{
    client::Client,
    terminal::{WrongArguments, login::Credentials, output, say},
};
use engine::Engine;
use entrance::Seat;
use identities::{Identities, Identity};
use messages::{Outgoing, Plan, Sender, Window};
use meter::{Control, Stop};
use process::Processes;
use progress::Progress;
use report::Report;
use stamp::Template;
use target::Target;
use wire::{Protocol, To};

#[derive(Args)]
#[command(after_help = "\
Without --url the benchmark starts a broker on a free port of this machine, with its data in a temporary directory and \
without the limits that guard against many clients from one address, and removes it at the end. To measure another \
configuration, start a broker with it and give --url.\n\n\
Most benchmarks exceed the default limits of a running broker (limits.registrations_per_minute, \
limits.frames_per_second, limits.connections, limits.topics_per_client, limits.queued_per_device); the error names the limit.\n\n\
If load and broker run on the same machine, they share its cores: the load takes one.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Publish to topics with many subscribers
    Fanout(fanout::Arguments),
    /// Publish to a topic with a history, and for comparison to one without
    History(history::Arguments),
    /// Send direct messages with receipts between pairs of devices
    Direct(direct::Arguments),
    /// Send messages that their recipients acknowledge, and for comparison the same without acknowledgement
    Ack(ack::Arguments),
    /// Send commands over HTTP to devices that answer at once
    Command(command::Arguments),
    /// Write to a chat room with many members
    Room(room::Arguments),
    /// Open connections and keep them: memory per connection, and memory after they are closed
    Idle(sockets::IdleArguments),
    /// Open and close connections: handshakes per second
    Connect(sockets::ConnectArguments),
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.benchmark {
        Benchmark::Fanout(arguments) => fanout::run(arguments).await,
        Benchmark::History(arguments) => history::run(arguments).await,
        Benchmark::Direct(arguments) => direct::run(arguments).await,
        Benchmark::Ack(arguments) => ack::run(arguments).await,
        Benchmark::Command(arguments) => command::run(arguments).await,
        Benchmark::Room(arguments) => room::run(arguments).await,
        Benchmark::Idle(arguments) => sockets::idle(arguments).await,
        Benchmark::Connect(arguments) => sockets::connect(arguments).await,
    }
}

/// The server to measure, and the format of the report.
#[derive(Args)]
struct TargetArguments {
    // not read from the environment, so that no broker is loaded by accident
    /// A running broker, as http://host:port [default: start one for the benchmark]
    #[arg(long)]
    url: Option<String>,
    /// Worker threads of the broker that is started; 0 takes one per core
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "url")]
    workers: usize,
    /// Another node of the server at --url, as http://host:port: sockets are opened at each in turn. May be repeated
    #[arg(long = "node", value_name = "URL", requires = "url")]
    nodes: Vec<String>,
    /// The process id of the server at --url, if it runs on this machine, to measure its memory and CPU. May be repeated: the sum
    /// is measured
    #[arg(long = "pid", value_name = "PID", requires = "url")]
    pids: Vec<u32>,
    /// The protocol of the server at --url
    #[arg(long, value_enum, default_value = "switchboard")]
    protocol: Protocol,
    /// Poll without sleeping: steadier figures if a core is free for it
    #[arg(long)]
    spin: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    credentials: Credentials,
}

/// The load.
#[derive(Args)]
struct LoadArguments {
    /// Messages sent per second, all senders together [default: as fast as possible]
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// Bytes of content of each message (25 to 60,000)
    #[arg(long, value_name = "B", default_value_t = 128, value_parser = size())]
    size: usize,
    /// Seconds to measure, after a warm-up
    #[arg(long, value_name = "SECS", default_value_t = 5.0, value_parser = seconds)]
    duration: f64,
}

impl LoadArguments {
    /// A report with these parameters.
    fn report(&self) -> Report {
        Report { rate_per_s: self.rate, size_bytes: Some(self.size), ..Report::default() }
    }
}

/// Parses a number from 1 to 1,000,000.
fn count() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..=1_000_000).map(|count| count as usize)
}

/// Parses a size of content, which must hold a time stamp and, with its envelope, fit into a frame.
fn size() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(stamp::LEN as i64..=60_000).map(|size| size as usize)
}

fn seconds(text: &str) -> Result<f64, String> {
    positive(text, 3_600.0, "seconds, at most 3600")
}

fn rate(text: &str) -> Result<f64, String> {
    positive(text, 10_000_000.0, "messages per second, at most 10000000")
}

fn positive(text: &str, most: f64, what: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= most);
    number.ok_or_else(|| format!("expected a number of {what}, greater than 0"))
}

/// A benchmark with its target and the identities that it created there.
struct Bench {
    target: Target,
    /// of its nodes
    addresses: Vec<SocketAddr>,
    protocol: Protocol,
    /// random text that identifies this run
    run: String,
    identities: Identities,
    url: Option<String>,
    workers: usize,
    json: bool,
    /// for servers that accept the same token from all clients
    token: Option<String>,
    operator: Option<Client>,
    control: Control,
}

impl Bench {
    /// Finds or starts the target.
    async fn prepare(arguments: TargetArguments) -> anyhow::Result<Self> {
        let TargetArguments { url, nodes, workers, pids, protocol, spin, json, credentials } = arguments;
        ensure!(
            protocol == Protocol::Switchboard || url.is_some(),
            WrongArguments("--protocol nats needs the --url of a nats-server".to_owned())
        );
        // an error is ignored: `devices` checks the limit
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        let progress = Progress::new();
        progress.wait("starting");
        let mut control =
            Control { progress: progress.clone(), stop: Stop::listen()?, processes: Processes::default(), spin };
        let target = match &url {
            Some(url) => Target::running(url, pids)?,
            None => Target::start(workers, &control).await?,
        };
        let mut addresses = vec![target.address];
        for node in &nodes {
            addresses.push(Target::running(node, Vec::new())?.address);
        }
        control.processes = target.processes.clone();
        let token = credentials.token().map(str::to_owned);
        let client = Client::new(&target.url)?;
        let operator = match target.data_dir() {
            Some(data_dir) => Some(Credentials::of_data_dir(data_dir).client(client).await?),
            None if protocol == Protocol::Switchboard && credentials.are_given(&client) => {
                Some(credentials.client(client).await?)
            }
            None => None,
        };
        let identities = Identities::new(&target, protocol, operator.clone(), &progress)?;
        let run = format!("{:08x}", rand::random::<u32>());
        Ok(Self { target, addresses, protocol, run, identities, url, workers, json, token, operator, control })
    }

    /// A client that may send commands and create rooms.
    async fn operator(&self) -> anyhow::Result<Client> {
        self.operator.clone().with_context(
            || "this needs an operator: give --token or --username; or, for a broker on this machine, --data-dir",
        )
    }

    /// Registers `count` new devices.
    async fn devices(&mut self, count: usize) -> anyhow::Result<Vec<Identity>> {
        // a socket takes a descriptor here; a broker started by the benchmark has the same limit and takes two. 100 are for the
        // rest
        let most = rlimit::getrlimit(rlimit::Resource::NOFILE)?.0.saturating_sub(100);
        let most = if self.target.is_own() { most / 2 } else { most };
        ensure!(count as u64 <= most, "{count} sockets: the limit of open files allows {most} (ulimit -n)");
        self.identities.devices(&self.run, count, self.token.as_deref()).await
    }

    /// A message of this load, which reaches so many.
    fn outgoing(&self, load: &LoadArguments, from: Uuid, to: To<'_>, copies: u64) -> Outgoing {
        let message = self.protocol.message(from, to, &stamp::content(&self.run, load.size));
        Outgoing { template: Template::new(&self.run, message), copies }
    }

    /// A plan for this load, without a flood of logins.
    fn plan(&self, load: &LoadArguments, seats: Vec<Seat>, senders: Vec<Sender>, window: Window) -> Plan {
        Plan {
            protocol: self.protocol,
            host: self.target.host.clone(),
            run: self.run.clone(),
            seats,
            senders,
            window,
            is_acknowledged: false,
            rate: load.rate,
            duration: load.duration,
            login_flood: 0,
        }
    }

    /// Runs a plan of messages.
    async fn messages(&self, plan: Plan, report: Report) -> anyhow::Result<Report> {
        self.engine(report, move |engine, control, report| messages::run(engine, plan, control, report)).await
    }

    /// Runs the work with an engine on a thread of its own.
    async fn engine(
        &self,
        mut report: Report,
        work: impl FnOnce(&mut Engine, &Control, &mut Report) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Report> {
        let (addresses, control) = (self.addresses.clone(), self.control.clone());
        let work = tokio::task::spawn_blocking(move || {
            let mut engine = Engine::new(addresses)?;
            work(&mut engine, &control, &mut report)?;
            anyhow::Ok(report)
        });
        work.await?
    }

    /// Cleans up, also after a failure, then prints the report or returns the error.
    async fn finish(self, done: anyhow::Result<Report>) -> anyhow::Result<()> {
        let Self { target, protocol, identities, url, workers, json, control, .. } = self;
        let is_own = target.is_own();
        let kept = if is_own { None } else { identities.clean_up().await };
        target.stop().await;
        control.progress.done();
        if let Some(kept) = kept {
            output::complain(&kept);
        }
        let report = done?;
        let protocol = match protocol {
            Protocol::Switchboard => "switchboard",
            Protocol::Nats => "nats",
        };
        let version = env!("CARGO_PKG_VERSION");
        let report = Report { version, protocol, workers: is_own.then_some(workers), url, ..report };
        if json {
            say!("{}", serde_json::to_string(&report)?);
        } else {
            say!("{}", report.text().trim_end());
        }
        if report.delivered == Some(0) && report.sent > Some(0) {
            bail!("nothing arrived");
        }
        Ok(())
    }
}
