//! The nodes where publications wait on their way to sockets, as they say.

use std::{
    collections::BTreeMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use uuid::Uuid;

/// The period in which a congested node repeats that it is.
pub const REPEAT: Duration = Duration::from_millis(250);

/// How long a node counts as congested that does not repeat it: publishers wait no longer for a node that is frozen or cannot be
/// heard, or whose last word was lost.
const LASTS: Duration = Duration::from_secs(1);

/// See the module. Written by the ClusterLink alone, read from any thread.
#[derive(Debug, Default)]
pub struct Congested {
    /// when each has said it last
    nodes: RwLock<BTreeMap<Uuid, Instant>>,
    /// there are some, so that without any a publication takes no lock
    are_some: AtomicBool,
}

impl Congested {
    /// A node says whether it is congested, or has left.
    pub fn put(&self, node: Uuid, is_congested: bool, now: Instant) {
        self.change(|nodes| {
            if is_congested {
                nodes.insert(node, now);
            } else {
                nodes.remove(&node);
            }
        });
    }

    /// Nodes that have not repeated it in time do not count any more.
    pub fn give_up(&self, now: Instant) {
        if self.are_some() {
            self.change(|nodes| nodes.retain(|_, said| now.saturating_duration_since(*said) < LASTS));
        }
    }

    /// Whether there are such nodes. Takes no lock.
    pub fn are_some(&self) -> bool {
        self.are_some.load(Ordering::Acquire)
    }

    /// Whether a node is one of them.
    pub fn contains(&self, node: Uuid) -> bool {
        self.are_some() && self.nodes.read().unwrap_or_else(PoisonError::into_inner).contains_key(&node)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Uuid, Instant>)) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut nodes);
        self.are_some.store(!nodes.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_congested_until_it_says_otherwise_or_has_not_repeated_it_for_a_second() {
        let (congested, [one, two], now) = (Congested::default(), [1, 2].map(Uuid::from_u128), Instant::now());
        congested.put(one, true, now);
        congested.put(two, true, now);
        congested.put(two, false, now);
        assert_eq!((congested.contains(one), congested.contains(two)), (true, false));
        congested.put(one, true, now + REPEAT);
        congested.give_up(now + LASTS);
        assert!(congested.contains(one));
        congested.give_up(now + REPEAT + LASTS);
        assert!(!congested.contains(one) && !congested.are_some());
    }
}
