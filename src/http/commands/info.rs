//! Commands, seen from outside.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    domain::{
        commands::{Command, Target},
        ids::ClientId,
    },
    protocol::{json, outbound::rfc3339},
};

/// A command, seen from outside.
#[derive(Serialize, ToSchema)]
pub struct CommandInfo {
    id: Uuid,
    /// `pending` until the last target has ended, then `finished`.
    state: &'static str,
    method: String,
    url: String,
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Box<RawValue>>,
    #[schema(value_type = Uuid)]
    requested_by: ClientId,
    requester: String,
    created_at: String,
    finished_at: Option<String>,
    timeout_secs: u64,
    deliver_until: Option<String>,
    pub(super) targets: Vec<TargetInfo>,
}

/// What came of one target.
#[derive(Serialize, ToSchema)]
pub struct TargetInfo {
    #[schema(value_type = Uuid)]
    pub(super) uuid: ClientId,
    user_id: Option<i64>,
    /// `device` or `user`.
    kind: &'static str,
    name: String,
    /// `queued`, `sent`, `in_progress`, `succeeded`, `failed`, `timed_out`, `offline`, `disconnected`, `expired` or
    /// `cancelled`.
    state: &'static str,
    /// `gateway_down`: offline since its gateway is down.
    reason: Option<&'static str>,
    #[schema(value_type = Option<serde_json::Value>)]
    result: Option<Box<RawValue>>,
    /// An answer that came after the target had timed out or lost its connection.
    #[schema(value_type = Option<serde_json::Value>)]
    late_result: Option<Box<RawValue>>,
    sent_at: Option<String>,
    in_progress_at: Option<String>,
    ended_at: Option<String>,
    /// The last 100 reports; only where one command is shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) progress: Vec<ProgressInfo>,
}

/// A progress report.
#[derive(Serialize, ToSchema)]
pub struct ProgressInfo {
    pub(super) at: String,
    #[schema(value_type = serde_json::Value)]
    pub(super) progress: Box<RawValue>,
}

impl TargetInfo {
    /// Without its progress.
    pub(super) fn of(target: &Target) -> Self {
        Self {
            uuid: target.client,
            user_id: target.user_id,
            kind: target.kind.as_str(),
            name: target.name.clone(),
            state: target.state.as_str(),
            reason: target.reason.map(|reason| reason.as_str()),
            result: target.result.as_deref().map(json::stored),
            late_result: target.late_result.as_deref().map(json::stored),
            sent_at: target.sent_at.map(rfc3339),
            in_progress_at: target.in_progress_at.map(rfc3339),
            ended_at: target.ended_at.map(rfc3339),
            progress: Vec::new(),
        }
    }
}

impl CommandInfo {
    /// Without progress.
    pub(super) fn of(command: &Command) -> Self {
        Self {
            id: command.id,
            state: if command.finished_at.is_some() { "finished" } else { "pending" },
            method: command.method.clone(),
            url: command.url.clone(),
            data: command.data.as_deref().map(json::stored),
            requested_by: command.requested_by,
            requester: command.requester.clone(),
            created_at: rfc3339(command.created_at),
            finished_at: command.finished_at.map(rfc3339),
            timeout_secs: command.timeout.as_secs(),
            deliver_until: command.deliver_until.map(rfc3339),
            targets: command.targets.iter().map(TargetInfo::of).collect(),
        }
    }
}
