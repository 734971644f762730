//! The order in which a node handles events that the database has numbered without gaps: those of a room, or the publications of a
//! topic with a history. They come from the node's own changes, from other nodes and from the database, in any order, and are
//! handled by their numbers. An event whose predecessor is missing is held.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Events of other nodes that a line holds at most. The database has what is more.
const HELD: usize = 1000;

/// Bytes of events of other nodes that several lines together hold at most. The database has what is more.
const HELD_BYTES: usize = 32 * 1024 * 1024;

/// What the bookkeeping of an event takes, in bytes.
const PER_EVENT: usize = 200;

/// The bytes that several lines hold together. Clones count the same.
#[derive(Debug, Clone, Default)]
pub struct HeldBytes(Arc<AtomicUsize>);

impl HeldBytes {
    /// The share of an event of this many bytes; `None` if there is no room for it.
    fn share(&self, bytes: usize) -> Option<Share> {
        let bytes = bytes + PER_EVENT;
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let share = Share { bytes, of: self.0.clone() };
        (before + bytes <= HELD_BYTES).then_some(share)
    }
}

/// The bytes of an event that is held. Dropping it gives them back.
#[derive(Debug)]
struct Share {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where an outcome belongs among the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// It is the event with this number.
    Event(i64),
    /// It is no event, and belongs behind the one with this number.
    After(i64),
}

/// The events of a room or a topic: `O` is an outcome of a change at this node, `E` an event of another.
#[derive(Debug)]
pub struct Line<O, E> {
    /// the last event that was handled; not known before somebody here is told
    last: Option<i64>,
    /// by the number of the event, then what comes after it in the order of arrival
    held: BTreeMap<(i64, u64), Held<O, E>>,
    arrivals: u64,
    /// sockets that are joining: each gets the history up to a number that is not known yet, and then all later events
    joining: usize,
    /// the highest number among this node's own outcomes: sockets that are still joining come behind it
    own: i64,
    /// an event was not held since there were too many
    is_cut: bool,
    bytes: HeldBytes,
}

#[derive(Debug)]
enum Held<O, E> {
    Own(O),
    /// With its share of the memory; one that is handled next may have none.
    Elsewhere(E, #[expect(dead_code, reason = "it is held")] Option<Share>),
}

/// What is to be handled next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<O, E> {
    /// An outcome of this node.
    Own {
        /// The outcome.
        outcome: O,
        /// False: the event was handled before, as the database had it, or is not recorded any more.
        is_new: bool,
    },
    /// An event of another node.
    Elsewhere(E),
}

impl<O, E> Line<O, E> {
    /// One that counts what it holds in `bytes`.
    pub fn new(bytes: &HeldBytes) -> Self {
        Self { last: None, held: BTreeMap::new(), arrivals: 0, joining: 0, own: 0, is_cut: false, bytes: bytes.clone() }
    }

    /// The last event that was handled.
    pub fn last(&self) -> Option<i64> {
        self.last
    }

    /// The events from here on are behind this one.
    pub fn begin_behind(&mut self, last: i64) {
        self.last = Some(last);
        self.is_cut = false;
    }

    /// The events before this one are not recorded any more: goes on with it, or with one before that has come.
    pub fn skip_to(&mut self, first: i64) {
        let held = self.held.first_key_value().map_or(first, |((sequence, _), _)| *sequence);
        self.begin_behind(first.min(held) - 1);
    }

    /// Begins with the first event that is held.
    pub fn begin_with_first(&mut self) {
        self.last = self.held.first_key_value().map(|((sequence, _), _)| sequence - 1);
    }

    /// A socket wants to join.
    pub fn joins(&mut self) {
        self.joining += 1;
    }

    /// A socket that wanted to join has been told the outcome.
    pub fn has_joined(&mut self) {
        self.joining = self.joining.saturating_sub(1);
    }

    /// Whether sockets are joining.
    pub fn is_awaited(&self) -> bool {
        self.joining > 0
    }

    /// Adds an outcome of this node. `is_join`: a socket joins with it.
    pub fn put_own(&mut self, position: Position, outcome: O, is_join: bool) {
        let (sequence, begins_behind, arrival) = match position {
            Position::Event(sequence) => (sequence, sequence - 1, 0),
            Position::After(sequence) => {
                self.arrivals += 1;
                (sequence, sequence, self.arrivals)
            }
        };
        self.own = self.own.max(sequence);
        if self.last.is_none() && is_join {
            // earlier events are in the history
            self.held = self.held.split_off(&(begins_behind + 1, 0));
            self.begin_behind(begins_behind);
        }
        self.held.insert((sequence, arrival), Held::Own(outcome));
    }

