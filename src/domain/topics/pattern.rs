//! Patterns of topic names, by the rules of MQTT 5.0, section 4.7: a name is divided by `/` into levels, `+` stands for one
//! level, and `#` at the end for any number of levels, also for none.

use std::fmt::{self, Display};

use crate::domain::ids::TopicId;

/// The level that stands for exactly one level.
pub const ONE: &str = "+";

/// The last level that stands for any number of levels.
pub(in crate::domain) const ANY: &str = "#";

/// Why a text with wildcards is not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// A wildcard shares its level with other characters.
    #[error("a wildcard must be a whole level between slashes")]
    PartOfLevel,
    /// `#` is followed by further levels.
    #[error("# must be the last level")]
    NotLast,
    /// It has more levels than a pattern may have.
    #[error("a pattern has at most {MAX_LEVELS} levels")]
    TooManyLevels,
}

/// Most levels of a pattern: the index of patterns is as deep.
const MAX_LEVELS: usize = 128;

/// A pattern that matches any number of topics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(TopicId);

/// Whether a text has characters that are wildcards in patterns. New topics have none in their names.
pub fn has_wildcards(text: &str) -> bool {
    text.contains(['+', '#'])
}

impl Pattern {
    /// Reads a pattern. One without wildcards matches only the topic of this name.
    ///
    /// # Errors
    /// A wildcard is where none may be.
    pub fn parse(text: TopicId) -> Result<Self, BadPattern> {
        if text.as_str().split('/').count() > MAX_LEVELS {
            return Err(BadPattern::TooManyLevels);
        }
        let mut levels = text.as_str().split('/').peekable();
        while let Some(level) = levels.next() {
            if has_wildcards(level) && level != ONE && level != ANY {
                return Err(BadPattern::PartOfLevel);
            }
            if level == ANY && levels.peek().is_some() {
                return Err(BadPattern::NotLast);
            }
        }
        Ok(Self(text))
    }

    /// The text of the pattern.
    pub fn id(&self) -> &TopicId {
        &self.0
    }

    /// The levels, wildcards included.
    pub fn levels(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.as_str().split('/')
    }

    /// The begin that all matching names have in common.
    pub fn prefix(&self) -> &str {
        let text = self.0.as_str();
        let Some(wildcard) = text.find(['+', '#']) else { return text };
        let (before, rest) = text.split_at(wildcard);
        // `a/#` matches `a`
        if rest == ANY { before.strip_suffix('/').unwrap_or(before) } else { before }
    }

    /// Whether the pattern matches a topic.
    pub fn matches(&self, topic: &str) -> bool {
        covers(self.levels(), topic.split('/'), |_| true)
    }

    /// Whether the pattern matches all topics that the other matches. False is also the answer for some pairs of which it is
    /// true: nobody needs them.
    pub fn covers(&self, other: &Self) -> bool {
        covers(self.levels(), other.levels(), |level| level != ANY)
    }

    /// Whether a topic could have a name that both patterns match.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut these, mut those) = (self.levels(), other.levels());
        let mut is_first = true;
        loop {
            match (these.next(), those.next()) {
                (None, None) => return true,
                (Some(this), Some(that)) if is_first && !may_meet(this, that) => return false,
                (Some(ANY), _) | (_, Some(ANY)) => return true,
                (Some(this), Some(that)) if this == that || this == ONE || that == ONE => {}
                _ => return false,
            }
            is_first = false;
        }
    }
}

/// Whether the first levels of two patterns may stand for the same: a wildcard there does not stand for `$…`.
fn may_meet(this: &str, that: &str) -> bool {
    let is_wildcard = |level: &str| level == ONE || level == ANY;
    !(is_wildcard(this) && that.starts_with('$') || is_wildcard(that) && this.starts_with('$'))
}

/// Whether a pattern covers other levels, of which `is_one` says whether they stand for one level each.
fn covers<'a>(
    pattern: impl Iterator<Item = &'a str>,
    mut other: impl Iterator<Item = &'a str>,
    is_one: impl Fn(&str) -> bool,
) -> bool {
    for (index, level) in pattern.enumerate() {
        let next = other.next();
        if index == 0 && next.is_some_and(|next| !may_meet(level, next)) {
            return false;
        }
        match (level, next) {
            (ANY, _) => return true,
            (ONE, Some(next)) if is_one(next) => {}
            (level, Some(next)) if level == next => {}
            _ => return false,
        }
    }
    other.next().is_none()
}

