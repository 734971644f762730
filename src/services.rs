//! What is done to devices and users: operations that need several actors, the accounts and the database, each as one method.
//!
//! To add an operation that belongs to one actor: a method of that actor's handle.

mod devices;
mod users;

pub use self::{
    devices::{DeviceError, DeviceView, Devices},
    users::{UserError, Users},
};
