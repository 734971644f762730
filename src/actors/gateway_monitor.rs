//! The role of the GatewayMonitor is to know which gateways can be reached, by probing each once in a period.
//!
//! Handlers tell it of gateways that come, change and go, and read its [`Board`]; status sessions get the two-word answer
//! from it. It records changes and round trips with the Journal, and announces who came and went through the TopicManager.
//! When each gateway is probed and what its probes mean are `domain/gateways`; how a probe is done is `probe`. It has a
//! thread of its own, so that thousands of probes delay nobody's messages.

mod board;
mod messages;
mod probe;
mod trouble;
mod watchers;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Recipient, SpawnHandle};
use chrono::{DateTime, SubsecRound, Utc};

pub use board::Board;
use messages::Probed;
pub use messages::{Put, Record, RecordAll, Remove, Unwatch, Watch};
use probe::Prober;
use trouble::Trouble;
use watchers::Watchers;

use super::{
    journal::{Backlog, Journal, Write},
    topic_manager::Announce,
};
use crate::{
    delivery::Relays,
    domain::gateways::{Gateway, Gateways, Hour, Hours, News, Schedule, Status, Transition},
    protocol::{outbound::StatusEvent, wire},
    settings,
    store::{self, GatewayRecord},
};

/// Probes that are under way at a time (contract section 4).
const AT_A_TIME: usize = 64;

/// Between two frames to status sockets when nothing changes (contract section 4).
const REFRESH: Duration = Duration::from_secs(5);

/// Between two frames to status sockets when much changes.
const GATHERING: Duration = Duration::from_millis(100);

/// See the module.
pub struct GatewayMonitor {
    /// those to begin with, and how they were when the last process ended
    initial: Vec<(Gateway, Option<Transition>)>,
    table: Gateways,
    schedule: Schedule,
    hours: Hours,
    settings: settings::Probes,
    /// made where it runs, since its sockets belong to that thread's runtime
    prober: Option<Arc<Prober>>,
    /// how many probes are under way, at most [`AT_A_TIME`]
    probing: usize,
    trouble: Trouble,
    /// the one timer, and what it is set to
    timer: Option<(Instant, SpawnHandle)>,
    watchers: Watchers,
    /// the last frame to the watchers
    pushed: Instant,
    /// another frame is on its way to them
    pushing: bool,
    board: Arc<Board>,
    relays: Arc<Relays>,
    journal: Addr<Journal>,
    backlog: Backlog,
    announce: Recipient<Announce>,
}

impl GatewayMonitor {
    /// Goes on with these gateways, of which it knows how they were. Writes `board`, which is empty.
    pub fn new(
        gateways: Vec<Gateway>,
        mut before: HashMap<i64, Transition>,
        settings: settings::Probes,
        board: Arc<Board>,
        relays: Arc<Relays>,
        (journal, backlog): (Addr<Journal>, Backlog),
        announce: Recipient<Announce>,
    ) -> Self {
        let period = Duration::from_secs(settings.period_secs.into());
        let initial = gateways.into_iter().map(|gateway| {
            let before = before.remove(&gateway.id);
            (gateway, before)
        });
        Self {
            initial: initial.collect(),
            table: Gateways::default(),
            schedule: Schedule::new(period),
            hours: Hours::default(),
            settings,
            prober: None,
            probing: 0,
            trouble: Trouble::new(period, board.clone()),
            timer: None,
            watchers: Watchers::default(),
            pushed: Instant::now(),
            pushing: false,
            board,
            relays,
            journal,
            backlog,
            announce,
        }
    }

    /// Begins the probes that are due, as many as may be under way, and sets the timer to the next.
    fn probe_due(&mut self, context: &mut Context<Self>) {
        let Some(prober) = self.prober.clone() else { return };
        let now = Instant::now();
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
            let (prober, monitor, began) = (prober.clone(), context.address(), time());
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
        let timer = context.run_later(next.saturating_duration_since(Instant::now()), |monitor, context| {
            monitor.timer = None;
            monitor.probe_due(context);
        });
        self.timer = Some((next, timer));
    }

    /// Tells everyone concerned what is different.
    fn tell(&mut self, news: News, context: &mut Context<Self>) {
        let now = Instant::now();
        let mut records = Vec::new();
        let mut is_other = false;
        for (id, change) in news.changes {
            let Some(known) = self.table.known(id) else { continue };
            if change.event {
                let (status, reason) = (known.status.as_str(), known.reason.map(|reason| reason.as_str()));
                let name = &known.gateway.name;
                // at the first start this is thousands of lines that nobody needs
                match self.board.get(id).is_some_and(|before| before.status != Status::Unknown) {
                    true => tracing::info!(gateway = id, %name, status, reason, "gateway changed"),
                    false => tracing::debug!(gateway = id, %name, status, reason, "gateway changed"),
                }
                self.announce.do_send(Announce(StatusEvent::Gateway { known: known.clone(), at: time() }));
            }
            if let Some(transition) = change.transition {
                records.push(GatewayRecord::Transition { gateway: id, transition });
            }
            let status = known.status;
            let before = self.board.put(known).map_or(Status::Unknown, |before| before.status);
            is_other |= before.is_up() != status.is_up();
        }
        self.record(records);
        news.probe.into_iter().for_each(|id| self.schedule.at_once(id, now));
        if is_other {
            self.push_soon(context);
        }
    }