impl Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text.into()).unwrap()
    }

    #[test]
    fn wildcards_stand_for_levels_as_in_mqtt() {
        for (text, matching, others) in [
            ("a/+", &["a/b", "a/"][..], &["a", "a/b/c", "b/b"][..]),
            ("a/#", &["a", "a/", "a/b", "a/b/c"], &["b", "ab", "$a"]),
            ("+", &["a", ""], &["a/b", "/a", "$status"]),
            ("#", &["a", "a/b", "/"], &["$status", "$x/y"]),
            ("+/b/#", &["a/b", "a/b/c/d", "/b"], &["a/c", "b", "$a/b"]),
            ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/d", "a/b/c/d"]),
            ("$status/#", &["$status", "$status/x"], &["status"]),
            ("$x/+", &["$x/y"], &["$x"]),
            ("a/b", &["a/b"], &["a", "a/b/"]),
        ] {
            for topic in matching {
                assert!(pattern(text).matches(topic), "{text} {topic}");
            }
            for topic in others {
                assert!(!pattern(text).matches(topic), "{text} {topic}");
            }
        }
    }

    #[test]
    fn a_wildcard_is_a_whole_level_and_any_number_of_levels_comes_last() {
        for text in ["a+", "a/+b", "#a", "a/b#", "++", "a/##"] {
            assert_eq!(Pattern::parse(text.into()), Err(BadPattern::PartOfLevel), "{text}");
        }
        for text in ["#/a", "a/#/b", "#/"] {
            assert_eq!(Pattern::parse(text.into()), Err(BadPattern::NotLast), "{text}");
        }
        assert!(Pattern::parse("+/".repeat(127).as_str().into()).is_ok());
        assert_eq!(Pattern::parse("+/".repeat(128).as_str().into()), Err(BadPattern::TooManyLevels));
    }

    #[test]
    fn the_prefix_is_what_matching_names_begin_with() {
        for (text, prefix) in
            [("a/b/+", "a/b/"), ("a/b/#", "a/b"), ("#", ""), ("a/+/b/#", "a/"), ("+/a", ""), ("a", "a")]
        {
            assert_eq!(pattern(text).prefix(), prefix, "{text}");
        }
    }

    /// All patterns of up to three of these levels.
    fn patterns() -> Vec<Pattern> {
        let levels = ["a", "b", "$s", "+", "#"];
        let mut texts: Vec<String> = levels.map(str::to_owned).to_vec();
        for first in levels {
            for second in levels {
                texts.push(format!("{first}/{second}"));
                texts.extend(levels.map(|third| format!("{first}/{second}/{third}")));
            }
        }
        texts.into_iter().filter_map(|text| Pattern::parse(text.into()).ok()).collect()
    }

    #[test]
    fn covering_and_overlapping_agree_with_the_topics_that_match() {
        let patterns = patterns();
        let mut topics: Vec<String> = patterns.iter().map(|pattern| pattern.to_string()).collect();
        topics.retain(|topic| !has_wildcards(topic));
        topics.extend(topics.clone().iter().map(|topic| format!("{topic}/c")));
        topics.extend(["c".to_owned(), "c/c".to_owned(), "c/c/c".to_owned(), "a/c/a".to_owned(), "a/c/b".to_owned()]);
        for this in &patterns {
            for that in &patterns {
                let both = topics.iter().any(|topic| this.matches(topic) && that.matches(topic));
                // what overlaps has a common topic, though perhaps not among these
                assert!(this.overlaps(that) || !both, "{this} {that}");
                assert_eq!(this.overlaps(that), that.overlaps(this), "{this} {that}");
                if this.covers(that) {
                    assert!(topics.iter().all(|topic| this.matches(topic) || !that.matches(topic)), "{this} {that}");
                }
            }
            assert!(this.covers(this), "{this}");
        }
        assert!(pattern("#").covers(&pattern("a/+/b")) && !pattern("#").covers(&pattern("$s/#")));
        assert!(pattern("a/#").covers(&pattern("a")) && !pattern("a/+").covers(&pattern("a/#")));
        assert!(!pattern("a/+").overlaps(&pattern("a")) && !pattern("+").overlaps(&pattern("$s")));
    }
}
