//! Delivery of frames from any thread to a client's socket.
//!
//! ```text
//!   any thread                           the session's worker thread
//!   Relays ── deliver, publish ─┬──────→ Outbox ── queue ── one write per tick ──→ socket
//!     │                         │ (same thread)   ↑
//!     └─ local: gathers ────────┴─ Batch ──────→ Relay
//!        until the tick ends      (other thread)
//! ```
//!
//! | file | what it is |
//! | --- | --- |
//! | `handle` | the handle of a session, valid on any thread: its worker, its backlog, its client |
//! | `outbox` | a session's queue of outgoing frames, with its budget and its close handshake |
//! | `admitted` | the count of received frames that the session has not handled yet |
//! | `relays` | [`Relays`], the way to all sessions |
//! | `relay` | the Relay, the actor of each worker that receives batches and tends the worker's sessions |
//! | `local` | thread-local state: the worker's sessions, and the deliveries collected for other workers |
//! | `tick` | the end of a thread's tick, when collected frames are written and batches are sent |
//!
//! This module interprets neither the content of frames nor subscriptions.

mod admitted;
mod handle;
mod local;
mod outbox;
mod relay;
mod relays;
#[cfg(test)]
pub(crate) mod testing;
pub mod tick;

pub(crate) use self::admitted::Admitted;
pub use self::{
    handle::{SessionHandle, SessionKind, note_id},
    local::{insert, remove},
    outbox::{Outbox, OutboxLimits},
    relay::{CloseAll, Mark, Relay},
    relays::{Permit, Relays},
};
