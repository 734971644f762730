//! What the bodies of answers take up while clients read them. Small ones are free; large ones are counted, for all together and
//! for the identity or address that they are for, and given to the connection in small pieces.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use actix_web::{
    HttpMessage, ResponseError,
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
};
use bytes::Bytes;

use super::{connections::Busy, limited_address, reads::Reader};
use crate::{
    domain::{
        ids::ClientId,
        shares::{Exhausted, Shares},
    },
    error::ApiError,
    settings::Settings,
};

/// Bodies of at most so many bytes are free.
const FREE: usize = 64 * 1024;

/// A connection gets so much of a body at a time: what it has, it keeps a copy of.
const PIECE: usize = 32 * 1024;

/// For whom an answer is: left in a request's data by those who find out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker(pub ClientId);

/// What large answers take up, seen from any thread.
#[derive(Debug)]
pub struct Answers {
    shares: Mutex<Shares<Reader>>,
    /// large answers under way; usually none, and then nobody needs the lock
    count: AtomicUsize,
}

impl Answers {
    /// With `limits.response_bytes` and `limits.response_bytes_per_identity`.
    pub fn new(total: usize, share: usize) -> Arc<Self> {
        Arc::new(Self { shares: Mutex::new(Shares::new(total, share)), count: AtomicUsize::new(0) })
    }

    fn shares(&self) -> MutexGuard<'_, Shares<Reader>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this client's answers leave room for another, before something is done that can't be undone.
    ///
    /// # Errors
    /// What is exhausted.
    pub fn check(&self, client: ClientId) -> Result<(), ApiError> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        Ok(self.shares().check(&Reader::Client(client))?)
    }
}

impl From<Exhausted> for ApiError {
    fn from(exhausted: Exhausted) -> Self {
        match exhausted {
            Exhausted::Total => Self::AtLimit("limits.response_bytes"),
            Exhausted::Share => Self::TooMany { limit: "limits.response_bytes_per_identity", retry_after: 10 },
        }
    }
}

/// Counts an answer, if it is large; one that there is no room for becomes a refusal.
pub(super) fn account(
    answers: &Arc<Answers>,
    settings: &Settings,
    busy: Option<Busy>,
    response: ServiceResponse<BoxBody>,
) -> ServiceResponse<BoxBody> {
    let size = match response.response().body().size() {
        BodySize::Sized(size) if size > FREE as u64 => size as usize,
        // it lasts as long as its connection is busy with it
        BodySize::Stream => return response.map_body(|_, inner| BoxBody::new(Lasting { inner, _busy: busy })),
        _ => return response,
    };
    let asker = response.request().extensions().get::<Asker>().copied();
    let reader = match asker {
        Some(Asker(client)) => Reader::Client(client),
        None => Reader::Address(limited_address(response.request(), settings)),
    };
    let held = {
        let mut shares = answers.shares();
        if response.request().method().is_safe() || response.status().is_client_error() {
            shares.hold(&reader, size)
        } else {
            // what was asked for has been done
            shares.hold_anyway(&reader, size);
            Ok(())
        }
    };
    if let Err(exhausted) = held {
        let (request, _) = response.into_parts();
        let refusal = ApiError::from(exhausted).error_response();
        return ServiceResponse::new(request, refusal);
    }
    answers.count.fetch_add(1, Ordering::Relaxed);
    let share = Share { answers: answers.clone(), reader, size };
    response.map_body(|_, inner| match inner.try_into_bytes() {
        Ok(bytes) => BoxBody::new(Large { bytes, _share: share, _busy: busy }),
        Err(inner) => BoxBody::new(Counted { inner, _share: share, _busy: busy }),
    })
}

struct Share {
    answers: Arc<Answers>,
    reader: Reader,
    size: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.answers.count.fetch_sub(1, Ordering::Relaxed);
        self.answers.shares().give_back(&self.reader, self.size);
    }
}

/// A large body that is in memory.
struct Large {
    bytes: Bytes,
    _share: Share,
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

/// A large body that comes in pieces of its own.
struct Counted {
    inner: BoxBody,
    _share: Share,
    _busy: Option<Busy>,
}

passes_on!(Counted);

/// A body of unknown length, such as a stream of events.
struct Lasting {
    inner: BoxBody,
    _busy: Option<Busy>,
}

passes_on!(Lasting);
