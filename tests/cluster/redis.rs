//! A Redis server of a test's own.

use std::{net::SocketAddr, path::PathBuf, process::Stdio};

use deadpool_redis::redis::{Client, Cmd, FromRedisValue};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::api::support::{own_address, tls::certified, within};

/// A server that keeps nothing when it ends. Dropping it kills the process.
pub struct Redis {
    address: SocketAddr,
    password: Option<&'static str>,
    has_tls: bool,
    dir: TempDir,
    child: Option<Child>,
}

impl Redis {
    /// One that is not running yet.
    pub fn stopped(password: Option<&'static str>) -> Self {
        Self { address: own_address(), password, has_tls: false, dir: TempDir::new().unwrap(), child: None }
    }

    pub async fn start() -> Self {
        let mut redis = Self::stopped(None);
        redis.run().await;
        redis
    }

    /// One that speaks TLS alone, with a certificate of a private authority.
    pub async fn with_tls() -> Self {
        let mut redis = Self { has_tls: true, ..Self::stopped(None) };
        let (certificate, key) = certified(&redis.address.ip().to_string(), &redis.authority());
        std::fs::write(redis.dir.path().join("certificate.pem"), certificate.pem()).unwrap();
        std::fs::write(redis.dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        redis.run().await;
        redis
    }

    /// The file with the certificate of the authority.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        let login = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        let scheme = if self.has_tls { "rediss" } else { "redis" };
        format!("{scheme}://{login}{}", self.address)
    }

    /// Starts it, empty.
    pub async fn run(&mut self) {
        let (ip, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let mut command = Command::new("redis-server");
        command.args(["--bind", &ip, "--save", "", "--appendonly", "no"]);
        if self.has_tls {
            command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"]);
            command.args(["--tls-cert-file", "certificate.pem", "--tls-key-file", "key.pem"]);
            command.args(["--tls-ca-cert-file", "authority.pem"]);
        } else {
            command.args(["--port", &port]);
        }
        command.args(self.password.into_iter().flat_map(|password| ["--requirepass", password]));
        command.current_dir(self.dir.path()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("redis-server (Debian: apt install redis-server)");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        within(async {
            while !lines.next_line().await.unwrap().expect("it runs").contains("eady to accept connections") {}
        })
        .await;
        // read on, so that it never blocks on a full pipe
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.child = Some(child);
    }

    /// Kills it, with all that it has.
    pub async fn kill(&mut self) {
        self.child.take().expect("it runs").kill().await.unwrap();
    }

    /// Sends it a signal, such as `STOP`.
    pub async fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id().expect("it runs").to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().await.unwrap().success());
    }

    /// Asks it.
    pub async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection =
            Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.expect("a connection");
        let (name, arguments) = command.split_first().unwrap();
        let mut asked = Cmd::new();
        asked.arg(name).arg(arguments);
        asked.query_async(&mut connection).await.unwrap()
    }
}
