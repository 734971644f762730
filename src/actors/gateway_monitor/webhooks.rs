//! What webhooks are told of gateways.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::Board;
use crate::{
    actors::journal::Journal,
    domain::{
        gateways::{GatewayState, Status},
        webhooks::EventType,
    },
};

/// Whether a status that was found is told. `is_event`: the gateway went up or down, not only with its parent. What is up may also
/// become degraded, and recover.
pub(super) fn is_news(board: &Board, known: &GatewayState, is_event: bool) -> bool {
    let before = board.get(known.gateway.id).map_or(Status::Unknown, |before| before.status);
    let stays_up = before.is_up() == Some(true) && known.status.is_up() == Some(true);
    is_event || (stays_up && before != known.status)
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
