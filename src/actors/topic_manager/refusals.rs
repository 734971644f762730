//! Answers that wait for a refusal. Only the database knows whether a topic exists, and later answers to the same sender must
//! not overtake the refusal.

use std::collections::{HashMap, VecDeque};

use crate::delivery::Mark;

/// A frame for a session, or a mark among its frames.
#[derive(Debug)]
pub(super) enum Answer {
    /// A frame for the session.
    Text(String),
    /// Dropped when the frames before it are in the outbox.
    Mark(Mark),
}

#[derive(Debug)]
enum Place {
    /// waits for the database
    Open(u64),
    Taken(Answer),
}

/// The waiting answers by session.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    sessions: HashMap<u64, VecDeque<Place>>,
    tickets: u64,
}

impl Refusals {
    /// Reserves the next place for a refusal. Returns the ticket for [`Refusals::end`].
    pub(super) fn begin(&mut self, session: u64) -> u64 {
        self.tickets += 1;
        self.sessions.entry(session).or_default().push_back(Place::Open(self.tickets));
        self.tickets
    }

    /// Queues an answer behind those that wait. Returns it if none waits.
    pub(super) fn queue(&mut self, session: u64, answer: Answer) -> Option<Answer> {
        if self.sessions.is_empty() {
            return Some(answer);
        }
        match self.sessions.get_mut(&session) {
            Some(places) => {
                places.push_back(Place::Taken(answer));
                None
            }
            None => Some(answer),
        }
    }

    /// Fills the place of a refusal. Returns the answers that wait no longer, in order.
    pub(super) fn end(&mut self, session: u64, ticket: u64, text: String) -> Vec<Answer> {
        let Some(places) = self.sessions.get_mut(&session) else { return Vec::new() };
        if let Some(place) = places.iter_mut().find(|place| matches!(place, Place::Open(open) if *open == ticket)) {
            *place = Place::Taken(Answer::Text(text));
        }
        let mut due = Vec::new();
        while let Some(place) = places.pop_front() {
            match place {
                Place::Taken(answer) => due.push(answer),
                open @ Place::Open(_) => {
                    places.push_front(open);
                    return due;
                }
            }
        }
        self.sessions.remove(&session);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(answers: Vec<Answer>) -> Vec<String> {
        let text = |answer| match answer {
            Answer::Text(text) => text,
            Answer::Mark(_) => "mark".to_owned(),
        };
        answers.into_iter().map(text).collect()
    }

    fn text(text: &str) -> Answer {
        Answer::Text(text.to_owned())
    }

    #[test]
    fn answers_wait_for_the_refusals_before_them_in_whatever_order_these_end() {
        let mut refusals = Refusals::default();
        assert!(refusals.queue(1, text("at once")).is_some());
        let first = refusals.begin(1);
        let second = refusals.begin(1);
        assert!(refusals.queue(1, text("receipt")).is_none());
        assert!(refusals.queue(1, Answer::Mark(Mark::new().0)).is_none());
        assert!(refusals.queue(2, text("another session's")).is_some());
        let third = refusals.begin(1);
        assert!(refusals.end(1, second, "second".to_owned()).is_empty());
        assert_eq!(texts(refusals.end(1, first, "first".to_owned())), ["first", "second", "receipt", "mark"]);
        assert!(refusals.queue(1, text("late")).is_none());
        assert_eq!(texts(refusals.end(1, third, "third".to_owned())), ["third", "late"]);
        assert!(refusals.queue(1, text("at once")).is_some() && refusals.sessions.is_empty());
    }
}
