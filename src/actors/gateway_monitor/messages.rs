//! What the GatewayMonitor is told and asked.

use actix::Message;
use chrono::{DateTime, Utc};

use super::probe::Unable;
use crate::{
    delivery::SessionHandle,
    domain::{
        gateways::{Gateway, Outcome},
        ids::GatewayId,
    },
};

/// A gateway is new, or another than it was; the database has it already. It is probed at once.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Put(pub(super) Gateway);

/// A gateway is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Remove(pub(super) GatewayId);

/// Have the Journal write what is only in memory of a gateway's probes, before it is read.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct WriteHour(pub(super) GatewayId);

/// Have the Journal write all that is only in memory, before the end.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct WriteAllHours;

/// A socket wants the body of `GET /device_status/`: now, every five seconds, and at each change.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AddWatcher(pub(super) SessionHandle);

/// A socket that watched is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct RemoveWatcher(pub(super) SessionHandle);

/// A probe is over.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Probed {
    /// Of which gateway.
    pub(super) id: GatewayId,
    /// Of which of its versions.
    pub(super) version: u64,
    /// When it began.
    pub(super) began: DateTime<Utc>,
    /// What it found.
    pub(super) outcome: Result<Outcome, Unable>,
}
