//! The role of the GatewayMonitor is to know which gateways can be reached, by probing each once in a period.
//!
//! Handlers create, change and delete gateways through the handle [`Gateways`], and read their states there. The
//! GatewayMonitor sends status sessions the body of `GET /device_status/`, records changes and round trips with the Journal, and announces
//! changes of status through the TopicManager. `domain/gateways` decides when a gateway is probed and what a probe means;
//! `probe` does it. Of several nodes one probes, and tells the others (`sharing`). The actor has a thread of its own, so that thousands of probes do not delay messages.

mod board;
mod handle;
mod messages;
mod probe;
mod sharing;
mod trouble;
mod watchers;
mod webhooks;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, AsyncContext, Handler, Recipient, SpawnHandle};

use board::Board;
pub use handle::{Dependencies, GatewayChange, GatewayError, Gateways, NewGateway};
use messages::{Probed, Put, Remove, WriteAllHours, WriteHour};
pub use probe::allows_sockets as allows_icmp_sockets;
use probe::{Probe, Prober};
use sharing::Sharing;
use trouble::Trouble;
use watchers::{REFRESH, Watchers};
use webhooks::{is_news, tell_webhooks};

use super::{journal::Journal, topic_manager::Announce};
use crate::{
    clock::Clock,
    delivery::Relays,
    domain::{
        gateways::{Effects, Gateway, GatewayTable, Hour, Hours, Schedule, Status, Transition},
        ids::GatewayId,
    },
    metrics::{self, Context, METRICS, Measured},
    protocol::outbound::StatusEvent,
    settings,
    store::{self, GatewayRecord},
};

/// Probes that are under way at a time (contract section 4).
const AT_A_TIME: usize = 64;

/// See the module.
pub struct GatewayMonitor {
    /// those to begin with, and how they were when the last process ended
    initial: Vec<(Gateway, Option<Transition>)>,
    table: GatewayTable,
    schedule: Schedule,
    hours: Hours,
    settings: settings::Probes,
    /// made where it runs, since its sockets belong to that thread's runtime
    prober: Option<Arc<dyn Probe>>,
    /// how many probes are under way, at most [`AT_A_TIME`]
    probing: usize,
    trouble: Trouble,
    /// None without other nodes
    sharing: Option<Sharing>,
    /// the one timer, and what it is set to
    timer: Option<(Instant, SpawnHandle)>,
    watchers: Watchers,
    /// the last frame to the watchers
    pushed: Instant,
    /// another frame is on its way to them
    pushing: bool,
    board: Arc<Board>,
    neighbours: Neighbours,
}

/// Whom the GatewayMonitor tells what it finds, and by which clock.
struct Neighbours {
    relays: Arc<Relays>,
    journal: Journal,
    /// the TopicManager
    announce: Recipient<Announce>,
    clock: Clock,
}

impl GatewayMonitor {
    /// Goes on with these gateways, of which it knows how they were. Writes `board`, which is empty.
    fn new(
        gateways: Vec<Gateway>,
        mut before: HashMap<GatewayId, Transition>,
        settings: settings::Probes,
        board: Arc<Board>,
        neighbours: Neighbours,
        sharing: Option<Sharing>,
    ) -> Self {
        let period = period(&settings);
        let initial = gateways.into_iter().map(|gateway| {
            let before = before.remove(&gateway.id);
            (gateway, before)
        });
        Self {
            initial: initial.collect(),
            table: GatewayTable::default(),
            schedule: Schedule::new(period),
            hours: Hours::default(),
            settings,
            prober: None,
            probing: 0,
            trouble: Trouble::new(period, board.clone()),
            sharing,
            timer: None,
            watchers: Watchers::default(),
            pushed: neighbours.clock.instant(),
            pushing: false,
            board,
            neighbours,
        }
    }

