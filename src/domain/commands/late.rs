//! Answers that may come too late.

use std::collections::{HashSet, VecDeque};

use crate::domain::ids::{ClientId, CommandId};

/// Targets that are remembered.
const REMEMBERED: usize = 10_000;

/// The last targets that timed out or lost their sockets, and have not answered since.
#[derive(Debug, Default)]
pub(super) struct LateAnswers {
    expected: HashSet<(CommandId, ClientId)>,
    /// oldest first; those that have answered stay in here, since an answer would have to search for its place
    order: VecDeque<(CommandId, ClientId)>,
}

impl LateAnswers {
    /// A target may answer late from now on.
    pub(super) fn expect(&mut self, id: CommandId, client: ClientId) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.expected.remove(&oldest);
        }
        self.expected.insert((id, client));
        self.order.push_back((id, client));
    }

    /// A target answers. Whether it was expected to, which it is once.
    pub(super) fn take(&mut self, id: CommandId, client: ClientId) -> bool {
        self.expected.remove(&(id, client))
    }

    /// Nothing is expected of a client any more.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.expected.retain(|(_, of)| *of != client);
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    #[test]
    fn a_late_answer_is_expected_once_from_the_last_targets() {
        let mut late = LateAnswers::default();
        let ids: Vec<_> = (0..=REMEMBERED).map(|_| (CommandId::new(Utc::now()), ClientId::random())).collect();
        ids.iter().for_each(|(id, client)| late.expect(*id, *client));
        let [oldest, second, .., forgotten, last] = *ids else { panic!("there are many") };
        assert!(!late.take(oldest.0, oldest.1));
        assert!(late.take(second.0, second.1) && !late.take(second.0, second.1));
        late.forget(forgotten.1);
        assert!(!late.take(forgotten.0, forgotten.1) && late.take(last.0, last.1));
    }
}
