//! The limits of the HTTP side: connections, reads, and the memory of bodies (contract section 10).

use std::{net::IpAddr, sync::Arc};

use actix_web::{HttpMessage, HttpRequest};

use super::{
    connections::Connections,
    limited_address,
    memory::{Limits, Memory},
    reads::Reads,
};
use crate::{
    domain::ids::ClientId,
    settings::{LiveSettings, Settings},
};

/// The limits, shared by the handlers of all workers.
#[derive(Debug)]
pub struct Admission {
    /// The connections of this node.
    pub(crate) connections: Arc<Connections>,
    /// The reads in progress.
    pub(super) reads: Arc<Reads>,
    /// The memory of request bodies while they arrive, which may take half a minute.
    pub(super) arriving: Arc<Memory>,
    /// The memory of large answers while clients read them.
    pub(super) answers: Arc<Memory>,
}

impl Admission {
    /// With these connections; the other limits are in the settings.
    pub(crate) fn new(connections: Arc<Connections>, settings: &LiveSettings) -> Self {
        let arriving = Limits {
            total: "limits.request_bytes",
            share: "limits.request_bytes_per_identity",
            of: |limits| (limits.request_bytes, limits.request_bytes_per_identity),
            retry_after: 1,
        };
        let answers = Limits {
            total: "limits.response_bytes",
            share: "limits.response_bytes_per_identity",
            of: |limits| (limits.response_bytes, limits.response_bytes_per_identity),
            // about as long as the answers for a client that reads nothing are kept
            retry_after: 10,
        };
        Self {
            connections,
            reads: Reads::new(settings.clone()),
            arriving: Memory::new(settings.clone(), arriving),
            answers: Memory::new(settings.clone(), answers),
        }
    }
}

/// The owner of a request for limits: its identity, or without credentials its address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Requester {
    Client(ClientId),
    Address(Option<IpAddr>),
}

impl Requester {
    /// The owner of a request, as far as its credentials have been checked.
    pub(super) fn of(request: &HttpRequest, settings: &Settings) -> Self {
        let known = request.extensions().get::<Self>().cloned();
        known.unwrap_or_else(|| Self::Address(limited_address(request, settings)))
    }

    /// Sets the owner, once the credentials have been checked.
    pub(super) fn is(request: &HttpRequest, client: ClientId) {
        request.extensions_mut().insert(Self::Client(client));
    }
}
