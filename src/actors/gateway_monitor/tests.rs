use std::{collections::HashSet, sync::Mutex};

use actix::{Addr, Arbiter};
use async_trait::async_trait;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    probe::Unable,
    sharing::{Heard, LeaseAnswered, StopProbing, TellAll},
    *,
};
use crate::{
    cluster::{
        Backplane,
        envelope::Message as ToNode,
        findings::{self, FoundGateway},
    },
    domain::gateways::{Address, Outcome, Reason, Source, Target},
    settings::built_in,
    store::tests::{Fixture, start},
};

/// What probes of each port find; of others that they are answered.
#[derive(Default)]
struct Findings {
    silent: Mutex<HashSet<u16>>,
    unable: Mutex<Option<Unable>>,
}

#[async_trait(?Send)]
impl Probe for Findings {
    async fn probe(&self, target: &Target, attempts: u32) -> Result<Outcome, Unable> {
        if let Some(unable) = self.unable.lock().unwrap().clone() {
            return Err(unable);
        }
        let Target::Tcp(_, port) = target else { panic!("{target:?}") };
        Ok(if self.silent.lock().unwrap().contains(port) {
            Outcome { lost: attempts, answer: Err(Reason::Timeout) }
        } else {
            Outcome { lost: 0, answer: Ok(Duration::from_millis(5)) }
        })
    }
}

/// In place of the TopicManager.
struct Listener(mpsc::UnboundedSender<(i64, Status)>);

impl Actor for Listener {
    type Context = actix::Context<Self>;
}

impl Handler<Announce> for Listener {
    type Result = ();

    fn handle(&mut self, Announce(event): Announce, _: &mut Self::Context) {
        let StatusEvent::Gateway { known, .. } = event else { panic!() };
        self.0.send((known.gateway.id.0, known.status)).unwrap();
    }
}

/// In place of other nodes: what they were sent.
#[derive(Default)]
struct OtherNodes(Mutex<Vec<ToNode>>);

impl OtherNodes {
    /// The gateways that they were told of.
    fn told(&self) -> Vec<FoundGateway> {
        let messages = std::mem::take(&mut *self.0.lock().unwrap());
        let findings = messages.into_iter().map(|message| match message {
            ToNode::Gateways(findings) => findings.gateways,
            other => panic!("{other:?}"),
        });
        findings.flatten().collect()
    }
}

impl Backplane for OtherNodes {
    fn incarnation(&self) -> Uuid {
        Uuid::from_u128(1)
    }

    fn send(&self, _: Uuid, message: ToNode) {
        self.0.lock().unwrap().push(message);
    }

    fn send_to_all(&self, message: ToNode) {
        self.0.lock().unwrap().push(message);
    }
}

/// A monitor without a network. A gateway's id is its port.
struct Lab {
    monitor: Addr<GatewayMonitor>,
    findings: Arc<Findings>,
    announced: mpsc::UnboundedReceiver<(i64, Status)>,
    board: Arc<Board>,
    journal: Journal,
    fixture: Fixture,
}

fn section<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let defaults: toml::Table = include_str!("../../../config/default.toml").parse().unwrap();
    defaults[name].clone().try_into().unwrap()
}

fn gateway(id: i64, parent_id: Option<i64>) -> Gateway {
    Gateway {
        id: GatewayId(id),
        name: format!("gateway {id}"),
        address: Address::parse(&format!("tcp://192.0.2.1:{id}")).unwrap(),
        parent_id: parent_id.map(GatewayId),
        max_rtt_ms: None,
        max_loss_percent: None,
        source: Source::Api,
    }
}

impl Lab {
    async fn new() -> Self {
        Self::with(None).await
    }

    async fn with(sharing: Option<Sharing>) -> Self {
        let fixture = Fixture::new().await;
        let journal = Journal::start(&Arbiter::current(), fixture.store.clone(), built_in().into());
        let (sender, announced) = mpsc::unbounded_channel();
        let neighbours = Neighbours {
            relays: Relays::new(1, &section("limits"), fixture.clock.clone()),
            journal: journal.clone(),
            announce: Listener(sender).start().recipient(),
            clock: fixture.clock.clone(),
        };
        let (board, findings) = (Arc::<Board>::default(), Arc::<Findings>::default());
        let mut monitor =
            GatewayMonitor::new(Vec::new(), HashMap::new(), section("probes"), board.clone(), neighbours, sharing);
        monitor.prober = Some(findings.clone());
        Self { monitor: Context::start(monitor), findings, announced, board, journal, fixture }
    }

