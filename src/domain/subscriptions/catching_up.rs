//! Subscribers that first get what they missed of a topic's history: what is published meanwhile is held back for them, so that
//! they get it after that, once, and without a gap.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::domain::ids::{ClientId, TopicId};

/// Most publications that are held back for one subscriber. Those before are in the history.
const MOST: usize = 256;

/// An attempt of a subscriber to catch up with a topic.
#[derive(Debug, Clone, Default)]
pub struct Attempt(Arc<AtomicBool>);

impl Attempt {
    /// Whether the subscriber has begun anew, unsubscribed or disconnected, or the topic is deleted.
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A subscriber that catches up with a topic. When it is dropped, its attempt is over.
#[derive(Debug)]
struct CatchUp<F> {
    attempt: Attempt,
    state: State<F>,
}

impl<F> Drop for CatchUp<F> {
    fn drop(&mut self) {
        self.attempt.0.store(true, Ordering::Release);
    }
}

#[derive(Debug)]
enum State<F> {
    /// It reads the history. The newest publications meanwhile, with their offsets, and their bytes.
    Reading(VecDeque<(i64, F)>, usize),
    /// It has all up to this offset, of which some may still be on their way to the other subscribers.
    Has(i64),
}

/// Whether a subscriber has caught up. `F` is what was held back.
#[derive(Debug, PartialEq, Eq)]
pub enum CaughtUp<F> {
    /// It gets what was held back now, and from now on all that is published.
    Live(F),
    /// More has been published than is held back: it has to read on.
    Behind,
    /// It does not catch up any more: it has unsubscribed, begun anew or disconnected.
    Over,
}

/// All subscribers that catch up. `F` is a frame, of which clones are cheap.
#[derive(Debug)]
pub struct CatchUps<F> {
    topics: HashMap<TopicId, HashMap<ClientId, CatchUp<F>>>,
    bytes: usize,
}

impl<F: Clone + AsRef<[u8]>> CatchUps<F> {
    /// Of each subscriber, at most so many bytes are held back, but at least one publication.
    pub fn new(bytes: usize) -> Self {
        Self { topics: HashMap::new(), bytes }
    }

    /// A subscriber begins to read a history.
    pub fn begin(&mut self, client: ClientId, topic: TopicId) -> Attempt {
        let (attempt, state) = (Attempt::default(), State::Reading(VecDeque::new(), 0));
        let catch_up = CatchUp { attempt: attempt.clone(), state };
        self.topics.entry(topic).or_default().insert(client, catch_up);
        attempt
    }

    /// Holds a publication back. Returns the subscribers that must not get it now.
    pub fn hold_back(&mut self, topic: &TopicId, offset: i64, frame: &F) -> Vec<ClientId> {
        let Some(clients) = self.topics.get_mut(topic) else { return Vec::new() };
        let mut without = Vec::new();
        clients.retain(|client, catch_up| match &mut catch_up.state {
            State::Reading(held, bytes) => {
                held.push_back((offset, frame.clone()));
                *bytes += frame.as_ref().len();
                while held.len() > MOST || *bytes > self.bytes && held.len() > 1 {
                    *bytes -= held.pop_front().map_or(0, |(_, frame)| frame.as_ref().len());
                }
                without.push(*client);
                true
            }
            State::Has(last) if offset <= *last => {
                without.push(*client);
                true
            }
            State::Has(_) => false,
        });
        if clients.is_empty() {
            self.topics.remove(topic);
        }
        without
    }

    /// A subscriber has got all up to this offset.
    pub fn caught_up(&mut self, client: ClientId, topic: &TopicId, attempt: &Attempt, last: i64) -> CaughtUp<Vec<F>> {
        let catch_up = self.topics.get_mut(topic).and_then(|clients| clients.get_mut(&client));
        let Some(catch_up) = catch_up.filter(|_| !attempt.is_over()) else { return CaughtUp::Over };
        let State::Reading(held, _) = &mut catch_up.state else { return CaughtUp::Over };
        held.retain(|(offset, _)| *offset > last);
        if held.front().is_some_and(|(offset, _)| *offset > last + 1) {
            return CaughtUp::Behind;
        }
        let newest = held.back().map_or(last, |(offset, _)| *offset);
        let frames = held.drain(..).map(|(_, frame)| frame).collect();
        catch_up.state = State::Has(newest);
        CaughtUp::Live(frames)
    }

