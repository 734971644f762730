//! Addresses of gateways. They are checked when they are parsed, so that no option, space or shell text reaches `ping`.

use std::{
    fmt::{self, Display},
    net::IpAddr,
};

/// Describes valid addresses, for error messages.
pub const EXPECTED: &str = "expected a host name or an IP address (pinged by ICMP), or tcp://host:port with a port from 1 to 65535 (IPv6: tcp://[::1]:80)";

/// Longest host name (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A host name, which is looked up at each probe.
    Name(String),
}

/// The target of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The machine answers an echo request.
    Icmp(Host),
    /// The machine takes a connection at this port.
    Tcp(Host, u16),
}

/// A gateway's address, as it was given and as it was parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    target: Target,
}

impl Address {
    /// Parses a host name, an IP address, or `tcp://host:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let target = match text.split_once("://") {
            None => Target::Icmp(Host::parse(text)?),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tcp") => {
                let (host, port) = rest.rsplit_once(':')?;
                let host = match host.strip_prefix('[') {
                    Some(host) => {
                        let ip: IpAddr = host.strip_suffix(']')?.parse().ok()?;
                        ip.is_ipv6().then(|| Host::of_ip(ip))??
                    }
                    // in an IPv6 address without brackets the port is ambiguous
                    None => Host::parse(host).filter(|host| !matches!(host, Host::Ip(IpAddr::V6(_))))?,
                };
                let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                let port: u16 = port.parse().ok().filter(|port| digits && *port > 0)?;
                Target::Tcp(host, port)
            }
            Some(_) => return None,
        };
        Some(Self { text: text.to_owned(), target })
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The target of a probe.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        match text.parse::<IpAddr>() {
            Ok(ip) => Self::of_ip(ip),
            Err(_) => is_name(text).then(|| Self::Name(text.to_owned())),
        }
    }

    /// Parses an address of one machine. Any machine could answer for an unspecified, multicast or broadcast address.
    fn of_ip(ip: IpAddr) -> Option<Self> {
        is_one_machine(ip).then_some(Self::Ip(ip))
    }
}

/// Whether an address names one machine and suffices to reach it; a link-local address of IPv6 would need an interface.
pub fn is_one_machine(ip: IpAddr) -> bool {
    let many = |ip: IpAddr| {
        let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        ip.is_multicast() || ip.is_unspecified() || is_broadcast
    };
    let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    !many(ip) && !many(ip.to_canonical()) && !is_link_local
}

/// A host name (RFC 1123, section 2.1), with underscores, which some networks use.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        (1..=63).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
    };
    // resolvers read "1.2" and "0x7f000001" as addresses, which a reader would not expect
    let is_number = |label: &str| {
        let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
        label.bytes().all(|byte| byte.is_ascii_digit())
            || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    text.len() <= MAX_NAME && text.split('.').all(is_label) && !text.rsplit('.').next().is_some_and(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ips_and_tcp_ports_are_addresses() {
        let icmp =
            ["gate", "gate.example.org", "gate.example.org.", "a_b-c.example", "192.0.2.1", "::1", "2001:db8::1"];
        for text in icmp {
            assert!(matches!(Address::parse(text).unwrap().target(), Target::Icmp(_)), "{text}");
        }
        let ipv6 = Host::Ip("::1".parse().unwrap());
        let tcp = [
            ("tcp://gate:1", Host::Name("gate".into()), 1),
            ("TCP://gate.example:65535", Host::Name("gate.example".into()), 65535),
            ("tcp://127.0.0.1:080", Host::Ip("127.0.0.1".parse().unwrap()), 80),
            ("tcp://[::1]:22", ipv6, 22),
        ];
        for (text, host, port) in tcp {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.target(), address.as_str()), (&Target::Tcp(host, port), text));
        }
    }

    #[test]
    fn options_shell_text_other_schemes_and_bad_ports_are_none() {
        let long = format!("{}.example", ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63)].join("."));
        let bad = [
            "",
            " ",
            ".",
            "-",
            "-c1",
            "--help",
            "-f",
            "gate -c 1",
            " gate",
            "gate ",
            "gate\n",
            "gate\0",
            "gate\t",
            "a..b",
            ".a",
            "gate;id",
            "$(id)",
            "`id`",
            "a|b",
            "a&b",
            "a>b",
            "'a'",
            "\"a\"",
            "a\\b",
            "a*",
            "a?b",
            "a/b",
            "a,b",
            "a@b",
            "a%b",
            "#a",
            "gäte",
            "-a.example",
            "a-.example",
            "http://gate",
            "udp://gate:53",
            "icmp://gate",
            "tcp:/gate:80",
            "://gate",
            "tcp://",
            "tcp://gate",
            "tcp://gate:",
            "tcp://gate:0",
            "tcp://gate:65536",
            "tcp://gate:-1",
            "tcp://gate:+80",
            "tcp://gate: 80",
            "tcp://gate:80/",
            "tcp://gate:80/x",
            "tcp://:80",
            "tcp://a b:80",
            "tcp://-a:80",
            "tcp://::1:80",
            "tcp://[::1]",
            "tcp://[gate]:80",
            "tcp://[127.0.0.1]:80",
            "tcp://u@gate:80",
            "gate:80",
            "[::1]",
            "fe80::1%eth0",
            "1.2.3",
            "256.1.1.1",
            "1",
            "0x7f000001",
            "a.0x1",
            "a.123",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "tcp://0.0.0.0:80",
            "tcp://[::]:80",
            "::ffff:224.0.0.1",
            "::ffff:0.0.0.0",
            "fe80::1",
            "tcp://[fe80::1]:80",
            &long,
            &"a".repeat(64),
        ];
        for text in bad {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }
}
