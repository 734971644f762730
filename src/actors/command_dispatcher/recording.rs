//! What the CommandDispatcher records with the Journal, and tells those who wait and follow.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use actix::AsyncContext;
use prometheus::Histogram;
use serde_json::json;

use super::CommandDispatcher;
use crate::{
    domain::{
        audit::path_of,
        commands::{TargetState, TargetUpdate},
        webhooks::EventType,
    },
    metrics::{Context, METRICS, labels::ByLabel},
    store::Record,
};

/// Commands that were not stored beforehand and end within this time are recorded once, at their end. After twice this time
/// a command is recorded as begun.
const PERIOD: Duration = Duration::from_millis(50);

/// By the state in which a target ended.
static COMMAND_SECONDS: LazyLock<ByLabel<TargetState, Histogram>> =
    LazyLock::new(|| ByLabel::of(&METRICS.command_seconds, |histogram| histogram));

impl CommandDispatcher {
    /// Records updates, and tells them.
    pub(super) fn record_and_tell(&mut self, updates: impl IntoIterator<Item = TargetUpdate>) {
        let updates: Vec<_> = updates.into_iter().collect();
        updates.iter().for_each(|update| self.measure(update));
        updates.iter().for_each(|update| self.tell_failure(update));
        let mut records = Vec::new();
        let mut may_wait = true;
        for update in &updates {
            if self.unkept.contains(&update.command) {
                if update.finished.is_some() {
                    self.unkept.remove(&update.command);
                }
                continue;
            }
            match (&update.finished, self.unrecorded.contains(update.command)) {
                // it began a moment ago: it is recorded once
                (Some(finished), true) => {
                    self.unrecorded.remove(update.command);
                    records.push(Record::Whole(finished.clone()));
                }
                (None, true) if update.progress.is_none() => {}
                _ => {
                    may_wait = false;
                    if self.unrecorded.remove(update.command) {
                        records.extend(self.pending.command(update.command).cloned().map(Arc::new).map(Record::Whole));
                    }
                    self.record(update, &mut records);
                }
            }
        }
        // before it is told: whoever hears of it and then flushes the Journal finds it written
        if !records.is_empty() {
            if may_wait { self.journal.record_soon(records) } else { self.journal.record(records) }
        }
        updates.into_iter().for_each(|update| self.audience.tell(update));
    }

    /// Has webhooks told of a target that has failed.
    fn tell_failure(&self, update: &TargetUpdate) {
        let target = &update.target;
        let has_failed = target.state.is_final()
            && !matches!(target.state, TargetState::Succeeded | TargetState::Cancelled)
            && update.progress.is_none();
        let command = update.finished.as_deref().or_else(|| self.pending.command(update.command));
        if let Some(command) = command.filter(|_| has_failed) {
            self.journal.tell(EventType::CommandFailed, self.clock.now(), || {
                json!({
                    "command_id": command.id,
                    "target": target.client,
                    "name": target.name,
                    "state": target.state.as_str(),
                    "method": command.method,
                    "url": path_of(&command.url),
                })
            });
        }
    }

    /// Measures how long a target took that has ended.
    fn measure(&self, update: &TargetUpdate) {
        let command = update.finished.as_deref().or_else(|| self.pending.command(update.command));
        if update.target.state.is_final()
            && update.progress.is_none()
            && let Some(command) = command
            && let Some(latency) = COMMAND_SECONDS.get(update.target.state)
        {
            let took = self.clock.now().signed_duration_since(command.created_at);
            latency.observe(took.to_std().unwrap_or_default().as_secs_f64());
        }
        METRICS.commands_under_way.set(self.pending.count() as i64);
    }

    fn record(&self, update: &TargetUpdate, records: &mut Vec<Record>) {
        if let Some(progress) = &update.progress
            && !self.journal.backlog().is_stuck()
        {
            records.push(Record::Progress {
                command: update.command,
                client: update.target.client,
                version: update.target.version,
                at: self.clock.now(),
                progress: progress.clone(),
            });
        }
        records.push(Record::Target { command: update.command, target: update.target.clone() });
        if let Some(finished) = &update.finished {
            records.push(Record::Command(finished.clone()));
        }
    }

    /// Records what is not finished one period after the period in which it began.
    pub(super) fn record_begun_later(&mut self, context: &mut Context<Self>) {
        self.is_period_running = true;
        context.run_later(PERIOD, |dispatcher, context| {
            dispatcher.record_begun();
            dispatcher.is_period_running = false;
            if !dispatcher.unrecorded.is_empty() {
                dispatcher.record_begun_later(context);
            }
        });
    }

    /// Records all that has begun: in the last period, and in this one.
    pub(super) fn record_all_begun(&mut self) {
        self.record_begun();
        self.record_begun();
    }

    /// A period ends: records what began before it.
    pub(super) fn record_begun(&mut self) {
        let begun = self.unrecorded.next_period();
        let commands = begun.into_iter().filter_map(|id| self.pending.command(id));
        let records: Vec<_> = commands.cloned().map(Arc::new).map(Record::Whole).collect();
        if !records.is_empty() {
            self.journal.record(records);
        }
    }
}
