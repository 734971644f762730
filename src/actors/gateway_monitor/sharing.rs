//! Which of several nodes probes the gateways, and what it tells the others.
//!
//! The node with a lease in the database probes, records what it finds, and sends it to the others. These show it, and announce the
//! changes to their own subscribers of `$status`. While they do not hear the prober, they read what it has recorded. The handle
//! renews the lease and reads the database (`handle/sharing`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{AsyncContext, Handler, Message};
use uuid::Uuid;

use super::{GatewayMonitor, Hours, Schedule, Trouble};
use crate::{
    cluster::{
        Backplane,
        envelope::Message as ToNode,
        findings::{AT_ONCE, Findings, FoundGateway, Hearing, PERIOD},
    },
    domain::{
        gateways::{Gateway, Source, Transition},
        ids::GatewayId,
    },
    metrics::Context,
    store::LEASE,
};

/// How long a node probes after it asked for the lease: it stops before another one can begin.
const PROBING: Duration = LEASE.saturating_sub(Duration::from_secs(1));

/// What the GatewayMonitor knows of the other nodes.
pub(super) struct Sharing {
    backplane: Arc<dyn Backplane>,
    /// the term of the lease, if this node has it, and until when it probes
    lease: Option<(i64, Instant)>,
    /// the number of the last message to the others
    number: u64,
    /// what they have not been told yet
    unsent: BTreeSet<GatewayId>,
    hearing: Hearing,
    /// this node is ending
    has_left: bool,
}

/// The lease was asked for at this time. It is this node's with this term, or another's.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct LeaseAnswered {
    pub(super) term: Option<i64>,
    pub(super) asked: Instant,
}

/// Whether the changes of status in the database are news, since nothing is heard of the prober.
#[derive(Message)]
#[rtype(result = "bool")]
pub(super) struct NeedsStored;

/// What the database says.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Stored {
    /// All gateways that were created over HTTP, if they have changed.
    pub(super) gateways: Option<Vec<Gateway>>,
    /// The last of the recent changes of each gateway.
    pub(super) transitions: BTreeMap<GatewayId, Transition>,
}

/// The prober has sent something.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Heard {
    pub(super) from: Uuid,
    pub(super) findings: Findings,
}

/// A node asks for all that the prober knows.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TellAll(pub(super) Uuid);

/// This node is ending: it probes no more, and has what is only in memory written.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct StopProbing;

impl Sharing {
    pub(super) fn new(backplane: Arc<dyn Backplane>) -> Self {
        Self {
            backplane,
            lease: None,
            number: 0,
            unsent: BTreeSet::new(),
            hearing: Hearing::default(),
            has_left: false,
        }
    }
}

impl GatewayMonitor {
    /// Whether this node probes the gateways.
    pub(super) fn leads(&self) -> bool {
        let now = self.clock().instant();
        self.sharing.as_ref().is_none_or(|sharing| sharing.lease.is_some_and(|(_, until)| now < until))
    }

    /// Begins to share the gateways: another node probes them until this one has the lease.
    pub(super) fn start_sharing(&mut self, context: &mut Context<Self>) {
        if self.sharing.is_some() {
            self.table.follow();
            context.run_interval(PERIOD, Self::tend_sharing);
        }
    }

    fn tend_sharing(&mut self, _: &mut Context<Self>) {
        if self.leads() {
            return self.tell_nodes();
        }
        self.follow();
        let now = self.clock().instant();
        let Some(sharing) = &self.sharing else { return };
        let prober = sharing.hearing.prober(now);
        self.board.set_prober(prober);
        if prober.is_none() {
            self.board.set_trouble(None);
        }
        self.ask_for_all();
    }

    /// Asks the prober for all that it knows, if something may be missing.
    fn ask_for_all(&self) {
        let Some(sharing) = &self.sharing else { return };
        if let Some(prober) = sharing.hearing.prober(self.clock().instant())
            && sharing.hearing.misses_something()
        {
            sharing.backplane.send(prober, ToNode::GetGateways);
        }
    }

    /// Begins to probe, or goes on.
    fn lead(&mut self, term: i64, until: Instant, context: &mut Context<Self>) {
        let was_leading = self.leads();
        let Some(sharing) = self.sharing.as_mut().filter(|sharing| !sharing.has_left) else { return };
        let before = sharing.lease.replace((term, until));
        if was_leading && before.is_some_and(|(before, _)| before == term) {
            return;
        }
        tracing::info!(term, "this node probes the gateways now");
        let this = sharing.backplane.incarnation();
        self.board.set_prober(Some(this));
        self.board.set_trouble(None);
        let effects = self.table.lead(self.clock().now());
        self.tell(effects, context);
        let now = self.clock().instant();
        self.table.ids().into_iter().for_each(|id| self.schedule.add(id, now));
        self.probe_due(context);
        self.tell_nodes();
    }

    /// Probes no more, if it did.
    pub(super) fn follow(&mut self) {
        let Some((term, _)) = self.sharing.as_mut().and_then(|sharing| sharing.lease.take()) else { return };
        tracing::info!(term, "this node does not probe the gateways any more");
        self.write_all_hours();
        self.hours = Hours::default();
        self.schedule = Schedule::new(self.period());
        self.trouble = Trouble::new(self.period(), self.board.clone());
        self.table.follow();
        self.board.set_prober(None);
        self.board.set_trouble(None);
    }