    /// Adds an event of another node, of which so many bytes are in memory.
    pub fn put_elsewhere(&mut self, sequence: i64, event: E, bytes: usize) {
        if self.last.is_some_and(|last| sequence <= last) || self.holds(sequence) {
            return;
        }
        // one that does not know yet where it begins has to have an event to begin with
        let is_next = self.last.map_or(self.held.is_empty(), |last| sequence == last + 1);
        let share = if self.held.len() < HELD { self.bytes.share(bytes) } else { None };
        if share.is_some() || is_next {
            self.held.insert((sequence, 0), Held::Elsewhere(event, share));
        } else {
            self.is_cut = true;
        }
    }

    /// Takes what is to be handled next, if its predecessor is handled.
    pub fn take_next(&mut self) -> Option<Next<O, E>> {
        let Some(mut last) = self.last else {
            // nobody here is told
            let key = *self.held.iter().find(|(_, held)| matches!(held, Held::Own(_)))?.0;
            let Some(Held::Own(outcome)) = self.held.remove(&key) else { return None };
            return Some(Next::Own { outcome, is_new: true });
        };
        loop {
            let entry = self.held.first_entry()?;
            let (sequence, arrival) = *entry.key();
            let is_event = arrival == 0;
            let is_own = matches!(entry.get(), Held::Own(_));
            let is_new = if is_event { sequence > last } else { sequence == last };
            let is_in_order = sequence <= if is_event { last + 1 } else { last };
            // the socket that joins may have it in its history
            let is_too_early = !is_own && is_new && self.joining > 0 && sequence > self.own;
            if !is_in_order || is_too_early {
                return None;
            }
            if is_event && is_new {
                last = sequence;
                self.last = Some(sequence);
            }
            match entry.remove() {
                Held::Own(outcome) => return Some(Next::Own { outcome, is_new }),
                Held::Elsewhere(event, _) if is_new => return Some(Next::Elsewhere(event)),
                Held::Elsewhere(..) => {}
            }
        }
    }

    /// Whether an event is missing: another one is held behind it, or was not held. To be asked after [`Line::take_next`] has
    /// returned nothing.
    pub fn has_gap(&self) -> bool {
        let Some(last) = self.last else { return false };
        match self.held.first_key_value() {
            Some(((sequence, arrival), _)) => *sequence > if *arrival == 0 { last + 1 } else { last },
            None => self.is_cut,
        }
    }

    /// What is missing is being read: what was not held is part of it.
    pub fn reads(&mut self) {
        self.is_cut = false;
    }

    /// Whether this event is held.
    pub fn holds(&self, sequence: i64) -> bool {
        self.held.contains_key(&(sequence, 0))
    }

