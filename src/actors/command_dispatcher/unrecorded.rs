//! Commands that have begun and are in no record yet.

use std::{collections::HashSet, mem};

use crate::domain::ids::CommandId;

/// Commands that nobody stored beforehand, sorted by when they began: in this moment, or in the one before. Whatever ends
/// before its second moment is over needs one record, not two.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    now: HashSet<CommandId>,
    before: HashSet<CommandId>,
}

impl Unrecorded {
    /// A command begins.
    pub(super) fn insert(&mut self, command: CommandId) {
        self.now.insert(command);
    }

    /// Whether the command is in no record yet.
    pub(super) fn contains(&self, command: CommandId) -> bool {
        self.now.contains(&command) || self.before.contains(&command)
    }

    /// The command is about to be recorded. Answers whether it was in no record yet.
    pub(super) fn remove(&mut self, command: CommandId) -> bool {
        self.now.remove(&command) || self.before.remove(&command)
    }

    /// A moment is over. Answers what has to be recorded now, since it began before that moment.
    pub(super) fn next_moment(&mut self) -> HashSet<CommandId> {
        mem::replace(&mut self.before, mem::take(&mut self.now))
    }

    /// Whether there is nothing to record.
    pub(super) fn is_empty(&self) -> bool {
        self.now.is_empty() && self.before.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    #[test]
    fn a_command_has_a_whole_moment_to_end_before_it_is_recorded_as_begun() {
        let (short, long) = (CommandId::new(Utc::now()), CommandId::new(Utc::now()));
        let mut unrecorded = Unrecorded::default();
        unrecorded.insert(short);
        unrecorded.insert(long);
        // however soon after their beginning this moment ends
        assert!(unrecorded.next_moment().is_empty());
        assert!(unrecorded.contains(short) && unrecorded.remove(short));
        assert!(!unrecorded.contains(short) && !unrecorded.remove(short));
        assert_eq!(unrecorded.next_moment(), HashSet::from([long]));
        assert!(unrecorded.is_empty());
    }
}
