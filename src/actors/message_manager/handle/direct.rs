//! Messages without acknowledgement (contract section 5): they reach a recipient that is connected, or nobody.

use bytes::Bytes;

use tokio::sync::oneshot;

use super::{MessageError, Messages};
use crate::{
    cluster::{Forwarding, Origin, Outcome},
    delivery::SessionHandle,
    domain::ids::ClientId,
    metrics::{labels::DirectOutcome, traffic},
};

/// A message on the way to a recipient at another node.
#[derive(Debug)]
pub struct UnderWay {
    to: ClientId,
    /// none: it has arrived
    outcome: Option<oneshot::Receiver<Outcome>>,
}

impl Messages {
    /// Delivers a text, given in parts, to the recipient's session on this node. Returns the session, or `None` if none
    /// accepted it.
    pub fn deliver(&self, to: ClientId, parts: &[&[u8]]) -> Option<SessionHandle> {
        let reached = deliver_to(|| self.directory.device(to), |session| self.relays.deliver(session, parts));
        if reached.is_some() {
            traffic::direct(DirectOutcome::Delivered);
        }
        reached
    }

    /// Sends a text to the recipient's session on another node.
    ///
    /// # Errors
    /// The recipient is on no other node, as far as is known.
    pub fn forward(&self, to: ClientId, from: Origin, text: Bytes) -> Result<UnderWay, MessageError> {
        match self.backplane.forward(to, from, text) {
            Forwarding::UnderWay(outcome) => Ok(UnderWay { to, outcome: Some(outcome) }),
            Forwarding::Absent => {
                traffic::direct(DirectOutcome::NotConnected);
                Err(MessageError::NotConnected(to))
            }
            Forwarding::Unavailable => {
                traffic::direct(DirectOutcome::ClusterUnavailable);
                Err(MessageError::ClusterUnavailable(to))
            }
        }
    }

    /// Delivers a text, given in parts, to the recipient's session on any node.
    ///
    /// # Errors
    /// None accepted it.
    pub async fn deliver_anywhere(&self, to: ClientId, from: ClientId, parts: &[&[u8]]) -> Result<(), MessageError> {
        match self.deliver(to, parts) {
            Some(_) => Ok(()),
            None => {
                let from = Origin { client: from.uuid(), device: 0 };
                self.forward(to, from, parts.concat().into())?.outcome().await
            }
        }
    }
}

impl UnderWay {
    /// One that has arrived already.
    pub fn arrived(to: ClientId) -> Self {
        Self { to, outcome: None }
    }

    /// Waits until it is known what became of the message.
    ///
    /// # Errors
    /// Nobody got it, or that is not known.
    pub async fn outcome(self) -> Result<(), MessageError> {
        let Some(outcome) = self.outcome else { return Ok(()) };
        let (counted, outcome) = match outcome.await.unwrap_or(Outcome::Unknown) {
            Outcome::Delivered => (DirectOutcome::Delivered, Ok(())),
            Outcome::Absent => (DirectOutcome::NotConnected, Err(MessageError::NotConnected(self.to))),
            Outcome::Unknown => (DirectOutcome::Unknown, Err(MessageError::DeliveryUnknown(self.to))),
        };
        traffic::direct(counted);
        outcome
    }
}

/// Delivers to the session that is found, or, if that accepts nothing, to the one that has replaced it in the meantime.
pub(in crate::actors) fn deliver_to<S: PartialEq>(
    find: impl Fn() -> Option<S>,
    deliver: impl Fn(&S) -> bool,
) -> Option<S> {
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
