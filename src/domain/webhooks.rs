//! Webhooks: the events that a receiver is told of by HTTP, when it is tried again, and to which addresses nothing is sent.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;

/// Most deliveries of a webhook that wait. Further events are dropped and counted.
pub const MOST_PENDING: u64 = 10_000;

/// How long a delivery is tried.
pub const GIVE_UP: TimeDelta = TimeDelta::hours(24);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(7200);

/// Declares [`EventType`] from lines `Variant = "name", "meaning"`.
macro_rules! events {
    ($($event:ident = $name:literal, $meaning:literal;)+) => {
        /// What has happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum EventType {
            $(#[doc = $meaning] $event,)+
        }

        impl EventType {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$event,)+];

            /// The name in the settings and in the body of a delivery.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$event => $name,)+
                }
            }

            /// What it means, for the documentation.
            #[cfg(test)]
            fn meaning(self) -> &'static str {
                match self {
                    $(Self::$event => $meaning,)+
                }
            }
        }
    };
}

events! {
    GatewayConnected = "gateway_connected", "A gateway answers again, or for the first time: `gateway_id`, `name`, `address`, `status`, `reason`";
    GatewayDegraded = "gateway_degraded", "A gateway answers, with more delay or loss than it may: the same";
    GatewayDisconnected = "gateway_disconnected", "A gateway does not answer: the same";
    ClientConnected = "client_connected", "A device or user came online: `uuid`, `kind`, `name`";
    ClientDisconnected = "client_disconnected", "A device or user went offline: the same";
    CommandFailed = "command_failed", "A target of a command has answered with an error or not at all: `command_id`, `target`, `name`, `state`, `method`, `url` without its query";
    DiskLow = "disk_low", "There is less space than `storage.min_free_bytes`, and nothing more is stored: `node`";
    DiskRecovered = "disk_recovered", "There is space again: `node`";
}

impl EventType {
    /// Whether it is stored although there is little space.
    pub fn is_essential(self) -> bool {
        matches!(self, Self::DiskLow | Self::DiskRecovered)
    }

    /// Those that a name, or a beginning with `*`, stands for.
    pub fn matching(pattern: &str) -> Vec<Self> {
        let is_meant = |event: &Self| match pattern.strip_suffix('*') {
            Some(beginning) => event.as_str().starts_with(beginning),
            None => event.as_str() == pattern,
        };
        Self::ALL.iter().copied().filter(is_meant).collect()
    }
}

/// A receiver.
#[derive(Clone)]
pub struct Webhook {
    /// Tells its deliveries from those of others, also after a restart.
    pub key: Arc<str>,
    /// Where deliveries are sent; may have credentials.
    pub url: String,
    /// The same without what may be secret.
    pub shown_url: String,
    /// The patterns of the settings.
    pub patterns: Vec<String>,
    /// What it wants to be told of.
    pub events: Vec<EventType>,
    /// Signs deliveries.
    pub secret: Vec<u8>,
    /// It may have an address that is not public.
    pub allow_private: bool,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("url", &self.shown_url).field("events", &self.patterns).finish_non_exhaustive()
    }
}

/// The pause after so many attempts, of which the first is 1: from a second to two hours, each four times the one before. `random`,
/// from 0 to 1, spreads it by a fifth, so that deliveries that failed together do not come together again.
pub fn pause_after(attempts: i64, random: f64) -> Duration {
    let power = u32::try_from(attempts.clamp(1, 16) - 1).unwrap_or(0);
    let pause = Duration::from_secs(4_u64.saturating_pow(power)).min(LONGEST_PAUSE);
    pause.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0))
}

/// Whether an address belongs to the public internet: it is not private, of this machine, of this link, multicast, reserved, for
/// documentation, or a way to write such an IPv4 address as an IPv6 address.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => is_public_v4(mapped),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let is_special = match address.octets() {
        // this network, private use, loopback, link-local
        [0 | 10 | 127, ..] | [169, 254, ..] | [192, 168, ..] => true,
        [172, second, ..] => (16..32).contains(&second),
        // shared by customers of a provider
        [100, second, ..] => (64..128).contains(&second),
        // protocol assignments, documentation, former relays of 6to4, benchmarks
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] | [198, 18 | 19, ..] => true,
        // multicast, reserved, broadcast
        [224..=255, ..] => true,
        _ => false,
    };
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // all that is public so far begins with the bits 001; what translates to IPv4 (64:ff9b::/96) does not
    let [first, second, ..] = address.segments();
    let is_global = first & 0xe000 == 0x2000;
    // protocol assignments with Teredo, documentation, 6to4, documentation
    let is_special = (first == 0x2001 && (second < 0x0200 || second == 0x0db8))
        || first == 0x2002
        || (first == 0x3fff && second < 0x1000);
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for public in ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.0.1.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
            assert!(is_public(format!("::ffff:{public}").parse().unwrap()), "{public}, mapped");
        }
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.9.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
            assert!(!is_public(format!("::ffff:{special}").parse().unwrap()), "{special}, mapped");
            // as 6to4, NAT64, IPv4-compatible
            let [a, b, c, d] = special.parse::<Ipv4Addr>().unwrap().octets();
            let six_to_four =
                Ipv6Addr::from_bits((0x2002 << 112) | (u128::from(u32::from_be_bytes([a, b, c, d])) << 80));
            assert!(!is_public(six_to_four.into()), "{six_to_four}");
            assert!(!is_public(format!("64:ff9b::{special}").parse().unwrap()), "{special}, translated");
            assert!(!is_public(format!("::{special}").parse().unwrap()), "{special}, compatible");
        }
        for public in ["2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "3ffe::1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for special in [
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "2001::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2002:808:808::1",
            "3fff::1",
            "100::1",
            "64:ff9b:1::1",
            "4000::1",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn pauses_grow_to_two_hours() {
        let secs = |attempts| pause_after(attempts, 0.5).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 8, 100].map(secs), [1, 1, 4, 16, 64, 256, 1024, 4096, 7200, 7200]);
        assert_eq!((pause_after(4, 0.0).as_secs_f64(), pause_after(4, 1.0).as_secs_f64()), (51.2, 76.8));
    }

    #[test]
    fn patterns_stand_for_events() {
        let names = |pattern| EventType::matching(pattern).into_iter().map(EventType::as_str).collect::<Vec<_>>();
        assert_eq!(names("gateway_*"), ["gateway_connected", "gateway_degraded", "gateway_disconnected"]);
        assert_eq!(names("disk_low"), ["disk_low"]);
        assert_eq!(EventType::matching("*").len(), EventType::ALL.len());
        assert_eq!(EventType::matching("disk"), []);
    }

    #[test]
    fn the_document_has_all_events_in_a_table() {
        let rows = EventType::ALL.iter().map(|event| format!("| `{}` | {} |\n", event.as_str(), event.meaning()));
        let rows: String = rows.collect();
        let document = include_str!("../../docs/webhooks.md");
        let (_, rest) = document.split_once("| event | meaning and `data` |\n| --- | --- |\n").expect("the table");
        let table: String =
            rest.lines().take_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
        assert!(table == rows, "the table should be:\n{rows}");
    }
}
