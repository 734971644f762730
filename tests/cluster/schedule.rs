//! Three nodes under a random schedule of kills, pauses, partitions, other and empty Redis servers and steps of the nodes' clocks,
//! while devices move from node to node and send each other messages, users write in a room and refresh their tokens, and operators
//! give commands. What was acknowledged to a client must hold.
//!
//! Each run of the tests has a short schedule that is always the same. `SWITCHBOARD_SCHEDULE_SECS` is the time of another one,
//! and `SWITCHBOARD_SCHEDULE_SEED` the number that it follows from: `scripts/cluster-schedule` sets both.

mod chat;
mod commands;
mod devices;
pub mod history;
mod logins;
mod nodes;
mod world;

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use switchboard::client::Client;
use tokio::time::sleep;

use self::{
    commands::{Given, Operator},
    devices::Device,
    logins::Visitor,
    nodes::Cluster,
    world::World,
};
use crate::{
    api::support::{post, until, within},
    nodes::{at, knows, listed},
};

const NODES: usize = 3;
const DEVICES: usize = 8;
const OPERATORS: usize = 6;
const TOPIC: &str = "everybody";
/// A topic with a history.
const KEPT: &str = "kept";

/// Seconds and seed of the schedule that each run of the tests has.
const SHORT: (u64, u64) = (25, 4);

#[tokio::test]
async fn what_is_acknowledged_holds_under_a_random_schedule() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (secs, is_short) = number("SWITCHBOARD_SCHEDULE_SECS").map_or((SHORT.0, true), |secs| (secs, false));
    let seed = number("SWITCHBOARD_SCHEDULE_SEED").unwrap_or(SHORT.1);
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start().await;
    let first = cluster.brokers().next().unwrap();
    let operator = first.admin().await;
    let mut clients = Vec::new();
    for index in 0..DEVICES {
        clients.push(first.device(&format!("device {index}")).await);
    }
    clients[0].0.create_topic(TOPIC).await.unwrap();
    let (status, created) = post(&clients[0].0, "/topics/create", history::topic(KEPT)).await;
    assert_eq!(status, 200, "{created}");
    let chat = chat::Room::create(first).await;
    // other tests run beside the short one
    let pace = Duration::from_millis(if is_short { 50 } else { 10 });
    let world = Arc::new(World::new(NODES, clients.iter().map(|(_, device)| device.uuid).collect(), pace));
    cluster.show(&world);
    let readers: Vec<_> = clients.iter().map(|(_, device)| history::Reader::new(device.uuid)).collect();
    let reader = clients[0].0.clone();
    let given = Arc::new(Given::default());
    let mut tasks = chat.people(&world, seed);
    for (index, (client, _)) in clients.into_iter().enumerate() {
        let random = StdRng::seed_from_u64(seed ^ (1 + index as u64) << 32);
        let (world, kept, given) = (world.clone(), readers[index].clone(), given.clone());
        let device = Device { index, client, world, random, sent: 0, kept, given, unanswered: VecDeque::new() };
        tasks.push(tokio::spawn(device.run()));
    }
    for index in 0..chat::PEOPLE {
        let random = StdRng::seed_from_u64(seed ^ (300 + index as u64) << 32);
        tasks.push(tokio::spawn(Visitor { index, world: world.clone(), random, tokens: None }.run()));
    }
    for index in 0..OPERATORS {
        let random = StdRng::seed_from_u64(seed ^ (200 + index as u64) << 32);
        let (client, world, given) = (operator.clone(), world.clone(), given.clone());
        tasks.push(tokio::spawn(Operator { index, client, world, random, given }.run()));
    }

    let end = Instant::now() + Duration::from_secs(secs);
    while Instant::now() < end {
        cluster.disturb(&mut random, &world).await;
        let pause = random.random_range(100..2500);
        sleep(Duration::from_millis(pause)).await;
        judge(&mut cluster, &world, seed).await;
    }
    cluster.mend_all(&world).await;
    let mut nodes = Vec::new();
    for broker in cluster.brokers() {
        let operator = at(&operator, broker);
        knows(&operator, NODES).await;
        nodes.push(operator);
    }
    // what is waited for in vain is a finding, too
    let end = AssertUnwindSafe(end_quietly(&world, &given, &chat, &readers, &reader, &nodes)).catch_unwind();
    if end.await.is_err() {
        world.finding("the end is not reached");
    }
    world.is_over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.abort();
        drop(within(task).await);
    }
    judge(&mut cluster, &world, seed).await;
    let accounts = world.accounts();
    println!("{} accepted, {} arrived, {:?}", accounts.accepted.len(), accounts.arrived.len(), accounts.receipts);
}

/// Says what was found.
async fn judge(cluster: &mut Cluster, world: &World, seed: u64) {
    cluster.look(world).await;
    if let Some(report) = world.report() {
        panic!("seed {seed}, logs in {}:\n{report}", cluster.keep_logs(seed).await);
    }
}

/// Waits until all that was acknowledged is where it belongs. These are the operator at all nodes, which know each other.
async fn end_quietly(
    world: &World,
    given: &Given,
    chat: &chat::Room,
    readers: &[history::Reader],
    reader: &Client,
    nodes: &[Client],
) {
    // a machine may be so slow that there was nothing before
    until(async || !world.accounts().accepted.is_empty() && !given.is_empty()).await;
    world.is_sending.store(false, Ordering::Relaxed);
    until(async || {
        let accounts = world.accounts();
        accounts.accepted.keys().all(|msgid| accounts.arrived.contains(msgid))
    })
    .await;
    let kept = history::all(&elsewhere(reader, &nodes[0]), KEPT).await;
    // of a long schedule only the newest are kept
    let first = kept.first_key_value().map_or(i64::MAX, |(offset, _)| *offset);
    let told = world.accounts().kept.clone();
    for (offset, msgid) in told.range(first..) {
        if kept.get(offset).map(|kept| &kept.0) != Some(msgid) {
            world.finding(&format!("offset {offset} is not {msgid}: {:?}", kept.get(offset)));
        }
    }
    for reader in readers {
        until(async || reader.has_all(&kept)).await;
    }
    let written = chat.check(&nodes[0]).await;
    given.check(nodes, world).await;
    // everybody is connected, and all nodes list everybody and nobody else
    for node in nodes {
        until(async || {
            let listed = listed(node).await;
            listed.len() == DEVICES + chat::PEOPLE && world.uuids.iter().all(|device| listed.contains(device))
        })
        .await;
    }
    println!("{} kept in the topic, {written} in the room", kept.len());
}

/// A client at the node of another one.
fn elsewhere(client: &Client, at: &Client) -> Client {
    at.clone().with_token(client.token().unwrap())
}
