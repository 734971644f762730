//! A PostgreSQL server of a test's own.

use std::{net::SocketAddr, os::unix::fs::MetadataExt, path::Path, process::Stdio};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::api::support::{create_database, own_address, until};

/// A server without durability. Dropping it kills the process.
pub struct Postgres {
    address: SocketAddr,
    _dir: TempDir,
    _child: Child,
}

/// The directory of PostgreSQL's server programs, which Debian has not on the PATH.
fn programs() -> String {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL (Debian: apt install postgresql)");
    let newest = versions.map(|entry| entry.unwrap().path()).max().expect("a version of PostgreSQL");
    newest.join("bin").display().to_string()
}

/// Whether the tests run as root.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A program of PostgreSQL's, which refuses to run as root.
fn program(name: &str, dir: &Path) -> Command {
    let path = format!("{}/{name}", programs());
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", &path]);
        command
    } else {
        Command::new(path)
    };
    command.arg("-D").arg(dir.join("data")).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

impl Postgres {
    pub async fn start() -> Self {
        let (dir, address) = (TempDir::new().unwrap(), own_address());
        if is_root() {
            let owned = Command::new("chown").arg("postgres").arg(dir.path()).status().await.unwrap();
            assert!(owned.success());
        }
        let made = program("initdb", dir.path()).args(["-U", "switchboard", "-A", "trust", "--no-sync"]).status().await;
        assert!(made.unwrap().success(), "initdb");
        let (port, host) = (address.port().to_string(), format!("listen_addresses={}", address.ip()));
        let sockets = format!("unix_socket_directories={}", dir.path().display());
        let mut server = program("postgres", dir.path());
        server.args(["-p", &port, "-c", &host, "-c", &sockets, "-c", "fsync=off", "-c", "max_connections=200"]);
        let child = server.spawn().unwrap();
        until(async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        Self { address, _dir: dir, _child: child }
    }

    /// The URL of a new database.
    pub async fn database(&self) -> String {
        let server = format!("postgres://switchboard@{}/postgres", self.address);
        until(async || sea_orm::Database::connect(&server).await.is_ok()).await;
        create_database(&server).await
    }
}
