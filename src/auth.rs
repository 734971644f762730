//! Who is asking: passwords, tokens, accounts.

pub mod accounts;
pub mod hs256;
pub mod passwords;
pub mod tokens;
