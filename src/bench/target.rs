//! The server under test: a running one, or a broker that the benchmark starts.

use std::{
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use reqwest::Url;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{meter::Control, process::Processes};
use crate::terminal::WrongArguments;

/// Timeout for the start of a broker.
const START: Duration = Duration::from_secs(60);

/// Timeout for the first connection, which checks that the server listens.
const CONNECT: Duration = Duration::from_secs(5);

/// Limits that are switched off, since a benchmark uses one address and few identities. Limits that protect the broker's
/// memory stay in force.
const LIFTED: [&str; 12] = [
    "CONNECTIONS",
    "FRAMES_PER_SECOND",
    "LOGIN_FAILURES_PER_MINUTE",
    "PENDING_COMMANDS_PER_IDENTITY",
    "QUEUED_BYTES_PER_DEVICE",
    "QUEUED_PER_DEVICE",
    "REGISTRATIONS_PER_MINUTE",
    "REQUESTS_PER_SECOND",
    "ROOMS_PER_USER",
    "STORED_BYTES_PER_MINUTE",
    "SUBSCRIPTIONS_PER_CLIENT",
    "TOPICS_PER_CLIENT",
];

/// The server under test.
pub(super) struct Target {
    /// The server's URL.
    pub url: String,
    /// Its resolved address.
    pub address: SocketAddr,
    /// Its value for the `Host` header.
    pub host: String,
    /// Its processes, if they are on this machine and known.
    pub processes: Processes,
    own: Option<Own>,
}

/// A broker started by the benchmark. Dropping it kills the process and deletes the data.
struct Own {
    child: Child,
    dir: TempDir,
}

impl Target {
    /// Checks that a server listens at the URL.
    pub(super) fn running(url: &str, pids: Vec<u32>) -> anyhow::Result<Self> {
        let parsed = Url::parse(url).ok().filter(Url::has_host);
        let Some(parsed) = parsed else {
            bail!(WrongArguments(format!("bad URL {url}: expected something like http://127.0.0.1:8000")));
        };
        ensure!(
            matches!(parsed.scheme(), "http" | "ws"),
            WrongArguments(format!(
                "bad URL {url}: a benchmark speaks no TLS, so it has to reach the broker itself, as http://host:port"
            ))
        );
        ensure!(
            parsed.path() == "/",
            WrongArguments(format!(
                "bad URL {url}: a benchmark has to reach the broker itself, not below a path of a proxy"
            ))
        );
        let host = parsed.host_str().unwrap_or_default();
        let port = parsed.port_or_known_default().unwrap_or(80);
        let candidates = (host.trim_matches(['[', ']']), port)
            .to_socket_addrs()
            .with_context(|| format!("cannot resolve {host}"))?;
        // takes the first of the name's addresses that accepts a connection
        let address = candidates.into_iter().find(|address| TcpStream::connect_timeout(address, CONNECT).is_ok());
        let address = address.with_context(|| {
            format!("no broker at {url}: start it, or leave out --url to measure a broker of its own")
        })?;
        let processes = Processes(pids);
        ensure!(
            processes.0.is_empty() || processes.memory().is_some(),
            "one of the processes {:?} is not here, or this system does not report its memory",
            processes.0
        );
        let url = format!("http://{host}:{port}");
        Ok(Self { url, address, host: format!("{host}:{port}"), processes, own: None })
    }

    /// Starts a broker with this many workers.
    pub(super) async fn start(workers: usize, control: &Control) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("switchboard-bench-").context("cannot make a temporary directory")?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--bind", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            // neither a .env file nor a variable may point it to real data
            .current_dir(dir.path())
            .env_clear()
            .env("RUST_LOG", "warn")
            .env("SWITCHBOARD__HTTP__WORKERS", workers.to_string())
            // a slow disk shows in the figures, and ends no benchmark
            .env("SWITCHBOARD__STORAGE__TIMEOUT_MS", "60000")
            .env("SWITCHBOARD__MESSAGES__TOTAL_BYTES", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        for limit in LIFTED {
            command.env(format!("SWITCHBOARD__LIMITS__{limit}"), "0");
        }
        let mut own = Own { child: command.spawn().context("cannot start a broker")?, dir };
        match control.unless_stopped(own.url()).await {
            Ok(url) => {
                let pids = own.child.id().into_iter().collect();
                Ok(Self { own: Some(own), ..Self::running(&url, pids)? })
            }
            Err(error) => {
                own.stop().await;
                Err(error)
            }
        }
    }

    /// Whether the benchmark started the broker and deletes its data.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// The data directory of a broker that the benchmark started.
    pub(super) fn data_dir(&self) -> Option<std::path::PathBuf> {
        self.own.as_ref().map(|own| own.dir.path().join(Path::new("data")))
    }

    /// Stops a broker that the benchmark started.
    pub(super) async fn stop(self) {
        if let Some(own) = self.own {
            own.stop().await;
        }
    }
}

impl Own {
    /// Waits until the broker listens. Returns its URL.
    async fn url(&mut self) -> anyhow::Result<String> {
        let stdout = self.child.stdout.take().context("the broker has no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = tokio::time::timeout(START, lines.next_line()).await.context("the broker does not start")??;
        let url = first.as_deref().and_then(|line| line.split_whitespace().find(|word| word.starts_with("http://")));
        url.map(str::to_owned).with_context(|| {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            format!("the broker does not start: {}", log.trim())
        })
    }

    /// Kills the broker before its data is deleted. A graceful stop is not needed.
    async fn stop(mut self) {
        let _ = self.child.kill().await;
    }
}
