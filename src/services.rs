//! Devices and users as a whole: listing, changing and deleting them, each operation as one method; and the audit log. No actor owns them, and
//! `auth`, which registers them and knows their accounts, is below the actors that a change or deletion has to reach.
//!
//! To add an operation that belongs to one actor: a method of that actor's handle.

mod audit;
mod devices;
mod users;

pub use self::{
    audit::Audit,
    devices::{DeviceError, DeviceView, Devices},
    users::{UserError, Users},
};
