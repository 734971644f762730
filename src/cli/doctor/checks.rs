//! What this machine itself has.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use super::Finding;
use crate::{
    actors::gateway_monitor::allows_icmp_sockets,
    app::{bootstrap, capacity, worker_count},
    settings::{Icmp, Settings},
    store::{Location, free_space},
};

const MIB: u64 = 1024 * 1024;

/// The settings and the secret. That each is valid was found when they were loaded.
pub(super) fn settings(settings: &Settings) -> Vec<Finding> {
    let mut findings: Vec<_> = settings
        .warnings()
        .into_iter()
        .map(|warning| {
            let (text, remedy) = warning.split_once(": ").unwrap_or((&warning, "see `switchboard config show`"));
            Finding::warning("settings", text, remedy)
        })
        .collect();
    match settings.check_secret().map_err(|error| error.to_string()) {
        Ok(()) if findings.is_empty() => findings.push(Finding::good("settings", "valid")),
        Ok(()) => {}
        Err(why) => {
            let (text, remedy) = why.split_once(": ").unwrap_or((&why, "see `switchboard config check`"));
            findings.push(Finding::wrong("settings", text, remedy));
        }
    }
    findings
}

/// Whether the system lets the broker have the connections that `limits.connections` allows.
pub(super) fn open_files(settings: &Settings) -> Finding {
    const SUBJECT: &str = "open files";
    // raises the limit as the broker does
    let most = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(most) => most,
        Err(error) => return Finding::warning(SUBJECT, format!("the limit is unknown: {error}"), "ulimit -n"),
    };
    let (wanted, served) = (settings.limits.connections, capacity(settings, most, worker_count(settings)).served());
    if wanted == 0 {
        return Finding::good(SUBJECT, format!("{most} are enough for {served} connections"));
    }
    if served < wanted {
        let text = format!("{most} allow {served} connections, and limits.connections is {wanted}");
        return Finding::warning(
            SUBJECT,
            text,
            "ulimit -n 131072 (systemd: LimitNOFILE=131072), or lower limits.connections",
        );
    }
    Finding::good(SUBJECT, format!("{most} are enough for {wanted} connections"))
}

/// The data directory, and what may be read of it by others.
pub(super) fn data_dir(settings: &Settings) -> Finding {
    const SUBJECT: &str = "data";
    let dir = &settings.storage.data_dir;
    let shown = dir.display();
    let Ok(found) = fs::metadata(dir) else {
        return Finding::good(SUBJECT, format!("{shown} is made by the first start"));
    };
    if found.permissions().mode() & 0o077 != 0 {
        let text = format!("others on this machine may read {shown}, which has the secret and the database");
        return Finding::warning(SUBJECT, text, format!("chmod 700 {shown}"));
    }
    if rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        let text = format!("this user may not write to {shown}");
        return Finding::wrong(SUBJECT, text, format!("run as the broker's user, or chown it: chown -R USER {shown}"));
    }
    match bootstrap::lock_holder(dir) {
        Some(process) => Finding::good(SUBJECT, format!("{shown} is used by the broker with process {process}")),
        None => Finding::good(SUBJECT, format!("{shown} is used by no broker")),
    }
}

/// The space for what is stored.
pub(super) fn disk(settings: &Settings) -> Finding {
    const SUBJECT: &str = "disk";
    let database = match Location::of(&settings.storage) {
        Ok(Location::Sqlite(file)) => file,
        _ => settings.storage.data_dir.join("of PostgreSQL"),
    };
    let dir = existing(database.parent().unwrap_or(Path::new(".")));
    let (free, total) = match free_space(dir) {
        Ok(found) => found,
        Err(error) => return Finding::warning(SUBJECT, format!("the free space is unknown: {error}"), "df"),
    };
    // as the broker counts
    let least = settings.storage.min_free_bytes.min(total / 20);
    let text = format!("{} MiB of {} MiB are free at {}", free / MIB, total / MIB, dir.display());
    if settings.storage.min_free_bytes > 0 && free < least {
        return Finding::wrong(
            SUBJECT,
            format!("{text}: nothing is stored"),
            "free some space, or change storage.data_dir",
        );
    }
    if free < total / 10 {
        return Finding::warning(SUBJECT, text, "free some space, or change storage.data_dir");
    }
    Finding::good(SUBJECT, text)
}

/// The directory, or the next one above that exists.
fn existing(dir: &Path) -> &Path {
    let found = dir.ancestors().find(|dir| dir.exists() && !dir.as_os_str().is_empty());
    found.unwrap_or(Path::new("."))
}

/// Whether something sets the clock.
pub(super) fn clock() -> Finding {
    const SUBJECT: &str = "clock";
    let asked = Command::new("timedatectl").args(["show", "--property", "NTPSynchronized", "--value"]).output();
    let answer = asked.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    match answer.as_deref().map(<[u8]>::trim_ascii) {
        Some(b"yes") => Finding::good(SUBJECT, "synchronised"),
        Some(b"no") => {
            Finding::warning(SUBJECT, "not synchronised: tokens may expire early or late", "timedatectl set-ntp true")
        }
        _ => Finding::good(SUBJECT, "not known whether it is synchronised: there is no timedatectl here"),
    }
}

/// Whether gateways can be pinged.
pub(super) fn ping(settings: &Settings) -> Finding {
    const SUBJECT: &str = "ping";
    const ALLOW: &str = "sysctl -w net.ipv4.ping_group_range='0 2147483647'";
    let (by_socket, by_program) = (allows_icmp_sockets(), is_installed("ping"));
    match settings.probes.icmp {
        Icmp::Auto | Icmp::Socket if by_socket => Finding::good(SUBJECT, "the system allows ICMP sockets"),
        Icmp::Auto | Icmp::Ping if by_program => Finding::good(SUBJECT, "by the program ping"),
        Icmp::Socket => Finding::wrong(SUBJECT, "the system allows no ICMP sockets (probes.icmp is \"socket\")", ALLOW),
        Icmp::Ping => {
            Finding::wrong(SUBJECT, "ping is not installed (probes.icmp is \"ping\")", "apt install iputils-ping")
        }
        Icmp::Auto => {
            let remedy =
                format!("{ALLOW}, or apt install iputils-ping; gateways of the form tcp://host:port need neither");
            Finding::warning(SUBJECT, "gateways cannot be pinged: no ICMP sockets, and no program ping", remedy)
        }
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
