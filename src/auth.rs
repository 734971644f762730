//! Who is asking: passwords, tokens, accounts, and the extractors that handlers name in their arguments.
//!
//! To guard a route: take [`extract::Identity`] (any client), [`extract::UserIdentity`], [`extract::Operator`] or
//! [`extract::Admin`] as an argument.

pub mod accounts;
pub mod bootstrap;
pub mod credentials;
pub mod extract;
pub mod hs256;
pub mod passwords;
pub mod tokens;
