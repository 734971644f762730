//! What webhooks are told of gateways.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::Board;
use crate::{
    actors::journal::Journal,
    domain::{
        gateways::{GatewayState, Reason, Status},
        webhooks::EventType,
    },
};

/// Whether a status that was found is told: those behind a gateway that is down go down silently with it.
pub(super) fn is_news(board: &Board, known: &GatewayState) -> bool {
    let before = board.get(known.gateway.id).map_or(Status::Unknown, |before| before.status);
    before != known.status && known.reason != Some(Reason::ParentDown)
}

/// Has webhooks told of a gateway's new status.
pub(super) fn tell_webhooks(journal: &Journal, known: &GatewayState, at: DateTime<Utc>) {
    let event = match known.status {
        Status::Unknown => return,
        Status::Connected => EventType::GatewayConnected,
        Status::Degraded => EventType::GatewayDegraded,
        Status::Disconnected => EventType::GatewayDisconnected,
    };
    journal.tell(event, at, || {
        json!({
            "gateway_id": known.gateway.id,
            "name": known.gateway.name,
            "address": known.gateway.address.as_str(),
            "status": known.status.as_str(),
            "reason": known.reason.map(|reason| reason.as_str()),
        })
    });
}
