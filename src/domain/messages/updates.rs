//! Which sessions have been told how messages of their clients have ended, for as long as something may tell them again: the
//! database does not know yet that they have been told, or another node has told of the end, too.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use crate::domain::ids::DeliveryId;

/// How long after the database knows it an update is remembered. What another node tells does not come later: an inbox that
/// is silent for a shorter time is opened anew, without what was in it.
const LATE: Duration = Duration::from_secs(10);

/// See the module. A session is known by its number.
#[derive(Debug, Default)]
pub struct ToldUpdates {
    told: HashSet<(u64, DeliveryId)>,
    /// those that the database knows, with the time since when, oldest first
    recorded: VecDeque<(Instant, (u64, DeliveryId))>,
}

impl ToldUpdates {
    /// A session is about to be told. Returns whether it has not been told yet.
    pub fn begin(&mut self, session: u64, message: DeliveryId) -> bool {
        self.told.insert((session, message))
    }

    /// The session has not taken it, or nothing more is to be remembered of it.
    pub fn forget(&mut self, session: u64, message: DeliveryId) {
        self.told.remove(&(session, message));
    }

    /// The database knows now that a session has been told.
    pub fn recorded(&mut self, session: u64, message: DeliveryId, now: Instant) {
        self.recorded.push_back((now, (session, message)));
        while let Some((since, told)) = self.recorded.front()
            && now.duration_since(*since) >= LATE
        {
            self.told.remove(told);
            self.recorded.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_told_once_until_nothing_can_tell_it_again() {
        let (mut updates, now) = (ToldUpdates::default(), Instant::now());
        let [one, two] = [1, 2].map(DeliveryId);
        assert!(updates.begin(7, one) && !updates.begin(7, one));
        assert!(updates.begin(8, one) && updates.begin(7, two));
        updates.forget(8, one);
        assert!(updates.begin(8, one));
        updates.recorded(7, one, now);
        assert!(!updates.begin(7, one));
        // one that the database does not know yet is remembered, however long that takes
        updates.recorded(8, one, now + LATE);
        assert!(updates.begin(7, one) && !updates.begin(7, two) && !updates.begin(8, one));
        assert_eq!((updates.told.len(), updates.recorded.len()), (3, 1));
    }
}
