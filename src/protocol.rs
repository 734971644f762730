//! The frames, error codes and close codes of the wire contract.
//!
//! For a new frame from clients, extend [`inbound`] and match it in the session's dialect. For a new frame from the
//! server, add a function to [`outbound`]. A new error code is a line in [`error_code`] and a row in the README.

pub mod chat;
pub mod close_code;
pub mod error_code;
pub mod inbound;
pub mod inspect;
pub mod json;
pub mod outbound;
pub mod wire;
