//! How commands are read: what has happened is written first.

use std::sync::Arc;

use actix::MailboxError;
use chrono::{DateTime, Utc};
use tokio::sync::broadcast;

use super::{
    CommandError, Commands, Follow,
    handle::PAGE_BYTES,
    messages::{RecordBegun, Subscribe},
};
use crate::{
    domain::{
        accounts::Account,
        commands::{TargetState, TargetUpdate},
        ids::{ClientRef, CommandId, Role},
    },
    store::{CommandFilter, CommandPage, StoredProgress},
};

/// Which commands to list.
#[derive(Debug)]
pub struct CommandQuery {
    /// Only those with a target in this state.
    pub state: Option<TargetState>,
    /// Only those for this client.
    pub target: Option<ClientRef>,
    /// Only those that were given since then.
    pub since: Option<DateTime<Utc>>,
    /// Only those that were given before this one.
    pub before: Option<CommandId>,
    /// Most commands to return.
    pub limit: u64,
    /// Most bytes to return.
    pub bytes: usize,
}

/// The commands as they are stored, with everything that happened before [`Commands::written`]. Their reader may wait for its
/// turn before it reads.
#[derive(Debug)]
pub struct Written<'a>(&'a Commands);

impl Written<'_> {
    /// A command with some of its targets and the progress that was reported.
    ///
    /// # Errors
    /// `NotFound`: also if this account may not see it.
    pub async fn get(
        &self,
        id: CommandId,
        viewer: &Account,
        from: u64,
        limit: u64,
    ) -> Result<(CommandPage, Vec<StoredProgress>), CommandError> {
        let found = self.0.store.command_with_progress(id, from, limit, PAGE_BYTES).await?;
        found.filter(|(page, _)| page.command.is_visible_to(viewer)).ok_or(CommandError::NotFound)
    }

    /// The commands that a filter lets pass, newest first, and whether there are more.
    ///
    /// # Errors
    /// The database fails.
    pub async fn list(&self, filter: CommandFilter) -> Result<(Vec<CommandPage>, bool), CommandError> {
        Ok(self.0.store.commands(filter).await?)
    }
}

impl Commands {
    /// What a query asks for, among the commands that this account may see.
    ///
    /// # Errors
    /// `Lookup`: its target is no client.
    pub async fn filter(&self, query: CommandQuery, viewer: &Account) -> Result<CommandFilter, CommandError> {
        let CommandQuery { state, target, since, before, limit, bytes } = query;
        let target = match target {
            Some(target) => Some(self.accounts.look_up(target).await?.id),
            None => None,
        };
        let requested_by = (viewer.role() < Role::Operator).then_some(viewer.id);
        Ok(CommandFilter { requested_by, state, target, since, before, limit, bytes })
    }

    /// Waits until everything that has happened so far can be read.
    ///
    /// # Errors
    /// The database does not take it, or not in time.
    pub async fn written(&self) -> Result<Written<'_>, CommandError> {
        self.record_begun().await?;
        self.flush().await?;
        Ok(Written(self))
    }

    /// The same for a command that another node may handle, as far as that can be asked.
    ///
    /// # Errors
    /// As [`Commands::written`].
    pub async fn written_of(&self, id: CommandId) -> Result<Written<'_>, CommandError> {
        let written = self.written().await?;
        self.have_written(id).await?;
        Ok(written)
    }

    /// The same for the commands of all nodes that can be asked.
    ///
    /// # Errors
    /// As [`Commands::written`].
    pub async fn written_everywhere(&self) -> Result<Written<'_>, CommandError> {
        self.have_all_written().await;
        self.written().await
    }

    /// Records the commands that have begun with the Journal, which has not written them yet.
    ///
    /// # Errors
    /// The CommandDispatcher has ended.
    pub async fn record_begun(&self) -> Result<(), MailboxError> {
        self.dispatcher.send(RecordBegun).await
    }

    pub(super) async fn flush(&self) -> Result<(), CommandError> {
        Ok(self.journal.flush().await?)
    }

    /// A command as it is now, with the first of its targets.
    ///
    /// # Errors
    /// `NotFound`: also if this account may not see it.
    pub async fn get(&self, id: CommandId, viewer: &Account) -> Result<CommandPage, CommandError> {
        self.written_of(id).await?;
        let page = self.store.command(id, 0, PAGE_BYTES).await?;
        page.filter(|page| page.command.is_visible_to(viewer)).ok_or(CommandError::NotFound)
    }

    pub(super) async fn read(&self, id: CommandId) -> Result<Option<CommandPage>, CommandError> {
        self.written().await?;
        Ok(self.store.command(id, 0, PAGE_BYTES).await?)
    }

    /// Follows a command, from the event after this version on.
    ///
    /// # Errors
    /// `NotFound`: also if this account may not see it.
    pub async fn follow(&self, id: CommandId, viewer: &Account, after: i64) -> Result<Follow, CommandError> {
        let page = self.get(id, viewer).await?;
        Ok(Follow::new(self.clone(), id, page.command.requested_by, after))
    }

    pub(super) async fn subscribe(
        &self,
        id: CommandId,
    ) -> Result<Option<broadcast::Receiver<Arc<TargetUpdate>>>, CommandError> {
        Ok(self.dispatcher.send(Subscribe(id)).await?)
    }

    pub(super) async fn progress_after(
        &self,
        id: CommandId,
        version: i64,
    ) -> Result<Vec<StoredProgress>, CommandError> {
        Ok(self.store.progress_of(id, version, PAGE_BYTES).await?)
    }
}
