//! `switchboard client`: a device at the terminal.

use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::client::{Client, ClientError, Connection};

const HELP: &str = "  /to UUID TEXT     send a direct message
  /topic ID TEXT    publish to a topic, creating and subscribing to it first if need be
  TEXT              the same again, to the last UUID or topic
  /help             this
  /quit             leave";

#[derive(Args)]
pub(super) struct Arguments {
    /// Where the broker listens
    #[arg(long, env = "SWITCHBOARD_URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// The device's name
    #[arg(long)]
    name: String,
    /// The device's UUID [default: a new one]
    #[arg(long)]
    uuid: Option<Uuid>,
    /// From the first registration of that UUID, where the broker asks for it
    #[arg(long, env = "SWITCHBOARD_DEVICE_KEY", hide_env_values = true)]
    device_key: Option<String>,
}

/// Where the next line goes.
#[derive(Clone)]
enum Target {
    Device(Uuid),
    Topic(String),
}

/// What a line from the terminal means.
enum Line {
    Send(Option<Target>, String),
    Help,
    Quit,
    Wrong(&'static str),
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.url)?;
    let device = client
        .register_device_again(
            &arguments.name,
            arguments.uuid.unwrap_or_else(Uuid::new_v4),
            arguments.device_key.as_deref(),
        )
        .await?;
    let mut socket = client.connect("/ws").await?;
    say!("Connected to {} as {} ({}). /help tells what to type.", arguments.url, device.name, device.uuid);

    let mut lines = read_terminal();
    let mut target = None;
    loop {
        tokio::select! {
            frame = socket.next_frame() => match frame {
                Ok(frame) => show(&mut socket, &device.name, &frame).await?,
                Err(ClientError::NotJson(text)) => say!("< {text}"),
                Err(error) => return Err(error.into()),
            },
            line = lines.recv() => {
                let Some(line) = line else { break };
                match read(&line) {
                    Line::Send(to, text) => {
                        target = to.or(target);
                        match &target {
                            Some(Target::Device(to)) => socket.send_direct(*to, &text).await.map(|_| ())?,
                            Some(Target::Topic(topic)) => publish(&client, &mut socket, topic, &text).await?,
                            None => say!("  to whom? /to UUID TEXT or /topic ID TEXT"),
                        }
                    }
                    Line::Help => say!("{HELP}"),
                    Line::Quit => break,
                    Line::Wrong(why) => say!("  {why}"),
                }
            }
        }
    }
    socket.close().await?;
    Ok(())
}

/// The lines of the terminal, read on a thread that the end of the program does not wait for.
fn read_terminal() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn read(line: &str) -> Line {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (argument, text) = rest.trim_start().split_once(char::is_whitespace).unwrap_or((rest, ""));
    match word {
        "" => Line::Wrong("/help tells what to type"),
        "/to" => match Uuid::try_parse(argument) {
            Ok(to) if !text.is_empty() => Line::Send(Some(Target::Device(to)), text.to_owned()),
            Ok(_) => Line::Wrong("what should it say? /to UUID TEXT"),
            Err(_) => Line::Wrong("that is no UUID: /to UUID TEXT"),
        },
        "/topic" if text.is_empty() => Line::Wrong("what should it say? /topic ID TEXT"),
        "/topic" => Line::Send(Some(Target::Topic(argument.to_owned())), text.to_owned()),
        "/help" => Line::Help,
        "/quit" => Line::Quit,
        word if word.starts_with('/') => Line::Wrong("no such command, /help tells which there are"),
        _ => Line::Send(None, line.to_owned()),
    }
}

async fn publish(client: &Client, socket: &mut Connection, topic: &str, text: &str) -> anyhow::Result<()> {
    let subscribed = match client.subscribe(topic).await {
        Err(ClientError::Refused { status, .. }) if status == 404 => match client.create_topic(topic).await {
            Ok(()) => client.subscribe(topic).await,
            error => error,
        },
        result => result,
    };
    match subscribed {
        Ok(()) => socket.publish(topic, text).await.map(|_| ())?,
        Err(error @ ClientError::Refused { .. }) => say!("  {error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Shows a frame, and answers it if it is a command.
async fn show(socket: &mut Connection, name: &str, frame: &Value) -> anyhow::Result<()> {
    let text = |key: &str| frame[key].as_str().unwrap_or_default().to_owned();
    let content = || frame["content"].as_str().map_or_else(|| frame["content"].to_string(), str::to_owned);
    match frame["type"].as_str() {
        Some("connection") => {}
        Some("sent" | "topic_sent") => say!("  {}", text("message")),
        Some("error") => say!("  error: {}", text("message")),
        _ if frame["command_id"].is_string() && frame["method"].is_string() => {
            say!("! {} {} {}", text("method"), text("url"), frame["data"]);
            let result = json!({ "name": name, "method": frame["method"], "url": frame["url"] });
            socket.send_text(json!({ "command_id": frame["command_id"], "result": result }).to_string()).await?;
        }
        _ if frame["topic_id"].is_string() => say!("#{} {}: {}", text("topic_id"), text("from"), content()),
        _ if frame["from"].is_string() => say!("{}: {}", text("from"), content()),
        _ => say!("< {frame}"),
    }
    Ok(())
}
