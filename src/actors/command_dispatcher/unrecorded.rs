//! Commands that have begun and are not recorded yet.

use std::{collections::HashSet, mem};

use crate::domain::ids::CommandId;

/// Commands that were not stored beforehand, by the period in which they began: this one, or the one before. What ends before
/// its second period is over needs one record, not two.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    this_period: HashSet<CommandId>,
    last_period: HashSet<CommandId>,
}

impl Unrecorded {
    /// A command begins.
    pub(super) fn insert(&mut self, command: CommandId) {
        self.this_period.insert(command);
    }

    /// Whether the command is not recorded yet.
    pub(super) fn contains(&self, command: CommandId) -> bool {
        self.this_period.contains(&command) || self.last_period.contains(&command)
    }

    /// The command is about to be recorded. Answers whether it was not before.
    pub(super) fn remove(&mut self, command: CommandId) -> bool {
        self.this_period.remove(&command) || self.last_period.remove(&command)
    }

    /// A period ends. Answers what has to be recorded now, since it began before that period.
    pub(super) fn next_period(&mut self) -> HashSet<CommandId> {
        mem::replace(&mut self.last_period, mem::take(&mut self.this_period))
    }

    /// Whether there is nothing to record.
    pub(super) fn is_empty(&self) -> bool {
        self.this_period.is_empty() && self.last_period.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    #[test]
    fn a_command_has_a_whole_period_to_end_before_it_is_recorded_as_begun() {
        let (short, long) = (CommandId::new(Utc::now()), CommandId::new(Utc::now()));
        let mut unrecorded = Unrecorded::default();
        unrecorded.insert(short);
        unrecorded.insert(long);
        // however soon after their beginning this period ends
        assert!(unrecorded.next_period().is_empty());
        assert!(unrecorded.contains(short) && unrecorded.remove(short));
        assert!(!unrecorded.contains(short) && !unrecorded.remove(short));
        assert_eq!(unrecorded.next_period(), HashSet::from([long]));
        assert!(unrecorded.is_empty());
    }
}
