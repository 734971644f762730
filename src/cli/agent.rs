//! `switchboard agent`: a device that answers commands by running a program of the user's. It comes back when the broker
//! was away.

use std::{collections::HashMap, ffi::OsString, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use uuid::Uuid;

use crate::client::{Client, ClientError, Device};

/// The most that is kept of what a program prints.
const OUTPUT: usize = 48 * 1024;

/// The longest pause before the broker is tried again.
const MAX_PAUSE: Duration = Duration::from_secs(60);

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
    /// From the first registration of that UUID, where the broker asks for it
    #[arg(long, env = "SWITCHBOARD_DEVICE_KEY", hide_env_values = true)]
    device_key: Option<String>,
    /// The program that answers: it gets the command as JSON on stdin and prints the result, JSON or plain text. It is run
    /// directly, never through a shell; if it fails, so does the command.
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
    let uuid = arguments.uuid.unwrap_or_else(Uuid::new_v4);
    let mut device_key = arguments.device_key.clone();
    let arguments = Arc::new(arguments);
    let mut pause = Duration::from_secs(1);
    loop {
        let began = Instant::now();
        let registered = client.register_device_again(&arguments.name, uuid, device_key.as_deref()).await;
        let ended = match registered {
            Ok(device) => {
                device_key = Some(device.device_key.clone());
                serve(&client, &device, &arguments).await
            }
            Err(error) => Err(error),
        };
        let Err(error) = ended else { return Ok(()) };
        if !is_worth_another_try(&error) {
            bail!(error);
        }
        if began.elapsed() > MAX_PAUSE {
            pause = Duration::from_secs(1);
        }
        // up to half as long again, so that a thousand agents do not come back at once
        let wait = pause + pause.mul_f64(rand::random_range(0.0..0.5));
        say!("lost the broker ({error}), trying again in {:.0} s", wait.as_secs_f64());
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Whether the broker may take us in later.
fn is_worth_another_try(error: &ClientError) -> bool {
    match error {
        ClientError::Closed { code, .. } => !matches!(code, 1002 | 1003 | 1007 | 1009 | 4400 | 4403 | 4409),
        ClientError::Refused { status, .. } => status.is_server_error() || *status == 429,
        ClientError::NotRunning(_) | ClientError::Http(_) | ClientError::WebSocket(_) => true,
        ClientError::Url(_) | ClientError::NotJson(_) => false,
    }
}

/// Answers commands until the socket ends.
async fn serve(client: &Client, device: &Device, arguments: &Arc<Arguments>) -> Result<(), ClientError> {
    let mut socket = client.connect("/ws").await?;
    say!("Connected to {} as {} ({}).", arguments.url, device.name, device.uuid);
    let places = Arc::new(Semaphore::new(arguments.parallel.max(1)));
    let (done, mut answers) = mpsc::channel::<(String, String)>(16);
    // the programs at work; dropping an entry ends its program
    let mut running: HashMap<String, oneshot::Sender<()>> = HashMap::new();
    loop {
        tokio::select! {
            frame = socket.next_frame() => {
                let frame = frame?;
                let Some(id) = frame["command_id"].as_str().map(str::to_owned) else { continue };
                if frame["type"] == "cancel" {
                    if running.remove(&id).is_some() {
                        say!("{id}  cancelled");
                    }
                } else if frame["method"].is_string() {
                    let (called_off, called_off_here) = oneshot::channel();
                    running.insert(id.clone(), called_off);
                    let (arguments, places, done) = (arguments.clone(), places.clone(), done.clone());
                    actix_web::rt::spawn(async move {
                        let began = Instant::now();
                        let work = async {
                            // closed never
                            let _place = places.acquire_owned().await;
                            answer(&arguments, &frame).await
                        };
                        let result = tokio::select! {
                            result = work => result,
                            // called off, or the socket is gone and nobody waits any more
                            _ = called_off_here => return,
                        };
                        let outcome = if result.is_ok() { "answered" } else { "failed" };
                        let text = |key: &str| frame[key].as_str().unwrap_or_default().to_owned();
                        say!("{id}  {} {}  {outcome} in {} ms", text("method"), text("url"), began.elapsed().as_millis());
                        let result = result.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
                        let answer = json!({ "command_id": frame["command_id"], "result": result });
                        let _ = done.send((id, answer.to_string())).await;
                    });
                }
            }
            Some((id, answer)) = answers.recv() => {
                running.remove(&id);
                socket.send_text(answer).await?;
            }
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
