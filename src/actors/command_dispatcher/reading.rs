//! How commands are read: what has happened is written first.

use std::sync::Arc;

use actix::MailboxError;
use tokio::sync::broadcast;

use super::{
    CommandError, Commands, Follow,
    handle::PAGE_BYTES,
    messages::{RecordBegun, Subscribe},
};
use crate::{
    domain::{accounts::Account, commands::TargetUpdate, ids::CommandId},
    store::{CommandFilter, CommandPage, StoreError, StoredProgress},
};

impl Commands {
    /// Waits until everything that has happened so far can be read.
    ///
    /// # Errors
    /// The database does not take it, or not in time.
    pub async fn written(&self) -> Result<(), CommandError> {
        self.record_begun().await?;
        self.flush().await
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
        let page = self.read(id).await?;
        page.filter(|page| page.command.is_visible_to(viewer)).ok_or(CommandError::NotFound)
    }

    pub(super) async fn read(&self, id: CommandId) -> Result<Option<CommandPage>, CommandError> {
        self.written().await?;
        Ok(self.store.command(id, 0, PAGE_BYTES).await?)
    }

    /// A command as it is stored, with some of its targets and the progress that was reported. See [`Commands::written`].
    ///
    /// # Errors
    /// `NotFound`: also if this account may not see it.
    pub async fn get_stored(
        &self,
        id: CommandId,
        viewer: &Account,
        from: u64,
        limit: u64,
    ) -> Result<(CommandPage, Vec<StoredProgress>), CommandError> {
        let found = self.store.command_with_progress(id, from, limit, PAGE_BYTES).await?;
        found.filter(|(page, _)| page.command.is_visible_to(viewer)).ok_or(CommandError::NotFound)
    }

    /// Commands as they are stored, newest first, and whether there are more. See [`Commands::written`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_stored(&self, filter: CommandFilter) -> Result<(Vec<CommandPage>, bool), StoreError> {
        self.store.commands(filter).await
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
