//! What happens for every frame: each worker counts for itself, and adds it to the families once a second.

use std::time::Duration;

use prometheus::{
    IntCounterVec,
    local::{LocalHistogram, LocalIntCounter},
};

use super::{
    METRICS,
    labels::{ByLabel, Dialect, DirectOutcome, DropReason, Label},
};

/// Frames and their bytes.
struct Frames {
    frames: LocalIntCounter,
    bytes: LocalIntCounter,
}

impl Frames {
    fn count(&self, frames: usize, bytes: usize) {
        self.frames.inc_by(frames as u64);
        self.bytes.inc_by(bytes as u64);
    }
}

/// What this thread has counted and not added yet.
struct Tally {
    received: Vec<Frames>,
    sent: Vec<Frames>,
    dropped: ByLabel<DropReason, LocalIntCounter>,
    direct: ByLabel<DirectOutcome, LocalIntCounter>,
    waiting: LocalHistogram,
    ticks: LocalHistogram,
}

/// By dialect.
fn frames(frames: &IntCounterVec, bytes: &IntCounterVec) -> Vec<Frames> {
    let local = |family: &IntCounterVec, dialect: &Dialect| family.with_label_values(&[dialect.as_str()]).local();
    let of = |dialect| Frames { frames: local(frames, dialect), bytes: local(bytes, dialect) };
    Dialect::ALL.iter().map(of).collect()
}

thread_local! {
    static TALLY: Tally = Tally {
        received: frames(&METRICS.frames_received_total, &METRICS.received_bytes_total),
        sent: frames(&METRICS.frames_sent_total, &METRICS.sent_bytes_total),
        dropped: ByLabel::of(&METRICS.dropped_bytes_total, |counter| counter.local()),
        direct: ByLabel::of(&METRICS.direct_messages_total, |counter| counter.local()),
        waiting: METRICS.outbound_waiting_bytes.local(),
        ticks: METRICS.tick_seconds.local(),
    };
}

/// Frames have been received.
pub fn received(dialect: Dialect, frames: usize, bytes: usize) {
    TALLY.with(|tally| tally.received[dialect as usize].count(frames, bytes));
}

/// Frames have been put into the queue of a connection.
pub fn sent(dialect: Dialect, frames: usize, bytes: usize) {
    TALLY.with(|tally| tally.sent[dialect as usize].count(frames, bytes));
}

/// Bytes that were to be sent have been dropped.
pub fn dropped(reason: DropReason, bytes: usize) {
    TALLY.with(|tally| tally.dropped.get(reason).into_iter().for_each(|counter| counter.inc_by(bytes as u64)));
}

/// It is known what became of a message to a device.
pub fn direct(outcome: DirectOutcome) {
    TALLY.with(|tally| tally.direct.get(outcome).into_iter().for_each(LocalIntCounter::inc));
}

/// So many bytes wait to be sent to a connection.
pub fn waiting(bytes: usize) {
    TALLY.with(|tally| tally.waiting.observe(bytes as f64));
}

/// A tick took so long.
pub fn tick(seconds: f64) {
    TALLY.with(|tally| tally.ticks.observe(seconds));
}

/// Adds what this thread has counted to the families.
pub fn flush() {
    TALLY.with(|tally| {
        for frames in tally.received.iter().chain(&tally.sent) {
            frames.frames.flush();
            frames.bytes.flush();
        }
        tally.dropped.iter().chain(tally.direct.iter()).for_each(LocalIntCounter::flush);
        tally.waiting.flush();
        tally.ticks.flush();
    });
}

/// Adds regularly what a thread without a Relay has counted. Never returns.
pub async fn flush_regularly() {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        flush();
    }
}
