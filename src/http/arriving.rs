//! What request bodies take up while they arrive. Anybody may begin to send one and take half a minute to end it, so what is
//! kept of them is counted: for all together, and for the identity or address that they come from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::reads::Reader;
use crate::{
    domain::shares::{Exhausted, Shares},
    error::ApiError,
};

/// So much of a body is free: a connection takes up more than that anyway.
const FREE: usize = 16 * 1024;

/// What bodies take up, seen from any thread.
#[derive(Debug)]
pub struct Arriving {
    shares: Mutex<Shares<Reader>>,
}

impl Arriving {
    /// With `limits.request_bytes` and `limits.request_bytes_per_identity`.
    pub fn new(total: usize, share: usize) -> Arc<Self> {
        Arc::new(Self { shares: Mutex::new(Shares::new(total, share)) })
    }

    fn shares(&self) -> MutexGuard<'_, Shares<Reader>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A body that has just begun to arrive.
    pub(super) fn begin(self: &Arc<Self>) -> Buffer {
        Buffer { bytes: Vec::new(), held: None, arriving: self.clone() }
    }
}

/// What has arrived of one body.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// by whom, once it is more than what is free, and how much
    held: Option<(Reader, usize)>,
    arriving: Arc<Arriving>,
}

impl Buffer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends what has arrived of a body of at most so many bytes.
    ///
    /// # Errors
    /// What is exhausted.
    pub(super) fn append(
        &mut self,
        chunk: &[u8],
        most: usize,
        sender: impl FnOnce() -> Reader,
    ) -> Result<(), ApiError> {
        let needed = self.bytes.len() + chunk.len();
        if needed > self.bytes.capacity() {
            // twice as much each time, but never more than the whole body
            let capacity = (2 * self.bytes.capacity()).clamp(needed, most.max(needed));
            self.hold(capacity, sender)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    fn hold(&mut self, capacity: usize, sender: impl FnOnce() -> Reader) -> Result<(), ApiError> {
        if capacity <= FREE {
            return Ok(());
        }
        let (sender, held) = self.held.take().unwrap_or_else(|| (sender(), 0));
        let more = self.arriving.shares().hold_more(&sender, held, capacity - held);
        self.held = Some((sender, if more.is_ok() { capacity } else { held }));
        more.map_err(|exhausted| match exhausted {
            Exhausted::Total => ApiError::AtLimit("limits.request_bytes"),
            Exhausted::Share => ApiError::TooMany { limit: "limits.request_bytes_per_identity", retry_after: 1 },
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some((sender, held)) = &self.held {
            self.arriving.shares().give_back(sender, *held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn refusal(refused: Result<(), ApiError>) -> String {
        refused.unwrap_err().to_string()
    }

    #[test]
    fn bodies_count_for_their_sender_and_for_all_until_they_are_dropped() {
        let arriving = Arriving::new(200 * KIB, 40 * KIB);
        let sender = |n: u8| move || Reader::Address(Some([10, 0, 0, n].into()));
        let append = |body: &mut Buffer, kib: usize, n| body.append(&vec![b'x'; kib * KIB], kib * KIB, sender(n));
        let mut bodies: Vec<_> = (0..5).map(|_| arriving.begin()).collect();
        append(&mut bodies[0], 40, 1).unwrap();
        append(&mut bodies[1], 16, 1).unwrap();
        assert!(refusal(append(&mut bodies[2], 17, 1)).contains("limits.request_bytes_per_identity"));
        append(&mut bodies[3], 40, 2).unwrap();
        assert!(refusal(append(&mut bodies[4], 31, 3)).ends_with("(limits.request_bytes)"));
        bodies.remove(0);
        append(&mut bodies[3], 31, 3).unwrap();
        drop(bodies);
        arriving.shares().hold(&sender(1)(), 200 * KIB).unwrap();
    }

    #[test]
    fn a_body_is_held_as_it_arrives_and_one_that_is_larger_than_a_share_is_had_alone() {
        let arriving = Arriving::new(0, 40 * KIB);
        let mut body = arriving.begin();
        for _ in 0..100 {
            body.append(&[b'x'; KIB], 100 * KIB, || Reader::Address(None)).unwrap();
            assert!(body.bytes.capacity() <= (2 * body.bytes.len()).min(100 * KIB));
        }
        assert_eq!(body.bytes(), [b'x'; 100 * KIB]);
        let mut other = arriving.begin();
        assert!(other.append(&[b'x'; 17 * KIB], 17 * KIB, || Reader::Address(None)).is_err());
    }
}
