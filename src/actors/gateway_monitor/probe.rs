//! One probe of one gateway: a connection, or an echo request by a socket of the broker's own or by the system's `ping`.
//! No shell is involved anywhere, and the program gets an address that has been looked up, never a text of a client's.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use socket2::{SockRef, Type};
use surge_ping::{Client, Config, ICMP, IcmpPacket, PingIdentifier, PingSequence, SurgeError};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    process::Command,
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{
    domain::gateways::{Host, Outcome, Reason, Target, is_one_machine},
    settings::Icmp,
};

/// Between two attempts, so that they do not meet the same moment of trouble.
const PAUSE: Duration = Duration::from_millis(100);

/// Names that may be looked up at a time. A lookup can't be stopped: it takes a thread for as long as the system likes.
const LOOKUPS: usize = 64;

/// Addresses of a name that are tried.
const ADDRESSES: usize = 4;

/// How much longer than a probe `ping` may live.
const GRACE: Duration = Duration::from_millis(500);

/// How much of what `ping` prints is read.
const PRINTED: u64 = 4096;

/// What an echo request carries.
const PAYLOAD: [u8; 32] = *b"switchboard gateway echo request";

/// Why a probe could not be made. It says nothing of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unable {
    #[error(
        "ping is not installed and the system allows no ICMP sockets: install ping, or set net.ipv4.ping_group_range"
    )]
    NoPing,
    #[error("the system allows no ICMP sockets (probes.icmp is \"socket\"): set net.ipv4.ping_group_range")]
    NoSocket,
    #[error("{0}")]
    System(String),
}

/// How a target is probed.
#[async_trait(?Send)]
pub(super) trait Probe: Send + Sync {
    /// Tries so often until it is answered.
    async fn probe(&self, target: &Target, attempts: u32) -> Result<Outcome, Unable>;
}

type Attempt = Result<Result<Duration, Reason>, Unable>;

/// What probes need.
pub(super) struct Prober {
    timeout: Duration,
    icmp: Icmp,
    /// for IPv4 and IPv6, where the system allows it
    sockets: [Option<Client>; 2],
    sequence: AtomicU16,
    lookups: Arc<Semaphore>,
}

