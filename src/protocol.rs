//! The wire contract as types: what comes in, what goes out, error codes and close codes.
//!
//! To add a frame that clients send: a variant in [`inbound`] and its arm in the session's dialect. To add one that the
//! server sends: a function in [`outbound`].

pub mod chat;
pub mod close_code;
pub mod inbound;
pub mod inspect;
pub mod json;
pub mod outbound;
pub mod wire;
