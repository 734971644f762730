//! Topics with subscribers at several nodes, and questions of one node to another.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use actix::{Handler, Message};
use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::ClusterLink;
use crate::{
    actors::topic_manager::FromNodes,
    cluster::{
        Origin,
        envelope::{self, Answer, Question},
    },
    domain::{ids::TopicId, topics::history::Kept},
    metrics::Context,
};

/// Topics, and with the flag patterns, of which the number of subscribers at this node has changed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct InterestChanged(pub Vec<((String, bool), usize)>);

/// A publication for the subscribers at other nodes.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Publish {
    pub number: u64,
    pub topic: TopicId,
    pub from: Origin,
    pub kept: Option<Kept>,
    pub text: Bytes,
}

/// A question to another node.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Ask {
    pub node: Uuid,
    pub question: Question,
    pub answer: oneshot::Sender<Answer>,
}

/// A message to other nodes.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Send {
    pub to: To,
    pub message: envelope::Message,
}

/// The nodes that get a message.
pub(super) enum To {
    /// This one.
    Node(Uuid),
    /// All others.
    All,
    /// These, and those of which not everything is known.
    SomeAndUnknown(Vec<Uuid>),
}

/// What has subscribers here, and what waits for answers of other nodes.
#[derive(Default)]
pub(super) struct Topics {
    /// what has subscribers here
    interests: HashMap<(String, bool), u32>,
    changed: HashSet<(String, bool)>,
    /// publications by their numbers
    publications: HashMap<u64, Publication>,
    questions: HashMap<u64, Asked>,
    last_question: u64,
}

/// A question that has no answer yet.
struct Asked {
    node: Uuid,
    since: Instant,
    /// the other node itself waits for all others before it answers
    is_long: bool,
    answer: oneshot::Sender<Answer>,
}

/// A publication that has not reached all nodes yet.
struct Publication {
    nodes: HashSet<Uuid>,
    clients: usize,
    since: Instant,
}

impl ClusterLink {
    pub(super) fn tell_topics(&self, what: FromNodes) {
        if let Some(neighbours) = &self.neighbours {
            neighbours.topics.do_send(what);
        }
    }

    /// Sends what has got or lost subscribers during the tick to all peers.
    pub(super) fn announce_interests(&mut self, nodes: &[Uuid], context: &mut Context<Self>) {
        for id in std::mem::take(&mut self.topics.changed) {
            let subscribers = self.topics.interests.get(&id).copied().unwrap_or_default();
            let (id, is_pattern) = id;
            let message = envelope::Message::Interest { id, is_pattern, subscribers };
            nodes.iter().for_each(|node| self.push(*node, &message, context));
        }
    }

    /// Sends a peer all that has subscribers here.
    pub(super) fn send_interests(&mut self, node: Uuid, context: &mut Context<Self>) {
        for ((id, is_pattern), subscribers) in self.topics.interests.clone() {
            self.push(node, &envelope::Message::Interest { id, is_pattern, subscribers }, context);
        }
    }

    /// A node has handled a publication, or has left: then it has reached nobody there.
    pub(super) fn publication_reached(&mut self, number: u64, node: Uuid, clients: usize) {
        let Some(publication) = self.topics.publications.get_mut(&number) else { return };
        if publication.nodes.remove(&node) {
            publication.clients += clients;
        }
        if publication.nodes.is_empty() {
            let clients = publication.clients;
            self.topics.publications.remove(&number);
            self.tell_topics(FromNodes::Reached { number, clients });
        }
    }

    /// The answer to a question has come.
    pub(super) fn answered(&mut self, number: u64, answer: Answer) {
        if let Some(asked) = self.topics.questions.remove(&number) {
            // whoever asked may be gone
            let _ = asked.answer.send(answer);
        }
    }

    /// Nothing more comes from a node.
    pub(super) fn forget_topics(&mut self, node: Uuid) {
        self.topics.questions.retain(|_, asked| asked.node != node);
        for number in self.topics.publications.keys().copied().collect::<Vec<_>>() {
            self.publication_reached(number, node, 0);
        }
    }

