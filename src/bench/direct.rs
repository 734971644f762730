//! `bench direct`: pairs of devices; one sends to the other and gets receipts.

use clap::Args;

use super::{
    Bench, LoadArguments, TargetArguments,
    entrance::Seat,
    identities::Identity,
    messages::{Outgoing, Plan, Sender, Window},
    report::Report,
    stamp::{self, Template},
    wire::{Protocol, To},
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
    check_pairs(clients)?;
    anyhow::ensure!(
        login_flood == 0 || target.protocol == Protocol::Switchboard,
        WrongArguments("--login-flood: a nats-server has no logins over HTTP".to_owned())
    );
    let mut bench = Bench::prepare(target).await?;
    let report =
        Report { benchmark: "direct", clients, in_flight: load.rate.is_none().then_some(in_flight), ..load.report() };
    let control = bench.control.clone();
    let done = async {
        let all = bench.devices(clients).await?;
        let plan = Plan { login_flood, ..pairs(&bench, &load, all, in_flight, false) };
        bench.messages(plan, report).await
    };
    let done = control.unless_stopped(done).await;
    bench.finish(done).await
}

/// Fails unless so many clients can be divided into pairs.
pub(super) fn check_pairs(clients: usize) -> Result<(), WrongArguments> {
    let is_even = clients.is_multiple_of(2);
    is_even.then_some(()).ok_or_else(|| WrongArguments(format!("--clients {clients}: pairs need an even number")))
}

/// Each even client sends to the odd client after it, which acknowledges the messages or not.
pub(super) fn pairs(
    bench: &Bench,
    load: &LoadArguments,
    clients: Vec<Identity>,
    in_flight: usize,
    is_acknowledged: bool,
) -> Plan {
    let senders = clients.chunks_exact(2).enumerate().map(|(pair, clients)| {
        let (from, to) = (clients[0].uuid, clients[1].uuid);
        let message = if is_acknowledged {
            let (msgid, content) = (stamp::msgid(&bench.run), stamp::content(&bench.run, load.size));
            let message = Protocol::acknowledged_message(from, to, &msgid, &content);
            Outgoing { template: Template::new(&bench.run, message), copies: 1 }
        } else {
            bench.outgoing(load, from, To::Client(to), 1)
        };
        Sender { seat: 2 * pair, messages: vec![message], next: 0 }
    });
    let senders = senders.collect();
    // a sender hears of the acknowledgement itself
    let end = usize::from(!is_acknowledged);
    let arrives = (0..clients.len()).map(|seat| (seat % 2 == end).then_some(seat / 2)).collect();
    let seats = clients.into_iter().map(|identity| {
        let subjects = bench.protocol.own_subject(identity.uuid);
        Seat::device(identity, subjects)
    });
    let window = Window::EachSender(in_flight, arrives);
    Plan { is_acknowledged, ..bench.plan(load, seats.collect(), senders, window) }
}