    /// Adds a gateway, or has it probed again.
    async fn probe(&self, gateway: Gateway) {
        self.fixture.clock.advance(Duration::from_secs(1));
        self.monitor.send(Put(gateway)).await.unwrap();
    }

    /// The answer of the database that this node has the lease; or another one has it.
    async fn lease(&self, term: Option<i64>) {
        let asked = self.fixture.clock.instant();
        self.monitor.send(LeaseAnswered { term, asked }).await.unwrap();
    }

    async fn announced(&mut self) -> (i64, Status) {
        tokio::time::timeout(Duration::from_secs(60), self.announced.recv()).await.expect("an event").unwrap()
    }

    /// What is recorded of a gateway: its changes, and how many probes.
    async fn recorded(&self, id: i64) -> (Vec<(Status, Option<Reason>)>, u32) {
        self.monitor.send(WriteAllHours).await.unwrap();
        self.journal.flush().await.unwrap();
        let day = chrono::TimeDelta::days(1);
        let history =
            self.fixture.store.gateway_history(GatewayId(id), start() - day, start() + day, 100).await.unwrap();
        let changes = history.transitions.iter().map(|change| (change.status, change.reason)).collect();
        (changes, history.hours.iter().map(|hour| hour.probes).sum())
    }

    fn status(&self, id: i64) -> (Status, Option<Reason>) {
        let known = self.board.get(GatewayId(id)).unwrap();
        (known.status, known.reason)
    }
}

