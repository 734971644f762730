//! Parsers of argument values. Errors say what is expected, with an example.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use chrono::{DateTime, FixedOffset};
use uuid::Uuid;

use crate::domain::ids::CommandId;

pub(super) fn uuid(text: &str) -> Result<Uuid, &'static str> {
    Uuid::try_parse(text).map_err(|_| "expected a UUID such as 123e4567-e89b-12d3-a456-426614174000")
}

/// Parses a command's id, as `send --async` prints it.
pub(super) fn command_id(text: &str) -> Result<CommandId, &'static str> {
    CommandId::parse(text).ok_or(
        "expected a command's id such as 123e4567-e89b-12d3-a456-426614174000; `switchboard commands list` shows them",
    )
}

pub(super) fn time(text: &str) -> Result<DateTime<FixedOffset>, &'static str> {
    DateTime::parse_from_rfc3339(text).map_err(|_| "expected a time such as 2026-01-31T12:00:00Z (RFC 3339)")
}

/// Returns a parser of whole numbers within a range.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| {
        text.parse()
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_is_told_the_range() {
        let limit = number(1..=1000_u64);
        assert_eq!((limit("1"), limit("1000")), (Ok(1), Ok(1000)));
        for wrong in ["0", "1001", "-1", "many", ""] {
            assert_eq!(limit(wrong).unwrap_err(), "expected a whole number from 1 to 1000", "{wrong}");
        }
    }
}
