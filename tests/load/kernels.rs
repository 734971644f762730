//! The pure kernels on their own: what a frame costs before and after the network.
//!
//!     cargo bench --bench kernels

#![expect(clippy::unwrap_used, reason = "a benchmark that fails has to stop")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use chrono::Utc;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use switchboard::{
    domain::{
        commands::{Command, PendingCommands, Socket, Target},
        ids::{ClientId, ClientKind, CommandId, TopicId},
        subscriptions::{Location, Subscription, Subscriptions},
        topics::pattern::Pattern,
    },
    protocol::{
        inbound::{self, Frame},
        inspect::Inspector,
        wire,
    },
};
use uuid::Uuid;

#[derive(Debug, Clone, Copy)]
struct At(usize);

impl Location for At {
    fn worker(&self) -> usize {
        self.0 % 2
    }

    fn id(&self) -> u64 {
        self.0 as u64
    }
}

impl Socket for At {
    fn number(&self) -> u64 {
        self.0 as u64
    }
}

fn direct_message(from: Option<ClientId>, size: usize) -> String {
    let from = from.map(|from| format!(r#""from":"{from}","#)).unwrap_or_default();
    let content = "x".repeat(size);
    format!(r#"{{"to":"{}",{from}"msgid":"{}","content":"{content}"}}"#, Uuid::nil(), Uuid::nil())
}

/// Frame heads as they pass, and the fields of a frame.
fn frame_parsing(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame parsing");
    for size in [64, 1_024, 32_768] {
        let text = direct_message(Some(ClientId::random()), size);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("fields of a message, {size} B"), |b| {
            b.iter(|| Frame::parse(black_box(&text)).unwrap().to.is_some());
        });
    }
    // masked, since the inspector reads what clients send
    let mut frames = Vec::new();
    for _ in 0..100 {
        frames.extend_from_slice(&[0x81, 0xfe, 0, 200, 1, 2, 3, 4]);
        frames.extend_from_slice(&[0; 200]);
    }
    group.throughput(Throughput::Elements(100));
    group.bench_function("heads of 100 frames in one read", |b| {
        b.iter_batched_ref(
            Inspector::default,
            |inspector| {
                let mut position = 0;
                std::iter::from_fn(|| inspector.next(black_box(&frames), &mut position)).count()
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// From a sender's text to the frame that its recipient gets.
fn envelope_splicing(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope splicing");
    let sender = ClientId::random();
    for (name, from) in [("as it was sent", Some(sender)), ("with `from` added", None)] {
        let text = direct_message(from, 128);
        let frame = Frame::parse(&text).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| wire::text(&inbound::direct(black_box(&frame), &text, sender).unwrap().parts()));
        });
    }
    group.finish();
}

fn command(target: ClientId) -> Command {
    Command {
        id: CommandId::new(Utc::now()),
        requested_by: target,
        requester: "operator".to_owned(),
        method: "GET".to_owned(),
        url: "/status".to_owned(),
        data: None,
        timeout: Duration::from_secs(30),
        deliver_until: None,
        created_at: Utc::now(),
        finished_at: None,
        version: 0,
        targets: vec![Target::new(target, ClientKind::Device, "device".to_owned(), None)],
    }
}

/// A command's way through the table of those that are not over.
fn pending_table(c: &mut Criterion) {
    let mut group = c.benchmark_group("pending table");
    for others in [0, 10_000] {
        let (now, time) = (Instant::now(), Utc::now());
        let mut pending = PendingCommands::default();
        for number in 0..others {
            let target = ClientId::random();
            let command = command(target);
            let id = command.id;
            pending.insert(command, None, now);
            pending.sent(id, target, &At(number + 1), now + Duration::from_secs(30), time);
        }
        let (target, socket) = (ClientId::random(), At(0));
        group.bench_function(format!("given, sent and answered among {others} others"), |b| {
            b.iter_batched(
                || command(target),
                |command| {
                    let id = command.id;
                    pending.insert(command, None, now);
                    pending.sent(id, target, &socket, now + Duration::from_secs(30), time);
                    pending.answer(id, target, "1".into(), true, time)
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Who is subscribed, and where their sockets are.
fn membership_index(c: &mut Criterion) {
    let mut group = c.benchmark_group("membership index");
    for members in [10, 1_000] {
        let now = Instant::now();
        let mut index = Subscriptions::new(0, 0);
        let topic: TopicId = "plant/hall/7/heat".into();
        let by_name = Subscription::Topic(topic.clone());
        let mut last = ClientId::random();
        for number in 0..members {
            last = ClientId::random();
            index.subscribe(last, by_name.clone(), now).unwrap();
            index.connected(last, Some(At(number)));
        }
        group.bench_function(format!("audience of {members}, unchanged"), |b| {
            b.iter(|| index.audience(black_box(&topic)).unwrap());
        });
        group.bench_function(format!("audience of {members}, after a change"), |b| {
            b.iter(|| {
                index.unsubscribe(last, &topic);
                index.subscribe(last, by_name.clone(), now).unwrap();
                index.audience(black_box(&topic)).unwrap()
            });
        });
        for number in 0..10_000 {
            let pattern = Pattern::parse(format!("plant/+/{number}/#").as_str().into()).unwrap();
            index.subscribe(ClientId::random(), Subscription::Pattern(pattern), now).unwrap();
        }
        group.bench_function(format!("audience of {members}, unchanged, beside 10,000 patterns"), |b| {
            b.iter(|| index.audience(black_box(&topic)).unwrap());
        });
        let other = Subscription::Pattern(Pattern::parse("other/#".into()).unwrap());
        group.bench_function(format!("audience of {members}, after a change of another pattern"), |b| {
            b.iter(|| {
                index.unsubscribe(last, other.id());
                index.subscribe(last, other.clone(), now).unwrap();
                index.audience(black_box(&topic)).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = frame_parsing, envelope_splicing, pending_table, membership_index
}
criterion_main!(kernels);
