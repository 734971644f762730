//! Acknowledged messages (contract section 11): they are stored before the recipient gets them, and delivered until it
//! acknowledges or rejects them, or they fail, expire or are cancelled.
//!
//! The database decides what becomes of each ([`change`]); [`deliveries`] decides when which of them go to a connected
//! recipient, and [`updates`] remembers which senders have been told how they ended.

pub mod change;
pub mod deliveries;
#[cfg(test)]
pub(crate) mod table;
pub mod updates;

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::ids::{ClientId, DeliveryId};

/// The longest time for which a message may wait, in seconds: 30 days.
pub const MAX_TTL_SECS: u32 = 2_592_000;

/// The most that `limits.unacknowledged_per_device` can be, and what it is if it is off.
pub const MAX_UNACKNOWLEDGED: usize = 1_000;

/// The seconds after which a message goes again that the recipient could not take, after the first such answer, the second
/// and so on. One more such answer, and it has failed.
const RETRY_SECS: [u64; 4] = [2, 4, 8, 16];

/// What has become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageState {
    /// The recipient has not been connected since it was accepted.
    QueuedOffline,
    /// The recipient has it, or gets it as soon as it has acknowledged what came before.
    PendingAck,
    /// The recipient has acknowledged it.
    Delivered,
    /// The recipient has rejected it.
    Rejected,
    /// The recipient was deleted, or could not take it five times.
    Failed,
    /// It has not been acknowledged in its time.
    Expired,
    /// The sender or an operator has withdrawn it.
    Cancelled,
}

impl MessageState {
    /// Whether a message in this state goes nowhere any more.
    pub fn is_end(self) -> bool {
        !matches!(self, Self::QueuedOffline | Self::PendingAck)
    }

    /// All states.
    pub const ALL: [Self; 7] = [
        Self::QueuedOffline,
        Self::PendingAck,
        Self::Delivered,
        Self::Rejected,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The word on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueuedOffline => "queued_offline",
            Self::PendingAck => "pending_ack",
            Self::Delivered => "delivered",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// How urgent a message is, compared with others that wait for the same recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Before all others.
    High,
    /// Before those of low priority.
    #[default]
    Normal,
    /// After all others.
    Low,
}

impl Priority {
    /// All priorities.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// The priority of that word; any other text means the usual one.
    pub fn of_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|priority| priority.as_str() == word).unwrap_or_default()
    }

    /// Its number in the table; the smallest goes first.
    pub fn rank(self) -> i64 {
        self as i64
    }

    /// The priority of that number.
    pub fn of_rank(rank: i64) -> Self {
        Self::ALL.into_iter().find(|priority| priority.rank() == rank).unwrap_or_default()
    }
}

/// The answer of a recipient to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has the message.
    Acknowledged,
    /// It does not want the message.
    Rejected,
    /// It cannot take the message now.
    NotNow,
}

impl Answer {
    /// The answer of this `status`; none is an acknowledgement.
    pub fn of_status(status: Option<&str>) -> Self {
        match status {
            None | Some("delivered" | "received" | "ack") => Self::Acknowledged,
            Some("rejected") => Self::Rejected,
            Some(_) => Self::NotNow,
        }
    }

    /// What becomes of a message that was sent `attempts` times, and that the recipient could not take `refusals` times before.
    pub fn decide(self, refusals: u32, attempts: u32) -> AfterAnswer {
        match self {
            Self::Acknowledged => AfterAnswer::Ended(MessageState::Delivered),
            Self::Rejected => AfterAnswer::Ended(MessageState::Rejected),
            // once for each time that it was sent
            Self::NotNow if refusals >= attempts => AfterAnswer::Nothing,
            Self::NotNow => match RETRY_SECS.get(refusals as usize) {
                Some(secs) => AfterAnswer::Again(Duration::from_secs(*secs)),
                None => AfterAnswer::Ended(MessageState::Failed),
            },
        }
    }
}

/// What becomes of a message after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterAnswer {
    /// It ends in this state.
    Ended(MessageState),
    /// It goes again after this time.
    Again(Duration),
    /// Nothing: the recipient has said so before, and it has not come again since.
    Nothing,
}

/// A client, and how often its UUID had been deleted: whoever gets the UUID afterwards is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Party {
    /// The UUID.
    pub client: ClientId,
    /// The number of its deletions; 0 for users.
    pub incarnation: i64,
}

