//! The role of the ClusterLink is to connect this node with the others, by way of Redis servers.
//!
//! On each server it keeps an inbox open, sends itself a ping every second, and renews the lease when a ping comes back. Each
//! pair of nodes uses one of the servers. What is known of the servers and the nodes is read through [`Cluster`], which is also
//! how this node asks the others for something.
//!
//! | file | what it does |
//! | --- | --- |
//! | `backplane` | what other nodes are asked and told, from any thread |
//! | `congestion` | tells the others whether publications wait here |
//! | `handle` | what is known of this node and the others, from any thread |
//! | `server` | what is known of the link to each server |
//! | `lease` | the inbox and the lease at each server |
//! | `traffic` | collects what goes to each node during a tick, and publishes it |
//! | `presence` | tells the others who is connected here, and learns who is connected there |
//! | `direct` | messages to devices at other nodes |
//! | `rooms` | events of rooms with sockets at other nodes |
//! | `topics` | publications for subscribers at other nodes, and questions of one node to another |

mod backplane;
mod congestion;
mod direct;
mod handle;
mod lease;
mod presence;
mod rooms;
mod server;
mod topics;
mod traffic;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, Addr, ArbiterHandle, AsyncContext, Handler, Message, Recipient};
use uuid::Uuid;

use self::{
    congestion::Congestion, direct::Directs, lease::Link, presence::Announcements, rooms::Rooms, topics::Topics,
    traffic::Traffic,
};
pub use self::{handle::Cluster, server::ServerStatus};
use super::{
    HealthCheck,
    command_dispatcher::CommandsFromNodes,
    directory::Directory,
    gateway_monitor::Gateways,
    message_manager::Bell,
    registry::ClientsElsewhere,
    room_manager::{self, RoomNews},
    topic_manager::FromNodes,
};
use crate::{
    auth::accounts::Accounts,
    cluster::{
        envelope::{self, Envelope, Question},
        peers::{Arrival, Peers},
    },
    delivery::Relays,
    domain::{
        ids::DeliveryId,
        messages::{MessageState, Party, change::MessageUpdate},
    },
    metrics::{self, Context, METRICS, Measured},
};

/// Capacity of the mailbox. When it is full, inboxes are not read.
const MAILBOX: usize = 1024;

/// The period in which what is late is looked for.
const TENDING: Duration = Duration::from_millis(100);

pub struct ClusterLink {
    cluster: Arc<handle::Shared>,
    neighbours: Option<Neighbours>,
    /// none after the node has left
    links: Vec<Link>,
    peers: Peers,
    traffic: Traffic,
    announcements: Announcements,
    directs: Directs,
    topics: Topics,
    rooms: Rooms,
    congestion: Congestion,
}

/// What the ClusterLink uses and tells; it links itself to the servers once it knows that.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct Neighbours {
    /// Who is connected here.
    pub directory: Arc<Directory>,
    /// For messages from other nodes.
    pub relays: Arc<Relays>,
    /// Is told who is connected elsewhere.
    pub clients_elsewhere: Recipient<ClientsElsewhere>,
    /// Is told what other nodes publish and ask.
    pub topics: Recipient<FromNodes>,
    /// Is told what other nodes say and ask about commands.
    pub commands: Recipient<CommandsFromNodes>,
    /// Is told of acknowledged messages at other nodes.
    pub messages: Recipient<Bell>,
    /// Is told what happens in rooms at other nodes.
    pub rooms: Recipient<RoomNews>,
    /// Those that have handled all that they were told when they answer, in this order.
    pub settled: [Recipient<HealthCheck>; 3],
    /// Notified when accounts have changed.
    pub accounts: Arc<Accounts>,
    /// Told what other nodes find of gateways, and that they have changed some.
    pub gateways: Gateways,
}

/// An envelope came through an inbox.
#[derive(Message)]
#[rtype(result = "()")]
struct Arrived {
    link: usize,
    envelope: Vec<u8>,
}

impl ClusterLink {
    fn start(arbiter: &ArbiterHandle, cluster: Arc<handle::Shared>) -> Addr<Self> {
        Context::start_in_arbiter(arbiter, |_| {
            let links = cluster.servers.iter().map(|server| Link::new(server, &cluster.backlog)).collect();
            Self {
                cluster,
                neighbours: None,
                links,
                peers: Peers::default(),
                traffic: Traffic::default(),
                announcements: Announcements::default(),
                directs: Directs::default(),
                topics: Topics::default(),
                rooms: Rooms::default(),
                congestion: Congestion::default(),
            }
        })
    }

    fn incarnation(&self) -> Uuid {
        self.cluster.node.incarnation
    }

