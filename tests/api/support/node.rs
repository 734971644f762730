//! A process of the built broker.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::within;

/// A running node. Dropping it kills the process.
pub struct Node {
    /// The node's URL.
    pub url: String,
    /// What it printed when it accepted connections.
    pub banner: String,
    log: PathBuf,
    child: Child,
}

impl Node {
    /// Starts it and waits until it accepts connections. Its log is appended to a file.
    pub async fn start(mut command: Command, log: PathBuf) -> Self {
        let stderr = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let mut child = command.spawn().expect("the binary runs");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut banner = within(lines.next_line()).await.unwrap().unwrap_or_default();
        let url = match serde_json::from_str::<Value>(&banner) {
            Ok(line) => line["fields"]["url"].as_str().map(str::to_owned),
            Err(_) => banner.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned),
        };
        let Some(url) = url else {
            panic!("the broker did not start: {banner} {}", std::fs::read_to_string(log).unwrap());
        };
        // reads up to the last line of the banner, so that the broker never blocks on a full pipe
        while !banner.contains("try it") && !banner.starts_with('{') {
            banner += "\n";
            banner += &within(lines.next_line()).await.unwrap().expect("the whole banner");
        }
        Self { url, banner, log, child }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// The log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let status = std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process. Returns the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        within(self.child.wait()).await.unwrap().code()
    }

    /// Kills the process.
    pub async fn kill(&mut self) {
        self.child.start_kill().unwrap();
        within(self.child.wait()).await.unwrap();
    }

    /// Private memory in bytes (Linux: `RssAnon`).
    pub fn memory(&self) -> u64 {
        let pid = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}
