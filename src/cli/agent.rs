//! `switchboard agent`: a device that answers commands by running a program of the user's.

use std::{ffi::OsString, process::Stdio, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    sync::{Semaphore, mpsc},
};
use uuid::Uuid;

use crate::client::Client;

/// The most that is kept of what a program prints.
const OUTPUT: usize = 48 * 1024;

#[derive(Args)]
pub(super) struct Arguments {
    /// Where the broker listens
    #[arg(long, env = "SWITCHBOARD_URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// The device's name
    #[arg(long, default_value = "agent")]
    name: String,
    /// The device's UUID [default: a new one]
    #[arg(long)]
    uuid: Option<Uuid>,
    /// The program that answers: it gets the command as JSON on stdin and prints the result as JSON. It is run directly,
    /// never through a shell.
    #[arg(long, value_name = "PROGRAM")]
    exec: OsString,
    /// Seconds the program may take
    #[arg(long, value_name = "SECS", default_value_t = 25)]
    exec_timeout: u64,
    /// Programs that may run at once; further commands wait
    #[arg(long, value_name = "N", default_value_t = 4)]
    parallel: usize,
    /// Arguments for the program
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.url)?;
    let device = client.register_device(&arguments.name, arguments.uuid.unwrap_or_else(Uuid::new_v4)).await?;
    let mut socket = client.connect("/ws").await?;
    println!("Connected to {} as {} ({}).", arguments.url, device.name, device.uuid);

    let arguments = Arc::new(arguments);
    let running = Arc::new(Semaphore::new(arguments.parallel.max(1)));
    let (done, mut answers) = mpsc::channel::<String>(16);
    loop {
        tokio::select! {
            frame = socket.next_frame() => {
                let frame = frame?;
                if frame["command_id"].is_string() && frame["method"].is_string() {
                    println!("{} {} {}", frame["command_id"], frame["method"], frame["url"]);
                    let (arguments, running, done) = (arguments.clone(), running.clone(), done.clone());
                    actix_web::rt::spawn(async move {
                        // closed never
                        let _place = running.acquire_owned().await;
                        let result = answer(&arguments, &frame).await.unwrap_or_else(|error| {
                            json!({ "error": format!("{error:#}") })
                        });
                        let answer = json!({ "command_id": frame["command_id"], "result": result });
                        // the socket is gone, and with it whoever waited
                        let _ = done.send(answer.to_string()).await;
                    });
                }
            }
            Some(answer) = answers.recv() => socket.send_text(answer).await?,
        }
    }
}

/// Runs the program on a command.
async fn answer(arguments: &Arguments, command: &Value) -> anyhow::Result<Value> {
    let mut child = Command::new(&arguments.exec)
        .args(&arguments.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", arguments.exec.display()))?;
    let mut stdin = child.stdin.take().context("the program has no stdin")?;
    let input = command.to_string();
    let work = async {
        // a program that does not read its input is no error
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(Duration::from_secs(arguments.exec_timeout), work)
        .await
        .with_context(|| format!("the program took longer than {} s", arguments.exec_timeout))??;
    anyhow::ensure!(output.status.success(), "the program failed: {}", output.status);
    anyhow::ensure!(output.stdout.len() <= OUTPUT, "the program printed more than {OUTPUT} bytes");
    let text = String::from_utf8_lossy(&output.stdout);
    let text = text.trim();
    if text.is_empty() {
        return Ok(Value::Null);
    }
    Ok(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())))
}
