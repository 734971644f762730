//! Commands for clients of other nodes, and commands of other nodes for clients here.
//!
//! The node at which a command was given owns it. It hands it over to the node with the target's socket, which says whether it was
//! sent, passes on what the client says, and tells when the socket is lost.

use std::{sync::Arc, time::Instant};

use actix::{Handler, Message};
use bytes::Bytes;
use uuid::Uuid;

use super::{CommandDispatcher, Reply, ReplyContent};
use crate::{
    cluster::{
        elsewhere::Place,
        envelope::{self, Answer, CommandMessage, HandOver, Question, ReplyText},
    },
    delivery::SessionHandle,
    domain::{
        commands::{Known, LostCommands},
        ids::{ClientId, CommandId},
    },
    metrics::Context,
    protocol::outbound,
};

/// What happens at other nodes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum CommandsFromNodes {
    /// A node says something about a command.
    Said {
        /// The node.
        node: Uuid,
        /// What it says.
        message: CommandMessage,
    },
    /// A node asks something.
    Asked {
        /// The node.
        node: Uuid,
        /// For the answer.
        number: u64,
        /// What it asks.
        question: Question,
    },
    /// Clients have sockets at other nodes.
    Connected(Vec<ClientId>),
    /// A node has left.
    Left(Uuid),
}

/// Where the socket of a client is that takes commands.
pub(super) enum Destination {
    Here(SessionHandle),
    /// At another node.
    At(Uuid),
    Nowhere,
    /// Perhaps at a node that cannot be asked.
    Unknown,
}

impl CommandDispatcher {
    pub(super) fn destination(&self, client: ClientId) -> Destination {
        if let Some(session) = self.directory.commandable(client) {
            return Destination::Here(session);
        }
        match self.backplane.commandable(client) {
            Place::Node(node) => Destination::At(node),
            Place::Nowhere => Destination::Nowhere,
            Place::Unknown => Destination::Unknown,
        }
    }

    /// Whether there are no other nodes.
    pub(super) fn is_alone(&self) -> bool {
        self.backplane.incarnation().is_nil()
    }

    /// Whether this node owns its commands for sure. Another one may have taken them over if it was stopped for long.
    pub(super) fn is_owner(&self) -> bool {
        self.is_alone() || self.store.has_session()
    }

    fn say(&self, node: Uuid, message: CommandMessage) {
        self.backplane.send(node, envelope::Message::Command(message));
    }

    /// Hands the next command that waits for a client over to the node with its socket.
    pub(super) fn hand_over_next(&mut self, client: ClientId, node: Uuid, context: &mut Context<Self>) {
        let Some(id) = self.pending.next_to_hand_over(client) else { return };
        if self.backplane.is_congested() || !self.is_owner() {
            return self.try_again_later(client, context);
        }
        self.hand_over_one(id, client, node);
        self.set_timer(context);
    }

    fn hand_over_one(&mut self, id: CommandId, client: ClientId, node: Uuid) {
        if let Some(incarnation) = self.pending.hand_over(id, client, node, Instant::now()) {
            self.hand_over(id, node, vec![(client.uuid(), incarnation)]);
        }
    }

    /// Hands a command over for targets at another node.
    pub(super) fn hand_over(&self, id: CommandId, node: Uuid, to: Vec<(Uuid, i64)>) {
        let Some(command) = self.pending.command(id) else { return };
        let (text, may_wait) = (Bytes::from(outbound::command(command)), command.deliver_until.is_some());
        self.say(node, CommandMessage::HandOver { command: id.uuid(), to, text, may_wait });
    }

    /// Tells the nodes of a target that a command is cancelled.
    pub(super) fn cancel_elsewhere(&self, id: CommandId, targets: &[(Uuid, ClientId)]) {
        for (node, client) in targets {
            self.say(*node, CommandMessage::Cancel { command: id.uuid(), client: client.uuid() });
        }
    }

