//! Who may create, publish to and subscribe to which topics: the rules of the configuration (contract section 12).

use serde::{Deserialize, Deserializer, de};
use wildmatch::WildMatch;

use super::pattern::Pattern;
use crate::domain::{
    accounts::Account,
    ids::{ClientId, ClientKind, TopicId},
    subscriptions::Subscription,
};

/// The rules for each of the three.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Who may create which topics.
    pub create: Rules,
    /// Who may publish to which topics.
    pub publish: Rules,
    /// Who may subscribe to which topics.
    pub subscribe: Rules,
}

/// Rules for topics. The first one that matches a topic decides. A topic that none matches is for all clients.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Rules(Vec<Rule>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    topic: Pattern,
    who: Vec<Who>,
}

/// Clients that a rule admits.
#[derive(Debug, Clone)]
enum Who {
    Any,
    Operator,
    Client(ClientId),
    /// devices with such a name
    Named(WildMatch),
}

impl Rules {
    /// Whether there are none, so that all clients are admitted to all topics.
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the client is admitted to the topic.
    pub fn admit(&self, topic: &TopicId, account: &Account) -> bool {
        self.0.iter().find(|rule| rule.topic.matches(topic.as_str())).is_none_or(|rule| rule.admits(account))
    }

    /// Whether the client is admitted to all topics that the pattern matches.
    fn admit_to_all(&self, pattern: &Pattern, account: &Account) -> bool {
        for rule in self.0.iter().filter(|rule| rule.topic.overlaps(pattern)) {
            if !rule.admits(account) {
                return false;
            }
            if rule.topic.covers(pattern) {
                return true;
            }
        }
        true
    }

    /// Whether the client may subscribe to this.
    pub fn admit_subscription(&self, subscription: &Subscription, account: &Account) -> bool {
        match subscription {
            Subscription::Topic(topic) => self.admit(topic, account),
            Subscription::Pattern(pattern) => self.admit_to_all(pattern, account),
        }
    }
}

impl Rule {
    fn admits(&self, account: &Account) -> bool {
        self.who.iter().any(|who| match who {
            Who::Any => true,
            Who::Operator => account.is_active_operator(),
            Who::Client(client) => *client == account.id,
            Who::Named(names) => account.kind() == ClientKind::Device && names.matches(account.name()),
        })
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Err(de::Error::custom("a topic has at least one character"));
        }
        Self::parse(text.as_str().into()).map_err(|why| de::Error::custom(format!("\"{text}\": {why}")))
    }
}

impl<'de> Deserialize<'de> for Who {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "any" => Ok(Self::Any),
            "operator" => Ok(Self::Operator),
            text => text
                .strip_prefix("name:")
                .map(|names| Self::Named(WildMatch::new(names)))
                .or_else(|| ClientId::parse(text).map(Self::Client))
                .ok_or_else(|| {
                    de::Error::custom(format!(
                        "\"{text}\" is none of any, operator, a UUID, or name: and a device's name"
                    ))
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        accounts::tests::{device, user},
        ids::Role,
    };

    fn rules(text: &str) -> Result<Rules, String> {
        #[derive(Deserialize)]
        struct Whole {
            rules: Rules,
        }
        let read: Result<Whole, _> = toml::from_str(&format!("rules = {text}"));
        read.map(|whole| whole.rules).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_without_one_all_may() {
        let (sensor, other) = (device("sensor-1"), device("other"));
        let (person, operator) = (user("sensor-2", Role::User), user("boss", Role::Operator));
        let id = other.id;
        let rules = rules(&format!(
            r#"[{{ topic = "plant/open", who = ["any"] }},
                {{ topic = "plant/+", who = ["operator", "name:sensor-*"] }},
                {{ topic = "plant/#", who = ["{id}"] }},
                {{ topic = "closed", who = [] }}]"#
        ))
        .unwrap();
        for (topic, admitted) in [
            ("plant/open", [true, true, true, true]),
            // a rule for names is for devices
            ("plant/heat", [true, false, false, true]),
            ("plant/a/b", [false, true, false, false]),
            ("plant", [false, true, false, false]),
            ("closed", [false; 4]),
            ("free", [true; 4]),
        ] {
            let accounts = [&sensor, &other, &person, &operator];
            assert_eq!(accounts.map(|account| rules.admit(&topic.into(), account)), admitted, "{topic}");
        }
    }

    #[test]
    fn a_pattern_is_for_those_who_are_admitted_to_all_that_it_matches() {
        let (thing, operator) = (device("thing"), user("boss", Role::Operator));
        let rules = rules(
            r#"[{ topic = "a/open", who = ["any"] }, { topic = "a/+", who = ["operator"] },
                { topic = "b/#", who = ["any"] }, { topic = "b/secret", who = ["operator"] }]"#,
        )
        .unwrap();
        for (pattern, expected) in
            [("a/+", false), ("a/#", false), ("#", false), ("+", true), ("a/+/c", true), ("b/#", true), ("c/#", true)]
        {
            let pattern = Subscription::Pattern(Pattern::parse(pattern.into()).unwrap());
            assert_eq!(rules.admit_subscription(&pattern, &thing), expected, "{pattern:?}");
            assert!(rules.admit_subscription(&pattern, &operator), "{pattern:?}");
        }
    }

    #[test]
    fn what_a_rule_does_not_say_right_is_named() {
        for (text, expected) in [
            (r#"[{ topic = "a/#/b", who = ["any"] }]"#, "\"a/#/b\": # must be the last level"),
            (r#"[{ topic = "", who = ["any"] }]"#, "a topic has at least one character"),
            (r#"[{ topic = "a", who = ["admin"] }]"#, "\"admin\" is none of any, operator, a UUID"),
            (r#"[{ topic = "a" }]"#, "missing field `who`"),
            (r#"[{ topic = "a", who = [], why = 1 }]"#, "unknown field `why`"),
        ] {
            let error = rules(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
