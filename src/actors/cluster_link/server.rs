//! A Redis server, and what is known of the link to it. Read from any thread.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::cluster::shard::{Shard, ShardError};

/// The age at which what is known of other nodes is outdated. Pings come back every second, and a link is down after three.
const OUTDATED: Duration = Duration::from_millis(2500);

/// A Redis server, and what is known of it.
pub(super) struct Server {
    pub shard: Arc<Shard>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until the first attempt has succeeded or failed
    is_up: Option<bool>,
    /// since the link was up last, or began
    error: Option<String>,
    round_trip: Option<Duration>,
    /// when the last ping was sent that came back: all that came before through the inbox is handled
    current_at: Option<Instant>,
    /// what came through the inbox and was no envelope
    refused: u64,
}

/// The link to a Redis server, as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Without credentials.
    pub address: String,
    /// Whether the node has its lease there.
    pub is_up: bool,
    /// Why not, if that is known.
    pub error: Option<String>,
    /// How long the last ping took from this node to itself.
    pub round_trip: Option<Duration>,
}

impl State {
    fn is_up(&self) -> bool {
        self.is_up == Some(true)
    }
}

impl Server {
    pub fn new(shard: Arc<Shard>) -> Self {
        Self { shard, state: Mutex::default() }
    }

    /// What is seen from outside.
    pub fn status(&self) -> ServerStatus {
        let state = self.state();
        let is_up = state.is_up();
        ServerStatus {
            address: self.shard.address().to_string(),
            is_up,
            error: state.error.clone().filter(|_| !is_up),
            round_trip: state.round_trip.filter(|_| is_up),
        }
    }

    /// What came through the inbox is no envelope. Returns how often that has happened.
    pub fn refused(&self) -> u64 {
        let mut state = self.state();
        state.refused += 1;
        state.refused
    }

    /// Whether the node has its lease there.
    pub fn is_up(&self) -> bool {
        self.state().is_up()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something went wrong. Whether the link is down is shown later, since the lease may last longer.
    pub fn failed(&self, error: &ShardError) {
        self.state().error = Some(error.to_string());
    }

    /// A ping has come back that was sent at this time.
    pub fn heard(&self, sent: Instant) {
        self.state().current_at = Some(sent);
    }

    /// Whether the link is up, and nothing has come through the inbox for so long that much may have happened.
    pub fn is_outdated(&self, now: Instant) -> bool {
        let state = self.state();
        state.is_up() && state.current_at.is_some_and(|at| now.saturating_duration_since(at) > OUTDATED)
    }

    /// The lease was renewed by a ping that took so long.
    pub fn renewed(&self, round_trip: Duration) {
        self.state().round_trip = Some(round_trip);
    }

    /// Shows whether the node has its lease, and logs when that changes, or when the first attempt has failed.
    pub fn show(&self, is_up: bool) {
        let mut state = self.state();
        let address = self.shard.address();
        if state.is_up.replace(is_up) == Some(is_up) {
            return;
        }
        if is_up {
            state.error = None;
            tracing::info!(%address, "linked to Redis");
        } else {
            let error = state.error.as_deref().unwrap_or("no ping came back");
            tracing::error!(%address, error, "Redis is away");
        }
    }
}
