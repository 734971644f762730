//! The part of a request's body that a handler leaves unread. The framework would read it to its end, however long it is.
//! Here only a little is drained, so that the connection can be used again. If there is more, nothing further is read: the
//! answer is sent, then the connection is closed.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpMessage,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::{ConnectionType, header},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, Sleep};

use super::{
    connections::{self, Busy},
    stream::Pace,
};

/// Most bytes that are drained.
const DRAINED: usize = 64 * 1024;

/// How long the rest of a body may take to arrive.
const DRAINING: Duration = Duration::from_secs(1);

/// How long a client has to read the answer before its connection is reset.
const FAREWELL: Duration = Duration::from_secs(1);

/// A request's body, held as long as the request, since the framework continues to read a body that has been dropped.
#[derive(Clone)]
pub(crate) struct RequestBody(Rc<Shared>);

struct Shared {
    payload: RefCell<Payload>,
    ended: Cell<bool>,
    pace: Option<Rc<Pace>>,
}

impl RequestBody {
    /// Takes a request's body, and puts a view of it in its place. `None` if the request has no body.
    pub(super) fn hold(request: &mut ServiceRequest) -> Option<Self> {
        let payload = request.take_payload();
        if matches!(payload, Payload::None) {
            return None;
        }
        let pace = connections::pace(request.request());
        let body = Self(Rc::new(Shared { payload: RefCell::new(payload), ended: Cell::new(false), pace }));
        if request.headers().contains_key(header::UPGRADE) {
            // a session takes it, since it reads as long as it lives
            request.extensions_mut().insert(body.clone());
        } else {
            request.set_payload(Payload::Stream { payload: Box::pin(body.clone()) });
        }
        Some(body)
    }

    /// The body itself, to be read after the answer.
    pub(crate) fn take(&self) -> Payload {
        self.0.ended.set(true);
        self.0.payload.replace(Payload::None)
    }

    /// Reads the rest if it is short and arrives soon. Returns whether nothing is left.
    async fn drain(&mut self, declared: Option<u64>) -> bool {
        if self.0.ended.get() {
            return true;
        }
        if declared.is_some_and(|declared| declared > DRAINED as u64) {
            return false;
        }
        let end = Instant::now() + DRAINING;
        let mut drained = 0;
        while let Ok(next) = tokio::time::timeout_at(end, self.next()).await {
            match next {
                Some(Ok(chunk)) => drained += chunk.len(),
                Some(Err(_)) | None => return true,
            }
            if drained > DRAINED {
                return false;
            }
        }
        false
    }
}

impl Stream for RequestBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut *self.0.payload.borrow_mut()).poll_next(context);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.0.ended.set(true);
        }
        self.0.pace.iter().for_each(|pace| pace.wants_body(next.is_pending()));
        next
    }
}

/// Drains the unread part of the body, or stops reading and closes the connection after the answer.
pub(super) async fn settle(
    mut body: RequestBody,
    busy: Option<Busy>,
    mut response: ServiceResponse<BoxBody>,
) -> ServiceResponse<BoxBody> {
    let declared = response.request().headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|len| len.to_str().ok()?.parse().ok());
    if body.drain(declared).await {
        return response;
    }
    response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    if matches!(response.response().body().size(), BodySize::None | BodySize::Sized(0)) {
        // an empty answer has no body that could hold the request's
        actix_web::rt::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            busy.iter().for_each(Busy::reset);
            drop(body);
        });
        return response;
    }
    response.map_body(|_, inner| BoxBody::new(Farewell { inner, _unread: body, busy, closing: None }))
}

/// The body of the last answer of a connection whose client is still sending: it holds the request's body, so that no more
/// of it is read, and closes the connection after it.
struct Farewell {
    inner: BoxBody,
    _unread: RequestBody,
    busy: Option<Busy>,
    closing: Option<Pin<Box<Sleep>>>,
}

impl MessageBody for Farewell {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.inner.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = &mut *self;
        if this.closing.is_none() {
            match Pin::new(&mut this.inner).poll_next(context) {
                Poll::Ready(None) => this.closing = Some(Box::pin(tokio::time::sleep(FAREWELL))),
                other => return other,
            }
        }
        let Some(closing) = &mut this.closing else { return Poll::Pending };
        match closing.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                this.busy.iter().for_each(Busy::reset);
                Poll::Ready(None)
            }
        }
    }
}
