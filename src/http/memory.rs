//! Counts the memory of bodies that arrive or are sent, in total and for each identity or address.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::admission::Requester;
use crate::{
    domain::shares::{Exhausted, Shares},
    http::errors::ApiError,
    settings::{self, LiveSettings},
};

/// A budget of memory, shared by all threads.
#[derive(Debug)]
pub struct Memory {
    shares: Mutex<Shares<Requester>>,
    limits: Limits,
    settings: LiveSettings,
}

/// The limits that refusals name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The key of the total limit.
    pub total: &'static str,
    /// The key of the limit of one requester.
    pub share: &'static str,
    /// Both, in bytes; 0 is none.
    pub of: fn(&settings::Limits) -> (usize, usize),
    /// Seconds after which a requester that has reached its limit may try again.
    pub retry_after: u64,
}

impl Memory {
    /// With these limits.
    pub(super) fn new(settings: LiveSettings, limits: Limits) -> Arc<Self> {
        Arc::new(Self { shares: Mutex::new(Shares::new(0, 0)), limits, settings })
    }

    fn shares(&self) -> MutexGuard<'_, Shares<Requester>> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, share) = (self.limits.of)(&self.settings.load().limits);
        shares.set_limits(total, share);
        shares
    }

    /// Whether a requester may hold more.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn check(&self, requester: &Requester) -> Result<(), ApiError> {
        self.shares().check(requester).map_err(|exhausted| self.refusal(exhausted))
    }

    /// Holds `bytes` until the result is dropped.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn hold(self: &Arc<Self>, requester: Requester, bytes: usize) -> Result<Held, ApiError> {
        self.shares().hold(&requester, bytes).map_err(|exhausted| self.refusal(exhausted))?;
        Ok(Held { memory: self.clone(), requester, bytes })
    }

    /// Holds `bytes`, regardless of the limits.
    pub(super) fn hold_anyway(self: &Arc<Self>, requester: Requester, bytes: usize) -> Held {
        self.shares().hold_anyway(&requester, bytes);
        Held { memory: self.clone(), requester, bytes }
    }

    fn refusal(&self, exhausted: Exhausted) -> ApiError {
        let Limits { total, share, retry_after, .. } = self.limits;
        match exhausted {
            Exhausted::Total => ApiError::AtLimit(total),
            Exhausted::Share => ApiError::too_many(share, retry_after),
        }
    }
}

/// Memory that is held.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<Memory>,
    requester: Requester,
    bytes: usize,
}

impl Held {
    /// Holds `bytes` from now on, which are more than before.
    ///
    /// # Errors
    /// The limit that is reached. As many bytes are held as before.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        let more = self.memory.shares().hold_more(&self.requester, self.bytes, bytes - self.bytes);
        more.map_err(|exhausted| self.memory.refusal(exhausted))?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.shares().give_back(&self.requester, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::built_in;

    fn requester(n: u8) -> Requester {
        Requester::Address(Some([10, 0, 0, n].into()))
    }

    #[test]
    fn memory_counts_for_its_requester_and_for_all_until_it_is_dropped() {
        let memory = Memory::new(
            built_in().into(),
            Limits { total: "total", share: "share", of: |_| (200, 40), retry_after: 7 },
        );
        let refusal = |refused: Result<_, ApiError>| refused.unwrap_err().to_string();
        let mut first = memory.hold(requester(1), 10).unwrap();
        let second = memory.hold(requester(1), 20).unwrap();
        assert!(refusal(first.grow_to(21)).ends_with("(share)"));
        first.grow_to(20).unwrap();
        assert!(refusal(memory.check(&requester(1))).ends_with("(share)"));
        memory.check(&requester(2)).unwrap();
        assert!(refusal(memory.hold(requester(2), 41).map(drop)).ends_with("(total)"));
        let anyway = memory.hold_anyway(requester(2), 160);
        assert!(refusal(memory.check(&requester(3))).ends_with("(total)"));
        drop((first, second, anyway));
        memory.hold(requester(3), 200).unwrap();
    }
}
