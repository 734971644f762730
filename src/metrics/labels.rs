//! The values of labels.

use std::marker::PhantomData;

use prometheus::core::{MetricVec, MetricVecBuilder};

use crate::domain::{commands::TargetState, gateways::Status, messages::MessageState};

/// A label whose values are known, so that all its series exist from the start.
pub trait Label: Copy + 'static {
    /// All values.
    const ALL: &'static [Self];

    /// The value.
    fn as_str(self) -> &'static str;
}

/// The series of a family with one label, found without a look at the label's text.
#[derive(Debug)]
pub struct ByLabel<L, M>(Vec<M>, PhantomData<L>);

impl<L: Label + PartialEq, M> ByLabel<L, M> {
    /// Makes something of each series of a family.
    pub fn of<B: MetricVecBuilder>(family: &MetricVec<B>, make: impl Fn(B::M) -> M) -> Self {
        Self(L::ALL.iter().map(|label| make(family.with_label_values(&[label.as_str()]))).collect(), PhantomData)
    }

    /// The one of this label.
    pub fn get(&self, label: L) -> Option<&M> {
        self.0.get(L::ALL.iter().position(|known| *known == label)?)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &M> {
        self.0.iter()
    }
}

/// Declares a label with its values.
macro_rules! label {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $about:literal])* $variant:ident = $text:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $about])* #[doc = concat!("`", $text, "`")] $variant,)+
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

label! {
    /// The protocol of a socket.
    Dialect {
        Device = "device",
        Agent = "agent",
        Chat = "chat",
        Room = "room",
        Plain = "plain",
        Public = "public",
        Status = "status",
        Echo = "echo",
    }
}

label! {
    /// Who ended a connection.
    ClosedBy {
        Server = "server",
        Client = "client",
        /// The connection broke or was cut: there was no close frame.
        Nobody = "nobody",
    }
}

label! {
    /// Why frames were dropped that were to be sent.
    DropReason {
        /// The backlog of the client was above `limits.outbound_bytes`.
        SlowConsumer = "slow_consumer",
        /// The client took nothing for `limits.send_timeout_secs`.
        SendTimeout = "send_timeout",
        /// The connection ended before they were written.
        ConnectionEnded = "connection_ended",
    }
}

label! {
    /// An actor.
    Actor {
        Registry = "registry",
        TopicManager = "topic_manager",
        MessageManager = "message_manager",
        RoomManager = "room_manager",
        CommandDispatcher = "command_dispatcher",
        JournalWriter = "journal_writer",
        GatewayMonitor = "gateway_monitor",
        ClusterLink = "cluster_link",
        /// All of them: each worker has one.
        Relay = "relay",
    }
}

label! {
    /// What became of a message to a device that is not acknowledged.
    DirectOutcome {
        Delivered = "delivered",
        NotConnected = "not_connected",
        /// It was sent to another node, which has not answered.
        Unknown = "unknown",
        /// The recipient may be at a node that cannot be reached.
        ClusterUnavailable = "cluster_unavailable",
    }
}

impl Label for TargetState {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

impl Label for Status {
    const ALL: &'static [Self] = &[Self::Unknown, Self::Connected, Self::Degraded, Self::Disconnected];

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

impl Label for MessageState {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}
