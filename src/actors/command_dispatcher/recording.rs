//! What becomes of commands, for the Journal and for those who watch and wait.

use std::{sync::Arc, time::Duration};

use actix::{AsyncContext, Context};

use super::{CommandDispatcher, now};
use crate::{actors::journal::Write, domain::commands::TargetUpdate, store::Record};

/// Commands that nobody stored beforehand, and that end within this time, are recorded once, at their end. What takes
/// longer than twice this time is recorded as begun.
const MOMENT: Duration = Duration::from_millis(50);

impl CommandDispatcher {
    /// Records changes, and tells them to those who watch and wait.
    pub(super) fn tell(&mut self, changes: impl IntoIterator<Item = TargetUpdate>) {
        let changes: Vec<_> = changes.into_iter().collect();
        let mut records = Vec::new();
        let mut patient = true;
        for changed in &changes {
            if self.unkept.contains(&changed.command) {
                if changed.finished.is_some() {
                    self.unkept.remove(&changed.command);
                }
                continue;
            }
            match (&changed.finished, self.unrecorded.contains(changed.command)) {
                // it began and ended within a moment: written once
                (Some(finished), true) => {
                    self.unrecorded.remove(changed.command);
                    records.push(Record::Whole(finished.clone()));
                }
                (None, true) if changed.progress.is_none() => {}
                _ => {
                    patient = false;
                    if self.unrecorded.remove(changed.command) {
                        records.extend(self.pending.command(changed.command).cloned().map(Arc::new).map(Record::Whole));
                    }
                    self.record(changed, &mut records);
                }
            }
        }
        // first: whoever is told now and then flushes the Journal finds it written
        if !records.is_empty() {
            self.journal.do_send(Write { records, patient });
        }
        for changed in changes {
            if let Some(finished) = &changed.finished {
                for waiter in self.waiters.remove(&changed.command).unwrap_or_default() {
                    // a caller that hung up waits no more
                    let _ = waiter.send(finished.clone());
                }
            }
            let finished = changed.finished.is_some();
            if let Some(watchers) = self.watchers.get(&changed.command) {
                let command = changed.command;
                let nobody = watchers.send(Arc::new(changed)).is_err();
                if nobody || finished {
                    self.watchers.remove(&command);
                }
            }
        }
    }

    fn record(&self, changed: &TargetUpdate, records: &mut Vec<Record>) {
        if let Some(progress) = &changed.progress
            && !self.backlog.is_stuck()
        {
            records.push(Record::Progress {
                command: changed.command,
                client: changed.target.client,
                version: changed.target.version,
                at: now(),
                progress: progress.clone(),
            });
        }
        records.push(Record::Target { command: changed.command, target: changed.target.clone() });
        if let Some(finished) = &changed.finished {
            records.push(Record::Command(finished.clone()));
        }
    }

    /// Records, a moment after the other, what is not over a moment after it began.
    pub(super) fn await_moment(&mut self, context: &mut Context<Self>) {
        self.in_moment = true;
        context.run_later(MOMENT, |dispatcher, context| {
            dispatcher.record_begun();
            dispatcher.in_moment = false;
            if !dispatcher.unrecorded.is_empty() {
                dispatcher.await_moment(context);
            }
        });
    }

    /// Records what began before this moment and is not over.
    pub(super) fn record_begun(&mut self) {
        let begun = self.unrecorded.next_moment();
        let commands = begun.into_iter().filter_map(|id| self.pending.command(id));
        let records: Vec<_> = commands.cloned().map(Arc::new).map(Record::Whole).collect();
        if !records.is_empty() {
            self.journal.do_send(Write { records, patient: false });
        }
    }
}
