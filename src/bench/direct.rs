//! `bench direct`: pairs of devices; one sends to the other and gets receipts.

use clap::Args;

use super::{
    Bench, LoadArguments, TargetArguments,
    entrance::Seat,
    messages::{Plan, Sender, Window},
    report::Report,
    wire::To,
};
use crate::terminal::WrongArguments;

#[derive(Args)]
pub(super) struct Arguments {
    /// Clients, half of which send to the other half
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = super::count())]
    clients: usize,
    /// Messages in flight of each pair, if no rate is given
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::count())]
    in_flight: usize,
    /// HTTP connections that continuously log in with a wrong password
    #[arg(long, value_name = "N", default_value_t = 0)]
    login_flood: usize,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    target: TargetArguments,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { clients, in_flight, login_flood, load, target } = arguments;
    anyhow::ensure!(
        clients.is_multiple_of(2),
        WrongArguments(format!("--clients {clients}: pairs need an even number"))
    );
    anyhow::ensure!(
        login_flood == 0 || target.protocol == super::wire::Protocol::Switchboard,
        WrongArguments("--login-flood: a nats-server has no logins over HTTP".to_owned())
    );
    let mut bench = Bench::prepare(target).await?;
    let report =
        Report { benchmark: "direct", clients, in_flight: load.rate.is_none().then_some(in_flight), ..load.report() };
    let control = bench.control.clone();
    let done = async {
        let all = bench.devices(clients).await?;
        // each even client sends to the odd client after it
        let senders = (0..clients / 2).map(|pair| {
            let (from, to) = (all[2 * pair].uuid, all[2 * pair + 1].uuid);
            let message = bench.outgoing(&load, from, To::Client(to), 1);
            Sender { seat: 2 * pair, messages: vec![message], next: 0 }
        });
        let senders = senders.collect();
        let arrives = (0..clients).map(|seat| (seat % 2 == 1).then_some(seat / 2)).collect();
        let seats = all.into_iter().map(|identity| {
            let subjects = bench.protocol.own_subject(identity.uuid);
            Seat::device(identity, subjects)
        });
        let plan =
            Plan { login_flood, ..bench.plan(&load, seats.collect(), senders, Window::EachSender(in_flight, arrives)) };
        bench.messages(plan, report).await
    };
    let done = control.unless_stopped(done).await;
    bench.finish(done).await
}
