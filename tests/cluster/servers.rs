//! Redis servers with TLS, and several of them.

use std::{collections::BTreeSet, path::Path};

use serde_json::json;

use crate::{
    api::support::{Broker, get, until},
    nodes::{SECRET, Shared, at, device, knows, send},
    redis::Redis,
};

#[tokio::test]
async fn a_redis_with_tls_is_used_if_the_system_trusts_its_certificate() {
    let (redis, other) = (Redis::with_tls().await, Redis::with_tls().await);
    let trusting = |authority: &Path| {
        let setup = Broker::with().env("REDIS_URL", &redis.url()).env("SECRET_KEY", SECRET);
        setup.env("SSL_CERT_FILE", authority.to_str().unwrap())
    };
    let mut broker = trusting(&redis.authority()).start().await;
    let operator = broker.admin().await;
    until(async || get(&operator, "/readyz").await.1["redis"] == "ok").await;

    let mut broker = trusting(&other.authority()).start().await;
    let operator = broker.admin().await;
    let error = async || get(&operator, "/api/cluster").await.1["redis"][0]["error"].clone();
    until(async || error().await.is_string()).await;
    assert_eq!(get(&operator, "/readyz").await.1["redis"], "away");
    let error = error().await.to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn each_pair_of_nodes_uses_one_of_several_redis_servers() {
    let shared = Shared::start().await;
    let mut servers = [Redis::start().await, Redis::start().await];
    let urls = servers.each_ref().map(Redis::url).join(",");
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(shared.node().env("REDIS_URL", &urls).start().await);
    }
    let operator = nodes[0].admin().await;
    let (mut senders, mut recipients) = (Vec::new(), Vec::new());
    for node in &nodes {
        knows(&at(&operator, node), 3).await;
        senders.push(device("sender", node).await);
        recipients.push(device("recipient", node).await);
    }
    let pairs: BTreeSet<_> = (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(a, b)| a != b).collect();
    // the pairs that cannot reach each other
    let mut separated = async || {
        let mut separated = BTreeSet::new();
        for (from, to) in &pairs {
            let receipt = send(&mut senders[*from].2, recipients[*to].1.uuid, "hello").await;
            if receipt["type"] != "sent" {
                assert_eq!(receipt["code"], "cluster_unavailable", "{receipt}");
                separated.insert((*from, *to));
            }
        }
        separated
    };
    assert_eq!(separated().await, BTreeSet::new());
    let mut without = Vec::new();
    for server in &mut servers {
        server.kill().await;
        for node in &nodes {
            until(async || get(&at(&operator, node), "/readyz").await.1["status"] == json!("degraded")).await;
        }
        without.push(separated().await);
        server.run().await;
        for node in &nodes {
            until(async || get(&at(&operator, node), "/readyz").await.1["status"] == json!("ready")).await;
            knows(&at(&operator, node), 3).await;
        }
        assert_eq!(separated().await, BTreeSet::new());
    }
    // each pair depends on one server and on that one alone
    assert!(without[0].is_disjoint(&without[1]), "{without:?}");
    assert_eq!(&without[0] | &without[1], pairs);
}

#[tokio::test]
async fn nodes_that_serve_a_database_and_cannot_hear_each_other_say_so_in_their_logs() {
    let shared = Shared::start().await;
    let mut one = shared.node().start().await;
    let mut stranger = shared.node().env("SECRET_KEY", "the secret of another cluster, long enough").start().await;
    for node in [&mut one, &mut stranger] {
        until(async || node.log().contains("cannot be heard through Redis")).await;
    }
}
