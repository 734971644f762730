//! The records of the Journal, and how they are written: each by the file of its aggregate.

use std::{collections::BTreeMap, fmt, sync::Arc};

use chrono::{DateTime, Utc};

use entity::command_progress;
use sea_orm::{ConnectionTrait, Set};
use uuid::Uuid;

use super::{GatewayRecord, NewDelivery, StoreError, audit, commands, devices, gateways, webhooks};
use crate::domain::{
    audit::Event,
    commands::{Command, Target},
    ids::{ClientId, CommandId},
};

/// A record to be written. The Journal writes many at once; of several about the same row only the last is written.
#[derive(Debug, Clone)]
pub enum Record {
    /// A command with all its targets.
    Whole(Arc<Command>),
    /// The command itself, without its targets.
    Command(Arc<Command>),
    /// The state of a target.
    Target {
        /// The command.
        command: CommandId,
        /// The target.
        target: Target,
    },
    /// A progress report of a target.
    Progress {
        /// The command.
        command: CommandId,
        /// The target.
        client: ClientId,
        /// The command's version that includes it.
        version: i64,
        /// When it came.
        at: DateTime<Utc>,
        /// JSON.
        progress: Arc<str>,
    },
    /// A result that came too late; it is kept if the target timed out or lost its socket.
    LateResult {
        /// The command.
        command: CommandId,
        /// The target.
        client: ClientId,
        /// JSON.
        result: Arc<str>,
    },
    /// A device connected or disconnected.
    DeviceSeen {
        /// The device.
        device: ClientId,
        /// The number of deletions of its UUID so far.
        incarnation: i64,
        /// When.
        at: DateTime<Utc>,
    },
    /// An entry of a gateway's history.
    Gateway(GatewayRecord),
    /// A record of the audit log.
    Audit(Arc<Event>),
    /// What a webhook is to be told of.
    Delivery(Arc<NewDelivery>),
}

impl Record {
    /// The device whose row it changes.
    pub(super) fn device(&self) -> Option<ClientId> {
        match self {
            Self::DeviceSeen { device, .. } => Some(*device),
            _ => None,
        }
    }

    /// The record of the audit log, if it is one.
    fn audited(&self) -> Option<&Arc<Event>> {
        match self {
            Self::Audit(event) => Some(event),
            _ => None,
        }
    }
}

/// Writes the log lines of the records that belong to the audit log: on another thread, since there may be thousands.
pub(super) fn log_audited(records: &[Record]) {
    let audited: Vec<_> = records.iter().filter_map(Record::audited).cloned().collect();
    if !audited.is_empty() {
        tokio::task::spawn_blocking(move || audited.iter().for_each(|event| event.log()));
    }
}

/// Writes all records of the broker with this id, but no progress reports and audits while storage is nearly full.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub(super) async fn write(
    transaction: &impl ConnectionTrait,
    records: &[Record],
    nearly_full: bool,
    broker: Option<Uuid>,
) -> Result<(), StoreError> {
    // in the order of ids, so that two transactions never wait for each other's rows; ids of commands are in the order of
    // time, so that the database appends
    let mut of_commands = BTreeMap::new();
    let mut targets = BTreeMap::new();
    let mut progress = Vec::new();
    let mut late = Vec::new();
    let mut seen = BTreeMap::new();
    let mut of_gateways = Vec::new();
    let mut audited = Vec::new();
    let mut deliveries = Vec::new();
    for record in records {
        match record {
            Record::Whole(command) => {
                of_commands.insert(command.id, &**command);
                targets.extend(command.targets.iter().map(|target| ((command.id, target.client.uuid()), target)));
            }
            Record::Command(command) => {
                of_commands.insert(command.id, &**command);
            }
            Record::Target { command, target } => {
                targets.insert((*command, target.client.uuid()), target);
            }
            Record::Progress { .. } | Record::Audit(_) if nearly_full => {}
            Record::Progress { command, client, version, at, progress: report } => {
                progress.push(command_progress::ActiveModel {
                    command_id: Set(command.uuid()),
                    client_uuid: Set((*client).into()),
                    version: Set(*version),
                    at: Set((*at).into()),
                    progress: Set(report.to_string()),
                });
            }
            Record::LateResult { command, client, result } => late.push((*command, *client, &**result)),
            Record::DeviceSeen { device, incarnation, at } => {
                seen.insert(*device, (*incarnation, *at));
            }
            Record::Gateway(record) => of_gateways.push(record),
            Record::Audit(event) => audited.push(&**event),
            Record::Delivery(delivery) => deliveries.push(&**delivery),
        }
    }
    commands::upsert_commands(transaction, of_commands.into_values(), broker).await?;
    commands::upsert_targets(transaction, targets.into_iter().map(|((command, _), target)| (command, target))).await?;
    commands::write_progress(transaction, progress).await?;
    let seen: Vec<_> = seen.into_iter().map(|(device, (incarnation, at))| (device, incarnation, at)).collect();
    devices::write_seen(transaction, &seen).await?;
    gateways::history::write(transaction, &of_gateways).await?;
    for (command, client, result) in late {
        commands::write_late_result(transaction, command, client, result).await?;
    }
    audit::insert(transaction, &audited).await?;
    webhooks::insert(transaction, &deliveries, nearly_full).await
}

/// Leaves out texts of clients.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(command) => write!(f, "command {} with its targets", command.id),
            Self::Command(command) => write!(f, "command {}", command.id),
            Self::Target { command, target } => write!(f, "target {} of command {command}", target.client),
            Self::Progress { command, client, version, .. } => {
                write!(f, "progress {version} of target {client} of command {command}")
            }
            Self::LateResult { command, client, .. } => {
                write!(f, "late result of target {client} of command {command}")
            }
            Self::DeviceSeen { device, .. } => write!(f, "last sight of device {device}"),
            Self::Gateway(GatewayRecord::Transition { gateway, transition }) => {
                write!(f, "transition of gateway {gateway} at {}", transition.at)
            }
            Self::Gateway(GatewayRecord::Hour { gateway, hour }) => {
                write!(f, "hour of gateway {gateway} from {}", hour.began_at)
            }
            Self::Gateway(GatewayRecord::Deleted(gateway)) => write!(f, "deletion of gateway {gateway}"),
            Self::Delivery(delivery) => write!(f, "webhook delivery of {}", delivery.event.as_str()),
            Self::Audit(event) => write!(f, "audit of {}", event.action.as_str()),
        }
    }
}
