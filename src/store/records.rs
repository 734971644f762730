//! The records of the Journal.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};

use super::GatewayRecord;
use crate::domain::{
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
}

impl Record {
    /// The device whose row it changes.
    pub(super) fn device(&self) -> Option<ClientId> {
        match self {
            Self::DeviceSeen { device, .. } => Some(*device),
            _ => None,
        }
    }
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
        }
    }
}
