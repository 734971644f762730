//! Runs a command that continues until it is stopped, such as `agent`.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{ChangeBroker, within};

/// A running command with its output. Dropping it kills the process.
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    /// stdout and stderr
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts a command of the binary in the broker's working directory.
    pub fn start(setup: &mut ChangeBroker, arguments: &[&str]) -> Self {
        Self::start_of(setup, env!("CARGO_BIN_EXE_switchboard"), arguments)
    }

    /// Starts any program in the broker's working directory.
    pub fn start_of(setup: &mut ChangeBroker, program: &str, arguments: &[&str]) -> Self {
        let mut shell = vec!["-c", "exec \"$0\" \"$@\" 2>&1", program];
        shell.extend(arguments);
        let mut command = Command::from(setup.command_of("sh", &shell));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("a shell");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { stdin: child.stdin.take(), child, lines }
    }

    /// Reads a line.
    pub async fn line(&mut self) -> String {
        self.says("").await
    }

    /// Reads until a line contains a text. Returns the line.
    pub async fn says(&mut self, what: &str) -> String {
        let mut said = String::new();
        within(async {
            loop {
                let Some(line) = self.lines.next_line().await.unwrap() else {
                    panic!("it ended without saying {what:?}: {said}");
                };
                if line.contains(what) {
                    return line;
                }
                said += &line;
                said.push('\n');
            }
        })
        .await
    }

    /// Writes a line to stdin.
    pub async fn types(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        within(stdin.write_all(format!("{line}\n").as_bytes())).await.unwrap();
    }

    /// Waits for the end of the process. Returns the exit code and the remaining output.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        while let Some(line) = within(self.lines.next_line()).await.unwrap() {
            rest += &line;
            rest.push('\n');
        }
        (within(self.child.wait()).await.unwrap().code(), rest)
    }

    /// Stops the process with SIGTERM, as a service manager does.
    pub async fn stop(self) -> (Option<i32>, String) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
        self.ended().await
    }
}
