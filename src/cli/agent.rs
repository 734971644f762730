//! `switchboard agent`: a device that answers commands by running a program of the user's. It comes back when the broker
//! was away; programs go on meanwhile, and their results are sent when it is back. Messages that are to be acknowledged are
//! printed, others are not for this program.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    ffi::OsString,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};

use super::{
    device::{Identity, Link},
    messages::Inbox,
    values::number,
};
use crate::{
    client::{ClientError, Connection},
    protocol::json,
    terminal::{
        output::{named, printable, text},
        say,
    },
};

/// The most that a program may print.
const OUTPUT: usize = 48 * 1024;

/// The most results that wait for the broker; the oldest go first.
const UNSENT: usize = 1_000;

#[derive(Args)]
pub(super) struct Arguments {
    /// The device's name
    #[arg(long, default_value = "agent")]
    name: String,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    program: Program,
}

#[derive(Args)]
struct Program {
    /// The program that answers: it gets the command as JSON on stdin and prints the result, JSON or plain text. It is run
    /// directly, never through a shell; if it fails, so does the command
    #[arg(long, value_name = "PROGRAM", value_parser = OsStringValueParser::new().try_map(executable))]
    exec: OsString,
    /// Seconds the program may take
    #[arg(long, value_name = "SECS", default_value_t = 25, value_parser = number(1..=86_400_u64))]
    exec_timeout: u64,
    /// Programs that may run at once; further commands wait
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = number(1..=1000_usize))]
    parallel: usize,
    /// Arguments for the program
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { name, identity, program } = arguments;
    let mut stop = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut link = Link::new(identity, name, true)?;
    let mut work = Work::new(program);
    let mut inbox = Inbox::default();
    let serving = async {
        let mut lost = None;
        loop {
            let mut socket = link.connect(lost.take()).await?;
            let Err(error) = serve(&mut link, &mut socket, &mut work, &mut inbox).await;
            lost = Some(error);
        }
    };
    tokio::select! {
        ended = serving => ended,
        _ = stop.0.recv() => Ok(()),
        _ = stop.1.recv() => Ok(()),
    }
}

/// Answers commands, and acknowledges messages, until the socket ends.
async fn serve(
    link: &mut Link,
    socket: &mut Connection,
    work: &mut Work,
    inbox: &mut Inbox,
) -> Result<Infallible, ClientError> {
    loop {
        while let Some(answer) = work.unsent.front() {
            socket.send_text(answer.clone()).await?;
            work.unsent.pop_front();
        }
        tokio::select! {
            frame = socket.next_frame() => {
                let frame = frame?;
                if frame["from"].is_string() {
                    // another client's, which is no command, whatever other fields it has
                    if let Some(received) = inbox.take(&frame) {
                        if !received.is_known {
                            say!("{}  message{}: {}", text(&frame["from"]), received.again, text(&frame["content"]));
                        }
                        socket.send_text(received.ack).await?;
                    }
                } else if frame["type"] == "connection" {
                    say!("Connected to {} as {}.", link.client().url(), named(&frame));
                } else {
                    work.take(frame);
                }
            }
            () = work.done() => {}
            () = link.renewal_is_due() => link.renew(socket).await?,
        }
    }
}

/// A program that can be run: a path, or a name that is found in one of the directories of PATH.
fn executable(program: OsString) -> Result<OsString, String> {
    let is_executable =
        |path: &Path| path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    let found = if program.as_bytes().contains(&b'/') {
        is_executable(Path::new(&program))
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| is_executable(&dir.join(&program)))
    };
    if found { Ok(program) } else { Err("there is no such program that can be run".to_owned()) }
}

/// Commands under way, whether or not the broker is there.
struct Work {
    program: Arc<Program>,
    places: Arc<Semaphore>,
    /// by command; dropping an entry ends its program
    running: HashMap<String, oneshot::Sender<()>>,
    done: mpsc::Sender<(String, String)>,
    answers: mpsc::Receiver<(String, String)>,
    unsent: VecDeque<String>,
}

impl Work {
    fn new(program: Program) -> Self {
        let (done, answers) = mpsc::channel(16);
        Self {
            places: Arc::new(Semaphore::new(program.parallel)),
            program: Arc::new(program),
            running: HashMap::new(),
            done,
            answers,
            unsent: VecDeque::new(),
        }
    }

    /// Waits for the next program to end; its answer is to be sent.
    async fn done(&mut self) {
        // never `None`: a sender is kept here
        if let Some((id, answer)) = self.answers.recv().await {
            self.running.remove(&id);
            if self.unsent.len() >= UNSENT {
                self.unsent.pop_front();
            }
            self.unsent.push_back(answer);
        }
    }

    /// Begins or ends a command.
    fn take(&mut self, frame: Value) {
        let Some(id) = frame["command_id"].as_str().map(str::to_owned) else { return };
        if frame["type"] == "cancel" {
            if self.running.remove(&id).is_some() {
                say!("{}  cancelled", printable(&id));
            }
        } else if frame["method"].is_string() && !self.running.contains_key(&id) {
            let (called_off, called_off_here) = oneshot::channel();
            self.running.insert(id.clone(), called_off);
            let (program, places, done) = (self.program.clone(), self.places.clone(), self.done.clone());
            actix_web::rt::spawn(async move {
                let began = Instant::now();
                let work = async {
                    // closed never
                    let _place = places.acquire_owned().await;
                    answer(&program, &frame).await
                };
                let result = tokio::select! {
                    result = work => result,
                    _ = called_off_here => return,
                };
                let outcome = if result.is_ok() { "answered" } else { "failed" };
                let (method, url) = (text(&frame["method"]), text(&frame["url"]));
                say!("{}  {method} {url}  {outcome} in {} ms", printable(&id), began.elapsed().as_millis());
                let result = result.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
                let answer = json!({ "command_id": frame["command_id"], "result": result });
                let _ = done.send((id, answer.to_string())).await;
            });
        }
    }
}

/// Runs the program on a command.
async fn answer(program: &Program, command: &Value) -> anyhow::Result<Value> {
    let mut child = Command::new(&program.exec)
        .args(&program.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", program.exec.display()))?;
    let mut stdin = child.stdin.take().context("the program has no stdin")?;
    let stdout = child.stdout.take().context("the program has no stdout")?;
    let input = command.to_string();
    let work = async {
        let write = async move {
            // a program that does not read its input is no error
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
        };
        let read = async {
            let mut output = Vec::new();
            // one more than it may be, and no more is kept
            stdout.take(OUTPUT as u64 + 1).read_to_end(&mut output).await?;
            ensure!(output.len() <= OUTPUT, "the program printed more than {OUTPUT} bytes");
            Ok(output)
        };
        let (output, ()) = tokio::try_join!(read, async {
            write.await;
            Ok(())
        })?;
        anyhow::Ok((child.wait().await?, output))
    };
    let (status, output) = tokio::time::timeout(Duration::from_secs(program.exec_timeout), work)
        .await
        .with_context(|| format!("the program took longer than {} s", program.exec_timeout))??;
    ensure!(status.success(), "the program failed: {status}");
    let text = String::from_utf8_lossy(&output);
    let text = text.trim();
    if text.is_empty() {
        return Ok(Value::Null);
    }
    // what the broker would refuse as JSON goes as the text that it is
    Ok(json::parse(text.as_bytes()).unwrap_or_else(|_| Value::String(text.to_owned())))
}
