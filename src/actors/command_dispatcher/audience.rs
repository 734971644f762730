//! Who is told what becomes of commands.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{broadcast, oneshot};

use super::{
    CommandError,
    messages::{Ended, Waiter},
};
use crate::domain::{commands::TargetUpdate, ids::CommandId};

/// Updates that a follower may be behind before it misses some.
const UPDATES: usize = 1024;

/// Those who wait for the end of commands, and those who follow them.
#[derive(Default)]
pub(super) struct Audience {
    waiters: HashMap<CommandId, Vec<Waiter>>,
    followers: HashMap<CommandId, broadcast::Sender<Arc<TargetUpdate>>>,
    /// the broker stops
    is_dismissed: bool,
}

impl Audience {
    /// Adds somebody who waits for the end of a command.
    pub(super) fn add_waiter(&mut self, id: CommandId, waiter: Waiter) {
        if self.is_dismissed {
            let _ = waiter.send(Err(CommandError::Stopping));
            return;
        }
        let waiters = self.waiters.entry(id).or_default();
        // a request that is repeated many times waits once
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(waiter);
    }

    /// A new way to wait for the end of a command.
    pub(super) fn wait(&mut self, id: CommandId) -> oneshot::Receiver<Ended> {
        let (waiter, end) = oneshot::channel();
        self.add_waiter(id, waiter);
        end
    }

    /// Follows a command. None: the broker stops.
    pub(super) fn follow(&mut self, id: CommandId) -> Option<broadcast::Receiver<Arc<TargetUpdate>>> {
        if self.is_dismissed {
            return None;
        }
        Some(self.followers.entry(id).or_insert_with(|| broadcast::channel(UPDATES).0).subscribe())
    }

    /// Tells an update to all whom it concerns. Those who have gone meanwhile are forgotten.
    pub(super) fn tell(&mut self, update: TargetUpdate) {
        let id = update.command;
        let is_finished = update.finished.is_some();
        if let Some(command) = &update.finished {
            for waiter in self.waiters.remove(&id).unwrap_or_default() {
                let _ = waiter.send(Ok(command.clone()));
            }
        }
        if let Some(followers) = self.followers.get(&id) {
            let all_gone = followers.send(Arc::new(update)).is_err();
            if all_gone || is_finished {
                self.followers.remove(&id);
            }
        }
    }

    /// A command does not begin: nobody waits for it.
    pub(super) fn forget(&mut self, id: CommandId) {
        self.waiters.remove(&id);
    }

    /// The broker stops: nobody waits or follows any more.
    pub(super) fn dismiss(&mut self) {
        self.is_dismissed = true;
        self.followers.clear();
        for waiter in self.waiters.drain().flat_map(|(_, waiters)| waiters) {
            let _ = waiter.send(Err(CommandError::Stopping));
        }
    }
}
