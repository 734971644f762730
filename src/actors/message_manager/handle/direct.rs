//! Messages without acknowledgement (contract section 5): they reach a recipient that is connected, or nobody.

use bytes::Bytes;

use super::{MessageError, Messages};
use crate::{delivery::SessionHandle, domain::ids::ClientId, protocol::wire};

impl Messages {
    /// Delivers a text, given in parts, to the recipient's session on this node. Returns the session, or `None` if none
    /// accepted it.
    pub fn deliver(&self, to: ClientId, parts: &[&[u8]]) -> Option<SessionHandle> {
        deliver_to(|| self.directory.device(to), |session| self.relays.deliver(session, parts))
    }

    /// Delivers a text frame to the recipient's session on another node. Returns whether one accepted it.
    pub async fn forward(&self, to: ClientId, frame: Bytes) -> bool {
        self.backplane.forward(to, frame).await
    }

    /// Delivers a text, given in parts, to the recipient's session on any node.
    ///
    /// # Errors
    /// None accepted it.
    pub async fn deliver_anywhere(&self, to: ClientId, parts: &[&[u8]]) -> Result<(), MessageError> {
        if self.deliver(to, parts).is_some() || self.forward(to, wire::text(parts)).await {
            Ok(())
        } else {
            Err(MessageError::NotConnected(to))
        }
    }
}

/// Delivers to the session that is found, or, if that accepts nothing, to the one that has replaced it in the meantime.
fn deliver_to<S: PartialEq>(find: impl Fn() -> Option<S>, deliver: impl Fn(&S) -> bool) -> Option<S> {
    let found = find()?;
    if deliver(&found) {
        return Some(found);
    }
    find().filter(|now| *now != found && deliver(now))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// The session that a message reaches, and those that were tried. The directory names these, one after the other.
    fn delivered(named: &[Option<u64>], accepting: u64) -> (Option<u64>, Vec<u64>) {
        let (named, tried) = (RefCell::new(named.iter()), RefCell::new(Vec::new()));
        let deliver = |session: &u64| {
            tried.borrow_mut().push(*session);
            *session == accepting
        };
        let reached = deliver_to(|| *named.borrow_mut().next().expect("asked twice at most"), deliver);
        (reached, tried.into_inner())
    }

    #[test]
    fn what_a_session_does_not_accept_goes_to_the_one_that_has_taken_over() {
        assert_eq!(delivered(&[Some(1)], 1), (Some(1), vec![1]));
        assert_eq!(delivered(&[Some(1), Some(2)], 2), (Some(2), vec![1, 2]));
        assert_eq!(delivered(&[Some(1), Some(2)], 3), (None, vec![1, 2]));
        // a slow consumer is still the one that is named
        assert_eq!(delivered(&[Some(1), Some(1)], 2), (None, vec![1]));
        assert_eq!(delivered(&[Some(1), None], 2), (None, vec![1]));
        assert_eq!(delivered(&[None], 1), (None, Vec::new()));
    }
}
