//! Time stamps in the content of messages: the time at which a message was due.
//!
//! A stamp is `@`, eight characters that identify the run, and the nanoseconds since the run began as sixteen hexadecimal
//! digits, the lowest first, so that message ids that contain stamps differ early, like random ones. None of these characters
//! is escaped in JSON.

use memchr::memmem;

/// Length of a stamp, and so the shortest content.
pub(super) const LEN: usize = 1 + RUN + DIGITS;
const RUN: usize = 8;
const DIGITS: usize = 16;

/// Content of `size` bytes with an empty stamp.
pub(super) fn content(run: &str, size: usize) -> String {
    let mut content = format!("@{run}{}", "0".repeat(DIGITS));
    content.extend((content.len()..size).map(|at| char::from(b'a' + (at % 26) as u8)));
    content
}

/// A message id with an empty stamp: 36 characters, like a UUID.
pub(super) fn msgid(run: &str) -> String {
    content(run, 36)
}

/// A message that is sent repeatedly, each time with a new stamp.
pub(super) struct Template {
    bytes: Vec<u8>,
    digits: usize,
}

impl Template {
    /// Creates a template from a message that contains [`content`] or a [`msgid`] of the run. The first one is stamped.
    pub(super) fn new(run: &str, message: String) -> Self {
        let digits = message.find(&format!("@{run}")).map_or(0, |at| at + 1 + RUN);
        Self { bytes: message.into_bytes(), digits }
    }

    /// The message, stamped with this time.
    pub(super) fn stamped(&mut self, mut time: u64) -> &[u8] {
        for digit in &mut self.bytes[self.digits..][..DIGITS] {
            *digit = b"0123456789abcdef"[(time & 15) as usize];
            time >>= 4;
        }
        &self.bytes
    }
}

/// Finds the stamps of one run.
pub(super) struct Stamps {
    prefix: Vec<u8>,
    /// position of the last stamp, tried first, since most messages are alike
    offset: usize,
    /// the last stamp, since copies of one publication have the same
    last: ([u8; DIGITS], u64),
}

impl Stamps {
    /// Creates a finder for the stamps of a run.
    pub(super) fn new(run: &str) -> Self {
        Self { prefix: format!("@{run}").into_bytes(), offset: 0, last: ([b'0'; DIGITS], 0) }
    }

    /// The time in a message's stamp; `None` if it has no stamp of this run.
    #[inline]
    pub(super) fn find(&mut self, message: &[u8]) -> Option<u64> {
        let is_there = |at: usize| message.get(at..at + self.prefix.len()) == Some(&*self.prefix);
        if !is_there(self.offset) {
            self.offset = memmem::find(message, &self.prefix)?;
        }
        let begin = self.offset + self.prefix.len();
        let digits: [u8; DIGITS] = message.get(begin..begin + DIGITS)?.try_into().ok()?;
        if digits != self.last.0 {
            let mut highest_first = digits;
            highest_first.reverse();
            let text = std::str::from_utf8(&highest_first).ok()?;
            self.last = (digits, u64::from_str_radix(text, 16).ok()?);
        }
        Some(self.last.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_wherever_it_is() {
        let mut template = Template::new("12345678", format!("{{\"content\":\"{}\"}}", content("12345678", 64)));
        let mut stamps = Stamps::new("12345678");
        for time in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(stamps.find(template.stamped(time)), Some(time));
            let longer = [b"more before it ", template.stamped(time)].concat();
            assert_eq!(stamps.find(&longer), Some(time));
        }
    }

    #[test]
    fn messages_of_others_have_none() {
        let mut stamps = Stamps::new("12345678");
        assert_eq!(stamps.find(content("87654321", 64).as_bytes()), None);
        assert_eq!(stamps.find(b"@12345678"), None);
        assert_eq!(stamps.find(b"@12345678000000000000000g"), None);
    }

    #[test]
    fn content_has_the_size_that_was_asked_for() {
        assert_eq!(content("12345678", LEN).len(), LEN);
        assert_eq!(content("12345678", 1_000).len(), 1_000);
    }
}
