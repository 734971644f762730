//! Samples of `/metrics`, and the rates between two of them.

use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;

/// The metrics of one moment. Those with several labels are added up, but the connections.
#[derive(Debug)]
pub(super) struct Samples {
    at: Instant,
    sums: BTreeMap<String, f64>,
    /// open connections by dialect
    connections: BTreeMap<String, f64>,
    version: String,
}

impl Samples {
    /// Reads the text format of Prometheus, as far as this broker writes it. Lines that are none are skipped.
    pub(super) fn read(text: &str) -> Self {
        let mut samples =
            Self { at: Instant::now(), sums: BTreeMap::new(), connections: BTreeMap::new(), version: String::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            *samples.sums.entry(name.to_owned()).or_default() += value;
            let label = || labels.split('"').nth(1).unwrap_or_default().to_owned();
            match name {
                "switchboard_connections" if value > 0.0 => _ = samples.connections.insert(label(), value),
                "switchboard_build_info" => samples.version = label(),
                _ => {}
            }
        }
        samples
    }

    fn get(&self, name: &str) -> f64 {
        self.sums.get(&format!("switchboard_{name}")).copied().unwrap_or_default()
    }
}

/// What a broker does: the state at the second of two moments, and the rates between them.
#[derive(Debug, Serialize)]
pub(super) struct Reading {
    version: String,
    /// by dialect
    connections: BTreeMap<String, f64>,
    frames_received_per_second: f64,
    frames_sent_per_second: f64,
    publications_per_second: f64,
    requests_per_second: f64,
    commands_under_way: f64,
    acknowledged_messages: f64,
    /// 1: one core
    cores: f64,
    memory_bytes: f64,
}

impl Reading {
    pub(super) fn between(before: &Samples, now: &Samples) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(f64::EPSILON);
        // less than before: the broker has started again
        let rate = |name: &str| (now.get(name) - before.get(name)).max(0.0) / seconds;
        Self {
            version: now.version.clone(),
            connections: now.connections.clone(),
            frames_received_per_second: rate("frames_received_total"),
            frames_sent_per_second: rate("frames_sent_total"),
            publications_per_second: rate("publications_total"),
            requests_per_second: rate("http_requests_total"),
            commands_under_way: now.get("commands_under_way"),
            acknowledged_messages: now.get("acknowledged_messages"),
            cores: rate("process_cpu_seconds_total"),
            memory_bytes: now.get("process_resident_memory_bytes"),
        }
    }

    fn connections(&self) -> f64 {
        self.connections.values().sum()
    }

    fn memory(&self) -> String {
        format!("{:.0} MiB", self.memory_bytes / 1024.0 / 1024.0)
    }

    /// For reading, line by line.
    pub(super) fn lines(&self) -> [(&'static str, String); 8] {
        let kinds: Vec<_> = self.connections.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
        [
            ("version", self.version.clone()),
            ("connections", format!("{}{kinds}", self.connections())),
            ("frames/s", format!("{:.0} in, {:.0} out", self.frames_received_per_second, self.frames_sent_per_second)),
            ("published/s", format!("{:.0}", self.publications_per_second)),
            ("requests/s", format!("{:.0}", self.requests_per_second)),
            ("commands", format!("{} under way", self.commands_under_way)),
            ("messages", format!("{} not acknowledged yet", self.acknowledged_messages)),
            ("process", format!("{:.2} cores, {}", self.cores, self.memory())),
        ]
    }

    /// For a table with a line for each reading.
    pub(super) fn cells(&self) -> [(&'static str, String); 8] {
        [
            ("SOCKETS", self.connections().to_string()),
            ("IN/S", format!("{:.0}", self.frames_received_per_second)),
            ("OUT/S", format!("{:.0}", self.frames_sent_per_second)),
            ("REQUESTS/S", format!("{:.0}", self.requests_per_second)),
            ("COMMANDS", self.commands_under_way.to_string()),
            ("MESSAGES", self.acknowledged_messages.to_string()),
            ("CORES", format!("{:.2}", self.cores)),
            ("MEMORY", self.memory()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BEFORE: &str = "\
# HELP switchboard_connections Open WebSocket connections
# TYPE switchboard_connections gauge
switchboard_connections{dialect=\"device\"} 3
switchboard_connections{dialect=\"chat\"} 0
switchboard_frames_received_total{dialect=\"device\"} 10
switchboard_frames_received_total{dialect=\"chat\"} 10
switchboard_publications_total 100
switchboard_build_info{version=\"1.2.3\"} 1
no number
";

    #[test]
    fn rates_are_those_between_two_samples_of_all_labels_together() {
        let before = Samples::read(BEFORE);
        let mut now = Samples::read(&BEFORE.replace("{dialect=\"chat\"} 10", "{dialect=\"chat\"} 30"));
        now.at = before.at + Duration::from_secs(2);
        let reading = Reading::between(&before, &now);
        assert_eq!(reading.lines()[2].1, "10 in, 0 out");
        assert_eq!(reading.lines()[3].1, "0");
        assert_eq!(reading.version, "1.2.3");
        assert_eq!(reading.lines()[1].1, "3 (device 3)");
    }

    #[test]
    fn a_broker_that_has_started_again_has_no_negative_rates() {
        let before = Samples::read(BEFORE);
        let mut now = Samples::read("switchboard_publications_total 5");
        now.at = before.at + Duration::from_secs(1);
        assert_eq!(Reading::between(&before, &now).lines()[3].1, "0");
    }
}
