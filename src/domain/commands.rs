//! Commands: what a client gives to other clients, and what becomes of it.

mod for_others;
mod late;
mod order;
mod pending;
mod recovery;
mod state;
mod usage;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    accounts::Account,
    ids::{ClientId, ClientKind, CommandId, Role},
};

pub use for_others::{CommandsForOthers, Known, LostCommands};
pub use order::{Order, Selection, max_targets, may_command};
pub use pending::{Answered, Cancelled, PendingCommands, Socket};
pub use recovery::{Recovered, recover};
pub use state::{Reason, TargetState};
pub use usage::{CommandLimits, Exceeded};

/// One client that a command goes to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The client.
    pub client: ClientId,
    /// How often its UUID had been deleted when the command was given: a later registration is another client.
    pub incarnation: i64,
    /// A user's integer id.
    pub user_id: Option<i64>,
    /// Device or user.
    pub kind: ClientKind,
    /// A device's name; a user's email or username.
    pub name: String,
    /// Its state.
    pub state: TargetState,
    /// Why it is offline, where more is known.
    pub reason: Option<Reason>,
    /// The answer: JSON.
    pub result: Option<Arc<str>>,
    /// An answer that came after the target had timed out or lost its socket: JSON.
    pub late_result: Option<Arc<str>>,
    /// When the command was sent to it.
    pub sent_at: Option<DateTime<Utc>>,
    /// When its first progress report came.
    pub in_progress_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// The command's version at the target's last update.
    pub version: i64,
}

impl Target {
    /// A queued target.
    pub fn new(client: ClientId, kind: ClientKind, name: String, user_id: Option<i64>) -> Self {
        Self {
            client,
            incarnation: 0,
            user_id,
            kind,
            name,
            state: TargetState::Queued,
            reason: None,
            result: None,
            late_result: None,
            sent_at: None,
            in_progress_at: None,
            ended_at: None,
            version: 0,
        }
    }

    /// As it was when it reported progress, whatever it has come to since.
    #[must_use]
    pub fn in_progress(&self) -> Self {
        Self {
            state: TargetState::InProgress,
            reason: None,
            result: None,
            late_result: None,
            ended_at: None,
            ..self.clone()
        }
    }

    fn end(&mut self, state: TargetState, time: DateTime<Utc>) {
        self.state = state;
        self.ended_at = Some(time);
    }
}

/// A command to one or more clients.
#[derive(Debug, Clone)]
pub struct Command {
    /// Its id, `command_id` on the wire.
    pub id: CommandId,
    /// Who gave it.
    pub requested_by: ClientId,
    /// The name of who gave it.
    pub requester: String,
    /// Its method, such as `GET`; the target decides what it means.
    pub method: String,
    /// Its path, such as `/status`; the target decides what it means.
    pub url: String,
    /// The data that comes with it, as JSON.
    pub data: Option<Arc<str>>,
    /// How long a target may take to answer once the command was sent to it.
    pub timeout: Duration,
    /// Until when it waits for targets that are not connected. None: it may not wait.
    pub deliver_until: Option<DateTime<Utc>>,
    /// When it was given.
    pub created_at: DateTime<Utc>,
    /// When its last target ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The number of updates so far.
    pub version: i64,
    /// The clients it goes to, which never change.
    pub targets: Vec<Target>,
}

impl Command {
    /// Whether this account may see it: operators see all commands, others their own.
    pub fn is_visible_to(&self, account: &Account) -> bool {
        account.role() >= Role::Operator || self.requested_by == account.id
    }

    /// The clients that it waits for, with their incarnations.
    pub fn awaited(&self) -> Vec<(ClientId, i64)> {
        let queued = |target: &&Target| self.deliver_until.is_some() && target.state == TargetState::Queued;
        self.targets.iter().filter(queued).map(|target| (target.client, target.incarnation)).collect()
    }

    /// Ends a command that was not sent to anybody as cancelled.
    pub fn withdraw(&mut self) {
        let time = self.created_at;
        self.finished_at = Some(time);
        self.targets.iter_mut().for_each(|target| target.end(TargetState::Cancelled, time));
    }
}

/// An update of one target.
#[derive(Debug, Clone)]
pub struct TargetUpdate {
    /// The command.
    pub command: CommandId,
    /// The target after the update.
    pub target: Target,
    /// The progress that the target has reported: JSON.
    pub progress: Option<Arc<str>>,
    /// The whole command, if that was its last target to end.
    pub finished: Option<Arc<Command>>,
}
