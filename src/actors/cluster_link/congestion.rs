//! Publications that wait here on their way to sockets: the other nodes are told, so that their publishers wait like those of this
//! node.

use std::time::{Duration, Instant};

use actix::AsyncContext;
use uuid::Uuid;

use super::ClusterLink;
use crate::cluster::{elsewhere::REPEAT, envelope};
use crate::metrics::Context;

/// The time between two looks whether publications still wait. Publishers at this node look more often.
const LOOK: Duration = Duration::from_millis(5);

/// What the others have been told.
#[derive(Debug, Default)]
pub(super) struct Congestion {
    /// when they were told last that this node is congested; `None` if it is not, as far as they know
    told: Option<Instant>,
    /// another look is due
    is_looking: bool,
}

impl Congestion {
    /// What the others have to be told now: that this node is congested, as soon as it is and then again and again, and that it is
    /// no longer.
    fn news(&mut self, is_congested: bool, now: Instant) -> Option<bool> {
        let is_due = match self.told {
            None => is_congested,
            Some(told) => !is_congested || now.saturating_duration_since(told) >= REPEAT,
        };
        if is_due {
            self.told = is_congested.then_some(now);
        }
        is_due.then_some(is_congested)
    }
}

impl ClusterLink {
    /// Tells the other nodes whether publications wait here, if they have to be told.
    pub(super) fn tell_congestion(&mut self, context: &mut Context<Self>) {
        let Some(neighbours) = &self.neighbours else { return };
        let is_congested = neighbours.relays.is_congested();
        if let Some(is_congested) = self.congestion.news(is_congested, Instant::now()) {
            for node in self.peers.nodes().collect::<Vec<_>>() {
                self.push(node, &envelope::Message::Congested(is_congested), context);
            }
        }
        if self.congestion.told.is_some() && !self.congestion.is_looking {
            self.congestion.is_looking = true;
            context.run_later(LOOK, |link, context| {
                link.congestion.is_looking = false;
                link.tell_congestion(context);
            });
        }
    }

    /// Tells a peer what the others know.
    pub(super) fn repeat_congestion(&mut self, node: Uuid, context: &mut Context<Self>) {
        self.push(node, &envelope::Message::Congested(self.congestion.told.is_some()), context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_are_told_at_once_then_in_periods_and_at_the_end() {
        let (mut congestion, now) = (Congestion::default(), Instant::now());
        assert_eq!(congestion.news(false, now), None);
        assert_eq!(congestion.news(true, now), Some(true));
        assert_eq!(congestion.news(true, now + REPEAT / 2), None);
        assert_eq!(congestion.news(true, now + REPEAT), Some(true));
        assert_eq!(congestion.news(true, now + REPEAT), None);
        assert_eq!(congestion.news(false, now + REPEAT), Some(false));
        assert_eq!(congestion.news(false, now + 2 * REPEAT), None);
        assert_eq!(congestion.news(true, now + 2 * REPEAT), Some(true));
    }
}