    /// Ends the line. Returns the outcomes of this node that were held.
    pub fn end(self) -> impl Iterator<Item = O> {
        self.held.into_values().filter_map(|held| match held {
            Held::Own(outcome) => Some(outcome),
            Held::Elsewhere(..) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestLine = Line<&'static str, i64>;

    fn own(outcome: &'static str) -> Next<&'static str, i64> {
        Next::Own { outcome, is_new: true }
    }

    fn all(line: &mut TestLine) -> Vec<Next<&'static str, i64>> {
        std::iter::from_fn(|| line.take_next()).collect()
    }

    /// A line that a socket has joined behind this event.
    fn joined(last: i64) -> TestLine {
        joined_with(last, &HeldBytes::default())
    }

    fn joined_with(last: i64, bytes: &HeldBytes) -> TestLine {
        let mut line = TestLine::new(bytes);
        line.joins();
        line.put_own(Position::After(last), "join", true);
        line.has_joined();
        assert_eq!(all(&mut line), [own("join")]);
        line
    }

    #[test]
    fn events_are_handled_in_the_order_of_their_numbers_each_once() {
        let mut line = joined(10);
        line.put_elsewhere(13, 13, 10);
        line.put_own(Position::Event(12), "12", false);
        assert!(line.take_next().is_none() && line.has_gap());
        line.put_elsewhere(11, 11, 10);
        line.put_elsewhere(11, 11, 10);
        line.put_elsewhere(9, 9, 10);
        assert_eq!(all(&mut line), [Next::Elsewhere(11), own("12"), Next::Elsewhere(13)]);
        assert!(!line.has_gap());
        line.put_elsewhere(12, 12, 10);
        assert!(all(&mut line).is_empty() && line.last() == Some(13));
    }

    #[test]
    fn an_own_outcome_that_was_read_from_the_database_before_is_not_new() {
        let mut line = joined(1);
        line.put_elsewhere(2, 2, 10);
        assert_eq!(all(&mut line), [Next::Elsewhere(2)]);
        line.put_own(Position::Event(2), "late", false);
        assert_eq!(all(&mut line), [Next::Own { outcome: "late", is_new: false }]);
        // and takes the place of one that is held
        line.put_elsewhere(4, 4, 10);
        line.put_own(Position::Event(4), "4", false);
        assert!(line.holds(4));
        line.put_elsewhere(3, 3, 10);
        assert_eq!(all(&mut line), [Next::Elsewhere(3), own("4")]);
    }

    #[test]
    fn events_of_other_nodes_wait_while_a_socket_joins() {
        let mut line = joined(1);
        line.joins();
        line.put_elsewhere(2, 2, 10);
        line.put_elsewhere(4, 4, 10);
        assert!(all(&mut line).is_empty() && !line.has_gap());
        // the history ends with 2, and 4 is not in it
        line.put_own(Position::Event(3), "join", true);
        line.has_joined();
        assert_eq!(all(&mut line), [Next::Elsewhere(2), own("join"), Next::Elsewhere(4)]);
    }

    #[test]
    fn a_socket_that_still_joins_comes_behind_own_outcomes() {
        let mut line = joined(1);
        line.joins();
        line.put_elsewhere(2, 2, 10);
        line.put_own(Position::Event(3), "3", false);
        assert_eq!(all(&mut line), [Next::Elsewhere(2), own("3")]);
        line.put_elsewhere(4, 4, 10);
        assert!(all(&mut line).is_empty());
    }

    #[test]
    fn the_first_socket_begins_with_the_event_behind_its_history() {
        let mut line = TestLine::new(&HeldBytes::default());
        line.joins();
        line.put_own(Position::Event(5), "nobody here", false);
        for sequence in 6..9 {
            line.put_elsewhere(sequence, sequence, 10);
        }
        assert_eq!(all(&mut line), [own("nobody here")]);
        assert!(!line.has_gap());
        line.put_own(Position::After(7), "join", true);
        line.has_joined();
        assert_eq!(all(&mut line), [own("join"), Next::Elsewhere(8)]);
    }

    #[test]
    fn events_beyond_the_bound_are_missing_afterwards() {
        let mut line = joined(0);
        for sequence in 2..=1002 {
            line.put_elsewhere(sequence, sequence, 10);
        }
        line.put_elsewhere(1, 1, 10);
        assert_eq!(all(&mut line).len(), 1001);
        assert!(line.has_gap());
        line.reads();
        assert!(!line.has_gap());
    }

    #[test]
    fn lines_share_the_memory_for_events_that_are_held_and_what_is_next_needs_none() {
        let bytes = HeldBytes::default();
        let mut lines = [joined_with(0, &bytes), joined_with(0, &bytes)];
        lines[0].put_elsewhere(2, 2, HELD_BYTES - PER_EVENT);
        lines[1].put_elsewhere(2, 2, 0);
        assert!(!lines[1].holds(2));
        lines[1].put_elsewhere(1, 1, HELD_BYTES);
        assert_eq!(all(&mut lines[1]), [Next::Elsewhere(1)]);
        assert!(lines[1].has_gap());
        // read from the database when there is room again
        let [mut first, mut second] = lines;
        first.put_elsewhere(1, 1, 0);
        assert_eq!(all(&mut first).len(), 2);
        second.put_elsewhere(3, 3, HELD_BYTES - PER_EVENT);
        assert!(second.holds(3));
        drop(second);
        assert_eq!(bytes.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn events_that_are_not_recorded_any_more_are_skipped_but_not_those_that_are_held() {
        let mut line = joined(1);
        line.put_elsewhere(4, 4, 10);
        line.skip_to(6);
        assert_eq!(all(&mut line), [Next::Elsewhere(4)]);
        line.put_own(Position::After(5), "too late", true);
        line.skip_to(9);
        assert_eq!(all(&mut line), []);
        line.begin_behind(8);
        assert_eq!(all(&mut line), [Next::Own { outcome: "too late", is_new: false }]);
    }

    #[test]
    fn what_is_held_of_this_node_at_the_end_is_returned() {
        let mut line = joined(1);
        line.put_own(Position::Event(5), "5", false);
        line.put_elsewhere(7, 7, 10);
        assert_eq!(line.end().collect::<Vec<_>>(), ["5"]);
    }
}