#[async_trait(?Send)]
impl Probe for Prober {
    async fn probe(&self, target: &Target, attempts: u32) -> Result<Outcome, Unable> {
        let mut lost = 0;
        loop {
            let answer = self.attempt(target).await?;
            lost += u32::from(answer.is_err());
            if answer.is_ok() || lost >= attempts {
                return Ok(Outcome { lost, answer });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Prober {
    /// Opens its sockets on the present runtime.
    pub(super) fn new(timeout: Duration, icmp: Icmp) -> Self {
        let sockets = match icmp {
            Icmp::Ping => [None, None],
            Icmp::Auto | Icmp::Socket => [ICMP::V4, ICMP::V6].map(datagram_socket),
        };
        tracing::debug!(ipv4 = sockets[0].is_some(), ipv6 = sockets[1].is_some(), "ICMP sockets");
        let lookups = Arc::new(Semaphore::new(LOOKUPS));
        Self { timeout, icmp, sockets, sequence: AtomicU16::new(0), lookups }
    }

    async fn attempt(&self, target: &Target) -> Attempt {
        let deadline = Instant::now() + self.timeout;
        let (Target::Icmp(host) | Target::Tcp(host, _)) = target;
        let ips = self.look_up(host, deadline).await?;
        let mut result = Ok(Err(Reason::Unresolvable));
        for (index, ip) in ips.iter().enumerate() {
            // one address that is silent must not take the time of those that would answer
            let left = (ips.len() - index) as u32;
            let until = Instant::now() + deadline.saturating_duration_since(Instant::now()) / left;
            let answer = match target {
                Target::Tcp(_, port) => connect(SocketAddr::new(*ip, *port), until).await,
                Target::Icmp(_) => self.ping(*ip, until).await,
            };
            match answer {
                Ok(Ok(rtt)) => return Ok(Ok(rtt)),
                // the gateway's own failure says more than that another address can't be tried
                Err(_) if index > 0 && result.is_ok() => {}
                failure => result = failure,
            }
        }
        result
    }

    /// The addresses to be tried; none: the name does not resolve to any.
    async fn look_up(&self, host: &Host, deadline: Instant) -> Result<Vec<IpAddr>, Unable> {
        let name = match host {
            Host::Ip(ip) => return Ok(vec![*ip]),
            Host::Name(name) => name.clone(),
        };
        let Ok(Ok(place)) = timeout_at(deadline, self.lookups.clone().acquire_owned()).await else {
            return Err(Unable::System("too many names are being looked up".to_owned()));
        };
        // in a task of its own: one that takes longer than anyone waits still takes its place until it is over
        let lookup = actix::spawn(async move {
            let _place = place;
            tokio::net::lookup_host((name, 0)).await.map(|found| found.map(|address| address.ip()).collect::<Vec<_>>())
        });
        match timeout_at(deadline, lookup).await {
            Ok(Ok(Ok(mut ips))) => {
                ips.retain(|ip| is_one_machine(*ip));
                ips.truncate(ADDRESSES);
                Ok(ips)
            }
            Ok(Ok(Err(error))) if is_own_fault(&error) => {
                Err(Unable::System(format!("the system can't look names up: {error}")))
            }
            _ => Ok(Vec::new()),
        }
    }

    async fn ping(&self, ip: IpAddr, deadline: Instant) -> Attempt {
        match (&self.sockets[usize::from(ip.is_ipv6())], self.icmp) {
            (Some(socket), _) => self.ping_by_socket(socket, ip, deadline).await,
            (None, Icmp::Socket) => Err(Unable::NoSocket),
            (None, Icmp::Auto | Icmp::Ping) => {
                ping_by_program(ip, deadline.saturating_duration_since(Instant::now())).await
            }
        }
    }

    async fn ping_by_socket(&self, socket: &Client, ip: IpAddr, deadline: Instant) -> Attempt {
        // the system puts the socket's own identifier in; the number tells the requests to one address apart
        let sequence = PingSequence(self.sequence.fetch_add(1, Ordering::Relaxed));
        let mut pinger = socket.pinger(ip, PingIdentifier(0)).await;
        pinger.timeout(deadline.saturating_duration_since(Instant::now()));
        match pinger.ping(sequence, &PAYLOAD).await {
            Ok((IcmpPacket::V4(packet), rtt)) if packet.get_icmp_type().0 == 0 => Ok(Ok(rtt)),
            Ok((IcmpPacket::V6(packet), rtt)) if packet.get_icmpv6_type().0 == 129 => Ok(Ok(rtt)),
            // somebody on the way says that it can't be reached
            Ok(_) => Ok(Err(Reason::Unreachable)),
            Err(SurgeError::Timeout { .. }) => Ok(Err(Reason::Timeout)),
            Err(SurgeError::IOError(error)) => failed(&error),
            Err(error) => Err(Unable::System(format!("cannot ping: {error}"))),
        }
    }
}

/// Whether the system lets this process ping with sockets.
pub fn allows_sockets() -> bool {
    datagram_socket(ICMP::V4).is_some()
}

/// A socket that may ping without root. What the library falls back to, a raw socket, would need it.
fn datagram_socket(kind: ICMP) -> Option<Client> {
    let client = Client::new(&Config::builder().kind(kind).sock_type_hint(Type::DGRAM).build()).ok()?;
    (client.get_socket().get_type() == Type::DGRAM).then_some(client)
}

async fn connect(address: SocketAddr, deadline: Instant) -> Attempt {
    let began = Instant::now();
    match timeout_at(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            let rtt = began.elapsed();
            // closed by a reset: else each probe would leave a socket behind for a minute
            if let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
                tracing::debug!(%error, "cannot set SO_LINGER");
            }
            Ok(Ok(rtt))
        }
        Ok(Err(error)) => failed(&error),
        Err(_) => Ok(Err(Reason::Timeout)),
    }
}

/// Whether the gateway failed, or the system that should have reached it.
fn failed(error: &io::Error) -> Attempt {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => {
            Ok(Err(Reason::Refused))
        }
        ErrorKind::TimedOut => Ok(Err(Reason::Timeout)),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            Ok(Err(Reason::Unreachable))
        }
        _ => Err(Unable::System(format!("the system can't probe: {error}"))),
    }
}

/// Whether a lookup failed for want of something that the broker itself lacks.
fn is_own_fault(error: &io::Error) -> bool {
    // no more files here or in the system, no memory (EMFILE, ENFILE, ENOMEM)
    matches!(error.raw_os_error(), Some(24 | 23 | 12))
}

