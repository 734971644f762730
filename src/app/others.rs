//! Whether the nodes that run already can be understood.

use uuid::Uuid;

use crate::{
    cluster::{
        envelope::EnvelopeVersions,
        node::Node,
        shard::{Names, Shard},
    },
    settings::{RedisAddress, Settings},
    store::Store,
};

/// A node runs with which this one has no version of envelopes in common.
#[derive(Debug, thiserror::Error)]
#[error(
    "node {incarnation} at {address} ({host}, version {version}) understands envelopes of the versions {theirs}, this program {own}: none in common. Upgrade the other nodes to a version in between first, or stop them all and start this one then"
)]
pub(super) struct Stranger {
    incarnation: Uuid,
    address: String,
    host: String,
    version: String,
    theirs: EnvelopeVersions,
    own: EnvelopeVersions,
}

/// A node with a lease that understands none of these versions, if one is found. An address of Redis that cannot be used, or does not
/// answer, is a matter of the link.
pub(super) async fn without_common_version(
    settings: &Settings,
    store: &Store,
    secret: &[u8],
    own: EnvelopeVersions,
) -> Option<Stranger> {
    // a database without a number has never been served
    let names = Names::of(secret, store.known_database_number().await.ok()??);
    for address in RedisAddress::all(&settings.redis).unwrap_or_default() {
        let Ok(shard) = Shard::new(address, names.clone()) else { continue };
        let records = shard.nodes().await.unwrap_or_default();
        let mut nodes = records.iter().filter_map(|record| Node::read(record));
        if let Some(node) = nodes.find(|node| node.envelopes.in_common_with(own).is_none()) {
            let Node { incarnation, address, host, version, envelopes: theirs, .. } = node;
            return Some(Stranger { incarnation, address, host, version, theirs, own });
        }
    }
    None
}
