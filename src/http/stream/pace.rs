//! When more of a connection is read.

use std::{
    cell::{Cell, RefCell},
    task::{Context, Poll, Waker},
};

use super::window::Window;

/// How far the requests of one connection have come; decides when more of them are read.
#[derive(Debug, Default)]
pub(in crate::http) struct Pace {
    window: RefCell<Window>,
    /// requests that are being answered
    requests: Cell<u32>,
    /// the handler waits for more of the request's body
    wants_body: Cell<bool>,
    /// the parser reads, and has not run since it began to
    in_turn: Cell<bool>,
    /// the client takes no more bytes at present
    is_blocked: Cell<bool>,
    /// it is a WebSocket: everything is read
    is_upgraded: Cell<bool>,
    /// the connection's task, if it waits for the window to open
    waiting: RefCell<Option<Waker>>,
}

impl Pace {
    /// Requests that are being answered.
    pub(in crate::http) fn requests(&self) -> u32 {
        self.requests.get()
    }

    pub(in crate::http) fn is_upgraded(&self) -> bool {
        self.is_upgraded.get()
    }

    /// Whether the handler waits for more of the request's body.
    pub(in crate::http) fn wants_body(&self, wants: bool) {
        self.wants_body.set(wants);
        if wants {
            self.wake();
        }
    }

    /// A request is being answered, or one more owner keeps it so.
    pub(in crate::http) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// The opposite of [`begin`](Self::begin).
    pub(in crate::http) fn end(&self) {
        self.requests.set(self.requests.get() - 1);
        if self.requests.get() == 0 {
            self.wants_body.set(false);
            self.wake();
        }
    }

    /// The connection is a WebSocket from now on.
    pub(in crate::http) fn upgrade(&self) {
        self.is_upgraded.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(task) = self.waiting.take() {
            task.wake();
        }
    }

    /// Whether the parser may have more now.
    pub(super) fn is_open(&self) -> bool {
        if self.is_upgraded.get() {
            return true;
        }
        if self.is_blocked.get() {
            return false;
        }
        if !self.in_turn.replace(true) {
            // the parser has run: of what it was given it holds nothing but the beginning of a head
            if self.requests.get() == 0 {
                self.window.borrow_mut().open_for_request();
            } else if self.wants_body.get() {
                self.window.borrow_mut().open_for_body();
            }
        }
        self.window.borrow().is_open()
    }

    /// The task is woken when the window may be open again.
    pub(super) fn wait(&self, context: &Context<'_>) {
        self.in_turn.set(false);
        if self.requests.get() == 0 && !self.is_blocked.get() {
            // after the parser has run
            context.waker().wake_by_ref();
        } else {
            self.waiting.replace(Some(context.waker().clone()));
        }
    }

    /// The part of the next bytes that the parser may have, which is open.
    pub(super) fn give(&self, next: &[u8]) -> usize {
        if self.is_upgraded.get() { next.len() } else { self.window.borrow_mut().give(next) }
    }

    /// The parser runs now: there is nothing to read.
    pub(super) fn end_turn(&self) {
        self.in_turn.set(false);
    }

    /// Takes the result of a write to the client.
    pub(super) fn written<T>(&self, result: Poll<T>) -> Poll<T> {
        if self.is_blocked.replace(result.is_pending()) && result.is_ready() {
            self.wake();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n";

    /// Gives the parser one request.
    fn give_request(pace: &Pace) {
        assert!(pace.is_open());
        assert_eq!(pace.give(GET), GET.len());
        assert!(!pace.is_open());
        pace.wait(&Context::from_waker(Waker::noop()));
    }

    #[test]
    fn the_next_request_is_read_when_the_one_before_has_been_answered() {
        let pace = Pace::default();
        give_request(&pace);
        pace.begin();
        assert!(!pace.is_open());
        pace.wait(&Context::from_waker(Waker::noop()));
        assert!(pace.waiting.borrow().is_some());
        pace.end();
        assert!(pace.waiting.borrow().is_none());
        give_request(&pace);
    }

    #[test]
    fn more_is_read_while_the_handler_waits_for_the_body() {
        let pace = Pace::default();
        give_request(&pace);
        pace.begin();
        pace.wants_body(true);
        pace.wants_body(false);
        assert!(!pace.is_open());
        pace.wait(&Context::from_waker(Waker::noop()));
        pace.wants_body(true);
        assert!(pace.waiting.borrow().is_none());
        give_request(&pace);
    }

    #[test]
    fn nothing_is_read_while_the_client_takes_no_bytes() {
        let pace = Pace::default();
        assert!(pace.written::<()>(Poll::Pending).is_pending());
        assert!(!pace.is_open());
        pace.wait(&Context::from_waker(Waker::noop()));
        assert!(pace.waiting.borrow().is_some());
        assert!(pace.written(Poll::Ready(())).is_ready());
        assert!(pace.waiting.borrow().is_none());
        give_request(&pace);
    }

    #[test]
    fn everything_is_read_of_a_websocket() {
        let pace = Pace::default();
        give_request(&pace);
        pace.begin();
        pace.upgrade();
        pace.written::<()>(Poll::Pending).is_pending().then_some(()).unwrap();
        assert!(pace.is_open());
    }
}
