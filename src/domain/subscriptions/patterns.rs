//! Which clients subscribe by which pattern: a trie whose edges are the levels of the patterns.

use std::{
    collections::{HashMap, HashSet},
    str::Split,
};

use crate::domain::{
    ids::ClientId,
    topics::pattern::{ANY, ONE, Pattern},
};

/// The subscribers of one pattern.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    pub(super) clients: HashSet<ClientId>,
    /// the version of the last change
    changed: u64,
}

#[derive(Debug, Default)]
struct Node {
    /// by the text of the level
    levels: HashMap<Box<str>, Node>,
    /// behind `+`
    one: Option<Box<Node>>,
    /// of the pattern that goes on with `#`
    any: Subscribers,
    /// of the pattern that ends here
    here: Subscribers,
}

impl Node {
    fn is_empty(&self) -> bool {
        let Self { levels, one, any, here } = self;
        levels.is_empty() && one.is_none() && any.clients.is_empty() && here.clients.is_empty()
    }

    /// Changes the subscribers of a pattern, and removes what is empty after that.
    fn change(&mut self, mut levels: Split<'_, char>, change: impl FnOnce(&mut Subscribers)) {
        match levels.next() {
            None => change(&mut self.here),
            Some(ANY) => change(&mut self.any),
            Some(ONE) => {
                let next = self.one.get_or_insert_default();
                next.change(levels, change);
                if next.is_empty() {
                    self.one = None;
                }
            }
            Some(level) => {
                let next = self.levels.entry(level.into()).or_default();
                next.change(levels, change);
                if next.is_empty() {
                    self.levels.remove(level);
                }
            }
        }
    }

    fn visit<'a>(&'a self, mut levels: Split<'_, char>, visit: &mut impl FnMut(&'a Subscribers)) {
        if !self.any.clients.is_empty() {
            visit(&self.any);
        }
        let Some(level) = levels.next() else {
            if !self.here.clients.is_empty() {
                visit(&self.here);
            }
            return;
        };
        if let Some(next) = self.levels.get(level) {
            next.visit(levels.clone(), visit);
        }
        if let Some(one) = &self.one {
            one.visit(levels, visit);
        }
    }
}

/// What decides whether the subscribers of a topic are still those of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matched {
    /// how many patterns match
    pub(super) patterns: usize,
    /// the version of the last change of one of them
    newest: u64,
}

#[derive(Debug, Default)]
pub(super) struct Patterns {
    root: Node,
    version: u64,
}

impl Patterns {
    /// Grows with each change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn insert(&mut self, pattern: &Pattern, client: ClientId) {
        self.change(pattern, |subscribers| {
            subscribers.clients.insert(client);
        });
    }

    pub(super) fn remove(&mut self, pattern: &Pattern, client: ClientId) {
        self.change(pattern, |subscribers| {
            subscribers.clients.remove(&client);
        });
    }

    /// Records that a subscriber of the pattern has another session.
    pub(super) fn touch(&mut self, pattern: &Pattern) {
        self.change(pattern, |_| {});
    }

    fn change(&mut self, pattern: &Pattern, change: impl FnOnce(&mut Subscribers)) {
        self.version += 1;
        let version = self.version;
        self.root.change(pattern.id().as_str().split('/'), |subscribers| {
            change(subscribers);
            subscribers.changed = version;
        });
    }

    /// Visits the subscribers of each pattern that matches the topic.
    pub(super) fn visit<'a>(&'a self, topic: &str, mut visit: impl FnMut(&'a Subscribers)) {
        let mut levels = topic.split('/');
        if !topic.starts_with('$') {
            return self.root.visit(levels, &mut visit);
        }
        // a wildcard at the begin does not stand for it
        if let Some(next) = levels.next().and_then(|level| self.root.levels.get(level)) {
            next.visit(levels, &mut visit);
        }
    }

    pub(super) fn matched(&self, topic: &str) -> Matched {
        let mut matched = Matched { patterns: 0, newest: 0 };
        self.visit(topic, |subscribers| {
            matched.patterns += 1;
            matched.newest = matched.newest.max(subscribers.changed);
        });
        matched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text.into()).unwrap()
    }

    #[test]
    fn the_trie_finds_the_patterns_that_match_and_no_others() {
        let texts = ["#", "+", "a/#", "a/+", "a/+/c", "a/b/c", "+/b", "+/+/+", "$s/#", "$s/+", "/", "+/#", "a//#"];
        let patterns = texts.map(pattern);
        let clients = texts.map(|_| ClientId::random());
        let mut trie = Patterns::default();
        for (pattern, client) in patterns.iter().zip(&clients) {
            trie.insert(pattern, *client);
        }
        for topic in [
            "a", "b", "", "/", "a/b", "a/b/c", "a//", "a/x/c", "a/b/c/d", "$s", "$s/x", "$s/x/y", "$t", "+", "#", "a/+",
        ] {
            let mut found = HashSet::new();
            trie.visit(topic, |subscribers| found.extend(&subscribers.clients));
            let expected: HashSet<_> = patterns
                .iter()
                .zip(&clients)
                .filter(|(pattern, _)| pattern.matches(topic))
                .map(|(_, client)| *client)
                .collect();
            assert_eq!(found, expected, "{topic}");
        }
        for (pattern, client) in patterns.iter().zip(&clients) {
            trie.remove(pattern, *client);
        }
        assert!(trie.root.is_empty());
    }

    #[test]
    fn what_matched_differs_only_after_a_change_of_a_pattern_that_matches() {
        let (mut trie, client) = (Patterns::default(), ClientId::random());
        trie.insert(&pattern("a/+"), client);
        let before = trie.matched("a/b");
        trie.insert(&pattern("b/+"), client);
        trie.remove(&pattern("never"), client);
        assert_eq!(trie.matched("a/b"), before);
        trie.touch(&pattern("a/+"));
        let touched = trie.matched("a/b");
        assert_ne!(touched, before);
        trie.insert(&pattern("#"), client);
        trie.remove(&pattern("a/+"), client);
        assert_ne!(trie.matched("a/b"), touched);
        trie.remove(&pattern("#"), client);
        assert_eq!(trie.matched("a/b"), Matched { patterns: 0, newest: 0 });
    }
}
