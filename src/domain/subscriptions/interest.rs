//! What has subscribers, for other nodes.

use std::collections::{HashMap, HashSet};

use super::Subscription;

/// The numbers of subscribers of topics and patterns, and which of them have changed.
#[derive(Debug, Default)]
pub struct Interest {
    counts: HashMap<Subscription, usize>,
    changed: HashSet<Subscription>,
}

impl Interest {
    pub(super) fn begins(&mut self, subscription: &Subscription) {
        *self.counts.entry(subscription.clone()).or_default() += 1;
        self.changed.insert(subscription.clone());
    }

    pub(super) fn ends(&mut self, subscription: &Subscription) {
        if let Some(count) = self.counts.get_mut(subscription) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(subscription);
            }
        }
        self.changed.insert(subscription.clone());
    }

    /// The other nodes expect a subscription that has not begun.
    pub(super) fn is_expected(&mut self, subscription: Subscription) {
        self.changed.insert(subscription);
    }

    pub(super) fn all_end(&mut self, subscription: &Subscription) {
        self.counts.remove(subscription);
        self.changed.insert(subscription.clone());
    }

    /// What has changed since the last time, with the number of subscribers that it has now.
    pub(super) fn take_changed(&mut self) -> Vec<(Subscription, usize)> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let counted = |subscription: Subscription| {
            let count = self.counts.get(&subscription).copied().unwrap_or_default();
            (subscription, count)
        };
        changed.map(counted).collect()
    }
}
