//! `bench history`: publications to the subscribers of a topic with a history, each stored before it is delivered, and for
//! comparison the same to a topic without one.

use anyhow::ensure;
use clap::Args;

use super::{
    Bench, LoadArguments, TargetArguments,
    entrance::Seat,
    messages::{Sender, Window, window},
    report::Report,
    wire::{Protocol, To},
};
use crate::{domain::topics::history::MAX_SIZE, terminal::WrongArguments};

#[derive(Args)]
pub(super) struct Arguments {
    /// Subscribers
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = super::count())]
    clients: usize,
    /// Publishers; each is a separate client
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::count())]
    publishers: usize,
    /// Publications that the history keeps
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SIZE)))]
    keep: u32,
    /// Publications in flight if no rate is given [default: as for fanout]
    #[arg(long, value_name = "N", value_parser = super::count())]
    in_flight: Option<usize>,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    target: TargetArguments,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { clients, publishers, keep, in_flight, load, target } = arguments;
    ensure!(
        target.protocol == Protocol::Switchboard,
        WrongArguments("nats-server has no topics with a history".to_owned())
    );
    let in_flight = in_flight.unwrap_or(window(clients, load.size));
    let mut bench = Bench::prepare(target).await?;
    let control = bench.control.clone();
    let done = async {
        let mut plain: Option<Report> = None;
        loop {
            let report = Report {
                benchmark: "history",
                clients,
                publishers: Some(publishers),
                in_flight: load.rate.is_none().then_some(in_flight),
                ..load.report()
            };
            let keep = plain.is_some().then_some(keep);
            let report = fan_out(&mut bench, &load, (publishers, clients), in_flight, keep, report).await?;
            match plain {
                None => plain = Some(report),
                Some(plain) => return Ok(report.compared_to(&plain)),
            }
        }
    };
    let done = control.unless_stopped(done).await;
    bench.finish(done).await
}

/// Publishes to the subscribers of one topic.
async fn fan_out(
    bench: &mut Bench,
    load: &LoadArguments,
    (publishers, clients): (usize, usize),
    in_flight: usize,
    keep: Option<u32>,
    report: Report,
) -> anyhow::Result<Report> {
    let topic = keep.map_or("bench-plain".to_owned(), |keep| format!("bench-kept-{keep}"));
    // others than before, whose subscriptions end with their sockets
    let all = bench.devices(publishers + clients).await?;
    bench.identities.topics(&all[0], std::slice::from_ref(&topic), keep).await?;
    bench.identities.subscribe(all.iter().map(|who| (who.clone(), topic.clone())).collect()).await?;
    // a publisher gets no copy of what it sends itself
    let copies = (publishers + clients - 1) as u64;
    let senders = (0..publishers).map(|seat| Sender {
        seat,
        messages: vec![bench.outgoing(load, all[seat].uuid, To::Topic(&topic), copies)],
        next: 0,
    });
    let senders = senders.collect();
    let seats = all.into_iter().map(|identity| Seat::device(identity, vec![topic.clone()]));
    let plan = bench.plan(load, seats.collect(), senders, Window::Together(in_flight));
    bench.messages(plan, report).await
}
