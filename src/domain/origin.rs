//! Origins of web pages, as browsers send them, and the list of allowed origins.

/// The list entry for pages of this machine, on any port.
pub const LOCALHOST: &str = "localhost";

/// The origins that browsers send for pages from files and for pages without an origin of their own.
pub const OPAQUE: [&str; 2] = ["null", "file://"];

/// The origin of a web page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    is_https: bool,
    /// an IPv6 address is in brackets
    host: &'a str,
    port: u16,
}

impl<'a> Origin<'a> {
    /// Parses an origin: `http` or `https`, a host, and an optional port.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (is_https, authority) = match text.split_once("://")? {
            ("http", authority) => (false, authority),
            ("https", authority) => (true, authority),
            _ => return None,
        };
        let (host, port) = split_authority(authority)?;
        Some(Self { is_https, host, port: port.unwrap_or(if is_https { 443 } else { 80 }) })
    }

    /// Whether this is the origin of pages from the server with this `Host`. The scheme only determines the default port, since
    /// a proxy may terminate TLS.
    pub fn is_of_host(&self, host: &str) -> bool {
        let default = if self.is_https { 443 } else { 80 };
        split_authority(host)
            .is_some_and(|(host, port)| host.eq_ignore_ascii_case(self.host) && port.unwrap_or(default) == self.port)
    }

    fn is_of_this_machine(&self) -> bool {
        ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| self.host.eq_ignore_ascii_case(name))
    }
}

fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(end);
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '[' | ']' | ':');
    if host.is_empty() || !host.chars().all(is_good) {
        return None;
    }
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((host, None)),
        Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => Some((host, Some(port.parse().ok()?))),
        _ => None,
    }
}

/// Whether an entry is valid in the list of allowed origins.
pub fn is_listable(entry: &str) -> bool {
    entry == LOCALHOST || OPAQUE.contains(&entry) || Origin::parse(entry).is_some()
}

/// Whether an origin matches an entry of the list.
pub fn is_allowed(origin: &str, list: &[String]) -> bool {
    let parsed = Origin::parse(origin);
    list.iter().any(|entry| match entry.as_str() {
        LOCALHOST => parsed.is_some_and(|origin| origin.is_of_this_machine()),
        entry if OPAQUE.contains(&entry) => origin == entry,
        entry => parsed.is_some() && parsed == Origin::parse(entry),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(origin: &str, list: &[&str]) -> bool {
        is_allowed(origin, &list.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn localhost_is_this_machine_on_any_port_and_nothing_that_begins_like_it() {
        for good in ["http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://[::1]:8000"] {
            assert!(allowed(good, &["localhost"]), "{good}");
        }
        for bad in [
            "http://localhost.evil.example",
            "http://localhost:3000.evil.example",
            "http://localhost@evil.example",
            "http://evil.example@localhost",
            "http://user:localhost@evil.example",
            "http://localhost:99999",
            "http://localhost:",
            "http://localhost/",
            "http://localhost#",
            "http://localhost evil.example",
            "http://[::1].evil.example",
            "http://127.0.0.1.evil.example",
            "http://127.0.0.2",
            "ftp://localhost",
            "localhost",
            "null",
            "file://",
            "",
        ] {
            assert!(!allowed(bad, &["localhost"]), "{bad}");
        }
    }

    #[test]
    fn origins_on_the_list_are_compared_with_their_ports() {
        let list = ["https://chat.example", "http://chat.example:8080"];
        for good in ["https://chat.example", "https://chat.example:443", "http://chat.example:8080"] {
            assert!(allowed(good, &list), "{good}");
        }
        for bad in ["http://chat.example", "https://chat.example:8443", "https://chat.example.evil.example"] {
            assert!(!allowed(bad, &list), "{bad}");
        }
        assert!(allowed("null", &["null"]) && !allowed("null", &list) && !allowed("file://", &["null"]));
        assert!(allowed("file://", &["file://"]));
    }

    #[test]
    fn a_servers_own_origin_is_told_by_its_host() {
        let origin = |text| Origin::parse(text).unwrap();
        assert!(origin("https://chat.example").is_of_host("chat.example"));
        assert!(origin("https://chat.example").is_of_host("Chat.Example:443"));
        assert!(origin("http://chat.example:8000").is_of_host("chat.example:8000"));
        assert!(!origin("http://chat.example:8001").is_of_host("chat.example:8000"));
        assert!(!origin("http://evil.example").is_of_host("chat.example"));
    }
}
