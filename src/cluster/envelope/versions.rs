//! The versions of envelopes: which a node understands, and since which a message exists.

use std::{fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CommandMessage, Message, Question};

/// The versions that this program understands.
pub const VERSIONS: RangeInclusive<u8> = 1..=2;

/// The versions of envelopes that a node understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvelopeVersions {
    first: u8,
    last: u8,
}

impl From<RangeInclusive<u8>> for EnvelopeVersions {
    fn from(versions: RangeInclusive<u8>) -> Self {
        let (first, last) = versions.into_inner();
        Self { first, last }
    }
}

impl fmt::Display for EnvelopeVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

impl EnvelopeVersions {
    /// Whether the node understands a version.
    pub fn contains(self, version: u8) -> bool {
        (self.first..=self.last).contains(&version)
    }

    /// The newest one.
    pub fn last(self) -> u8 {
        self.last
    }

    /// The highest version that this node and another one understand.
    pub fn in_common_with(self, other: Self) -> Option<u8> {
        let last = self.last.min(other.last);
        (self.contains(last) && other.contains(last)).then_some(last)
    }
}

impl Message {
    /// The first version with this kind of message. What is in it does not change.
    pub fn since(&self) -> u8 {
        match self {
            Self::Congested(_) => 2,
            Self::Ask { question, .. } => question.since(),
            Self::Command(message) => message.since(),
            Self::Ping(_)
            | Self::Alive
            | Self::Client(_)
            | Self::GetSnapshot
            | Self::SnapshotBegins
            | Self::SnapshotEnds
            | Self::Barrier(_)
            | Self::Passed(_)
            | Self::Direct { .. }
            | Self::Interest { .. }
            | Self::Publication { .. }
            | Self::Reached { .. }
            | Self::Subscriptions { .. }
            | Self::Answer { .. }
            | Self::TopicChanged { .. }
            | Self::DeliveryWaits(_)
            | Self::DeliveryEnded { .. }
            | Self::AccountsChanged
            | Self::Outcome { .. }
            | Self::RoomEvent { .. }
            | Self::Occupant { .. }
            | Self::Typing { .. }
            | Self::Gateways(_)
            | Self::GetGateways
            | Self::GatewaysChanged
            | Self::Leaving => 1,
        }
    }
}

impl Question {
    /// The first version with this kind of question, and its answers.
    pub fn since(&self) -> u8 {
        match self {
            Self::Subscribe { .. }
            | Self::Unsubscribe { .. }
            | Self::IsSubscribed { .. }
            | Self::Subscribers(_)
            | Self::WriteCommands
            | Self::CancelCommand(_) => 1,
        }
    }
}

impl CommandMessage {
    /// The first version with this kind of message.
    pub fn since(&self) -> u8 {
        match self {
            Self::HandOver { .. }
            | Self::HandedOver { .. }
            | Self::Reply { .. }
            | Self::SocketLost { .. }
            | Self::Cancel { .. } => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_use_the_highest_version_that_both_understand() {
        let versions = |range: RangeInclusive<u8>| EnvelopeVersions::from(range);
        for (one, other, used) in [
            (1..=1, 1..=1, Some(1)),
            (1..=1, 1..=2, Some(1)),
            (1..=2, 1..=2, Some(2)),
            (1..=2, 2..=4, Some(2)),
            (1..=4, 2..=3, Some(3)),
            (1..=1, 2..=2, None),
            (1..=2, 3..=4, None),
        ] {
            assert_eq!(versions(one.clone()).in_common_with(versions(other.clone())), used, "{one:?} {other:?}");
            assert_eq!(versions(other.clone()).in_common_with(versions(one.clone())), used, "{other:?} {one:?}");
        }
        // what no program writes
        #[expect(clippy::reversed_empty_ranges)]
        let nothing = versions(2..=1);
        assert_eq!(nothing.in_common_with(versions(1..=2)), None);
    }
}
