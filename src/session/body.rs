//! What the framework writes of a session: the head of the 101 response, and with it the greeting.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::Stream;

/// The body of a handshake's response. What was queued meanwhile goes out in one write with the head; after it the body only
/// keeps the session's actor going, whose frames go another way, see [`Outbox`](crate::delivery::Outbox).
///
/// A chain of streams would do the same, with a larger piece of memory for each idle connection.
pub(super) struct Body<S> {
    first: Box<[u8]>,
    session: S,
}

impl<S> Body<S> {
    pub(super) fn new(first: Vec<u8>, session: S) -> Self {
        Self { first: first.into(), session }
    }
}

impl<S, E> Stream for Body<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.first.is_empty() {
            Pin::new(&mut self.session).poll_next(context)
        } else {
            Poll::Ready(Some(Ok(mem::take(&mut self.first).into())))
        }
    }
}
