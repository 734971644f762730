//! Bounds the records of what clients can cause as often as they like: refusals. The first one of a client or address is recorded
//! at once; further ones within a minute are counted, and recorded as one.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{Action, Actor, Event, Target};
use crate::domain::network::limit_key;

/// How long further ones are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// How many actors and targets of each action are told apart within a window. All others are counted together.
const MOST: usize = 100;

/// Who is refused what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    action: Action,
    actor: Option<String>,
    target: Option<String>,
}

/// What came since the first one.
#[derive(Debug)]
struct Window {
    ends: Instant,
    /// the last one
    last: Option<Event>,
    count: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Repeats {
    windows: HashMap<Key, Window>,
}

impl Repeats {
    /// Counts a refusal, or returns it to be recorded now.
    pub fn note(&mut self, event: Event, now: Instant) -> Option<Event> {
        let actor =
            event.actor.id.clone().or_else(|| event.actor.address.map(|address| limit_key(address).to_string()));
        let key = Key { action: event.action, actor, target: event.target.as_ref().map(|target| target.id.clone()) };
        if let Some(window) = self.windows.get_mut(&key) {
            window.count += 1;
            window.last = Some(event);
            return None;
        }
        let ends = now + WINDOW;
        if self.windows.keys().filter(|known| known.action == key.action).count() < MOST {
            self.windows.insert(key, Window { ends, last: None, count: 0 });
            return Some(event);
        }
        let others = Key { action: event.action, actor: None, target: None };
        let window = self.windows.entry(others).or_insert(Window { ends, last: None, count: 0 });
        window.count += 1;
        window.last = Some(Event { actor: Actor::default(), target: None::<Target>, ..event });
        None
    }

    /// The counts of windows that are over, or of all of them.
    pub fn take(&mut self, over: Option<Instant>) -> Vec<Event> {
        let ended = self.windows.extract_if(|_, window| over.is_none_or(|now| window.ends <= now));
        let counted = ended.filter_map(|(_, Window { last, count, .. })| {
            let mut event = last?;
            event.details.as_object_mut()?.insert("repeated".to_owned(), count.into());
            Some(event)
        });
        counted.collect()
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;

    fn refused(action: Action, address: u16, target: &str) -> Event {
        Event {
            at: DateTime::UNIX_EPOCH,
            node: "node".into(),
            actor: Actor::unknown(Some([10, 0, (address >> 8) as u8, address as u8].into())),
            action,
            target: Some(Target::of(target)),
            details: json!({}),
        }
    }

    #[test]
    fn the_first_refusal_is_recorded_and_the_others_of_a_minute_are_counted() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert!(repeats.note(refused(Action::LoginRefused, 1, "a"), now).is_some());
        for _ in 0..5 {
            assert!(repeats.note(refused(Action::LoginRefused, 1, "a"), now).is_none());
        }
        assert!(repeats.note(refused(Action::LoginRefused, 1, "b"), now).is_some(), "another target");
        assert!(repeats.note(refused(Action::LoginRefused, 2, "a"), now).is_some(), "another address");
        assert!(repeats.note(refused(Action::AccessRefused, 1, "a"), now).is_some(), "another action");
        assert!(repeats.take(Some(now)).is_empty());
        let counted = repeats.take(Some(now + WINDOW));
        assert_eq!(counted.len(), 1, "nothing else came again");
        assert_eq!(counted[0].details, json!({ "repeated": 5 }));
        assert!(repeats.note(refused(Action::LoginRefused, 1, "a"), now + WINDOW).is_some(), "a new minute");
    }

    #[test]
    fn many_actors_cost_no_more_than_a_few() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let recorded = (0..5000).filter_map(|n| repeats.note(refused(Action::LoginRefused, n, "a"), now)).count();
        assert_eq!(recorded, MOST);
        let counted = repeats.take(None);
        assert_eq!(counted.len(), 1);
        assert_eq!((&counted[0].details["repeated"], &counted[0].actor), (&json!(4900), &Actor::default()));
        assert!(repeats.take(None).is_empty());
    }
}
