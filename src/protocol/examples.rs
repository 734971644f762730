//! Values for the examples of frames.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::ids::{ClientId, CommandId};

/// A recipient.
pub(super) fn client() -> ClientId {
    uuid(0x123e_4567_e89b_12d3_a456_4266_1417_4000).into()
}

/// A sender.
pub(super) fn sender() -> ClientId {
    uuid(0x7c9e_6679_7425_40de_944b_e07f_c1f9_0ae7).into()
}

/// A command.
pub(super) fn command() -> CommandId {
    uuid(0x0195_2f3e_8a10_4c6e_9d54_21b7_a90c_77e1).into()
}

/// A socket.
pub(super) fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A point in time.
pub(super) fn time() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + chrono::TimeDelta::milliseconds(1_767_268_800_250)
}