    /// A client does not catch up with a topic any more. Returns what was held back.
    pub fn end(&mut self, client: ClientId, topic: &TopicId) -> Vec<F> {
        let Some(clients) = self.topics.get_mut(topic) else { return Vec::new() };
        let ended = clients.remove(&client);
        if clients.is_empty() {
            self.topics.remove(topic);
        }
        match ended.map(|mut ended| std::mem::replace(&mut ended.state, State::Has(0))) {
            Some(State::Reading(held, _)) => held.into_iter().map(|(_, frame)| frame).collect(),
            Some(State::Has(_)) | None => Vec::new(),
        }
    }

    /// A client does not catch up with any topic any more.
    pub fn end_all(&mut self, client: ClientId) {
        self.topics.retain(|_, clients| {
            clients.remove(&client);
            !clients.is_empty()
        });
    }

    /// A topic is deleted.
    pub fn remove_topic(&mut self, topic: &TopicId) {
        self.topics.remove(topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> (CatchUps<String>, ClientId, TopicId) {
        (CatchUps::new(2000), ClientId::random(), TopicId::from("t"))
    }

    fn frame(offset: i64) -> String {
        offset.to_string()
    }

    fn live(offsets: impl IntoIterator<Item = i64>) -> CaughtUp<Vec<String>> {
        CaughtUp::Live(offsets.into_iter().map(frame).collect())
    }

    #[test]
    fn what_is_published_meanwhile_comes_after_the_history_once_and_without_a_gap() {
        let (mut all, client, topic) = scene();
        assert!(all.hold_back(&topic, 1, &frame(1)).is_empty());
        let attempt = all.begin(client, topic.clone());
        for offset in 2..=4 {
            assert_eq!(all.hold_back(&topic, offset, &frame(offset)), [client]);
        }
        assert_eq!(all.caught_up(client, &topic, &attempt, 3), live([4]));
        assert_eq!(all.hold_back(&topic, 5, &frame(5)), []);
        assert!(all.topics.is_empty());
    }

    #[test]
    fn what_the_history_had_before_the_other_subscribers_is_not_repeated() {
        let (mut all, client, topic) = scene();
        let attempt = all.begin(client, topic.clone());
        assert_eq!(all.caught_up(client, &topic, &attempt, 7), live([]));
        assert_eq!(all.hold_back(&topic, 6, &frame(6)), [client]);
        assert_eq!(all.hold_back(&topic, 7, &frame(7)), [client]);
        assert_eq!(all.hold_back(&topic, 8, &frame(8)), []);
    }

    #[test]
    fn a_subscriber_for_whom_too_much_came_reads_on() {
        let (mut all, client, topic) = scene();
        let attempt = all.begin(client, topic.clone());
        let all_of_them = MOST as i64 + 10;
        for offset in 1..=all_of_them {
            all.hold_back(&topic, offset, &frame(offset));
        }
        assert_eq!(all.caught_up(client, &topic, &attempt, 5), CaughtUp::Behind);
        assert_eq!(all.caught_up(client, &topic, &attempt, 10), live(11..=all_of_them));
        // of long ones fewer are held back, but always the last one
        let attempt = all.begin(client, topic.clone());
        for offset in 1..=3 {
            all.hold_back(&topic, offset, &"x".repeat(900 * offset as usize));
        }
        assert_eq!(all.caught_up(client, &topic, &attempt, 1), CaughtUp::Behind);
        assert!(matches!(all.caught_up(client, &topic, &attempt, 2), CaughtUp::Live(held) if held.len() == 1));
    }

    #[test]
    fn an_attempt_is_over_when_another_begins_or_the_client_or_topic_goes() {
        let (mut all, client, topic) = scene();
        let first = all.begin(client, topic.clone());
        let second = all.begin(client, topic.clone());
        assert!(first.is_over() && !second.is_over());
        assert_eq!(all.caught_up(client, &topic, &first, 0), CaughtUp::Over);
        all.hold_back(&topic, 1, &frame(1));
        assert_eq!(all.end(client, &topic), [frame(1)]);
        assert_eq!(all.caught_up(client, &topic, &second, 0), CaughtUp::Over);
        let ends: [fn(&mut CatchUps<String>, ClientId, &TopicId); 2] =
            [|all, client, _| all.end_all(client), |all, _, topic| all.remove_topic(topic)];
        for end in ends {
            let attempt = all.begin(client, topic.clone());
            end(&mut all, client, &topic);
            assert!(attempt.is_over());
        }
        assert!(all.topics.is_empty());
    }
}
