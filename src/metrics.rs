//! What the broker measures, for `GET /metrics` (contract section 9).
//!
//! All families are in one table, [`Metrics`]. Whoever sees an event counts it in [`METRICS`], which belongs to the process as its
//! log does. Gauges that show the state of an owner (gateways, nodes, waiting messages) are set when the metrics are read, by
//! `http/metrics.rs`. What happens for every frame is counted by each worker for itself, and added once a second ([`traffic`]).
//!
//! No label names a client, a room or a topic, so the number of series does not grow with them. To add a family, add a line to the
//! table and one to `docs/metrics.md`; a test compares the two.

#[macro_use]
mod table;
pub mod connections;
mod context;
pub mod errors;
pub mod labels;
mod process;
pub mod traffic;

use std::sync::LazyLock;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, TextEncoder,
};

pub use self::context::{Context, Measured};
use self::labels::{ClosedBy, Dialect, Label};
use crate::{
    domain::{commands::TargetState, messages::MessageState},
    protocol::close_code::CloseCode,
};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Upper bounds of buckets, in seconds, for what takes microseconds.
const SHORT: &[f64] = &[1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1.0];

/// Upper bounds of buckets, in seconds, for calls of the database and of the network.
const CALLS: &[f64] = &[1e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Upper bounds of buckets, in seconds, for what waits for a device.
const ANSWERS: &[f64] = &[1e-3, 5e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Upper bounds of buckets in bytes.
const BYTES: &[f64] = &[0.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0];

/// Upper bounds of buckets for numbers of things.
const NUMBERS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];

/// The metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

families! {
    // sockets
    connections: IntGaugeVec[dialect] = "Open WebSocket connections",
    connections_opened_total: IntCounterVec[dialect] = "WebSocket connections that were opened",
    connections_closed_total: IntCounterVec[by, code] = "WebSocket connections that ended, by who closed them and with which code (1006: without a close frame)",
    frames_received_total: IntCounterVec[dialect] = "WebSocket frames received",
    received_bytes_total: IntCounterVec[dialect] = "Bytes received on WebSocket connections",
    frames_sent_total: IntCounterVec[dialect] = "WebSocket frames put into the queues of connections",
    sent_bytes_total: IntCounterVec[dialect] = "Bytes of frames put into the queues of connections",
    dropped_bytes_total: IntCounterVec[reason] = "Bytes of frames that were to be sent and were dropped with their connection",
    outbound_waiting_bytes: Histogram(BYTES) = "Bytes that wait to be sent to a connection: one sample for each connection and second",
    tick_seconds: Histogram(SHORT) = "Time from the first frame of a worker's tick until the frames of the tick were written",
    error_frames_total: IntCounterVec[code] = "Error frames sent to clients",
    // actors
    actor_mailbox_messages: IntGaugeVec[actor] = "Messages that wait in the mailbox of an actor",
    actor_messages_total: IntCounterVec[actor] = "Messages that an actor has handled",
    actor_busy_seconds: HistogramVec[actor](SHORT) = "Time that an actor worked without a pause",
    // deliveries
    direct_messages_total: IntCounterVec[outcome] = "Messages to devices without acknowledgement, by what became of them",
    publications_total: IntCounter = "Publications to topics by clients of this node",
    publication_deliveries_total: IntCounter = "Connected subscribers of this node that publications were delivered to",
    room_events_total: IntCounter = "Messages and other events of rooms, told to connections of this node",
    room_event_deliveries_total: IntCounter = "Connections of this node that such events were delivered to",
    acknowledged_messages: IntGaugeVec[state] = "Acknowledged messages in the database that have not ended",
    acknowledged_messages_oldest_age_seconds: Gauge = "Age of the oldest acknowledged message that has not ended; 0 if there is none",
    acknowledged_messages_accepted_total: IntCounter = "Acknowledged messages that this node has stored",
    acknowledged_messages_ended_total: IntCounterVec[state] = "Acknowledged messages whose end this node has stored",
    // commands
    commands_under_way: IntGauge = "Commands of this node that have not ended",
    command_seconds: HistogramVec[outcome](ANSWERS) = "Time from a command to its end, for each target",
    // database
    journal_batch_size: Histogram(NUMBERS) = "Records and changes in a batch",
    journal_commit_seconds: Histogram(CALLS) = "Time to write and commit a batch",
    journal_waiting_records: IntGauge = "Records that wait to be written",
    database_call_seconds: HistogramVec[pool](CALLS) = "Time of a statement or commit",
    database_errors_total: IntCounterVec[pool] = "Statements and commits that failed",
    storage_free_bytes: IntGauge = "Free space of the data directory's file system; 0 if storage.min_free_bytes is 0, which switches the check off",
    storage_nearly_full: IntGauge = "1 while there is less free space than storage.min_free_bytes",
    database_up: IntGauge = "1 if the database takes writes",
    // gateways
    gateways: IntGaugeVec[state] = "Gateways",
    gateway_round_trip_seconds: Histogram(CALLS) = "Round trips of successful probes",
    // webhooks
    webhook_deliveries_total: IntCounterVec[outcome] = "Attempts to deliver events to webhooks, by outcome, and events that were dropped since too many waited",
    webhook_deliveries_pending: IntGauge = "Deliveries to webhooks that wait",
    // who comes in
    http_requests_total: IntCounterVec[method, route, status] = "HTTP requests that were answered",
    http_request_seconds: Histogram(CALLS) = "Time to answer an HTTP request, except for those that wait for a command and for handshakes",
    http_connections: IntGauge = "Open connections to the HTTP port, WebSocket connections included",
    logins_total: IntCounterVec[outcome] = "Logins with a password",
    refusals_total: IntCounterVec[limit] = "Requests and frames that were refused because of a limit, by its key",
    // other nodes
    cluster_nodes: IntGauge = "Nodes with a lease, this one included",
    cluster_complete: IntGauge = "1 if this node knows the clients of all other nodes",
    redis_up: IntGaugeVec[server] = "1 if the Redis server with this number can be used",
    redis_round_trip_seconds: GaugeVec[server] = "Time of the last ping through a Redis server to this node itself",
    cluster_envelopes_sent_total: IntCounter = "Envelopes sent to other nodes",
    cluster_envelopes_received_total: IntCounter = "Envelopes received from other nodes",
    cluster_envelope_errors_total: IntCounter = "Envelopes that could not be read",
    // the process
    process_cpu_seconds_total: prometheus::Counter = "Processor time of the process",
    process_resident_memory_bytes: IntGauge = "Resident memory of the process",
    process_anonymous_memory_bytes: IntGauge = "Resident memory that the allocator and the stacks hold",
    process_open_fds: IntGauge = "Open file descriptors",
    process_max_fds: IntGauge = "Most file descriptors that the process may open",
    process_threads: IntGauge = "Threads",
    process_start_time_seconds: Gauge = "Start of the process, in seconds since 1970",
    build_info: IntGaugeVec[version] = "1; the label has the version",
}

/// Something has been refused because of the limit with this key, if of one.
pub fn refused_for(limit: Option<&'static str>) {
    if let Some(limit) = limit {
        METRICS.refusals_total.with_label_values(&[limit]).inc();
    }
}

impl Metrics {
    fn new() -> Self {
        let metrics = Self::registered();
        // a series that appears with its first event hides that event from rates and increases
        for dialect in Dialect::ALL {
            metrics.connections.with_label_values(&[dialect.as_str()]);
            metrics.connections_opened_total.with_label_values(&[dialect.as_str()]);
        }
        for code in CloseCode::ALL {
            let labels = [ClosedBy::Server.as_str(), &code.code().to_string()];
            metrics.connections_closed_total.with_label_values(&labels);
        }
        for outcome in ["succeeded", "failed"] {
            metrics.logins_total.with_label_values(&[outcome]);
        }
        for outcome in ["delivered", "retried", "given_up", "dropped"] {
            metrics.webhook_deliveries_total.with_label_values(&[outcome]);
        }
        for state in MessageState::ALL.into_iter().filter(|state| state.is_end()) {
            metrics.acknowledged_messages_ended_total.with_label_values(&[state.as_str()]);
        }
        for state in TargetState::ALL.into_iter().filter(|state| state.is_final()) {
            metrics.command_seconds.with_label_values(&[state.as_str()]);
        }
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics
    }

    /// Sets the gauges of the process and of its actors.
    pub fn read_process(&self) {
        context::read_mailboxes(self);
        process::read(self);
    }

    /// All families in the Prometheus text format.
    ///
    /// # Errors
    /// A family cannot be written, which is a mistake in the table.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_all_families_in_a_table() {
        let rows = FAMILIES.iter().map(|(name, kind, labels, help)| {
            let kind = match kind.rsplit("::").next().unwrap_or_default().trim() {
                "IntCounter" | "IntCounterVec" | "Counter" => "counter",
                "Histogram" | "HistogramVec" => "histogram",
                _ => "gauge",
            };
            let labels = labels.split_whitespace().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            format!("| `{name}` | {kind} | {labels} | {help} |\n")
        });
        let rows: String = rows.collect();
        let document = include_str!("../docs/metrics.md");
        let (_, rest) = document.split_once("| --- | --- | --- | --- |\n").expect("the table");
        let table: String =
            rest.lines().take_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
        assert!(table == rows, "the table should be:\n{rows}");
    }

    #[test]
    fn the_alerts_and_the_dashboard_name_only_families_that_there_are() {
        let alerts = include_str!("../docs/deploy/prometheus/alerts.yml");
        let dashboard = include_str!("../docs/deploy/grafana/dashboard.json");
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let words = [alerts, dashboard].into_iter().flat_map(|text| text.split(|c| !is_part(c)));
        let names: Vec<_> = words.filter(|word| word.starts_with("switchboard_")).collect();
        assert!(names.len() > 50, "{names:?}");
        for name in names {
            let is_there = FAMILIES.iter().any(|(family, kind, ..)| {
                let parts: &[&str] =
                    if kind.starts_with("Histogram") { &["", "_bucket", "_sum", "_count"] } else { &[""] };
                name.strip_prefix(family).is_some_and(|rest| parts.contains(&rest))
            });
            assert!(is_there, "{name}");
        }
    }

    #[test]
    fn all_families_can_be_made_and_written() {
        METRICS.read_process();
        let text = METRICS.text().unwrap();
        assert!(text.contains("# TYPE switchboard_connections gauge\n"), "{text}");
        assert!(METRICS.process_resident_memory_bytes.get() > 0);
    }
}
