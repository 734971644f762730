//! A body while it arrives. Its memory is counted, since a client may take long to send it.

use std::sync::Arc;

use super::{
    admission::Requester,
    memory::{Held, Memory},
};
use crate::http::errors::ApiError;

/// Bytes of a body that are not counted: a connection takes more than that in any case.
const FREE: usize = 16 * 1024;

/// The part of a body that has arrived.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// most bytes of the whole body
    most: usize,
    /// the memory of its capacity, once that is counted
    held: Option<Held>,
    memory: Arc<Memory>,
}

impl Buffer {
    /// For a body of at most `most` bytes.
    pub(super) fn new(memory: Arc<Memory>, most: usize) -> Self {
        Self { bytes: Vec::new(), most, held: None, memory }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a chunk.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn append(&mut self, chunk: &[u8], sender: impl FnOnce() -> Requester) -> Result<(), ApiError> {
        let needed = self.bytes.len() + chunk.len();
        if needed > self.bytes.capacity() {
            // twice as much each time, but never more than the whole body
            let capacity = (2 * self.bytes.capacity()).clamp(needed, self.most.max(needed));
            match &mut self.held {
                Some(held) => held.grow_to(capacity)?,
                None if capacity > FREE => self.held = Some(self.memory.hold(sender(), capacity)?),
                None => {}
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::memory::Limits, *};

    const KIB: usize = 1024;

    #[test]
    fn a_body_is_held_as_it_arrives_and_one_that_is_larger_than_a_share_is_had_alone() {
        let memory = Memory::new(
            crate::settings::built_in().into(),
            Limits { total: "total", share: "share", of: |_| (0, 40 * KIB), retry_after: 1 },
        );
        let mut body = Buffer::new(memory.clone(), 100 * KIB);
        for _ in 0..100 {
            body.append(&[b'x'; KIB], || Requester::Address(None)).unwrap();
            assert!(body.bytes.capacity() <= (2 * body.bytes.len()).min(100 * KIB));
        }
        assert_eq!(body.bytes(), [b'x'; 100 * KIB]);
        let append = |kib: usize| {
            Buffer::new(memory.clone(), kib * KIB).append(&vec![b'x'; kib * KIB], || Requester::Address(None))
        };
        append(16).unwrap();
        append(17).unwrap_err();
        drop(body);
        append(17).unwrap();
    }
}
