//! The frames, error codes and close codes of the wire contract.
//!
//! For a new frame from clients, declare it in [`inbound::frames`] and match it in the session's dialect. For a new frame from
//! the server, declare it in [`outbound::frames`] or [`chat::frames`]. Either is added to its channels in
//! `http/asyncapi/channels.rs`. A new error code is a line in [`error_code`], a row in the README, and in those channels.

pub mod chat;
pub mod close_code;
pub mod error_code;
mod examples;
pub mod frames;
#[cfg(test)]
mod golden;
pub mod inbound;
pub mod inspect;
pub mod json;
pub mod outbound;
pub mod values;
pub mod wire;