    /// Something has changed of a gateway that other nodes are to be told.
    pub(super) fn note_news(&mut self, id: GatewayId) {
        if let Some(sharing) = self.sharing.as_mut().filter(|sharing| sharing.lease.is_some()) {
            sharing.unsent.insert(id);
        }
    }

    /// Tells the other nodes what is new, and that this node probes.
    pub(super) fn tell_nodes(&mut self) {
        if !self.leads() {
            return;
        }
        let Some(sharing) = self.sharing.as_mut() else { return };
        let Some((term, _)) = sharing.lease else { return };
        let unsent: Vec<_> = std::mem::take(&mut sharing.unsent).into_iter().collect();
        // one without gateways is a sign of life
        let pieces = if unsent.is_empty() { vec![&unsent[..]] } else { unsent.chunks(AT_ONCE).collect() };
        for piece in pieces {
            sharing.number += 1;
            let (number, trouble) = (sharing.number, self.board.trouble());
            let found = |id: &GatewayId| Some(FoundGateway::new(*id, self.table.found(*id)?));
            let gateways = piece.iter().filter_map(found).collect();
            let findings = Findings { term, number, is_end: false, trouble, gateways };
            sharing.backplane.send_to_all(ToNode::Gateways(findings));
        }
    }

    /// Adds, changes and removes gateways, so that they are those of the database. Returns whether anything has changed.
    fn match_stored(&mut self, stored: &[Gateway], context: &mut Context<Self>) -> bool {
        let mut has_changed = false;
        let ids: BTreeSet<_> = stored.iter().map(|gateway| gateway.id).collect();
        for id in self.table.ids() {
            if self.table.known(id).is_some_and(|known| known.gateway.source == Source::Api) && !ids.contains(&id) {
                has_changed = true;
                self.remove(id, context);
            }
        }
        // twice, since with the first of several changes a gateway may seem to be behind itself
        for _ in 0..2 {
            for gateway in stored {
                let known = self.table.known(gateway.id).map(|known| known.gateway);
                // one of this node's configuration stays
                if known.is_none_or(|known| known.source == Source::Api && *known != *gateway) {
                    has_changed = true;
                    self.put(gateway.clone(), context);
                }
            }
        }
        has_changed
    }
}

impl Handler<LeaseAnswered> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, LeaseAnswered { term, asked }: LeaseAnswered, context: &mut Self::Context) {
        let until = asked + PROBING;
        match term {
            // an answer may come late, as when this process was stopped
            Some(term) if self.clock().instant() < until => self.lead(term, until, context),
            _ => self.follow(),
        }
    }
}

impl Handler<NeedsStored> for GatewayMonitor {
    type Result = bool;

    fn handle(&mut self, _: NeedsStored, _: &mut Self::Context) -> bool {
        let now = self.clock().instant();
        !self.leads() && self.sharing.as_ref().is_some_and(|sharing| sharing.hearing.prober(now).is_none())
    }
}

impl Handler<Stored> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Stored { gateways, transitions }: Stored, context: &mut Self::Context) {
        if let Some(stored) = gateways
            && self.match_stored(&stored, context)
            && let Some(sharing) = &mut self.sharing
        {
            sharing.hearing.ask_again();
            self.ask_for_all();
        }
        if self.leads() {
            return;
        }
        for (id, transition) in transitions {
            let effects = self.table.adopt_stored(id, transition);
            self.tell(effects, context);
        }
    }
}

impl Handler<Heard> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Heard { from, findings }: Heard, context: &mut Self::Context) {
        if self.leads() {
            return;
        }
        self.follow();
        let now = self.clock().instant();
        let Some(sharing) = &mut self.sharing else { return };
        let hearing = &mut sharing.hearing;
        let has_asked = hearing.prober(now) == Some(from) && hearing.misses_something();
        if !hearing.received(from, &findings, now) {
            return;
        }
        if !has_asked {
            self.ask_for_all();
        }
        self.board.set_prober(Some(from));
        self.board.set_trouble(findings.trouble);
        for (id, found) in findings.gateways.into_iter().filter_map(FoundGateway::read) {
            let effects = self.table.adopt(id, found);
            self.tell(effects, context);
        }
    }
}

impl Handler<TellAll> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, TellAll(node): TellAll, _: &mut Self::Context) {
        if !self.leads() {
            return;
        }
        // so that all of it has one number
        self.tell_nodes();
        let Some(sharing) = &self.sharing else { return };
        let Some((term, _)) = sharing.lease else { return };
        let ids = self.table.ids();
        let mut pieces = ids.chunks(AT_ONCE).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            let is_end = pieces.peek().is_none();
            let found = |id: &GatewayId| Some(FoundGateway::new(*id, self.table.found(*id)?));
            let gateways = piece.iter().filter_map(found).collect();
            let (number, trouble) = (sharing.number, self.board.trouble());
            sharing.backplane.send(node, ToNode::Gateways(Findings { term, number, is_end, trouble, gateways }));
            if is_end {
                return;
            }
        }
    }
}

impl Handler<StopProbing> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, _: StopProbing, _: &mut Self::Context) {
        self.write_all_hours();
        if let Some(sharing) = &mut self.sharing {
            sharing.has_left = true;
            self.follow();
        }
    }
}