    /// Passes on what a client says about a command that is not handled here. An answer to one that is not known is told to all
    /// nodes: the client may have moved here since, or the command's node has changed. Its bytes are charged to the client.
    pub(super) fn pass_on(&mut self, reply: Reply) {
        let Reply { client, command, content } = reply;
        let (known, content, is_result) = match content {
            ReplyContent::Result { result, failed } => {
                (self.for_others.close(command, client), ReplyText::Result(result.to_string(), failed), true)
            }
            ReplyContent::Progress(progress) => {
                (self.for_others.known(command, client), ReplyText::Progress(progress.to_string()), false)
            }
        };
        let len = match &content {
            ReplyText::Result(text, _) | ReplyText::Progress(text) => text.len(),
        };
        let message = CommandMessage::Reply { command: command.uuid(), client: client.uuid(), content };
        match known {
            Known::Of(node) if self.backplane.nodes().contains(&node) => self.say(node, message),
            Known::Of(_) | Known::Not
                if is_result && !self.is_alone() && self.store.charge_stored(client, len).is_ok() =>
            {
                self.backplane.send_to_all(envelope::Message::Command(message));
            }
            _ => self.drop_reply(client, command),
        }
    }

    /// Sockets of a client are lost to which commands of other nodes were sent.
    pub(super) fn tell_lost(&self, client: ClientId, lost: LostCommands) {
        for (node, commands) in lost {
            let commands = commands.into_iter().map(CommandId::uuid).collect();
            self.say(node, CommandMessage::SocketLost { client: client.uuid(), commands });
        }
    }

    /// Another node says something about a command.
    fn on_said(&mut self, node: Uuid, message: CommandMessage, context: &mut Context<Self>) {
        let now = self.clock.now();
        match message {
            CommandMessage::HandOver { command, to, text, may_wait } => {
                let send = |(client, incarnation): (Uuid, i64)| {
                    let outcome = self.send_for(node, command.into(), client.into(), incarnation, &text, may_wait);
                    (client, outcome)
                };
                let outcomes = to.into_iter().map(send).collect();
                self.say(node, CommandMessage::HandedOver { command, outcomes });
            }
            CommandMessage::HandedOver { command, outcomes } => {
                for (client, outcome) in outcomes {
                    self.handed_over(node, command.into(), client.into(), outcome, context);
                }
            }
            CommandMessage::Reply { command, client, content } => {
                let content = match content {
                    ReplyText::Result(result, failed) => ReplyContent::Result { result: result.into(), failed },
                    ReplyText::Progress(progress) => ReplyContent::Progress(progress.into()),
                };
                let reply = Reply { client: client.into(), command: command.into(), content };
                if let Some(Reply { client, command, .. }) = self.on_reply(reply, context) {
                    self.drop_reply(client, command);
                }
            }
            CommandMessage::SocketLost { client, commands } => {
                let (client, commands) = (client.into(), commands.into_iter().map(CommandId::from));
                let updates = self.pending.session_lost_at(node, client, commands, now);
                self.record_and_tell(updates);
                self.send_queued_to(client, context);
            }
            CommandMessage::Cancel { command, client } => {
                let (command, client) = (CommandId::from(command), ClientId::from(client));
                let session = self.directory.commandable(client);
                if let Some(session) = session
                    && self.for_others.session(command, client) == Some(session.id())
                {
                    self.relays.deliver(&session, &[outbound::cancel(command).as_bytes()]);
                    self.for_others.close(command, client);
                }
            }
        }
    }

