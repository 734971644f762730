//! Devices and users as a whole: listing, changing and deleting them, each operation as one method; the audit log, and webhooks. No actor owns them, and
//! `auth`, which registers them and knows their accounts, is below the actors that a change or deletion has to reach.
//!
//! To add an operation that belongs to one actor: a method of that actor's handle.

mod audit;
mod devices;
mod users;
mod webhooks;

pub use self::{
    audit::Audit,
    devices::{DeviceError, DeviceView, Devices},
    users::{UserError, Users},
    webhooks::Webhooks,
};
