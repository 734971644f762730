//! The response body of a handshake. Through it the framework writes the greeting together with the head of the 101 response.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::Stream;

/// The body of a handshake's response. Frames queued during the handshake are written together with the head. After that
/// the body only drives the session's actor; later frames leave through the [`Outbox`](crate::delivery::Outbox).
///
/// This type takes less memory per idle connection than a chain of two streams.
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