    /// Sends a command of another node to a client here.
    fn send_for(
        &mut self,
        owner: Uuid,
        command: CommandId,
        client: ClientId,
        incarnation: i64,
        text: &Bytes,
        may_wait: bool,
    ) -> HandOver {
        let Some(session) = self.directory.commandable(client) else { return HandOver::Absent };
        if session.incarnation() > incarnation {
            return HandOver::Deleted(session.incarnation());
        }
        // handed over once more: its owner has missed that, or has ended, and this is the next one
        if may_wait && self.for_others.was_sent(owner, command, client, session.id()) {
            return HandOver::Sent;
        }
        if may_wait && !self.relays.has_room(&session, text.len()) {
            return HandOver::NoRoom;
        }
        // that of an earlier registration is about to be closed
        if session.incarnation() < incarnation || !self.relays.deliver(&session, &[text]) {
            return HandOver::Absent;
        }
        let lost = self.for_others.sent(owner, command, client, session.id(), may_wait);
        self.tell_lost(client, lost);
        HandOver::Sent
    }

    /// What became of a command that was handed over to another node.
    fn handed_over(
        &mut self,
        node: Uuid,
        id: CommandId,
        client: ClientId,
        outcome: HandOver,
        context: &mut Context<Self>,
    ) {
        let now = self.clock.now();
        if outcome == HandOver::Sent {
            let update = self.pending.sent_at(id, client, node, now);
            self.record_and_tell(update);
            return self.send_queued_to(client, context);
        }
        let Some(may_wait) = self.pending.not_sent_at(id, client, node) else {
            // it has ended meanwhile, and others have waited for it
            return self.send_queued_to(client, context);
        };
        match (outcome, self.destination(client)) {
            (HandOver::Deleted(incarnation), _) => {
                let updates = self.pending.end_earlier(client, incarnation, now);
                self.record_and_tell(updates);
                self.send_queued_to(client, context);
            }
            // the client has moved meanwhile
            (_, Destination::Here(session)) => self.send_queued(client, &session, context),
            (_, Destination::At(other)) if other != node && may_wait => self.hand_over_next(client, other, context),
            (_, Destination::At(other)) if other != node => self.hand_over_one(id, client, other),
            // its node has no room, or this one will hear soon where the client is
            (_, Destination::At(_) | Destination::Unknown) if may_wait => self.try_again_later(client, context),
            _ => {}
        }
        if may_wait {
            self.end_if_deleted(id, client, context);
        } else if self.pending.is_queued(id, client) {
            let update = self.pending.offline(id, client, None, now);
            self.record_and_tell(update);
        }
        self.set_timer(context);
    }

    /// Another node asks something. The answer follows when what happened before is written.
    fn on_asked(&mut self, node: Uuid, number: u64, question: Question, context: &mut Context<Self>) {
        let is_done = match question {
            Question::CancelCommand(id) => self.cancel(id.into(), context),
            _ => {
                self.record_all_begun();
                true
            }
        };
        let (journal, backplane) = (self.journal.clone(), Arc::clone(&self.backplane));
        actix::spawn(async move {
            let is_written = journal.flush().await.is_ok();
            let answer = if is_done && is_written { Answer::Yes } else { Answer::No };
            backplane.send(node, envelope::Message::Answer { number, answer });
        });
    }
}

impl Handler<CommandsFromNodes> for CommandDispatcher {
    type Result = ();

    fn handle(&mut self, message: CommandsFromNodes, context: &mut Self::Context) {
        match message {
            CommandsFromNodes::Said { node, message } => self.on_said(node, message, context),
            CommandsFromNodes::Asked { node, number, question } => self.on_asked(node, number, question, context),
            CommandsFromNodes::Connected(clients) => {
                let waited_for: Vec<_> =
                    clients.into_iter().filter(|client| self.pending.has_queued(*client)).collect();
                waited_for.into_iter().for_each(|client| self.send_queued_to(client, context));
            }
            CommandsFromNodes::Left(node) => {
                let updates = self.pending.node_lost(node, self.clock.now());
                let clients: Vec<_> = updates.iter().map(|update| update.target.client).collect();
                self.record_and_tell(updates);
                clients.into_iter().for_each(|client| self.send_queued_to(client, context));
                // somebody has to go on with its commands
                self.node_left.notify_one();
            }
        }
    }
}
