//! `bench fanout`: publications to the subscribers of topics.

use clap::Args;

use super::{
    Bench, LoadArguments, TargetArguments,
    entrance::Seat,
    messages::{Sender, Window, window},
    report::Report,
    wire::To,
};
use crate::terminal::WrongArguments;

#[derive(Args)]
pub(super) struct Arguments {
    /// Subscribers
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = super::count())]
    clients: usize,
    /// Publishers; each is a separate client
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::count())]
    publishers: usize,
    /// Topics, divided among the publishers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::count())]
    topics: usize,
    /// Subscribers of each topic [default: the clients divided among the topics, but at least one]
    #[arg(long, value_name = "N", value_parser = super::count())]
    subscribers: Option<usize>,
    /// Additional subscribers that never read, to test the handling of slow consumers
    #[arg(long, value_name = "N", default_value_t = 0)]
    stalled: usize,
    /// Publications in flight if no rate is given [default: enough for 16,000 copies, from 8 to 64, at most 256 KiB]
    #[arg(long, value_name = "N", value_parser = super::count())]
    in_flight: Option<usize>,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    target: TargetArguments,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { clients, publishers, topics, subscribers, stalled, in_flight, load, target } = arguments;
    let each = subscribers.unwrap_or((clients / topics).max(1));
    anyhow::ensure!(each <= clients, WrongArguments(format!("--subscribers {each} needs as many --clients")));
    let in_flight = in_flight.unwrap_or(window(each, load.size));
    let mut bench = Bench::prepare(target).await?;
    let report = Report {
        benchmark: "fanout",
        clients,
        publishers: Some(publishers),
        topics: Some(topics),
        subscribers_per_topic: Some(each),
        in_flight: load.rate.is_none().then_some(in_flight),
        ..load.report()
    };
    let control = bench.control.clone();
    let done = async {
        let names: Vec<_> = (0..topics).map(|number| format!("bench-{number:05}")).collect();
        let all = bench.devices(publishers + clients + stalled).await?;
        bench.identities.topics(&all[0], &names, None).await?;

        // publishers and topics are paired in turn; a publisher must be subscribed to its topics
        let mut topics_of = vec![Vec::new(); all.len()];
        for number in 0..publishers.max(topics) {
            topics_of[number % publishers].push(number % topics);
        }
        for (number, topic) in (0..topics * each).map(|number| (number % clients, number / each)) {
            topics_of[publishers + number].push(topic);
        }
        for (number, topics_of) in topics_of[publishers + clients..].iter_mut().enumerate() {
            topics_of.push(number % topics);
        }
        let pairs = all.iter().zip(&topics_of);
        let pairs = pairs.flat_map(|(who, topics)| topics.iter().map(|topic| (who.clone(), names[*topic].clone())));
        bench.identities.subscribe(pairs.collect()).await?;

        // copies for stalled subscribers are not expected
        let mut members = vec![0_u64; topics];
        topics_of[..publishers + clients].iter().flatten().for_each(|topic| members[*topic] += 1);
        let senders = (0..publishers).map(|number| Sender {
            seat: number,
            next: 0,
            messages: topics_of[number]
                .iter()
                .map(|topic| bench.outgoing(&load, all[number].uuid, To::Topic(&names[*topic]), members[*topic] - 1))
                .collect(),
        });
        let senders = senders.collect();
        let seats = all.into_iter().zip(&topics_of).enumerate().map(|(number, (identity, topics))| Seat {
            is_stalled: number >= publishers + clients,
            ..Seat::device(identity, topics.iter().map(|topic| names[*topic].clone()).collect())
        });
        let plan = bench.plan(&load, seats.collect(), senders, Window::Together(in_flight));
        bench.messages(plan, report).await
    };
    let done = control.unless_stopped(done).await;
    bench.finish(done).await
}
