//! `GET /api/cluster`: the nodes, and this node's link to them.

use actix_web::web;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    actors::cluster_link::ServerStatus,
    cluster::{envelope::EnvelopeVersions, node::Node},
    http::extract::Operator,
    state::Broker,
};

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterNode {
    /// Another one for each start.
    incarnation: Uuid,
    /// Whether it is the one that answers.
    is_this: bool,
    host: String,
    process_id: u32,
    /// The address that it listens on.
    #[schema(example = "127.0.0.1:8000")]
    address: String,
    /// The version of its program.
    #[schema(example = "0.1.0")]
    version: String,
    /// The versions of envelopes that it understands.
    envelopes: EnvelopeVersions,
    /// The version that it and the node that answers send each other. `null` if they understand none in common: then neither knows
    /// the other's clients.
    envelope_version: Option<u8>,
    started_at: String,
    /// Its open WebSockets, as of its last lease.
    sockets: usize,
    /// Whether it probes the gateways, as far as the node that answers knows.
    probes_gateways: bool,
    /// Whether publications on the way to its sockets wait there, as far as the node that answers knows. Publishers to topics with
    /// subscribers there wait, too.
    is_congested: bool,
}

/// A Redis server that connects the nodes.
#[derive(Debug, Serialize, ToSchema)]
pub struct RedisServer {
    /// Without credentials.
    #[schema(example = "redis://localhost:6379/0")]
    address: String,
    /// `ok` or `away`, as this node sees it.
    #[schema(example = "ok")]
    status: &'static str,
    /// Why it is away, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// How long a ping takes from this node to itself, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_ms: Option<f64>,
}

/// The nodes and the servers that connect them.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterState {
    /// By the time of their start.
    nodes: Vec<ClusterNode>,
    /// None on a node of its own.
    redis: Vec<RedisServer>,
    /// Whether this node knows the clients of all other nodes. If not, messages to clients that it does not know get the error
    /// `cluster_unavailable`.
    is_complete: bool,
}

/// The nodes that have a lease, and this node's link to Redis.
#[utoipa::path(get, path = "/api/cluster", tag = "operations", responses((status = 200, body = ClusterState), (status = 403, description = "Operator role required")), security(("bearer" = [])))]
pub async fn show(broker: web::Data<Broker>, _: Operator) -> web::Json<ClusterState> {
    let this = broker.cluster.incarnation();
    let nodes = broker.cluster.nodes().await.into_iter().map(|node| {
        let Node { incarnation, host, process_id, address, version, envelopes, started_at, sockets } = node;
        let is_this = incarnation == this;
        let probes_gateways = broker.gateways.is_prober(incarnation);
        let envelope_version = broker.cluster.version_with(envelopes);
        let is_congested = broker.cluster.is_congested(incarnation);
        ClusterNode {
            incarnation,
            is_this,
            host,
            process_id,
            address,
            version,
            envelopes,
            envelope_version,
            started_at,
            sockets,
            probes_gateways,
            is_congested,
        }
    });
    let redis = broker.cluster.servers().into_iter().map(|server| {
        let ServerStatus { address, is_up, error, round_trip } = server;
        let round_trip_ms = round_trip.map(|time| (time.as_secs_f64() * 1e5).round() / 100.0);
        RedisServer { address, status: if is_up { "ok" } else { "away" }, error, round_trip_ms }
    });
    let is_complete = broker.cluster.is_complete();
    web::Json(ClusterState { nodes: nodes.collect(), redis: redis.collect(), is_complete })
}
