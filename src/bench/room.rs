//! `bench room`: chat messages to a room, each stored and then sent to every member.

use anyhow::ensure;
use clap::Args;

use super::{
    Bench, LoadArguments, TargetArguments,
    entrance::Seat,
    messages::{Sender, Window, window},
    report::Report,
    wire::{Protocol, To},
};
use crate::terminal::WrongArguments;

#[derive(Args)]
pub(super) struct Arguments {
    /// Members of the room, each with a socket
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = super::count())]
    clients: usize,
    /// Members that write; they also read
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::count())]
    publishers: usize,
    /// Messages in flight if no rate is given [default: as for fanout]
    #[arg(long, value_name = "N", value_parser = super::count())]
    in_flight: Option<usize>,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    target: TargetArguments,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { clients, publishers, in_flight, load, target } = arguments;
    ensure!(publishers <= clients, WrongArguments(format!("--publishers {publishers} needs as many --clients")));
    ensure!(target.protocol == Protocol::Switchboard, WrongArguments("nats-server has no rooms".to_owned()));
    let in_flight = in_flight.unwrap_or(window(clients, load.size));
    let mut bench = Bench::prepare(target).await?;
    let report = Report {
        benchmark: "room",
        clients,
        publishers: Some(publishers),
        in_flight: load.rate.is_none().then_some(in_flight),
        ..load.report()
    };
    let control = bench.control.clone();
    let done = async {
        let operator = bench.operator().await?;
        let all = bench.devices(clients).await?;
        let room = bench.identities.room(&operator, &all).await?;
        let senders = (0..publishers).map(|seat| {
            let message = bench.outgoing(&load, all[seat].uuid, To::Room(room), clients as u64);
            Sender { seat, messages: vec![message], next: 0 }
        });
        let senders = senders.collect();
        let path = format!("/ws/room/{room}");
        let seats = all.into_iter().map(|identity| Seat { path: path.clone(), ..Seat::device(identity, Vec::new()) });
        let plan = bench.plan(&load, seats.collect(), senders, Window::Together(in_flight));
        bench.messages(plan, report).await
    };
    let done = control.unless_stopped(done).await;
    bench.finish(done).await
}
