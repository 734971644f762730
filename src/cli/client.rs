//! `switchboard client`: an interactive device in the terminal.

mod frames;
mod lines;

use std::collections::{BTreeSet, HashMap, HashSet};

use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    device::{Identity, Link},
    messages::Inbox,
    names,
};
use crate::{
    client::{ClientError, Connection},
    terminal::{
        output::{printable, text},
        say,
    },
};
use lines::{Line, read};

const HELP: &str =
    "  /to NAME TEXT     send a direct message to the device with this name (\"…\" around spaces) or UUID
  /ack NAME TEXT    the same, kept until the device acknowledges it, also for one that is offline
  /topic ID TEXT    publish to a topic, creating and subscribing to it first if need be
  TEXT              send a text to the last device or topic
  /subscribe ID     subscribe to a topic
  /unsubscribe ID   unsubscribe from a topic
  /who              list connected clients
  /help             show this help
  /quit             end the program";

/// Most clients that `/who` lists.
const LISTED: usize = 50;

/// Most names that are kept in memory.
const NAMES: usize = 20_000;

#[derive(Args)]
pub(super) struct Arguments {
    /// The device's name
    #[arg(long)]
    name: String,
    #[command(flatten)]
    identity: Identity,
}

/// The recipient of a message.
#[derive(Clone)]
enum Target {
    Device(Uuid),
    /// it is to acknowledge the message
    Acknowledging(Uuid),
    Topic(String),
}

/// The reason why a socket is no longer used.
enum End {
    Quit,
    Lost(ClientError),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Lost(error)
    }
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let link = Link::new(arguments.identity, arguments.name.clone(), false)?;
    let mut terminal = Terminal {
        link,
        name: arguments.name,
        names: HashMap::new(),
        topics: BTreeSet::new(),
        target: None,
        inbox: Inbox::default(),
    };
    let mut socket = terminal.link.connect(None).await?;
    // read only once connected: earlier lines wait in stdin
    let mut lines = read_terminal();
    loop {
        match terminal.talk(&mut socket, &mut lines).await {
            End::Quit => {
                // frames sent before still reach the broker
                let _ = socket.close().await;
                return Ok(());
            }
            End::Lost(error) => {
                socket = tokio::select! {
                    socket = terminal.link.connect(Some(error)) => socket?,
                    () = quit(&mut lines) => return Ok(()),
                };
            }
        }
    }
}

/// Reads lines from the terminal on a thread of its own, which does not delay the end of the program.
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

/// Reads lines while there is no connection, until `/quit`.
async fn quit(lines: &mut mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        match read(&line) {
            Line::Quit => return,
            Line::Help => say!("{HELP}"),
            _ => say!("  not connected, try again in a moment; or /quit"),
        }
    }
}

struct Terminal {
    link: Link,
    name: String,
    /// names of clients that are or were connected
    names: HashMap<Uuid, String>,
    /// subscribed topics, to be subscribed to again on a new socket
    topics: BTreeSet<String>,
    target: Option<Target>,
    inbox: Inbox,
}

