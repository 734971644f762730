//! What the framework writes of a session: the head of the 101 response, and with it what was queued meanwhile.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::Stream;

/// The body of a handshake's response. The greeting goes out in one write with the head; after it the body only keeps the
/// session's actor going, whose frames go another way, see [`Outbox`](super::outbox::Outbox).
pub(super) struct Body<S> {
    greeting: Box<[u8]>,
    session: S,
}

impl<S> Body<S> {
    pub(super) fn new(greeting: Vec<u8>, session: S) -> Self {
        Self { greeting: greeting.into(), session }
    }
}

impl<S, E> Stream for Body<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.greeting.is_empty() {
            Pin::new(&mut self.session).poll_next(context)
        } else {
            Poll::Ready(Some(Ok(mem::take(&mut self.greeting).into())))
        }
    }
}
