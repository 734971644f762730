//! What happens to a command, as events for whoever follows it: first what is stored, then what happens from then on.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::broadcast;

use super::{CommandError, Commands};
use crate::{
    domain::{
        commands::{Command, Target, TargetUpdate},
        ids::{ClientId, CommandId},
    },
    store::{CommandPage, StoredProgress},
};

/// How often a command is read that is not finished, and not handled here.
const PERIOD: Duration = Duration::from_secs(1);

/// Something that has happened to a command.
#[derive(Debug)]
pub struct CommandEvent {
    /// The command's version with it.
    pub version: i64,
    /// The report or change.
    pub content: EventContent,
}

/// The content of a [`CommandEvent`].
#[derive(Debug)]
pub enum EventContent {
    /// A target has this state now.
    State(Target),
    /// A target has reported progress: JSON.
    Progress(Target, Arc<str>),
    /// The command is finished.
    Finished(Finished),
}

/// A finished command.
#[derive(Debug)]
pub enum Finished {
    /// As it is stored, with the first of its targets.
    Stored(Box<CommandPage>),
    /// With all its targets.
    Whole(Arc<Command>),
}

/// See the module.
#[derive(Debug)]
pub struct Follow {
    commands: Commands,
    id: CommandId,
    requested_by: ClientId,
    /// the version of the last event
    last: i64,
    ready: VecDeque<CommandEvent>,
    /// None: first what is stored has to be read
    updates: Option<broadcast::Receiver<Arc<TargetUpdate>>>,
    is_finished: bool,
}

impl Follow {
    pub(super) fn new(commands: Commands, id: CommandId, requested_by: ClientId, after: i64) -> Self {
        Self { commands, id, requested_by, last: after, ready: VecDeque::new(), updates: None, is_finished: false }
    }

    /// Who gave the command.
    pub fn requested_by(&self) -> ClientId {
        self.requested_by
    }

    /// The next event, which is written before. None: the command is finished, or was deleted.
    ///
    /// # Errors
    /// The command can't be read.
    pub async fn next(&mut self) -> Result<Option<CommandEvent>, CommandError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last = self.last.max(event.version);
                return Ok(Some(event));
            }
            if self.is_finished {
                return Ok(None);
            }
            let Some(updates) = &mut self.updates else {
                self.catch_up().await?;
                continue;
            };
            match updates.recv().await {
                // if it can't be written, the record tells what has happened
                Ok(update) if self.commands.flush().await.is_ok() => self.on_update(&update),
                // some were missed, or the command is not handled here any more
                Ok(_) | Err(_) => self.updates = None,
            }
        }
    }

    /// Reads what has happened since the last event. Subscribes first, so that nothing is missed in between.
    async fn catch_up(&mut self) -> Result<(), CommandError> {
        self.updates = self.commands.subscribe(self.id).await?;
        let Some(page) = self.commands.read(self.id).await? else {
            self.is_finished = true;
            return Ok(());
        };
        let reports = self.commands.progress_after(self.id, self.last).await?;
        self.is_finished = page.command.finished_at.is_some();
        self.ready.extend(missed(page, &reports, self.last));
        if self.updates.is_none() && self.ready.is_empty() && !self.is_finished {
            tokio::time::sleep(PERIOD).await;
        }
        Ok(())
    }

    fn on_update(&mut self, update: &TargetUpdate) {
        let (version, target) = (update.target.version, &update.target);
        if version > self.last {
            let content = match &update.progress {
                Some(progress) => EventContent::Progress(target.clone(), progress.clone()),
                None => EventContent::State(target.clone()),
            };
            self.ready.push_back(CommandEvent { version, content });
        }
        if let Some(command) = &update.finished {
            self.is_finished = true;
            let content = EventContent::Finished(Finished::Whole(command.clone()));
            self.ready.push_back(CommandEvent { version: command.version, content });
        }
    }
}

/// The events after the version `last`, as far as they are stored: the progress reports, and each target's last state.
fn missed(page: CommandPage, reports: &[StoredProgress], last: i64) -> Vec<CommandEvent> {
    let command = &page.command;
    // later reports will be heard as updates
    let newest = command.targets.iter().map(|target| target.version).max().unwrap_or(0);
    let reports: Vec<_> = reports.iter().filter(|report| report.version <= newest).collect();
    let mut events = Vec::new();
    for report in &reports {
        let Some(target) = command.targets.iter().find(|target| target.client == report.client) else { continue };
        let content = EventContent::Progress(target.in_progress(), report.progress.as_str().into());
        events.push(CommandEvent { version: report.version, content });
    }
    for target in command.targets.iter().filter(|target| target.version > last) {
        if !reports.iter().any(|report| report.version == target.version) {
            events.push(CommandEvent { version: target.version, content: EventContent::State(target.clone()) });
        }
    }
    events.sort_by_key(|event| event.version);
    if command.finished_at.is_some() {
        let version = command.version;
        events.push(CommandEvent { version, content: EventContent::Finished(Finished::Stored(page.into())) });
    }
    events
}
