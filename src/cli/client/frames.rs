//! Prints the frames that the broker sends.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{End, Terminal};
use crate::{
    cli::messages::in_words,
    client::Connection,
    terminal::{
        output::{json_text, named, printable, text},
        say,
    },
};

impl Terminal {
    /// The name of a client, with its UUID if the name is not unique.
    async fn name(&mut self, client: &Value) -> String {
        let shown = text(client);
        let Ok(uuid) = Uuid::try_parse(&shown) else { return shown };
        if !self.names.contains_key(&uuid) {
            self.look().await;
            // stores the UUID for an unknown client, so that names are not loaded for each of its frames
            self.names.entry(uuid).or_insert_with(|| shown.clone());
        }
        match self.names.get(&uuid) {
            Some(name) if !name.is_empty() => {
                let is_unique = self.names.values().filter(|other| *other == name).count() == 1;
                let name = printable(name);
                if is_unique { name } else { format!("{name} ({uuid})") }
            }
            _ => shown,
        }
    }

    /// Prints a frame, and answers it if it is a command or a message that is to be acknowledged.
    pub(super) async fn show(&mut self, socket: &mut Connection, frame: &Value) -> Result<(), End> {
        if frame["from"].is_string() {
            return self.show_message(socket, frame).await;
        }
        match frame["type"].as_str() {
            Some("connection") => {
                let url = self.link.client().url().to_owned();
                say!("Connected to {url} as {}. /help lists the commands.", named(frame));
            }
            Some("authenticated" | "heartbeat" | "ack_received") => {}
            Some("sent") if frame["status"].is_string() => {
                let (status, msgid) = (in_words(&frame["status"]), text(&frame["msgid"]));
                say!("  {status}: {msgid}, expires {}", text(&frame["expires_at"]));
            }
            Some("sent" | "topic_sent") => say!("  {}", text(&frame["message"])),
            Some("delivery_update") => {
                let (status, msgid) = (in_words(&frame["status"]), text(&frame["msgid"]));
                say!("  {status}: {msgid} to {}", self.name(&frame["to"]).await);
            }
            Some("error") => say!("  error: {}", text(&frame["message"])),
            Some("topic_deleted") => {
                self.topics.remove(frame["topic_id"].as_str().unwrap_or_default());
                say!("  the topic {} was deleted", text(&frame["topic_id"]));
            }
            _ if frame["command_id"].is_string() && frame["method"].is_string() => {
                say!("! {} {} {}", text(&frame["method"]), text(&frame["url"]), json_text(&frame["data"]));
                let result = json!({ "name": self.name, "method": frame["method"], "url": frame["url"] });
                socket.send_text(json!({ "command_id": frame["command_id"], "result": result }).to_string()).await?;
            }
            _ => say!("< {}", json_text(frame)),
        }
        Ok(())
    }

    /// Prints what another client has sent, whatever fields that has set beside `from`.
    async fn show_message(&mut self, socket: &mut Connection, frame: &Value) -> Result<(), End> {
        let received = self.inbox.take(frame);
        if received.as_ref().is_none_or(|received| !received.is_known) {
            let topic = frame["topic_id"].as_str().map(|topic| format!("#{} ", printable(topic))).unwrap_or_default();
            let again = received.as_ref().map_or("", |received| received.again);
            say!("{topic}{}{again}: {}", self.name(&frame["from"]).await, text(&frame["content"]));
        }
        if let Some(received) = received {
            socket.send_text(received.ack).await?;
        }
        Ok(())
    }
}
