//! What the HTTP side admits at a time: connections, reads, and the memory of bodies (contract section 10).

use std::sync::Arc;

use super::{arriving::Arriving, connections::Connections, reads::Reads, response_body::Answers};

/// What the handlers of all workers share of it.
#[derive(Debug)]
pub struct Admission {
    /// The connections of this node.
    pub(crate) connections: Arc<Connections>,
    /// The reads that are being answered.
    pub(super) reads: Arc<Reads>,
    /// What large answers take up.
    pub(super) answers: Arc<Answers>,
    /// What the bodies of requests take up.
    pub(super) arriving: Arc<Arriving>,
}

impl Admission {
    /// As many connections as given; the rest as the settings say.
    pub(crate) fn new(connections: Arc<Connections>, limits: &crate::settings::Limits) -> Self {
        Self {
            connections,
            reads: Reads::new(limits.reads_per_identity),
            answers: Answers::new(limits.response_bytes, limits.response_bytes_per_identity),
            arriving: Arriving::new(limits.request_bytes, limits.request_bytes_per_identity),
        }
    }
}