    fn record(&self, records: Vec<GatewayRecord>) {
        if !records.is_empty() {
            let records = records.into_iter().map(store::Record::Gateway).collect();
            self.journal.do_send(Write { records, patient: true });
        }
    }

    /// Tells the watchers: at once, or when the last frame is a moment old.
    fn push_soon(&mut self, context: &mut Context<Self>) {
        if self.pushing || self.watchers.is_empty() {
            return;
        }
        match GATHERING.checked_sub(self.pushed.elapsed()) {
            None => self.push(context),
            Some(wait) => self.push_later(wait, context),
        }
    }

    fn push_later(&mut self, wait: Duration, context: &mut Context<Self>) {
        self.pushing = true;
        context.run_later(wait, |monitor, context| monitor.push(context));
    }

    fn push(&mut self, context: &mut Context<Self>) {
        self.pushing = false;
        if self.watchers.is_empty() {
            return;
        }
        if self.relays.is_congested() {
            // the next frame says all that this one would have said
            self.push_later(GATHERING, context);
            return;
        }
        self.pushed = Instant::now();
        let frame = wire::text(&[self.board.statuses().as_bytes()]);
        for (worker, members) in &self.watchers.audience().workers {
            self.relays.publish(*worker, members.clone(), None, frame.clone());
        }
    }
}

/// The present time as exact as every database keeps it.
fn time() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

fn hours_of(gateway: i64, hours: impl IntoIterator<Item = Hour>) -> Vec<GatewayRecord> {
    hours.into_iter().map(|hour| GatewayRecord::Hour { gateway, hour }).collect()
}

impl Actor for GatewayMonitor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let timeout = Duration::from_secs(self.settings.timeout_secs.into());
        self.prober = Some(Arc::new(Prober::new(timeout, self.settings.icmp)));
        let now = Instant::now();
        for (gateway, before) in std::mem::take(&mut self.initial) {
            let id = gateway.id;
            let news = self.table.put(gateway, before, time());
            self.schedule.add(id, now);
            self.tell(news, context);
        }
        context.run_interval(REFRESH, |monitor, context| monitor.push_soon(context));
        self.probe_due(context);
    }
}

impl Handler<Probed> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Probed { id, version, began, outcome }: Probed, context: &mut Self::Context) {
        self.probing -= 1;
        self.schedule.done(id, Instant::now());
        let now = time();
        let news = match outcome {
            Ok(outcome) => {
                let news = self.table.probed(id, version, began, outcome, now);
                // else it is another gateway now, or none
                if news.changes.contains_key(&id) {
                    self.trouble.probed(id);
                    let rtt_ms = outcome.answer.ok().map(|rtt| rtt.as_secs_f64() * 1000.0);
                    let due = self.hours.add(id, began, rtt_ms, !self.backlog.is_busy());
                    self.record(hours_of(id, due));
                }
                news
            }
            Err(unable) => {
                // else it is another gateway now, or none
                if self.table.is_current(id, version) {
                    self.trouble.not_probed(id, unable);
                }
                self.table.not_probed(id, began, now)
            }
        };
        self.tell(news, context);
        self.probe_due(context);
    }
}

impl Handler<Put> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Put(gateway): Put, context: &mut Self::Context) {
        let id = gateway.id;
        let news = self.table.put(gateway, None, time());
        self.schedule.add(id, Instant::now());
        self.tell(news, context);
        self.probe_due(context);
    }
}

impl Handler<Remove> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Remove(id): Remove, context: &mut Self::Context) {
        let news = self.table.remove(id);
        self.schedule.remove(id);
        self.hours.remove(id);
        self.trouble.probed(id);
        if self.table.is_empty() {
            self.trouble.delayed(Duration::ZERO);
        }
        self.board.remove(id);
        // after what was recorded of it before
        self.record(vec![GatewayRecord::Deleted(id)]);
        self.tell(news, context);
        self.push_soon(context);
        self.probe_due(context);
    }
}

impl Handler<Record> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Record(id): Record, _: &mut Self::Context) {
        let hour = self.hours.record(id);
        self.record(hours_of(id, hour));
    }
}

impl Handler<RecordAll> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, _: RecordAll, _: &mut Self::Context) {
        let all = self.hours.record_all();
        self.record(all.into_iter().map(|(gateway, hour)| GatewayRecord::Hour { gateway, hour }).collect());
    }
}

impl Handler<Watch> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Watch(session): Watch, _: &mut Self::Context) {
        self.relays.deliver(&session, &[self.board.statuses().as_bytes()]);
        self.watchers.add(session);
    }
}

impl Handler<Unwatch> for GatewayMonitor {
    type Result = ();

    fn handle(&mut self, Unwatch(session): Unwatch, _: &mut Self::Context) {
        self.watchers.remove(&session);
    }
}
