//! `switchboard subscribe`: prints publications until it is stopped. When the connection is lost it connects again, and goes on
//! after the last offset that it has printed of each topic with a history.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    device::{Identity, Link},
    values::number,
};
use crate::{
    client::{ClientError, Connection},
    domain::topics::{history::MAX_SIZE, pattern::has_wildcards},
    terminal::{
        WrongArguments,
        output::{complain, items, json_text, printable, text, while_read},
        say,
    },
};

/// How long to wait before a subscription is tried again that the broker can't make now.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct Arguments {
    /// A topic's id, or a pattern: + stands for one level between slashes, # at the end for any number of levels
    pattern: String,
    /// Of a topic with a history, print the last N publications first
    #[arg(long, value_name = "N", conflicts_with = "since", value_parser = number(1..=u64::from(MAX_SIZE)))]
    last: Option<u64>,
    /// Of a topic with a history, print what came after this offset first
    #[arg(long, value_name = "OFFSET", value_parser = number(0..=i64::MAX as u64))]
    since: Option<u64>,
    /// Print each publication as it came, a JSON object per line
    #[arg(long)]
    json: bool,
    /// The device's name; two subscribers at once need two names
    #[arg(long, default_value = "subscriber")]
    name: String,
    #[command(flatten)]
    identity: Identity,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { pattern, last, since, json, name, identity } = arguments;
    if has_wildcards(&pattern) && (last.is_some() || since.is_some()) {
        bail!(WrongArguments("--last and --since are for one topic, not for a pattern".to_owned()));
    }
    let mut link = Link::new(identity, name, false)?;
    let mut offsets = BTreeMap::new();
    if let Some(since) = since {
        offsets.insert(pattern.clone(), since as i64);
    }
    let without_history = BTreeSet::new();
    let mut subscriber = Subscriber { pattern, last, offsets, without_history, json, is_told: false };
    while_read(async {
        let mut lost = None;
        loop {
            let mut socket = link.connect(lost.take()).await?;
            let Err(end) = subscriber.print(&mut link, &mut socket).await;
            match end {
                End::Lost(error) => lost = Some(error),
                End::Refused(why) => bail!("{why}"),
            }
        }
    })
    .await
}

/// Why printing ends.
enum End {
    /// The connection failed.
    Lost(ClientError),
    /// The broker refuses the subscription.
    Refused(String),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Lost(error)
    }
}

struct Subscriber {
    pattern: String,
    /// how many of the last publications are printed first; none after the first connection
    last: Option<u64>,
    /// the last offset that was printed of each topic with a history
    offsets: BTreeMap<String, i64>,
    /// topics of which the senders set offsets
    without_history: BTreeSet<String>,
    json: bool,
    /// whether the user knows that the subscription is made
    is_told: bool,
}

impl Subscriber {
    /// Subscribes, and prints what comes until the connection ends.
    async fn print(&mut self, link: &mut Link, socket: &mut Connection) -> Result<Infallible, End> {
        if has_wildcards(&self.pattern) {
            // before the pattern, since offsets grow with what comes by it
            for topic in self.missed(link).await? {
                self.subscribe(socket, &topic).await?;
            }
        }
        self.subscribe(socket, &self.pattern).await?;
        loop {
            let frame = tokio::select! {
                frame = socket.next_frame() => frame?,
                () = link.renewal_is_due() => {
                    link.renew(socket).await?;
                    continue;
                }
            };
            let topic = frame["topic_id"].as_str().unwrap_or_default().to_owned();
            match frame["type"].as_str() {
                Some("connection" | "authenticated") => {}
                Some("subscribed") => self.subscribed(&topic, &frame),
                Some("topic_gap") => {
                    let missed = self.offsets.get(&topic).map(|last| last + 1);
                    let first = frame["first_offset"].as_i64().unwrap_or_default();
                    if let Some(missed) = missed.filter(|missed| *missed < first) {
                        let topic = printable(&topic);
                        complain(&format!("publications {missed} to {} of {topic} are no longer kept", first - 1));
                    }
                }
                Some("topic_deleted") => {
                    self.offsets.remove(&topic);
                    self.without_history.remove(&topic);
                    complain(&format!("the topic {} was deleted", printable(&topic)));
                }
                Some("error") => self.refused(socket, &topic, &frame).await?,
                _ if !topic.is_empty() => self.show(link, &topic, &frame).await,
                // direct messages and commands are not for this program
                _ => {}
            }
        }
    }