/// The program and its arguments. The timeout it has in whole seconds where it takes no other.
fn ping_command(ip: IpAddr, timeout: Duration) -> (&'static str, Vec<String>) {
    let millis = timeout.as_millis().to_string();
    let secs = timeout.as_secs_f64().ceil().to_string();
    let (program, options): (_, &[&str]) = if cfg!(windows) {
        ("ping", &["-n", "1", "-w", &millis])
    } else if cfg!(target_os = "linux") {
        ("ping", &["-n", "-c", "1", "-W", &secs])
    } else if ip.is_ipv6() {
        ("ping6", &["-n", "-c", "1"])
    } else {
        ("ping", &["-n", "-c", "1", "-W", &millis])
    };
    (program, options.iter().map(|&option| option.to_owned()).chain([ip.to_string()]).collect())
}

async fn ping_by_program(ip: IpAddr, timeout: Duration) -> Attempt {
    let (program, arguments) = ping_command(ip, timeout);
    let began = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        // its answers are read
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Unable::NoPing,
            _ => Unable::System(format!("cannot run ping: {error}")),
        })?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = async { tokio::join!(read(out), read(err), child.wait()) };
    let Ok((out, err, status)) = timeout_at(began + timeout + GRACE, ended).await else {
        return Ok(Err(Reason::Timeout));
    };
    let status = status.map_err(|error| Unable::System(format!("cannot run ping: {error}")))?;
    judge(status.code(), &out, &err, began.elapsed())
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // what could be read counts
        let _ = pipe.take(PRINTED).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a `ping` that has ended found.
fn judge(code: Option<i32>, out: &str, err: &str, took: Duration) -> Attempt {
    // that of Windows calls it a success when a router answers that it can't be reached
    if code == Some(0) && (!cfg!(windows) || out.contains("TTL=")) {
        return Ok(Ok(printed_rtt(out).unwrap_or(took)));
    }
    let said = format!("{err}\n{out}").to_lowercase();
    let own_fault = ["permitted", "permission denied", "privileged", "invalid option", "unrecognized", "usage:"];
    let is_unreachable = said.contains("unreachable") || said.contains("no route");
    // that of Linux ends with 1 when nobody answered, and with something else when it could not ask
    let could_not_ask = cfg!(target_os = "linux") && code != Some(1) && !is_unreachable;
    if could_not_ask || own_fault.iter().any(|sign| said.contains(sign)) {
        let line = err.lines().chain(out.lines()).find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(Unable::System(format!("ping does not work: {}", line.trim())));
    }
    Ok(Err(if is_unreachable { Reason::Unreachable } else { Reason::Timeout }))
}

/// `time=0.045 ms`, or `time<1ms` on Windows.
fn printed_rtt(out: &str) -> Option<Duration> {
    let (_, rest) = out.split_once("time=").or_else(|| out.split_once("time<"))?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let millis: f64 = rest[..end].parse().ok()?;
    Duration::try_from_secs_f64(millis / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(7);

    #[test]
    fn what_ping_prints_is_understood() {
        let iputils = "64 bytes from 127.0.0.1: icmp_seq=1 ttl=64 time=0.045 ms\n";
        assert_eq!(judge(Some(0), iputils, "", TOOK), Ok(Ok(Duration::from_micros(45))));
        assert_eq!(judge(Some(0), "", "", TOOK), Ok(Ok(TOOK)));
        assert_eq!(judge(Some(0), "time=x", "", TOOK), Ok(Ok(TOOK)));
        assert_eq!(judge(Some(1), "1 packets transmitted, 0 received", "", TOOK), Ok(Err(Reason::Timeout)));
        let router = "From 192.0.2.9 icmp_seq=1 Destination Host Unreachable";
        assert_eq!(judge(Some(1), router, "", TOOK), Ok(Err(Reason::Unreachable)));
        let no_way = "ping: connect: Network is unreachable";
        assert_eq!(judge(Some(2), "", no_way, TOOK), Ok(Err(Reason::Unreachable)));
        for fault in [
            "ping: socket: Operation not permitted",
            "ping: permission denied (are you root?)",
            "Usage: ping",
            "ping: sendmsg: No buffer space available",
        ] {
            let expected = Unable::System(format!("ping does not work: {fault}"));
            assert_eq!(judge(Some(2), "", &format!("{fault}\nmore"), TOOK), Err(expected));
        }
    }
}
