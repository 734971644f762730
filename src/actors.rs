//! The actors. Each file says at its top which role it plays and who its neighbours are. Everyone else works with an actor
//! through its handle (`handle.rs`), and knows none of its messages, except those that the actor re-exports because others send them.
//!
//! To add a message: a struct with named fields in the file of the actor that receives it or in its `messages.rs`, its `Handler`, and a
//! method of the handle that sends it.

use actix::{Handler, Message};

pub mod cluster_link;
pub mod command_dispatcher;
pub mod directory;
pub mod gateway_monitor;
pub mod journal;
pub mod message_manager;
pub mod registry;
pub mod room_manager;
pub mod topic_manager;

/// Answered by every actor, when it has handled all messages before.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HealthCheck;

macro_rules! answer_health_checks {
    ($($actor:ty: $name:literal,)*) => {$(
        impl Handler<HealthCheck> for $actor {
            type Result = ();

            fn handle(&mut self, _: HealthCheck, _: &mut Self::Context) {
                panic_if_asked($name);
            }
        }
    )*};
}

answer_health_checks! {
    cluster_link::ClusterLink: "cluster link",
    command_dispatcher::CommandDispatcher: "command dispatcher",
    gateway_monitor::GatewayMonitor: "gateway monitor",
    journal::JournalWriter: "journal",
    message_manager::MessageManager: "message manager",
    registry::Registry: "registry",
    crate::delivery::Relay: "relay",
    room_manager::RoomManager: "room manager",
    topic_manager::TopicManager: "topic manager",
}

/// For tests of what a panic leads to; not in release builds.
pub(crate) fn panic_if_asked(part: &str) {
    let asked = cfg!(debug_assertions).then(|| std::env::var("SWITCHBOARD_TEST_PANIC").ok()).flatten();
    assert!(asked.is_none_or(|asked| asked != part), "as SWITCHBOARD_TEST_PANIC asks");
}