    /// Begins the probes that are due, as many as may be under way, and sets the timer to the next.
    fn probe_due(&mut self, context: &mut Context<Self>) {
        let Some(prober) = self.prober.clone().filter(|_| self.leads()) else { return };
        let now = self.clock().instant();
        while self.probing < AT_A_TIME {
            let Some((id, due)) = self.schedule.take(now) else { break };
            let Some((gateway, version, is_down)) = self.table.to_probe(id) else {
                self.schedule.done(id, now);
                continue;
            };
            self.trouble.delayed(now - due);
            self.probing += 1;
            // one that is down needs no second chance to stay so
            let attempts = if is_down { 1 } else { 1 + self.settings.retries };
            let (prober, monitor, began) = (prober.clone(), context.address(), self.clock().now());
            // not a future of this actor, which would poll all of them at each of its messages
            actix::spawn(async move {
                let outcome = prober.probe(gateway.address.target(), attempts).await;
                monitor.do_send(Probed { id, version, began, outcome });
            });
        }
        if self.probing < AT_A_TIME {
            self.set_timer(context);
        }
    }

    fn set_timer(&mut self, context: &mut Context<Self>) {
        let Some(next) = self.schedule.next() else { return };
        if let Some((set, timer)) = self.timer {
            if set <= next {
                return;
            }
            context.cancel_future(timer);
        }
        let timer = context.run_later(next.saturating_duration_since(self.clock().instant()), |monitor, context| {
            monitor.timer = None;
            monitor.probe_due(context);
        });
        self.timer = Some((next, timer));
    }

    /// Tells everyone concerned what is different.
    fn tell(&mut self, effects: Effects, context: &mut Context<Self>) {
        let (now, leads) = (self.clock().instant(), self.leads());
        let mut records = Vec::new();
        let (mut is_other, mut is_urgent) = (false, false);
        for (id, change) in effects.changes {
            let Some(known) = self.table.known(id) else { continue };
            if change.event {
                let (status, reason) = (known.status.as_str(), known.reason.map(|reason| reason.as_str()));
                let name = &known.gateway.name;
                // at the first start this is thousands of lines that nobody needs, and with several nodes one log is enough
                if leads && self.board.get(id).is_some_and(|before| before.status != Status::Unknown) {
                    tracing::info!(gateway = %id, %name, status, reason, "gateway changed");
                } else {
                    tracing::debug!(gateway = %id, %name, status, reason, "gateway changed");
                }
                let at = if leads { self.clock().now() } else { known.since };
                self.neighbours.announce.do_send(Announce(StatusEvent::Gateway { known: known.clone(), at }));
            }
            if leads && is_news(&self.board, &known, change.event) {
                tell_webhooks(&self.neighbours.journal, &known, self.clock().now());
            }
            if let Some(transition) = change.transition {
                records.push(GatewayRecord::Transition { gateway: id, transition });
            }
            let status = known.status;
            let before = self.board.put(known).map_or(Status::Unknown, |before| before.status);
            is_other |= before.is_up() != status.is_up();
            is_urgent |= before != status;
            self.note_news(id);
        }
        self.record(records);
        effects.probe.into_iter().for_each(|id| self.schedule.at_once(id, now));
        if is_other {
            self.push_soon(context);
        }
        if is_urgent {
            self.tell_nodes();
        }
    }

    /// Adds or changes a gateway, which is probed at once.
    fn put(&mut self, gateway: Gateway, context: &mut Context<Self>) {
        let id = gateway.id;
        let effects = self.table.put(gateway, None, self.clock().now());
        if self.leads() {
            self.schedule.add(id, self.clock().instant());
        }
        self.tell(effects, context);
        self.probe_due(context);
    }

    fn remove(&mut self, id: GatewayId, context: &mut Context<Self>) {
        let effects = self.table.remove(id);
        self.schedule.remove(id);
        self.hours.remove(id);
        self.trouble.probed(id);
        if self.table.is_empty() {
            self.trouble.delayed(Duration::ZERO);
        }
        self.board.remove(id);
        if self.leads() {
            // after what was recorded of it before
            self.record(vec![GatewayRecord::Deleted(id)]);
        }
        self.tell(effects, context);
        self.push_soon(context);
        self.probe_due(context);
    }

