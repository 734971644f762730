//! Delivery: how a frame gets from any thread into a client's socket. One mechanism, in five files:
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
//! | `handle` | a session, seen from anywhere: where it is, how much waits for it, whose it is |
//! | `outbox` | one session's queue to its socket, with its budget and its close handshake |
//! | `relay` | [`Relays`], the way to all sessions, and the actor of each worker that hands frames out |
//! | `local` | what a thread keeps for itself: its worker's sessions, and what it gathered for other workers |
//! | `tick` | the end of a thread's tick, when all that gathered leaves |
//!
//! Nothing here knows what frames say, or who is subscribed to what.

mod admitted;
mod handle;
mod local;
mod outbox;
mod relay;
pub mod tick;

pub(crate) use self::admitted::Admitted;
pub use self::{
    handle::{SessionHandle, SessionKind},
    local::{insert, remove},
    outbox::{Outbox, OutboxLimits},
    relay::{CloseAll, Mark, Permit, Relay, Relays},
};
