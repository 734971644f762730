//! What the HTTP side admits at a time: connections, reads, and the memory of bodies (contract section 10).

use std::{net::IpAddr, sync::Arc};

use actix_web::{HttpMessage, HttpRequest};

use super::{
    connections::Connections,
    limited_address,
    memory::{Limits, Memory},
    reads::Reads,
};
use crate::{domain::ids::ClientId, settings::Settings};

/// What the handlers of all workers share of it.
#[derive(Debug)]
pub struct Admission {
    /// The connections of this node.
    pub(crate) connections: Arc<Connections>,
    /// The reads that are being answered.
    pub(super) reads: Arc<Reads>,
    /// What the bodies of requests take up while they arrive: anybody may begin to send one and take half a minute to end it.
    pub(super) arriving: Arc<Memory>,
    /// What large answers take up while clients read them.
    pub(super) answers: Arc<Memory>,
}

impl Admission {
    /// As many connections as given; the rest as the settings say.
    pub(crate) fn new(connections: Arc<Connections>, limits: &crate::settings::Limits) -> Self {
        let arriving =
            Limits { total: "limits.request_bytes", share: "limits.request_bytes_per_identity", retry_after: 1 };
        let answers = Limits {
            total: "limits.response_bytes",
            share: "limits.response_bytes_per_identity",
            // about as long as a client that reads nothing keeps its answers
            retry_after: 10,
        };
        Self {
            connections,
            reads: Reads::new(limits.reads_per_identity),
            arriving: Memory::new(limits.request_bytes, limits.request_bytes_per_identity, arriving),
            answers: Memory::new(limits.response_bytes, limits.response_bytes_per_identity, answers),
        }
    }
}

/// By whom requests are counted: by their identity, those without one by the address that limits see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Requester {
    Client(ClientId),
    Address(Option<IpAddr>),
}

impl Requester {
    /// Whose request it is, as far as its credentials have been checked.
    pub(super) fn of(request: &HttpRequest, settings: &Settings) -> Self {
        let known = request.extensions().get::<Self>().cloned();
        known.unwrap_or_else(|| Self::Address(limited_address(request, settings)))
    }

    /// The request's credentials have been checked: it is this client's.
    pub(super) fn is(request: &HttpRequest, client: ClientId) {
        request.extensions_mut().insert(Self::Client(client));
    }
}
