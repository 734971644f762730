//! Commands as clients see them.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::request::StateName;
use crate::{
    domain::{
        commands::{Command, Target},
        ids::{ClientId, CommandId},
    },
    http::paging::{Next, PAGE_BYTES},
    protocol::{json, outbound::rfc3339},
    store::CommandPage,
};

/// A command.
#[derive(Serialize, ToSchema)]
pub struct CommandInfo {
    #[schema(value_type = uuid::Uuid)]
    id: CommandId,
    /// `pending` until the last target has ended, then `finished`.
    state: &'static str,
    method: String,
    url: String,
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Box<RawValue>>,
    #[schema(value_type = uuid::Uuid)]
    requested_by: ClientId,
    requester: String,
    created_at: String,
    finished_at: Option<String>,
    timeout_secs: u64,
    deliver_until: Option<String>,
    pub(super) targets: Vec<TargetInfo>,
    /// There are more targets: see `cursor`.
    #[serde(flatten)]
    next: Next,
}

/// A target of a command.
#[derive(Serialize, ToSchema)]
pub struct TargetInfo {
    #[schema(value_type = uuid::Uuid)]
    pub(super) uuid: ClientId,
    user_id: Option<i64>,
    /// `device` or `user`.
    kind: &'static str,
    name: String,
    #[schema(value_type = StateName)]
    state: &'static str,
    /// `gateway_down`: offline since its gateway is down. `node_unavailable`: offline since it may be connected to another node,
    /// which cannot be asked.
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
    /// With the targets of a page, without progress.
    pub(super) fn of_page(page: &CommandPage) -> Self {
        let next = page.next_target.map(u64::cast_signed);
        Self::with(&page.command, &page.command.targets, Next::after(next.as_ref(), true))
    }

    /// With as many of its targets as fit into a page, without progress.
    pub(super) fn of(command: &Command) -> Self {
        let mut bytes = 0;
        let fitting = command.targets.iter().take_while(|target| {
            let first = bytes == 0;
            let len = |json: &Option<std::sync::Arc<str>>| json.as_ref().map_or(0, |json| json.len());
            bytes += target.name.len() + len(&target.result) + len(&target.late_result) + 400;
            first || bytes <= PAGE_BYTES
        });
        let fitting = fitting.count();
        let more = fitting < command.targets.len();
        Self::with(command, &command.targets[..fitting], Next::after(Some(&(fitting as i64)), more))
    }

    fn with(command: &Command, targets: &[Target], next: Next) -> Self {
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
            targets: targets.iter().map(TargetInfo::of).collect(),
            next,
        }
    }
}
