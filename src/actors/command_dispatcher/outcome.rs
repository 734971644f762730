//! How the caller of a command waits for its end, and what it is told.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    CommandError, Commands, IdempotencyKey,
    handle::PAGE_BYTES,
    messages::{AwaitEnd, Ended, Recover},
};
use crate::{
    domain::{commands::Command, ids::CommandId},
    store::{CommandPage, KeyedCommand},
};

/// A command that was given by this request, or by the earlier one that it repeats.
#[derive(Debug)]
pub struct Given {
    pub(super) id: CommandId,
    pub(super) end: End,
}

/// How to wait for the end of a command.
#[derive(Debug)]
pub(super) enum End {
    /// The CommandDispatcher tells.
    Here(oneshot::Receiver<Ended>),
    /// Another node handles it: the database tells.
    Elsewhere,
    /// There is nothing to wait for.
    Over,
}

/// The state of a command when its caller is answered.
#[derive(Debug)]
pub enum Outcome {
    /// It finished while the caller waited.
    Finished(Arc<Command>),
    /// The command as it is stored.
    Stored {
        /// The command, with the first of its targets.
        page: Box<CommandPage>,
        /// Whether the broker stops. Then the sockets close, and the present state is not the outcome.
        stopping: bool,
    },
}

impl Commands {
    /// The command of a repeated request.
    pub(super) async fn repeated(&self, existing: KeyedCommand, key: &IdempotencyKey) -> Result<Given, CommandError> {
        if existing.body_digest != key.digest {
            return Err(CommandError::KeyReused);
        }
        let id = existing.id;
        let end = match self.dispatcher.send(AwaitEnd(id)).await? {
            None => self.recover(id).await?,
            Some(end) => End::Here(end),
        };
        Ok(Given { id, end })
    }

    /// Recovers a stored command, if it is not finished, not known here and not owned by another node. Returns how to wait for its
    /// end.
    pub(super) async fn recover(&self, id: CommandId) -> Result<End, CommandError> {
        let _recovering = self.recovering.lock().await;
        if let Some(end) = self.dispatcher.send(AwaitEnd(id)).await? {
            return Ok(End::Here(end));
        }
        // a command that has just finished is not known here either, so its end is written first
        self.written().await?;
        match self.store.command(id, 0, usize::MAX).await? {
            Some(page) if page.command.finished_at.is_none() && !self.owns(page.owner) => Ok(End::Elsewhere),
            Some(page) if page.command.finished_at.is_none() => {
                let awaited = page.command.awaited();
                let end = self.dispatcher.send(Recover(page.command)).await?;
                self.end_for_deleted(&awaited).await?;
                Ok(end.map_or(End::Over, End::Here))
            }
            _ => Ok(End::Over),
        }
    }

    /// Waits for the end of a command, at most for `wait`. The returned state has been written to the database.
    ///
    /// # Errors
    /// The state cannot be written or read now.
    pub(super) async fn outcome(&self, given: Given, wait: Duration) -> Result<Outcome, CommandError> {
        let Given { id, end } = given;
        let mut stopping = false;
        match end {
            End::Here(end) if !wait.is_zero() => match tokio::time::timeout(wait, end).await {
                Ok(Ok(Ok(command))) => {
                    self.flush().await?;
                    return Ok(Outcome::Finished(command));
                }
                Ok(Ok(Err(CommandError::Stopping))) => stopping = true,
                Ok(Ok(Err(error))) => return Err(error),
                // timed out, or not sent at all: the stored state tells
                Ok(Err(_)) | Err(_) => {}
            },
            End::Elsewhere if !wait.is_zero() => stopping = !self.ended_elsewhere(id, wait).await?,
            End::Here(_) | End::Elsewhere | End::Over => {}
        }
        self.written_of(id).await?;
        let page = self.store.command(id, 0, PAGE_BYTES).await?.ok_or(CommandError::NotFound)?;
        Ok(Outcome::Stored { page: page.into(), stopping })
    }
}
