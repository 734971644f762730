//! Networks of proxies, and the grouping of client addresses for limits.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Deserializer, de};

/// A network such as `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether the network contains the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = || text.parse::<IpAddr>().ok().map(|address| IpNet::from(address.to_canonical()));
        text.parse()
            .ok()
            .or_else(address)
            .map(Self)
            .ok_or_else(|| format!("\"{text}\" is not an address or a network such as 10.0.0.0/8"))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Who may read the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsReader {
    /// Programs on this machine.
    Loopback,
    /// Operators and admins.
    Operator,
    /// Everybody.
    Any,
    /// Whoever has an address of this network.
    Network(Network),
}

impl MetricsReader {
    /// Whether everybody with this address may.
    pub fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Loopback => address.to_canonical().is_loopback(),
            Self::Operator => false,
            Self::Any => true,
            Self::Network(network) => network.contains(address.to_canonical()),
        }
    }
}

impl FromStr for MetricsReader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "loopback" => Ok(Self::Loopback),
            "operator" => Ok(Self::Operator),
            "any" => Ok(Self::Any),
            _ => text.parse().map(Self::Network).map_err(|_| {
                format!(
                    "\"{text}\" is not \"loopback\", \"operator\", \"any\", an address or a network such as 10.0.0.0/8"
                )
            }),
        }
    }
}

impl<'de> Deserialize<'de> for MetricsReader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The key by which limits count an address: an IPv4 address itself, or the /64 of an IPv6 address, since a subscriber has at
/// least a /64.
pub fn limit_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Net::new_assert(address, 64).network()),
        address @ IpAddr::V4(_) => address,
    }
}

/// Whether an address belongs to this machine or a private network, where reverse proxies usually run.
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_holds_its_addresses_and_an_address_itself_alone() {
        for (network, inside, outside) in [
            ("10.1.0.0/16", "10.1.2.3", "10.2.0.1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(ip(inside)) && !network.contains(ip(outside)), "{network}");
        }
        for bad in ["", "10.0.0.0/33", "proxy.example", "10.0.0.1:80"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_of_one_64_count_as_one() {
        assert_eq!(limit_key(ip("2001:db8:1:2:aaaa::1")), limit_key(ip("2001:db8:1:2:bbbb::2")));
        assert_ne!(limit_key(ip("2001:db8:1:2::1")), limit_key(ip("2001:db8:1:3::1")));
        assert_eq!(limit_key(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_ne!(limit_key(ip("192.0.2.1")), limit_key(ip("192.0.2.2")));
    }

    #[test]
    fn proxies_are_looked_for_in_private_networks() {
        for near in ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "::1", "fd00::1", "fe80::1"] {
            assert!(is_private(ip(near)), "{near}");
        }
        for far in ["203.0.113.7", "2001:db8::1"] {
            assert!(!is_private(ip(far)), "{far}");
        }
    }
}
