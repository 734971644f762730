//! What the GatewayMonitor is told and asked.

use actix::Message;
use chrono::{DateTime, Utc};

use super::probe::Unable;
use crate::{
    delivery::SessionHandle,
    domain::gateways::{Gateway, Outcome},
};

/// A gateway is new, or another than it was; the database has it already. It is probed at once.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Put(pub Gateway);

/// A gateway is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Remove(pub i64);

/// Records with the Journal what is only in memory of a gateway's probes, before it is read.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Record(pub i64);

/// Records all that is only in memory, before the end.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RecordAll;

/// A socket wants the two-word answer: now, every five seconds, and at each change.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Watch(pub SessionHandle);

/// A socket that watched is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unwatch(pub SessionHandle);

/// A probe is over.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Probed {
    /// Of which gateway.
    pub(super) id: i64,
    /// Of which of its versions.
    pub(super) version: u64,
    /// When it began.
    pub(super) began: DateTime<Utc>,
    /// What it found.
    pub(super) outcome: Result<Outcome, Unable>,
}