impl Terminal {
    /// Prints frames and executes lines until the socket closes or the user quits.
    async fn talk(&mut self, socket: &mut Connection, lines: &mut mpsc::Receiver<String>) -> End {
        for topic in self.topics.clone() {
            if let Err(end) = self.subscribe(&topic).await {
                return end;
            }
        }
        loop {
            let done = tokio::select! {
                frame = socket.next_frame() => match frame {
                    Ok(frame) => self.show(socket, &frame).await,
                    Err(error @ ClientError::NotJson(_)) => {
                        say!("< {error}");
                        Ok(())
                    }
                    Err(error) => Err(End::Lost(error)),
                },
                line = lines.recv() => match line {
                    Some(line) => self.obey(socket, read(&line)).await,
                    None => Err(End::Quit),
                },
                () = self.link.renewal_is_due() => self.link.renew(socket).await.map_err(End::Lost),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn obey(&mut self, socket: &mut Connection, line: Line) -> Result<(), End> {
        match line {
            Line::To(who, text) => {
                let Some(uuid) = self.find(&who, false).await else { return Ok(()) };
                self.send(socket, Target::Device(uuid), &text).await?;
            }
            Line::Acknowledged(who, text) => {
                let Some(uuid) = self.find(&who, true).await else { return Ok(()) };
                self.send(socket, Target::Acknowledging(uuid), &text).await?;
            }
            Line::Topic(topic, text) => self.send(socket, Target::Topic(topic), &text).await?,
            Line::Again(text) => match self.target.clone() {
                Some(target) => self.send(socket, target, &text).await?,
                None => say!("  no recipient yet: type /to NAME TEXT or /topic ID TEXT"),
            },
            Line::Subscribe(topic) => {
                if self.subscribe(&topic).await? {
                    say!("  subscribed to {}", printable(&topic));
                }
            }
            Line::Unsubscribe(topic) => {
                self.topics.remove(&topic);
                let body = json!({ "topic_id": topic });
                let done = self.link.post("/topics/unsubscribe", &body).await;
                if let Some(done) = said(done)? {
                    say!("  {}", text(&done["message"]));
                }
            }
            Line::Who => self.who().await?,
            Line::Help => say!("{HELP}"),
            Line::Quit => return Err(End::Quit),
            Line::Wrong(why) => say!("  {why}"),
        }
        Ok(())
    }

    async fn send(&mut self, socket: &mut Connection, target: Target, text: &str) -> Result<(), End> {
        match &target {
            Target::Device(uuid) => socket.send_direct(*uuid, text).await.map(|_| ())?,
            Target::Acknowledging(uuid) => {
                let message = json!({ "to": uuid, "msgid": Uuid::new_v4(), "content": text, "acknowledge": true });
                socket.send_text(message.to_string()).await?;
            }
            Target::Topic(topic) => {
                if !self.topics.contains(topic) && !self.subscribe_or_create(topic).await? {
                    return Ok(());
                }
                socket.publish(topic, text).await.map(|_| ())?;
            }
        }
        self.target = Some(target);
        Ok(())
    }

    /// Subscribes to a topic. Returns whether that succeeded; if not, prints the reason.
    async fn subscribe(&mut self, topic: &str) -> Result<bool, End> {
        let done = self.link.post("/topics/subscribe", &json!({ "topic_id": topic })).await;
        self.is_subscribed(topic, done)
    }

    async fn subscribe_or_create(&mut self, topic: &str) -> Result<bool, End> {
        let body = json!({ "topic_id": topic });
        let mut done = self.link.post("/topics/subscribe", &body).await;
        if matches!(&done, Err(ClientError::Refused { status, .. }) if *status == 404) {
            // another client may have created it in the meantime
            match self.link.post("/topics/create", &body).await {
                Err(ClientError::Refused { code, .. }) if code == "already_exists" => {}
                Err(error) => return self.is_subscribed(topic, Err(error)),
                Ok(_) => say!("  created the topic {}", printable(topic)),
            }
            done = self.link.post("/topics/subscribe", &body).await;
        }
        self.is_subscribed(topic, done)
    }

    fn is_subscribed(&mut self, topic: &str, done: Result<Value, ClientError>) -> Result<bool, End> {
        let subscribed = said(done)?.is_some();
        if subscribed {
            self.topics.insert(topic.to_owned());
        } else {
            self.topics.remove(topic);
        }
        Ok(subscribed)
    }

    /// The UUID of a device by its name; of one that is offline only if that may be. If there is not exactly one, prints the
    /// reason.
    async fn find(&mut self, who: &str, may_be_offline: bool) -> Option<Uuid> {
        if let Ok(uuid) = Uuid::try_parse(who) {
            return Some(uuid);
        }
        let connected = self.look().await;
        let candidates: names::Candidates = self.names.iter().map(|(uuid, name)| (*uuid, name.clone())).collect();
        match names::unique(who, &candidates, "connected client") {
            Ok(uuid) if may_be_offline || connected.is_none_or(|connected| connected.contains(&uuid)) => Some(uuid),
            Ok(uuid) => {
                say!("  {} ({uuid}) is offline: not sent; /ack keeps a message for it", printable(&self.names[&uuid]));
                None
            }
            // which devices are registered and offline is known to operators alone
            Err(why) => {
                say!("  {why}; /who lists connected clients");
                None
            }
        }
    }

    /// Loads the names of connected clients and returns who they are. If that fails, UUIDs are shown in place of names.
    async fn look(&mut self) -> Option<HashSet<Uuid>> {
        let connected = names::connected(self.link.client()).await.ok()?;
        let uuids = connected.iter().map(|(uuid, _)| *uuid).collect();
        self.learn(connected);
        Some(uuids)
    }

    fn learn(&mut self, names: names::Candidates) {
        if self.names.len() + names.len() > NAMES {
            self.names.clear();
        }
        self.names.extend(names);
    }

    async fn who(&mut self) -> Result<(), End> {
        match names::connected(self.link.client()).await {
            Ok(mut connected) => {
                connected.sort_by(|a, b| a.1.cmp(&b.1));
                for (uuid, name) in connected.iter().take(LISTED) {
                    say!("  {uuid}  {}", printable(name));
                }
                if connected.len() > LISTED {
                    say!("  and {} more", connected.len() - LISTED);
                }
                self.learn(connected);
            }
            Err(error) => {
                said::<()>(Err(error))?;
            }
        }
        Ok(())
    }
}

/// The broker's answer. For a refusal, prints it and returns `None`.
fn said<T>(answer: Result<T, ClientError>) -> Result<Option<T>, End> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error @ (ClientError::Refused { .. } | ClientError::NotJson(_))) => {
            say!("  {}", printable(&error.to_string()));
            Ok(None)
        }
        Err(error) => Err(End::Lost(error)),
    }
}