    fn write_all_hours(&mut self) {
        let all = self.hours.record_all();
        self.record(all.into_iter().map(|(gateway, hour)| GatewayRecord::Hour { gateway, hour }).collect());
    }

    fn period(&self) -> Duration {
        period(&self.settings)
    }

    fn clock(&self) -> &Clock {
        &self.neighbours.clock
    }

    fn record(&self, records: Vec<GatewayRecord>) {
        if !records.is_empty() {
            let records = records.into_iter().map(store::Record::Gateway).collect();
            self.neighbours.journal.record_soon(records);
        }
    }
}

fn period(settings: &settings::Probes) -> Duration {
    Duration::from_secs(settings.period_secs.into())
}

fn hours_of(gateway: GatewayId, hours: impl IntoIterator<Item = Hour>) -> Vec<GatewayRecord> {
    hours.into_iter().map(|hour| GatewayRecord::Hour { gateway, hour }).collect()
}

impl Measured for GatewayMonitor {
    const NAME: metrics::labels::Actor = metrics::labels::Actor::GatewayMonitor;
}

impl Actor for GatewayMonitor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let timeout = Duration::from_secs(self.settings.timeout_secs.into());
        self.prober.get_or_insert_with(|| Arc::new(Prober::new(timeout, self.settings.icmp)));
        self.start_sharing(context);
        let now = self.clock().instant();
        for (gateway, before) in std::mem::take(&mut self.initial) {
            let id = gateway.id;
            let effects = self.table.put(gateway, before, self.clock().now());
            self.tell(effects, context);
            if self.leads() {
                self.schedule.add(id, now);
            } else if let Some(before) = before {
                let effects = self.table.adopt_stored(id, before);
                self.tell(effects, context);
            }
        }
        context.run_interval(REFRESH, |monitor, context| monitor.push_soon(context));
        self.probe_due(context);
    }
}

impl Handler<Probed> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Probed { id, version, began, outcome }: Probed, context: &mut Self::Context) {
        self.probing -= 1;
        if !self.leads() {
            // another node may have found something else since
            return self.follow();
        }
        self.schedule.done(id, self.clock().instant());
        let now = self.clock().now();
        let effects = match outcome {
            Ok(outcome) => {
                let effects = self.table.probed(id, version, began, outcome, now);
                // else it is another gateway now, or none
                if effects.changes.contains_key(&id) {
                    self.trouble.probed(id);
                    let rtt = outcome.answer.ok().map(|rtt| rtt.as_secs_f64());
                    rtt.iter().for_each(|rtt| METRICS.gateway_round_trip_seconds.observe(*rtt));
                    let rtt_ms = rtt.map(|rtt| rtt * 1000.0);
                    let due = self.hours.add(id, began, rtt_ms, !self.neighbours.journal.backlog().is_busy());
                    self.record(hours_of(id, due));
                }
                effects
            }
            Err(unable) => {
                // else it is another gateway now, or none
                if self.table.is_current(id, version) {
                    self.trouble.not_probed(id, unable);
                }
                self.table.not_probed(id, began, now)
            }
        };
        self.tell(effects, context);
        self.probe_due(context);
    }
}

impl Handler<Put> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Put(gateway): Put, context: &mut Self::Context) {
        self.put(gateway, context);
    }
}

impl Handler<Remove> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Remove(id): Remove, context: &mut Self::Context) {
        self.remove(id, context);
    }
}

impl Handler<WriteHour> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, WriteHour(id): WriteHour, _: &mut Self::Context) {
        let hour = self.hours.record(id);
        self.record(hours_of(id, hour));
    }
}

impl Handler<WriteAllHours> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, _: WriteAllHours, _: &mut Self::Context) {
        self.write_all_hours();
    }
}

#[cfg(test)]
mod tests;
