//! Commands that other nodes own, as callers at this node see them.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use uuid::Uuid;

use super::{CommandError, Commands};
use crate::{
    cluster::envelope::{Answer, Question},
    domain::ids::CommandId,
};

/// How often a command is read whose end a caller waits for.
const PERIOD: Duration = Duration::from_millis(250);

impl Commands {
    /// Whether there are no other nodes.
    pub(super) fn is_alone(&self) -> bool {
        self.backplane.incarnation().is_nil()
    }

    /// Whether this node handles the commands of an owner.
    pub(super) fn owns(&self, owner: Option<Uuid>) -> bool {
        self.is_alone() || owner == Some(self.backplane.incarnation())
    }

    /// Has the node that owns a command write what has happened to it. All nodes if the command is not stored yet.
    pub(super) async fn have_written(&self, id: CommandId) -> Result<(), CommandError> {
        if self.is_alone() {
            return Ok(());
        }
        match self.store.command_standing(id).await? {
            None => self.have_all_written().await,
            Some(standing) if standing.is_finished || self.owns(standing.owner) => {}
            Some(standing) => {
                if let Some(owner) = standing.owner {
                    // without an answer, what is stored has to do
                    self.backplane.ask(owner, Question::WriteCommands).await;
                }
            }
        }
        Ok(())
    }

    /// Has all other nodes write what has happened to commands.
    pub(super) async fn have_all_written(&self) {
        let nodes = self.backplane.nodes();
        join_all(nodes.into_iter().map(|node| self.backplane.ask(node, Question::WriteCommands))).await;
    }

    /// Waits until a command of another node is finished, at most for `wait`. Returns false if the broker stops.
    pub(super) async fn ended_elsewhere(&self, id: CommandId, wait: Duration) -> Result<bool, CommandError> {
        let began = Instant::now();
        loop {
            if self.is_stopping() {
                return Ok(false);
            }
            let standing = self.store.command_standing(id).await?;
            let left = wait.saturating_sub(began.elapsed());
            if left.is_zero() || standing.is_none_or(|standing| standing.is_finished) {
                return Ok(true);
            }
            tokio::time::sleep(left.min(PERIOD)).await;
        }
    }

    /// Has another node cancel a command that it owns. Returns whether it did; if not, the command is finished.
    pub(super) async fn cancel_elsewhere(&self, id: CommandId, owner: Option<Uuid>) -> Result<bool, CommandError> {
        let owner = owner.ok_or(CommandError::ClusterUnavailable)?;
        let answer = self.backplane.ask(owner, Question::CancelCommand(id.uuid())).await;
        if answer == Some(Answer::Yes) {
            return Ok(true);
        }
        // it has not answered, or its commands have another owner now, or the command has ended meanwhile
        match self.store.command_standing(id).await? {
            Some(standing) if !standing.is_finished => Err(CommandError::ClusterUnavailable),
            _ => Ok(false),
        }
    }
}
