//! What clients and operators know together, and what they have found.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::StdRng};
use switchboard::client::{Client, Connection};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Entries of the journal that are kept.
const JOURNAL: usize = 1000;

/// What is common to all.
pub struct World {
    /// the URL of each node that runs
    urls: RwLock<Vec<Option<String>>>,
    pub uuids: Vec<Uuid>,
    accounts: Mutex<Accounts>,
    /// what was done to the nodes, and which sockets were opened, with the seconds since the begin
    journal: Mutex<VecDeque<String>>,
    began: Instant,
    /// between two messages of a device
    pub pace: Duration,
    /// whether clients send, and operators give commands
    pub is_sending: AtomicBool,
    pub is_over: AtomicBool,
}

#[derive(Default)]
pub struct Accounts {
    /// acknowledged messages that the broker has accepted, with their senders
    pub accepted: BTreeMap<String, usize>,
    /// those that have arrived
    pub arrived: BTreeSet<String>,
    /// when they were sent, to which node, and what came of it
    pub sent: BTreeMap<String, String>,
    /// publications that are kept, by offset
    pub kept: BTreeMap<i64, String>,
    /// receipts by kind
    pub receipts: BTreeMap<String, usize>,
    pub findings: Vec<String>,
}

impl World {
    pub fn new(nodes: usize, uuids: Vec<Uuid>, pace: Duration) -> Self {
        Self {
            urls: RwLock::new(vec![None; nodes]),
            uuids,
            accounts: Mutex::default(),
            journal: Mutex::default(),
            began: Instant::now(),
            pace,
            is_sending: AtomicBool::new(true),
            is_over: AtomicBool::new(false),
        }
    }

    pub fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap()
    }

    pub fn is_sending(&self) -> bool {
        self.is_sending.load(Ordering::Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Writes into the journal.
    pub fn note(&self, text: &str) -> String {
        let line = format!("{:9.3} {text}", self.began.elapsed().as_secs_f64());
        let mut journal = self.journal.lock().unwrap();
        if journal.len() == JOURNAL {
            journal.pop_front();
        }
        journal.push_back(line.clone());
        line
    }

    /// Notes what happens to an acknowledged message.
    pub fn trace(&self, msgid: &str, text: &str) {
        let line = format!(" {:.3} {text};", self.began.elapsed().as_secs_f64());
        self.accounts().sent.entry(msgid.to_owned()).or_default().push_str(&line);
    }

    /// Something does not hold.
    pub fn finding(&self, text: &str) {
        let line = self.note(&format!("FINDING: {text}"));
        self.accounts().findings.push(line);
    }

    /// The journal, if something was found.
    pub fn report(&self) -> Option<String> {
        let findings = self.accounts().findings.join("\n");
        let journal: Vec<_> = self.journal.lock().unwrap().iter().cloned().collect();
        (!findings.is_empty()).then(|| format!("{}\n\nfindings:\n{findings}", journal.join("\n")))
    }

    /// A node runs at this URL, or not at all.
    pub fn show(&self, node: usize, url: Option<String>) {
        self.urls.write().unwrap()[node] = url;
    }

    /// Some node that runs, and its URL.
    pub fn node(&self, random: &mut StdRng) -> Option<(usize, String)> {
        let urls = self.urls.read().unwrap();
        let running: Vec<_> = urls.iter().enumerate().filter_map(|(node, url)| Some((node, url.clone()?))).collect();
        running.get(random.random_range(0..running.len().max(1))).cloned()
    }

    /// Opens a socket at some node, if that answers. Returns it with the node.
    pub async fn connect(
        &self,
        who: &str,
        client: &Client,
        path: &str,
        random: &mut StdRng,
    ) -> Option<(usize, Connection)> {
        if let Some((node, url)) = self.node(random) {
            let client = Client::new(&url).unwrap().with_token(client.token().unwrap());
            match timeout(Duration::from_secs(3), client.connect(path)).await {
                Ok(Ok(socket)) => {
                    self.note(&format!("{who} connects to node {node}"));
                    return Some((node, socket));
                }
                Ok(Err(_)) => {}
                Err(_) => drop(self.note(&format!("{who} gets no answer from node {node}"))),
            }
        }
        // not so fast that nothing else happens on the machine
        sleep(Duration::from_millis(50)).await;
        None
    }
}
