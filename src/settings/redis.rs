//! The addresses of Redis servers.

use std::fmt;

use deadpool_redis::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use super::Redis;

/// What `redis.url` is.
const EXPECTED: &str =
    "expected redis://[[user]:password@]host[:port][/database], or rediss:// for TLS; several are separated by commas";

/// The address of a Redis server, with its credentials. Shown without them.
#[derive(Clone)]
pub struct RedisAddress(ConnectionInfo);

impl RedisAddress {
    /// The addresses of the settings: those of `redis.url`, or `redis.host` with its keys; none without either.
    ///
    /// # Errors
    /// The key that has another value than an address, and what is expected.
    pub fn all(settings: &Redis) -> Result<Vec<Self>, (&'static str, &'static str)> {
        if !settings.url.is_empty() {
            let urls = settings.url.expose().split(',').map(|url| url.trim().into_connection_info());
            let all = urls.collect::<Result<Vec<_>, _>>().map_err(|_| ("redis.url", EXPECTED))?;
            return Ok(all.into_iter().map(Self).collect());
        }
        if settings.host.is_empty() {
            return Ok(Vec::new());
        }
        let mut login = RedisConnectionInfo::default().set_db(settings.db.into());
        if !settings.password.is_empty() {
            login = login.set_password(settings.password.expose());
        }
        let address = (settings.host.clone(), settings.port).into_connection_info();
        let address = address.map_err(|_| ("redis.host", "expected a host name or an IP address"))?;
        Ok(vec![Self(address.set_redis_settings(login))])
    }

    /// How to connect.
    pub fn info(&self) -> &ConnectionInfo {
        &self.0
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.0.redis_settings().db();
        match self.0.addr() {
            ConnectionAddr::TcpTls { host, port, .. } => write!(f, "rediss://{host}:{port}/{database}"),
            ConnectionAddr::Tcp(host, port) => write!(f, "redis://{host}:{port}/{database}"),
            other => write!(f, "{other}"),
        }
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Secret, built_in};

    fn secret(text: &str) -> Secret {
        serde_json::from_value(text.into()).unwrap()
    }

    fn shown(change: impl FnOnce(&mut Redis)) -> Result<Vec<String>, &'static str> {
        let mut redis = built_in().redis;
        change(&mut redis);
        let all = RedisAddress::all(&redis).map_err(|(key, _)| key)?;
        Ok(all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_are_urls_or_a_host_and_shown_without_their_credentials() {
        assert_eq!(shown(|_| {}), Ok(Vec::new()));
        assert_eq!(shown(|redis| redis.host = "cache".to_owned()).unwrap(), ["redis://cache:6379/0"]);
        let with_all = |redis: &mut Redis| {
            redis.host = "cache".to_owned();
            (redis.port, redis.db, redis.password) = (6380, 2, secret("secret"));
        };
        assert_eq!(shown(with_all).unwrap(), ["redis://cache:6380/2"]);
        let urls = "redis://:secret@one/3, rediss://user:secret@two:7000";
        let expected = ["redis://one:6379/3", "rediss://two:7000/0"];
        assert_eq!(shown(|redis| redis.url = secret(urls)).unwrap(), expected);
        // a URL counts before a host
        assert_eq!(
            shown(|redis| (redis.url, redis.host) = (secret("redis://one"), "two".to_owned())).unwrap(),
            ["redis://one:6379/0"]
        );
    }

    #[test]
    fn what_is_no_address_is_refused_by_key() {
        for bad in ["one", "http://one", "redis://one,", "redis://one/x"] {
            assert_eq!(shown(|redis| redis.url = secret(bad)), Err("redis.url"), "{bad}");
        }
    }
}
