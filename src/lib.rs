//! Switchboard: a message broker built as an actor system.
//!
//! ```text
//!               actix-web workers, one thread each                    one control arbiter
//!   device ─ws→ Session actor ────────── asks, tells ───────────────→ Registry           who is connected, by UUID
//!   agent  ─ws→ Session actor ←─ frames ─ Relay (one per worker) ←─── TopicManager       who is subscribed to what
//!   chat   ─ws→ Session actor                                    ←─── RoomManager        who is in which room
//!   operator ─http→ handlers ─────────── asks ──────────────────────→ CommandDispatcher  who was asked what, until the end
//!   status ─ws→ Session actor ←─ frames ─ Relay ←──────────────────── GatewayMonitor     what can be reached (a thread of its own)
//!                      store (SQLite | PostgreSQL) ←───────────────── Journal            writes in groups
//!                      cluster (other nodes)
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`cli`] | the command line |
//! | [`bench`](mod@bench) | `switchboard bench` |
//! | [`terminal`] | what both print, and the arguments they share |
//! | [`app`] | start and stop, and the only place where all actors meet |
//! | [`http`] | routes, extractors and handlers |
//! | [`session`] | WebSocket sessions, a file per dialect |
//! | [`state`] | what handlers and sessions share |
//! | [`actors`] | the owners: registry, managers, dispatcher, monitor, journal |
//! | [`auth`] | passwords, tokens, accounts |
//! | [`delivery`] | how a frame gets from any thread into a socket |
//! | [`cluster`] | what crosses nodes |
//! | [`error`] | why a request is refused |
//! | [`store`] | the database |
//! | [`settings`] | layered configuration |
//! | [`protocol`] | frames in, frames out, close codes |
//! | [`domain`] | the decisions, as plain structs |
//! | [`client`] | the Rust client, used by the command line and the tests |
//!
//! A module uses those below it and none above; a test of the imports holds it to that. Each says in its own documentation
//! where to add what.

mod actors;
mod app;
mod auth;
mod bench;
pub mod cli;
pub mod client;
mod cluster;
mod delivery;
pub mod domain;
mod error;
mod http;
pub mod protocol;
mod session;
mod settings;
mod state;
pub mod store;
mod terminal;

/// How access tokens are signed; programs that sign their own install it, too.
pub use auth::hs256;