/// A message as it is stored, without the object that the recipient gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRecord {
    /// Later messages have greater ids.
    pub id: DeliveryId,
    /// Who sent it.
    pub from: Party,
    /// The device that is to get it.
    pub to: Party,
    /// The sender's id of it.
    pub msgid: String,
    /// The bytes of its object.
    pub bytes: usize,
    /// How urgent it is.
    pub priority: Priority,
    /// What has become of it.
    pub state: MessageState,
    /// How often the recipient could not take it.
    pub refusals: u32,
    /// How often it has been sent to the recipient.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When it was last sent to the recipient.
    pub sent_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// When it ends if the recipient has not acknowledged it by then.
    pub expires_at: DateTime<Utc>,
}

/// The most that may wait for one device (contract section 10). 0 switches a limit off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueLimits {
    /// `limits.queued_per_device`
    pub messages: usize,
    /// `limits.queued_bytes_per_device`
    pub bytes: usize,
}

/// The messages of one device that have not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// How many.
    pub messages: usize,
    /// The bytes of their objects.
    pub bytes: usize,
}

impl Depth {
    /// With one message more.
    #[must_use]
    pub fn with(self, bytes: usize) -> Self {
        Self { messages: self.messages + 1, bytes: self.bytes + bytes }
    }
}

impl QueueLimits {
    /// The limit, by its key, because of which so many messages may not wait.
    pub fn exceeded(&self, depth: Depth) -> Option<&'static str> {
        if self.messages > 0 && depth.messages > self.messages {
            Some("limits.queued_per_device")
        } else if self.bytes > 0 && depth.bytes > self.bytes {
            Some("limits.queued_bytes_per_device")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_a_message_or_puts_it_off_four_times() {
        let again = |secs| AfterAnswer::Again(Duration::from_secs(secs));
        let decided: Vec<_> = (0..5).map(|refusals| Answer::NotNow.decide(refusals, refusals + 1)).collect();
        assert_eq!(decided, [again(2), again(4), again(8), again(16), AfterAnswer::Ended(MessageState::Failed)]);
        // what it has not got since is not counted
        assert_eq!(Answer::NotNow.decide(1, 1), AfterAnswer::Nothing);
        assert_eq!(Answer::Acknowledged.decide(4, 4), AfterAnswer::Ended(MessageState::Delivered));
        assert_eq!(Answer::Rejected.decide(0, 0), AfterAnswer::Ended(MessageState::Rejected));
    }

    #[test]
    fn a_status_is_an_acknowledgement_a_rejection_or_anything_else() {
        for status in [None, Some("delivered"), Some("received"), Some("ack")] {
            assert_eq!(Answer::of_status(status), Answer::Acknowledged);
        }
        assert_eq!(Answer::of_status(Some("rejected")), Answer::Rejected);
        for status in ["busy", "", "Delivered", "failed"] {
            assert_eq!(Answer::of_status(Some(status)), Answer::NotNow);
        }
    }

    #[test]
    fn words_and_ranks_name_states_and_priorities() {
        for state in MessageState::ALL {
            assert_eq!(MessageState::parse(state.as_str()), Some(state));
        }
        for priority in Priority::ALL {
            assert_eq!(
                (Priority::of_word(priority.as_str()), Priority::of_rank(priority.rank())),
                (priority, priority)
            );
        }
        assert_eq!(Priority::of_word("urgent"), Priority::Normal);
        assert!(Priority::High.rank() < Priority::Normal.rank() && Priority::Normal.rank() < Priority::Low.rank());
    }

    #[test]
    fn a_queue_is_full_by_messages_or_by_bytes() {
        let limits = QueueLimits { messages: 2, bytes: 100 };
        let depth = Depth::default().with(40);
        assert_eq!(limits.exceeded(depth.with(60)), None);
        assert_eq!(limits.exceeded(depth.with(61)), Some("limits.queued_bytes_per_device"));
        assert_eq!(limits.exceeded(depth.with(1).with(1)), Some("limits.queued_per_device"));
        let none = QueueLimits { messages: 0, bytes: 0 };
        assert_eq!(none.exceeded(Depth { messages: 1 << 40, bytes: 1 << 50 }), None);
    }
}
