//! Topics with subscribers at other nodes, and publications from there.

use actix::{Handler, Message};
use bytes::Bytes;
use uuid::Uuid;

use super::{TopicManager, messages::TopicDeleted};
use crate::{
    cluster::envelope::{self, Answer, Question},
    domain::{
        ids::{ClientId, TopicId},
        subscriptions::Subscription,
        topics::{history::Kept, pattern::Pattern},
    },
    metrics::Context,
    protocol::{outbound, wire},
};

/// What other nodes have for the TopicManager.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum FromNodes {
    /// A publication.
    Published {
        /// The node, and the number with which it wants the answer.
        node: Uuid,
        number: u64,
        topic: String,
        sender: Uuid,
        kept: Option<Kept>,
        text: Bytes,
    },
    /// An own publication has reached so many clients there.
    Reached { number: u64, clients: usize },
    /// These clients are connected there.
    Connected(Vec<ClientId>),
    /// Subscriptions of a client that has connected to this node, from this other one.
    Subscriptions { node: Uuid, client: Uuid, ids: Vec<(String, bool)> },
    /// A question.
    Asked { node: Uuid, number: u64, question: Question },
    /// A topic was changed or deleted there.
    TopicChanged { topic: String, is_deleted: bool },
    /// Publications from there may be lost.
    Missed,
}

/// A subscription as nodes name it.
pub(super) fn named(subscription: &Subscription) -> (String, bool) {
    (subscription.id().as_str().to_owned(), matches!(subscription, Subscription::Pattern(_)))
}

/// A subscription that a node names; `None` if this program does not know such patterns.
fn subscription((id, is_pattern): (String, bool)) -> Option<Subscription> {
    let id = TopicId::from(id.as_str());
    if is_pattern { Pattern::parse(id).ok().map(Subscription::Pattern) } else { Some(Subscription::Topic(id)) }
}

impl TopicManager {
    /// Tells the other nodes what has subscribers here, if that has changed.
    pub(super) fn tell_interest(&mut self) {
        let changed = self.subscriptions.take_changed();
        // what is published while nobody is subscribed is not delivered later
        for (subscription, _) in changed.iter().filter(|(_, count)| *count == 0) {
            match subscription {
                Subscription::Topic(topic) if self.subscriptions.audience(topic).is_some() => {}
                Subscription::Topic(topic) => drop(self.ordered.remove(topic)),
                Subscription::Pattern(_) => {
                    self.ordered.retain(|topic, _| self.subscriptions.audience(topic).is_some());
                }
            }
        }
        if !changed.is_empty() {
            let named = changed.iter().map(|(subscription, count)| (named(subscription), *count));
            self.backplane.interest_changed(named.collect());
        }
    }

    /// Hands the subscriptions of a client over to the node that it is connected to. That node is taken for one with subscribers at
    /// once, since it announces so only later.
    pub(super) fn hand_over(&self, client: ClientId, subscriptions: &[Subscription]) {
        if subscriptions.is_empty() {
            return;
        }
        if let Some(node) = self.backplane.elsewhere().subscriber(client) {
            let ids: Vec<_> = subscriptions.iter().map(named).collect();
            self.backplane.elsewhere().expect_interests(node, &ids);
            self.backplane.send(node, envelope::Message::Subscriptions { client: client.uuid(), ids });
        }
    }

    fn answer_node(&mut self, question: Question) -> Answer {
        let yes_if = |is_so| if is_so { Answer::Yes } else { Answer::No };
        match question {
            Question::Subscribe { client, id } => {
                let Some(subscription) = subscription(id) else { return Answer::No };
                match self.subscribe_client(client.into(), subscription) {
                    Ok(()) => Answer::Yes,
                    Err(_) => Answer::TooMany,
                }
            }
            Question::Unsubscribe { client, id } => {
                self.unsubscribe(client.into(), &TopicId::from(id.as_str()));
                Answer::Yes
            }
            Question::IsSubscribed { client, topic } => yes_if(self.subscriptions.is_subscribed(client.into(), &topic)),
            Question::Subscribers(topic) => {
                Answer::Clients(self.subscriptions.members(&topic).into_iter().map(Uuid::from).collect())
            }
            // for the CommandDispatcher
            Question::WriteCommands | Question::CancelCommand(_) => Answer::No,
        }
    }
}

impl Handler<FromNodes> for TopicManager {
    type Result = ();

    fn handle(&mut self, message: FromNodes, context: &mut Context<Self>) {
        match message {
            FromNodes::Published { node, number, topic, sender, kept, text } => {
                let frame = wire::text(&[&text]);
                let own = self.subscriptions.session(sender.into(), &topic).cloned();
                let topic = TopicId::from(topic.as_str());
                let clients = self.hand_out(&topic, own.as_ref(), kept, &frame, context);
                let clients = u32::try_from(clients).unwrap_or(u32::MAX);
                self.backplane.send(node, envelope::Message::Reached { number, clients });
            }
            FromNodes::Reached { number, clients } => {
                let now = self.clock.now();
                self.receipts.reached(number, clients, |delivered, msgid| {
                    outbound::topic_sent(delivered.topic.as_str(), delivered.reached, msgid, delivered.offset, now)
                });
            }
            FromNodes::Connected(clients) => {
                let elsewhere = self.backplane.elsewhere();
                let connected: Vec<_> =
                    clients.into_iter().filter(|client| elsewhere.subscriber(*client).is_some()).collect();
                for client in connected {
                    let subscriptions = self.subscriptions.take_of_absent(client);
                    self.hand_over(client, &subscriptions);
                }
            }
            FromNodes::Subscriptions { node, client, ids } => {
                for subscription in ids.into_iter().filter_map(subscription) {
                    // what exceeds a limit ends
                    if self.subscribe_client(client.into(), subscription.clone()).is_err() {
                        self.subscriptions.announce(subscription);
                    }
                }
                // it may have gone on to a third node
                let client = client.into();
                if self.backplane.elsewhere().subscriber(client).is_some_and(|at| at != node) {
                    let subscriptions = self.subscriptions.take_of_absent(client);
                    self.hand_over(client, &subscriptions);
                }
            }
            FromNodes::Asked { node, number, question } => {
                let changes = matches!(question, Question::Subscribe { .. } | Question::Unsubscribe { .. });
                let answer = self.answer_node(question);
                self.tell_interest();
                let backplane = self.backplane.clone();
                let told = envelope::Message::Answer { number, answer };
                if !changes {
                    return backplane.send(node, told);
                }
                // as here, what is published elsewhere after the answer comes to who has subscribed
                actix::spawn(async move {
                    backplane.announced().await;
                    backplane.send(node, told);
                });
            }
            FromNodes::Missed => self.look_for_missed(context),
            FromNodes::TopicChanged { topic, is_deleted } => {
                let topic = TopicId::from(topic.as_str());
                self.known.changed(&topic);
                if is_deleted {
                    self.handle(TopicDeleted(topic), context);
                }
            }
        }
        self.tell_interest();
    }
}
