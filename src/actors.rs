//! The actors. Each file says at its top which role it plays and who its neighbours are.
//!
//! To add a message: a struct with named fields in the file of the actor that receives it, and its `Handler` there.

pub mod command_dispatcher;
pub mod journal;
pub mod registry;
pub mod relay;
pub mod room_manager;
pub mod session;
pub mod topic_manager;
