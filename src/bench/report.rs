//! The report of a benchmark, as JSON and as text. The keys of the JSON are stable; each ends with its unit.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Parameters and figures. Those that do not apply to a benchmark are absent.
#[derive(Debug, Default, Serialize)]
#[serde(default)]
pub(super) struct Report {
    pub benchmark: &'static str,
    /// The version of this program.
    pub version: &'static str,
    pub protocol: &'static str,
    /// The running server; `None` if the benchmark started the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Workers of the broker that the benchmark started; 0: one per core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    pub clients: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publishers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topics: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribers_per_topic: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalled_clients: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_flood_clients: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<usize>,
    /// The measured time, without the warm-up.
    pub duration_s: f64,
    /// Messages or commands sent, including the warm-up, as in the next three counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// Messages for which a receipt came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<u64>,
    /// Acknowledgements that the broker confirmed to recipients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<u64>,
    /// Copies that arrived; for commands, results; for acknowledged messages, those of whose acknowledgement the sender was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<u64>,
    /// Copies that did not arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    pub errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Stalled clients that the broker closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalled_cut: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logins_answered_per_s: Option<f64>,
    /// Logins refused with 503, since too many passwords waited to be hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logins_refused_per_s: Option<f64>,
    /// CPU time of the broker divided by the measured time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_cpu_cores: Option<f64>,
    /// The rate divided by `broker_cpu_cores`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_core_per_s: Option<f64>,
    /// The rate of the plain way, which was measured in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain_delivered_per_s: Option<f64>,
    /// The rate, per core of the broker if that is known, divided by that of the plain way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_plain: Option<f64>,
    /// Resident memory before the sockets were opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_before_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// Resident memory with all sockets open and idle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_open_bytes: Option<u64>,
    /// Resident memory after all sockets were closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_after_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_per_connection_bytes: Option<f64>,
    /// The share of time in which this program was busy; near 1 the program may be the bottleneck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bench_busy: Option<f64>,
}

/// A distribution of latencies.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    /// The beginning and end of the measured interval, as text.
    pub of: &'static str,
    /// Corrected for coordinated omission: counted from the time at which the message was due, not from its sending.
    pub corrected: bool,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// The quantiles of a histogram of nanoseconds; `None` if it is empty.
    pub(super) fn of(what: &'static str, corrected: bool, histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            of: what,
            corrected,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
        })
    }
}

/// An empty histogram of nanoseconds with a precision of three digits.
pub(super) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 3_600_000_000_000, 3)?)
}

/// A number with separators between thousands.
pub(super) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(number: f64) -> String {
    match number.abs() {
        small if small < 1024.0 * 10.0 => format!("{number:.0} B"),
        small if small < 1024.0 * 1024.0 * 10.0 => format!("{:.1} KiB", number / 1024.0),
        _ => format!("{:.1} MiB", number / (1024.0 * 1024.0)),
    }
}

fn time(micros: f64) -> String {
    match micros {
        small if small < 1e3 => format!("{small:.0} µs"),
        small if small < 1e6 => format!("{:.2} ms", small / 1e3),
        large => format!("{:.2} s", large / 1e6),
    }
}

impl Report {
    /// With the rate of the plain way, which was measured in the same run.
    pub(super) fn compared_to(self, plain: &Self) -> Self {
        let per_core = self.per_core_per_s.zip(plain.per_core_per_s);
        let ratio = per_core.or(self.delivered_per_s.zip(plain.delivered_per_s)).map(|(this, plain)| this / plain);
        Self { plain_delivered_per_s: plain.delivered_per_s, of_plain: ratio, ..self }
    }

    /// The report as text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<12}{value}");
        };
        let rate = |per_second: Option<f64>| per_second.map(|rate| format!("{}/s", thousands(rate)));
        let pairs = [
            ("handshakes", rate(self.handshakes_per_s)),
            ("sent", rate(self.sent_per_s)),
            ("accepted", rate(self.accepted_per_s)),
            (if self.acknowledged.is_some() { "round trips" } else { "delivered" }, rate(self.delivered_per_s)),
            ("received", self.received_bytes_per_s.map(|rate| format!("{}/s", bytes(rate)))),
        ];
        for (name, value) in pairs {
            if let Some(value) = value {
                line(name, value);
            }
        }
        if let Some(Latency { of, corrected, p50_us, p90_us, p99_us, p99_9_us, max_us }) = &self.latency {
            let quantiles = [("p50", p50_us), ("p90", p90_us), ("p99", p99_us), ("p99.9", p99_9_us), ("max", max_us)];
            let quantiles = quantiles.map(|(name, value)| format!("{name} {}", time(*value)));
            line("latency", quantiles.join("   "));
            line("", format!("{of}{}", if *corrected { ", corrected for coordinated omission" } else { "" }));
        }
        if let (Some(clients), Some(cut)) = (self.stalled_clients, self.stalled_cut) {
            line("stalled", format!("{clients}, {cut} of them cut by the broker"));
        }
        if let (Some(answered), Some(refused)) = (self.logins_answered_per_s, self.logins_refused_per_s) {
            line("logins", format!("{}/s answered, {}/s refused", thousands(answered), thousands(refused)));
        }
        if let Some(cores) = self.broker_cpu_cores {
            let per_core = self.per_core_per_s.map(|rate| format!(", {}/s for each", thousands(rate)));
            line("broker", format!("{cores:.2} cores busy{}", per_core.unwrap_or_default()));
        }
        if let (Some(plain), Some(ratio)) = (self.plain_delivered_per_s, self.of_plain) {
            line("plain", format!("{}/s; {ratio:.2} of it", thousands(plain)));
        }
        let memory = [
            ("before", self.memory_before_bytes),
            ("open", self.memory_open_bytes),
            ("peak", self.memory_peak_bytes),
            ("after", self.memory_after_bytes),
        ];
        let memory: Vec<_> =
            memory.iter().filter_map(|(when, size)| Some(format!("{when} {}", bytes((*size)? as f64)))).collect();
        if !memory.is_empty() {
            line("memory", memory.join("   "));
        }
        if let Some(each) = self.memory_per_connection_bytes {
            line("", format!("{} per connection", bytes(each)));
        }
        if let Some(sent) = self.sent {
            let delivered = self.delivered.unwrap_or_default();
            let lost = self.lost.unwrap_or_default();
            line("in all", format!("{sent} sent, {delivered} delivered, {lost} lost, {} errors", self.errors));
        } else if self.errors > 0 {
            line("errors", self.errors.to_string());
        }
        if let Some(error) = &self.first_error {
            line("", format!("the first: {error}"));
        }
        if self.bench_busy.is_some_and(|busy| busy > 0.97) {
            line("note", "the benchmark itself was busy all the time: the broker may carry more".to_owned());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_for_people() {
        assert_eq!([0.0, 999.4, 1_000.0, 1_234_567.0].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([999.0, 1_500.0, 2_000_000.0].map(time), ["999 µs", "1.50 ms", "2.00 s"]);
        assert_eq!([100.0, 102_400.0, 104_857_600.0].map(bytes), ["100 B", "100.0 KiB", "100.0 MiB"]);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = histogram().unwrap();
        assert!(Latency::of("nothing", false, &histogram).is_none());
        for value in 1..=1_000_u64 {
            histogram.record(value * 1_000).unwrap();
        }
        let latency = Latency::of("something", true, &histogram).unwrap();
        assert!((latency.p50_us - 500.0).abs() < 1.0 && (latency.p99_us - 990.0).abs() < 1.0);
        assert!((latency.max_us - 1_000.0).abs() < 1.0);
    }
}