#[actix_web::test]
async fn changes_are_announced_and_recorded_and_probes_are_counted() {
    let mut lab = Lab::new().await;
    lab.probe(gateway(1, None)).await;
    assert_eq!(lab.announced().await, (1, Status::Connected));
    lab.findings.silent.lock().unwrap().insert(1);
    lab.probe(gateway(1, None)).await;
    assert_eq!(lab.announced().await, (1, Status::Disconnected));
    assert_eq!(lab.board.statuses(), r#"{"1":"disconnected"}"#);
    let expected = vec![(Status::Connected, None), (Status::Disconnected, Some(Reason::Timeout))];
    assert_eq!(lab.recorded(1).await, (expected, 2));
    let at = lab.board.get(GatewayId(1)).unwrap().since;
    assert_eq!(at, start() + chrono::TimeDelta::seconds(2));
}

#[actix_web::test]
async fn of_a_gateway_that_is_removed_nothing_stays_recorded() {
    let mut lab = Lab::new().await;
    lab.probe(gateway(1, None)).await;
    lab.probe(gateway(2, None)).await;
    lab.announced().await;
    lab.announced().await;
    lab.monitor.send(Remove(GatewayId(1))).await.unwrap();
    assert_eq!((lab.recorded(1).await, lab.recorded(2).await), ((vec![], 0), (vec![(Status::Connected, None)], 1)));
    assert!(lab.board.get(GatewayId(1)).is_none());
    // the next one with its id begins anew
    lab.probe(gateway(1, None)).await;
    assert_eq!(lab.announced().await, (1, Status::Connected));
    assert_eq!(lab.recorded(1).await, (vec![(Status::Connected, None)], 1));
}

#[actix_web::test]
async fn a_site_that_goes_down_is_announced_once_and_recorded_for_each_of_its_gateways() {
    let mut lab = Lab::new().await;
    lab.probe(gateway(1, None)).await;
    lab.probe(gateway(2, Some(1))).await;
    lab.announced().await;
    lab.announced().await;
    lab.findings.silent.lock().unwrap().extend([1, 2]);
    lab.probe(gateway(2, Some(1))).await;
    assert_eq!(lab.announced().await, (1, Status::Disconnected));
    assert_eq!(lab.status(2), (Status::Disconnected, Some(Reason::ParentDown)));
    let (changes, _) = lab.recorded(2).await;
    assert_eq!(changes, [(Status::Connected, None), (Status::Disconnected, Some(Reason::ParentDown))]);
    assert!(lab.announced.try_recv().is_err());
}

#[actix_web::test]
async fn a_probe_that_can_not_be_made_changes_nothing_but_is_told() {
    let mut lab = Lab::new().await;
    *lab.findings.unable.lock().unwrap() = Some(Unable::NoPing);
    lab.probe(gateway(1, None)).await;
    while lab.board.trouble().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!((lab.status(1), lab.recorded(1).await), ((Status::Unknown, None), (vec![], 0)));
    *lab.findings.unable.lock().unwrap() = None;
    lab.probe(gateway(1, None)).await;
    assert_eq!((lab.announced().await, lab.board.trouble()), ((1, Status::Connected), None));
}

#[actix_web::test]
async fn a_node_probes_only_while_it_is_sure_of_its_lease() {
    let others = Arc::<OtherNodes>::default();
    let mut lab = Lab::with(Some(Sharing::new(others.clone()))).await;
    lab.probe(gateway(1, None)).await;
    assert_eq!((lab.status(1).0, lab.board.prober()), (Status::Unknown, None));
    lab.lease(Some(1)).await;
    assert_eq!(lab.announced().await, (1, Status::Connected));
    assert_eq!(lab.board.prober(), Some(others.incarnation()));
    lab.findings.silent.lock().unwrap().insert(1);
    // nobody has renewed the lease
    lab.fixture.clock.advance(Duration::from_secs(8));
    lab.probe(gateway(1, None)).await;
    lab.lease(None).await;
    assert_eq!((lab.status(1).0, lab.board.prober()), (Status::Connected, None));
    // an answer that came late
    let asked = lab.fixture.clock.instant();
    lab.fixture.clock.advance(Duration::from_secs(9));
    lab.monitor.send(LeaseAnswered { term: Some(2), asked }).await.unwrap();
    assert_eq!(lab.board.prober(), None);
    // what it knew counts, also for what comes next
    lab.lease(Some(3)).await;
    assert_eq!(lab.announced().await, (1, Status::Disconnected));
    lab.monitor.send(StopProbing).await.unwrap();
    lab.lease(Some(3)).await;
    assert_eq!(lab.board.prober(), None);
    let (changes, probes) = lab.recorded(1).await;
    assert_eq!(changes, [(Status::Connected, None), (Status::Disconnected, Some(Reason::Timeout))]);
    assert_eq!(probes, 2);
}

#[actix_web::test]
async fn what_one_node_tells_another_one_shows_and_announces_but_does_not_record() {
    let (first, second) = (Arc::<OtherNodes>::default(), Arc::<OtherNodes>::default());
    let mut prober = Lab::with(Some(Sharing::new(first.clone()))).await;
    let mut other = Lab::with(Some(Sharing::new(second.clone()))).await;
    prober.probe(gateway(1, None)).await;
    other.probe(gateway(1, None)).await;
    prober.lease(Some(1)).await;
    prober.announced().await;
    first.told();
    prober.monitor.send(TellAll(Uuid::from_u128(2))).await.unwrap();
    let gateways = first.told();
    assert_eq!(gateways.len(), 1);
    let findings = |term, number| findings::Findings {
        term,
        number,
        is_end: true,
        trouble: Some("no ping".to_owned()),
        gateways: gateways.clone(),
    };
    let from = first.incarnation();
    other.monitor.send(Heard { from, findings: findings(1, 1) }).await.unwrap();
    assert_eq!(other.announced().await, (1, Status::Connected));
    assert_eq!((other.board.prober(), other.board.trouble().as_deref()), (Some(from), Some("no ping")));
    let shown = |lab: &Lab| lab.board.get(GatewayId(1)).map(|known| (known.status, known.since, known.rtt_ms));
    assert_eq!(shown(&other), shown(&prober));
    assert_eq!(other.recorded(1).await, (vec![], 0));
    // it tells others nothing itself
    assert!(second.told().is_empty());
    // the same again is no event, and a former prober says nothing
    other.monitor.send(Heard { from, findings: findings(1, 2) }).await.unwrap();
    let former = findings::Findings { trouble: None, ..findings(0, 3) };
    other.monitor.send(Heard { from: Uuid::from_u128(7), findings: former }).await.unwrap();
    assert_eq!(other.board.trouble().as_deref(), Some("no ping"));
    assert!(other.announced.try_recv().is_err());
}
