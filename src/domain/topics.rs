//! Topics: which there are without being created, and who may do what with them (contract section 5).

pub mod access;
pub mod history;
pub mod pattern;

use serde_json::{Value, json};
use uuid::Uuid;

use self::history::{History, RetentionChange};
use super::{
    accounts::Account,
    ids::{ClientId, ClientKind, Role, TopicId},
    subscriptions::Subscription,
};

/// A topic.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its name.
    pub id: String,
    /// Who created it; the nil UUID for the broker's own.
    pub creator: ClientId,
    /// What its creator said of it: a JSON object.
    pub metadata: Value,
    /// Its history, if it has one.
    pub history: Option<History>,
}

/// A change of a topic.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicChange {
    /// New metadata.
    pub metadata: Option<Value>,
    /// A change of its history; `Some(None)` ends it.
    pub history: Option<Option<RetentionChange>>,
}

/// Why a client may not do something with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicRefusal {
    /// Only operators may subscribe to it.
    #[error("Operator role required")]
    OperatorRequired,
    /// Only devices and operators publish over HTTP.
    #[error("Only devices and operators may publish")]
    DeviceOrOperatorRequired,
    /// Only the broker publishes to its own topic.
    #[error("Only the broker publishes to $status")]
    OnlyTheBroker,
    /// It is the broker's own.
    #[error("$status is the broker's own topic and cannot be changed or deleted")]
    Permanent,
    /// Only its creator and operators may change or delete it.
    #[error("Only its creator or an operator may change or delete a topic")]
    NotTheCreator,
}

impl Topic {
    /// The broker's own topic, `$status`, which is in no database.
    pub fn status() -> Self {
        let metadata = json!({ "description": "What happens to gateways and clients, for operators" });
        Self { id: TopicId::STATUS.to_owned(), creator: Uuid::nil().into(), metadata, history: None }
    }

    /// Whether it is `$status`.
    pub fn is_status(&self) -> bool {
        self.id == TopicId::STATUS
    }

    /// Whether the client may publish over HTTP. Whether it has to be subscribed is another question.
    ///
    /// # Errors
    /// Why not.
    pub fn check_publisher(&self, account: &Account) -> Result<(), TopicRefusal> {
        if self.is_status() {
            return Err(TopicRefusal::OnlyTheBroker);
        }
        if account.kind() != ClientKind::Device && !account.is_active_operator() {
            return Err(TopicRefusal::DeviceOrOperatorRequired);
        }
        Ok(())
    }

    /// Whether the client may change or delete the topic.
    ///
    /// # Errors
    /// Why not.
    pub fn check_change(&self, by: &Account) -> Result<(), TopicRefusal> {
        if self.is_status() {
            return Err(TopicRefusal::Permanent);
        }
        if self.creator != by.id && by.role() < Role::Operator {
            return Err(TopicRefusal::NotTheCreator);
        }
        Ok(())
    }
}

/// Whether the client may have a subscription: those that include `$status` are for operators. What the rules of the
/// configuration say is another question.
///
/// # Errors
/// Why not.
pub fn check_subscription(subscription: &Subscription, account: &Account) -> Result<(), TopicRefusal> {
    if subscription.includes(TopicId::STATUS) && !account.is_active_operator() {
        return Err(TopicRefusal::OperatorRequired);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{pattern::Pattern, *};
    use crate::domain::accounts::tests::{device, user};

    fn topic(creator: ClientId) -> Topic {
        Topic { id: "weather".to_owned(), creator, metadata: json!({}), history: None }
    }

    #[test]
    fn everybody_subscribes_to_topics_and_operators_alone_to_the_brokers_own() {
        let (thing, person, operator) = (device("thing"), user("person", Role::User), user("boss", Role::Operator));
        let topic = |id: &str| Subscription::Topic(id.into());
        let pattern = |text: &str| Subscription::Pattern(Pattern::parse(text.into()).unwrap());
        for account in [&thing, &person, &operator] {
            for free in [topic("weather"), pattern("#"), pattern("+/#"), pattern("$other/#")] {
                assert_eq!(check_subscription(&free, account), Ok(()));
            }
        }
        for status in [topic(TopicId::STATUS), pattern("$status/#")] {
            for account in [&thing, &person] {
                assert_eq!(check_subscription(&status, account), Err(TopicRefusal::OperatorRequired));
            }
            assert_eq!(check_subscription(&status, &operator), Ok(()));
            assert_eq!(check_subscription(&status, &user("root", Role::Admin)), Ok(()));
        }
    }

    #[test]
    fn devices_and_operators_publish_over_http_and_nobody_to_the_brokers_own_topic() {
        let (thing, person, operator) = (device("thing"), user("person", Role::User), user("boss", Role::Operator));
        let topic = topic(ClientId::random());
        assert_eq!(topic.check_publisher(&thing), Ok(()));
        assert_eq!(topic.check_publisher(&operator), Ok(()));
        assert_eq!(topic.check_publisher(&person), Err(TopicRefusal::DeviceOrOperatorRequired));
        assert_eq!(Topic::status().check_publisher(&operator), Err(TopicRefusal::OnlyTheBroker));
    }

    #[test]
    fn creators_and_operators_change_and_delete_topics_and_nobody_the_brokers_own() {
        let (thing, other, operator) = (device("thing"), device("other"), user("boss", Role::Operator));
        let its_own = topic(thing.id);
        assert_eq!(its_own.check_change(&thing), Ok(()));
        assert_eq!(its_own.check_change(&operator), Ok(()));
        assert_eq!(its_own.check_change(&other), Err(TopicRefusal::NotTheCreator));
        assert_eq!(Topic::status().check_change(&operator), Err(TopicRefusal::Permanent));
    }
}