    /// Nodes that have not answered in time have reached nobody, as far as is known.
    pub(super) fn give_up_topics(&mut self, now: Instant, patience: Duration) {
        self.topics.questions.retain(|_, asked| {
            let patience = if asked.is_long { 2 * patience } else { patience };
            now.duration_since(asked.since) < patience
        });
        let is_late = |publication: &Publication| now.duration_since(publication.since) >= patience;
        let late: Vec<_> = self.topics.publications.extract_if(|_, publication| is_late(publication)).collect();
        for (number, Publication { clients, .. }) in late {
            self.tell_topics(FromNodes::Reached { number, clients });
        }
    }

    /// Handles a message that is about topics.
    pub(super) fn on_topic_message(&mut self, from: Uuid, message: envelope::Message) {
        match message {
            envelope::Message::Publication { from: origin, kept: None, .. } if self.is_outdated(origin) => {}
            envelope::Message::Publication { number, topic, from: origin, kept, text } => {
                let sender = origin.client;
                self.tell_topics(FromNodes::Published { node: from, number, topic, sender, kept, text });
            }
            envelope::Message::Subscriptions { client, ids } => {
                self.announcements.moved();
                self.tell_topics(FromNodes::Subscriptions { node: from, client, ids });
            }
            envelope::Message::Ask { number, question } => {
                self.tell_topics(FromNodes::Asked { node: from, number, question });
            }
            envelope::Message::TopicChanged { topic, is_deleted } => {
                self.tell_topics(FromNodes::TopicChanged { topic, is_deleted });
            }
            envelope::Message::Interest { id, is_pattern, subscribers } => {
                let counts = self.peers.interest_changed(from, &id, is_pattern, subscribers);
                if counts {
                    self.cluster.elsewhere.put_interest(from, &id, is_pattern, subscribers);
                }
            }
            envelope::Message::Reached { number, clients } => {
                self.publication_reached(number, from, clients as usize);
            }
            envelope::Message::Answer { number, answer } => self.answered(number, answer),
            _ => {}
        }
    }
}

impl Handler<InterestChanged> for ClusterLink {
    type Result = ();

    fn handle(&mut self, InterestChanged(changed): InterestChanged, context: &mut Self::Context) {
        for (id, count) in changed {
            if count == 0 {
                self.topics.interests.remove(&id);
            } else {
                self.topics.interests.insert(id.clone(), u32::try_from(count).unwrap_or(u32::MAX));
            }
            self.topics.changed.insert(id);
        }
        self.schedule(context);
    }
}

impl Handler<Publish> for ClusterLink {
    type Result = ();

    fn handle(&mut self, publish: Publish, context: &mut Self::Context) {
        let Publish { number, topic, from, kept, text } = publish;
        let nodes = self.cluster.elsewhere.subscribers(topic.as_str()).into_keys();
        let nodes: HashSet<_> = nodes.filter(|node| self.peers.version(*node).is_some()).collect();
        if nodes.is_empty() {
            return self.tell_topics(FromNodes::Reached { number, clients: 0 });
        }
        let topic = topic.as_str().to_owned();
        let message = envelope::Message::Publication { number, topic, from, kept, text };
        for node in &nodes {
            self.push(*node, &message, context);
        }
        self.topics.publications.insert(number, Publication { nodes, clients: 0, since: Instant::now() });
    }
}

impl Handler<Ask> for ClusterLink {
    type Result = ();

    fn handle(&mut self, Ask { node, question, answer }: Ask, context: &mut Self::Context) {
        // no answer at once, rather than after the time for one
        if self.peers.version(node).is_none_or(|version| question.since() > version) {
            return;
        }
        self.topics.last_question += 1;
        let number = self.topics.last_question;
        let is_long = matches!(question, Question::Subscribe { .. });
        self.topics.questions.insert(number, Asked { node, since: Instant::now(), is_long, answer });
        self.push(node, &envelope::Message::Ask { number, question }, context);
    }
}

impl Handler<Send> for ClusterLink {
    type Result = ();

    fn handle(&mut self, Send { to, message }: Send, context: &mut Self::Context) {
        let nodes = match to {
            To::Node(node) => vec![node],
            To::All => self.peers.nodes().collect(),
            To::SomeAndUnknown(mut nodes) => {
                nodes.extend(self.peers.incomplete());
                nodes.sort_unstable();
                nodes.dedup();
                nodes
            }
        };
        for node in nodes {
            self.push(node, &message, context);
        }
    }
}
