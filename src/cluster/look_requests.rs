//! Looks into the database for what other processes have changed, by a loop, and who waits for them.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

/// Tells a loop to look, and others that it has looked.
#[derive(Debug)]
pub struct LookRequests {
    wanted: Notify,
    /// how often a look was wanted
    asked: AtomicU64,
    /// how many of these the last look has answered
    answered: watch::Sender<u64>,
}

impl Default for LookRequests {
    fn default() -> Self {
        Self { wanted: Notify::new(), asked: AtomicU64::new(0), answered: watch::Sender::new(0) }
    }
}

impl LookRequests {
    /// Has the loop look at once: another process has changed something.
    pub fn look_now(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.wanted.notify_one();
    }

    /// Waits, in the loop, until a look is wanted.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A look begins. The result is for [`LookRequests::ends`].
    pub fn begins(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// A look has succeeded, and what it found is known.
    pub fn ends(&self, began: u64) {
        self.answered.send_replace(began);
    }

    /// Waits until a look has succeeded that began after all calls of [`LookRequests::look_now`] so far. While the database is away that
    /// lasts.
    pub async fn settled(&self) {
        let asked = self.asked.load(Ordering::SeqCst);
        // the sender lives as long as this
        let _ = self.answered.subscribe().wait_for(|answered| *answered >= asked).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_look_that_began_before_a_change_does_not_answer_for_it() {
        let looks = LookRequests::default();
        assert!(looks.settled().now_or_never().is_some());
        looks.look_now();
        let began = looks.begins();
        assert!(looks.settled().now_or_never().is_none());
        looks.look_now();
        looks.ends(began);
        assert!(looks.settled().now_or_never().is_none());
        looks.ends(looks.begins());
        assert!(looks.settled().now_or_never().is_some());
        // both are wanted as one
        assert!(looks.wanted().now_or_never().is_some() && looks.wanted().now_or_never().is_none());
    }
}
