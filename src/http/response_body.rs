//! The memory of answers while clients read them. Large answers are counted, in total and for each identity or address, and
//! given to the connection in small pieces.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use actix_web::{
    ResponseError,
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
};
use bytes::Bytes;

use super::{
    admission::Requester,
    connections::Busy,
    memory::{Held, Memory},
};
use crate::settings::Settings;

/// Most bytes of an answer that is not counted.
const FREE: usize = 64 * 1024;

/// Most bytes that a connection gets at a time, since it keeps a copy of them.
const PIECE: usize = 32 * 1024;

/// Counts an answer if it is large. If there is no room for it, the client gets a refusal instead.
pub(super) fn account(
    answers: &Arc<Memory>,
    settings: &Settings,
    busy: Option<Busy>,
    response: ServiceResponse<BoxBody>,
) -> ServiceResponse<BoxBody> {
    let size = match response.response().body().size() {
        BodySize::Sized(size) if size > FREE as u64 => size as usize,
        // the connection is busy until the stream ends
        BodySize::Stream => return response.map_body(|_, inner| BoxBody::new(Streamed { inner, _busy: busy })),
        _ => return response,
    };
    let requester = Requester::of(response.request(), settings);
    let held = if response.request().method().is_safe() || response.status().is_client_error() {
        answers.hold(requester, size)
    } else {
        // answered regardless of the limit, since the change has been made
        Ok(answers.hold_anyway(requester, size))
    };
    match held {
        Ok(held) => response.map_body(|_, inner| match inner.try_into_bytes() {
            Ok(bytes) => BoxBody::new(Large { bytes, _held: held, _busy: busy }),
            Err(inner) => BoxBody::new(Counted { inner, _held: held, _busy: busy }),
        }),
        Err(refusal) => {
            let (request, _) = response.into_parts();
            ServiceResponse::new(request, refusal.error_response())
        }
    }
}

/// A large body that is completely in memory.
struct Large {
    bytes: Bytes,
    _held: Held,
    _busy: Option<Busy>,
}

impl MessageBody for Large {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.bytes.len().min(PIECE);
        Poll::Ready(Some(Ok(self.bytes.split_to(piece))))
    }
}

macro_rules! passes_on {
    ($body:ty) => {
        impl MessageBody for $body {
            type Error = <BoxBody as MessageBody>::Error;

            fn size(&self) -> BodySize {
                self.inner.size()
            }

            fn poll_next(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<Option<Result<Bytes, Self::Error>>> {
                Pin::new(&mut self.inner).poll_next(context)
            }
        }
    };
}

/// A large body that is produced in pieces.
struct Counted {
    inner: BoxBody,
    _held: Held,
    _busy: Option<Busy>,
}

passes_on!(Counted);

/// A body of unknown length, such as a stream of events.
struct Streamed {
    inner: BoxBody,
    _busy: Option<Busy>,
}

passes_on!(Streamed);