    /// Handles a message of another node, or one of this node's own pings.
    fn on_message(&mut self, link: usize, from: Uuid, message: envelope::Message, context: &mut Context<Self>) {
        match message {
            // from itself alone
            envelope::Message::Ping(_) => tracing::debug!(%from, link, "a ping from another node"),
            envelope::Message::Alive => {}
            envelope::Message::Leaving => self.cluster.elsewhere.set_leaving(from, true),
            envelope::Message::Client(state) => self.client_changed_elsewhere(from, state),
            envelope::Message::GetSnapshot => self.send_snapshot(from, context),
            envelope::Message::SnapshotBegins => self.peers.snapshot_begins(from),
            envelope::Message::SnapshotEnds => self.snapshot_ended(from),
            envelope::Message::Barrier(number) => self.pass(from, number, context),
            envelope::Message::Passed(number) => self.passed(from, number, context),
            envelope::Message::Direct { number, to, from: origin, text } => {
                self.deliver(from, number, (to, origin), &text, context);
            }
            envelope::Message::Outcome { number, is_delivered } => self.directs.ended(number, is_delivered),
            envelope::Message::AccountsChanged => {
                if let Some(neighbours) = &self.neighbours {
                    neighbours.accounts.look_now();
                }
            }
            envelope::Message::Gateways(findings) => self.with_gateways(|gateways| gateways.heard(from, findings)),
            envelope::Message::GetGateways => self.with_gateways(|gateways| gateways.tell_all(from)),
            envelope::Message::GatewaysChanged => self.with_gateways(Gateways::look_now),
            envelope::Message::Command(message) => self.tell_commands(CommandsFromNodes::Said { node: from, message }),
            envelope::Message::Ask {
                number,
                question: question @ (Question::WriteCommands | Question::CancelCommand(_)),
            } => {
                self.tell_commands(CommandsFromNodes::Asked { node: from, number, question });
            }
            envelope::Message::DeliveryWaits(to) => self.ring(Bell::Waiting(to.into())),
            envelope::Message::DeliveryEnded { id, from: (sender, incarnation), to, msgid, state, is_told } => {
                // another version may know other states
                let Some(state) = MessageState::ALL.into_iter().find(|known| known.as_str() == state) else { return };
                let from = Party { client: sender.into(), incarnation };
                let update = MessageUpdate { id: DeliveryId(id), from, to: to.into(), msgid, state };
                self.ring(Bell::Ended { update, is_told });
            }
            envelope::Message::RoomEvent { room, sequence, event, message, comes_online } => {
                let event = room_manager::Event { event, message, comes_online };
                self.tell_rooms(RoomNews::Event { room, sequence, event });
            }
            envelope::Message::Occupant { occupant, is_told } => self.occupant_changed(from, occupant, is_told),
            envelope::Message::Congested(is_congested) => {
                self.cluster.elsewhere.congested().put(from, is_congested, Instant::now());
            }
            envelope::Message::Typing { room, who } => self.tell_rooms(RoomNews::Typing { room, who }),
            about_topics => self.on_topic_message(from, about_topics),
        }
    }

    fn tell_commands(&self, what: CommandsFromNodes) {
        if let Some(neighbours) = &self.neighbours {
            neighbours.commands.do_send(what);
        }
    }

    fn ring(&self, bell: Bell) {
        if let Some(neighbours) = &self.neighbours {
            neighbours.messages.do_send(bell);
        }
    }

    fn with_gateways(&self, tell: impl FnOnce(&Gateways)) {
        if let Some(neighbours) = &self.neighbours {
            tell(&neighbours.gateways);
        }
    }

    /// Looks for what is late.
    fn tend(&mut self, context: &mut Context<Self>) {
        let (now, patience) = (Instant::now(), self.cluster.patience);
        self.directs.give_up(now, patience);
        self.announcements.give_up(now, patience);
        self.give_up_topics(now, patience);
        self.cluster.elsewhere.congested().give_up(now);
        self.tell_congestion(context);
        for node in self.peers.due(now) {
            self.push(node, &envelope::Message::GetSnapshot, context);
            self.repeat_barriers(node, context);
        }
    }
}

impl Measured for ClusterLink {
    const NAME: metrics::labels::Actor = metrics::labels::Actor::ClusterLink;
}

impl Actor for ClusterLink {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Neighbours> for ClusterLink {
    type Result = ();

    fn handle(&mut self, neighbours: Neighbours, context: &mut Self::Context) {
        self.neighbours = Some(neighbours);
        self.show_completeness();
        for link in 0..self.links.len() {
            self.open(link, context);
        }
        context.run_interval(crate::domain::lease::PING, |link, context| link.ping(context));
        context.run_interval(TENDING, |link, context| link.tend(context));
    }
}

impl Handler<Arrived> for ClusterLink {
    type Result = ();

    fn handle(&mut self, Arrived { link, envelope }: Arrived, context: &mut Self::Context) {
        if self.links.is_empty() {
            return;
        }
        let Envelope { from, number, messages } = match Envelope::decode(&envelope, self.cluster.node.envelopes) {
            Ok(envelope) => envelope,
            Err(error) => {
                METRICS.cluster_envelope_errors_total.inc();
                let refused = self.links[link].server.refused();
                tracing::debug!(%error, refused, "what came through the inbox is no envelope");
                return;
            }
        };
        METRICS.cluster_envelopes_received_total.inc();
        if from == self.incarnation() {
            for message in messages {
                if let envelope::Message::Ping(number) = message {
                    self.returned(link, number, context);
                }
            }
            return;
        }
        match self.peers.received(from, number) {
            // it may just have started
            Arrival::FromStranger => return self.look_for_nodes(link, context),
            Arrival::AfterGap => {
                self.show_completeness();
                self.tend(context);
            }
            Arrival::InOrder => {}
        }
        self.announcements.heard(from);
        for message in messages {
            self.on_message(link, from, message, context);
        }
        self.tell_congestion(context);
    }
}
