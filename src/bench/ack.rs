//! `bench ack`: pairs of devices; one sends to the other, which acknowledges each message at once, and for comparison the same
//! without acknowledgement. A round trip is the message, its receipt, its delivery, the acknowledgement with its confirmation,
//! and the `delivery_update` at the sender.

use anyhow::ensure;
use clap::Args;

use super::{Bench, LoadArguments, TargetArguments, direct, report::Report, wire::Protocol};
use crate::terminal::WrongArguments;

#[derive(Args)]
pub(super) struct Arguments {
    /// Clients, half of which send to the other half
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = super::count())]
    clients: usize,
    /// Messages in flight of each pair, if no rate is given
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::count())]
    in_flight: usize,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    target: TargetArguments,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { clients, in_flight, load, target } = arguments;
    direct::check_pairs(clients)?;
    ensure!(
        target.protocol == Protocol::Switchboard,
        WrongArguments("nats-server has no acknowledged messages between clients".to_owned())
    );
    let mut bench = Bench::prepare(target).await?;
    let report =
        || Report { benchmark: "ack", clients, in_flight: load.rate.is_none().then_some(in_flight), ..load.report() };
    let control = bench.control.clone();
    let done = async {
        let all = bench.devices(clients).await?;
        let plain = direct::pairs(&bench, &load, all.clone(), in_flight, false);
        let plain = bench.messages(plain, report()).await?;
        let acknowledged = direct::pairs(&bench, &load, all, in_flight, true);
        Ok(bench.messages(acknowledged, report()).await?.compared_to(&plain))
    };
    let done = control.unless_stopped(done).await;
    bench.finish(done).await
}