    /// The topics that match the pattern and have publications that are not printed. What was there before the first
    /// connection counts as printed.
    async fn missed(&mut self, link: &Link) -> Result<Vec<String>, ClientError> {
        let (mut missed, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/topics?match={}&limit=1000{cursor}", percent_encoded(&self.pattern));
            let page: Value = match link.client().get(&path).await {
                // the subscription is refused, too, with a better reason
                Err(ClientError::Refused { .. }) => return Ok(missed),
                page => page?,
            };
            for topic in items(&page, "topics") {
                let (Some(id), Some(newest)) = (topic["id"].as_str(), topic["history"]["last_offset"].as_i64()) else {
                    continue;
                };
                if !self.is_told {
                    self.offsets.insert(id.to_owned(), newest);
                    continue;
                }
                let printed = self.offsets.entry(id.to_owned()).or_insert(0);
                if newest < *printed {
                    complain(&format!(
                        "the topic {} is another one; beginning with its first publication",
                        printable(id)
                    ));
                    *printed = 0;
                }
                if newest > *printed {
                    missed.push(id.to_owned());
                }
            }
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", percent_encoded(next)),
                None => return Ok(missed),
            }
        }
    }

    /// Asks for a subscription that goes on where printing ended.
    async fn subscribe(&self, socket: &mut Connection, topic: &str) -> Result<(), ClientError> {
        let mut frame = json!({ "type": "subscribe", "topic_id": topic });
        if let Some(offset) = self.offsets.get(topic) {
            frame["since_offset"] = json!(offset);
        } else if let Some(last) = self.last {
            frame["last"] = json!(last);
        }
        socket.send_text(frame.to_string()).await
    }

    fn subscribed(&mut self, topic: &str, frame: &Value) {
        if let Some(newest) = frame["offset"].as_i64() {
            let first = newest.saturating_sub(self.last.take().map_or(0, |last| last as i64)).max(0);
            self.offsets.entry(topic.to_owned()).or_insert(first);
        }
        if topic == self.pattern {
            let again = if self.is_told { " again" } else { "" };
            self.is_told = true;
            complain(&format!("subscribed to {}{again}", printable(topic)));
        }
    }

    async fn refused(&mut self, socket: &mut Connection, topic: &str, frame: &Value) -> Result<(), End> {
        let why = text(&frame["message"]);
        match frame["code"].as_str() {
            Some("database_unavailable" | "at_limit" | "internal_error") => {
                complain(&format!("{why}; trying again"));
                sleep(AGAIN).await;
                self.subscribe(socket, topic).await?;
            }
            // another topic has got its name
            Some("invalid_message") if self.offsets.remove(topic).is_some() && self.last.is_none() => {
                complain(&format!("{why}; going on from there"));
                self.subscribe(socket, topic).await?;
            }
            _ if topic != self.pattern => complain(&format!("cannot go on with the topic {}: {why}", printable(topic))),
            _ => return Err(End::Refused(why)),
        }
        Ok(())
    }

    async fn show(&mut self, link: &Link, topic: &str, frame: &Value) {
        let mut number = String::new();
        if let Some(offset) = frame["offset"].as_i64()
            && self.has_history(link, topic).await
        {
            let last = self.offsets.entry(topic.to_owned()).or_default();
            if offset <= *last {
                return;
            }
            *last = offset;
            number = format!(" {offset}");
        }
        if self.json {
            return say!("{frame}");
        }
        let content = match &frame["content"] {
            Value::Null => json_text(frame),
            content => text(content),
        };
        say!("{}{number}: {content}", printable(topic));
    }

    /// Whether the offsets of a topic are the broker's. In a topic without a history they are a field of the senders'.
    async fn has_history(&mut self, link: &Link, topic: &str) -> bool {
        if self.offsets.contains_key(topic) || self.without_history.contains(topic) {
            return !self.without_history.contains(topic);
        }
        let shown: Result<Value, _> = link.client().get(&format!("/topics/{}", percent_encoded(topic))).await;
        let has_history = shown.is_ok_and(|topic| topic["history"].is_object());
        if !has_history {
            self.without_history.insert(topic.to_owned());
        }
        has_history
    }
}

/// For a path or a query.
fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
