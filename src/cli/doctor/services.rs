//! The services that the broker uses.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use super::Finding;
use crate::{
    clock::Clock,
    cluster::shard,
    settings::{RedisAddress, Settings},
    store::{Location, Store},
};

/// How long a service may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Difference of clocks above which times in answers and logs mislead.
const TOLERATED: TimeDelta = TimeDelta::seconds(2);

/// Reachable, with a schema that this program knows, and a clock that agrees.
pub(super) async fn database(settings: &Settings) -> Vec<Finding> {
    const SUBJECT: &str = "database";
    let location = match Location::of(&settings.storage) {
        Ok(location) => location,
        Err(error) => return vec![Finding::wrong(SUBJECT, error, "set DATABASE_URL to a URL, or leave it out")],
    };
    if let Location::Sqlite(file) = &location
        && !file.exists()
    {
        return vec![Finding::good(SUBJECT, format!("{location}, made by the first start"))];
    }
    let store = match tokio::time::timeout(PATIENCE, Store::connect(&settings.storage)).await {
        Ok(Ok(store)) => store,
        Ok(Err(error)) => return vec![Finding::wrong(SUBJECT, format!("{location}: {error}"), advice(&location))],
        Err(_) => {
            return vec![Finding::wrong(
                SUBJECT,
                format!("{location} does not answer in {PATIENCE:?}"),
                advice(&location),
            )];
        }
    };
    let began = Instant::now();
    let status = match store.migration_status().await {
        Ok(status) => status,
        Err(error) => {
            return vec![Finding::wrong(
                SUBJECT,
                format!("{location}: {error}"),
                "use a program of the version that wrote it",
            )];
        }
    };
    let round_trip = began.elapsed();
    let pending = status.iter().filter(|(_, applied)| !applied).count();
    let mut findings = vec![match pending {
        0 => Finding::good(SUBJECT, format!("{location} answers in {round_trip:.1?}")),
        // a new one has none of them
        pending if pending == status.len() => {
            Finding::good(SUBJECT, format!("{location}, empty; the first start fills it"))
        }
        pending => Finding::warning(
            SUBJECT,
            format!("{location} has the schema of an older version: {pending} migrations are pending"),
            "switchboard migrate up, or start the broker, which does it; back up first",
        ),
    }];
    if let (Location::Postgres(_), Ok(time)) = (&location, store.database_time().await) {
        findings.extend(clocks(SUBJECT, time));
    }
    store.close().await;
    findings
}

fn advice(location: &Location) -> &'static str {
    match location {
        Location::Sqlite(_) => "run as the broker's user, on a file that this user may write",
        Location::Postgres(_) => {
            "check DATABASE_URL (host, user, password, name), and that the server runs: pg_isready"
        }
    }
}

/// Each server of Redis: reachable, with a clock that agrees.
pub(super) async fn redis(settings: &Settings) -> Vec<Finding> {
    const SUBJECT: &str = "redis";
    let mut findings = Vec::new();
    for address in RedisAddress::all(&settings.redis).unwrap_or_default() {
        let began = Instant::now();
        match tokio::time::timeout(PATIENCE, shard::server_time(&address)).await {
            Ok(Ok(time)) => {
                findings.push(Finding::good(SUBJECT, format!("{address} answers in {:.1?}", began.elapsed())));
                findings.extend(clocks(SUBJECT, time));
            }
            Ok(Err(error)) => findings.push(Finding::wrong(
                SUBJECT,
                format!("{address}: {error}"),
                "check REDIS_URL (host, port, password), and that the server runs: redis-cli ping",
            )),
            Err(_) => findings.push(Finding::wrong(
                SUBJECT,
                format!("{address} does not answer in {PATIENCE:?}"),
                "check REDIS_URL, and that no firewall drops the packets",
            )),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good(SUBJECT, "not used: this is a broker on its own"));
    }
    findings
}

/// A warning if the clock of a service differs from this machine's.
fn clocks(subject: &'static str, there: DateTime<Utc>) -> Option<Finding> {
    let difference = Clock::default().now() - there;
    (difference.abs() > TOLERATED).then(|| {
        let seconds = difference.num_seconds();
        let text = format!(
            "the clock of the server is {} s {} that of this machine",
            seconds.abs(),
            if seconds > 0 { "behind" } else { "ahead of" }
        );
        Finding::warning(subject, text, "have both synchronised (timedatectl set-ntp true)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_told() {
        let now = Clock::default().now();
        assert_eq!(clocks("redis", now), None);
        let text = |difference| clocks("redis", now + TimeDelta::seconds(difference)).unwrap().text;
        assert!(text(-60).contains("s behind"));
        assert!(text(60).contains("s ahead of"));
    }
}
