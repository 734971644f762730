//! Switchboard: a message broker built as an actor system.
//!
//! ```text
//!               actix-web workers, one thread each                    one control arbiter
//!   device ─ws→ Session actor ────────── messages ──────────────────→ Registry           connected clients, by UUID
//!   user   ─ws→ Session actor ←─ frames ─ Relay (one per worker) ←─── TopicManager       subscriptions
//!   chat   ─ws→ Session actor                                    ←─── RoomManager        sockets in rooms
//!                                                                ←─── MessageManager     acknowledged messages on their way
//!   operator ─http→ handlers ─────────── messages ──────────────────→ CommandDispatcher  commands that have not ended
//!   status ─ws→ Session actor ←─ frames ─ Relay ←──────────────────── GatewayMonitor     state of gateways (own thread)
//!                      store (SQLite | PostgreSQL) ←───────────────── JournalWriter      batched writes
//!                      cluster (Redis, optional) ←────────────────── ClusterLink        other nodes
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`cli`] | the command line |
//! | [`bench`](mod@bench) | `switchboard bench` |
//! | [`terminal`] | output and arguments shared by both |
//! | [`client`] | the Rust client, used by the command line and the tests |
//! | [`app`] | start and stop; creates and connects the actors |
//! | [`http`] | routes, extractors, handlers, and the errors of HTTP answers |
//! | [`session`] | WebSocket sessions, one file per dialect |
//! | [`state`] | the state shared by handlers and sessions |
//! | [`services`] | devices and users as a whole: list, change, delete; the audit log; webhooks; no actor owns them |
//! | [`actors`] | the actors that own shared state: registry, managers, dispatcher, monitor, journal |
//! | [`auth`] | accounts, tokens, registration, logins |
//! | [`delivery`] | delivery of frames from any thread to a socket |
//! | [`cluster`] | communication between nodes |
//! | [`store`] | the database |
//! | [`logging`] | the log, and its filter, which can change |
//! | [`settings`] | layered configuration |
//! | [`metrics`] | what the broker measures, for Prometheus |
//! | [`protocol`] | inbound and outbound frames, error codes, close codes |
//! | [`clock`] | the time, which tests can set |
//! | [`trust`] | whom clients and webhooks trust as certificate authorities |
//! | [`domain`] | rules and decisions, without actors or I/O |
//!
//! A module uses only modules below it in the table; `tests/api/structure.rs` checks this. Each layer has its own errors; `http`
//! maps them to answers, `session` to frames and close codes. The documentation of each module
//! says where to add code.

mod actors;
mod app;
mod auth;
mod bench;
pub mod cli;
pub mod client;
mod clock;
mod cluster;
mod delivery;
pub mod domain;
mod http;
mod logging;
mod metrics;
pub mod protocol;
mod services;
mod session;
mod settings;
mod state;
pub mod store;
mod terminal;
mod trust;

/// The signature of access tokens. Programs that sign tokens themselves install its provider.
pub use auth::hs256;
