//! The pure core: decisions as plain structs, without actors, clocks or I/O. Time is an argument, so that every rule
//! can be tested at any moment.

pub mod accounts;
pub mod admission;
pub mod audit;
pub mod budget;
pub mod commands;
pub mod gateways;
pub mod ids;
pub mod lease;
pub mod line;
pub mod liveness;
pub mod login_limit;
pub mod messages;
pub mod network;
pub mod origin;
pub mod passwords;
pub mod rate_limit;
pub mod refresh_tokens;
pub mod registration;
pub mod rooms;
pub mod shares;
pub mod storage;
pub mod subscriptions;
pub mod topics;
pub mod usernames;
pub mod webhooks;
