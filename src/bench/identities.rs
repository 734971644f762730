//! The devices, topics and rooms of a benchmark: created over HTTP before it, and removed after it as far as the API allows.

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{progress::Progress, target::Target, wire::Protocol};
use crate::client::{Client, ClientError};

/// Most concurrent requests.
const AT_ONCE: usize = 32;

/// The room of the benchmarks. It is not removed at the end, so all runs use the same one.
const ROOM: &str = "switchboard-bench";

/// A client of the server under test.
#[derive(Clone)]
pub(super) struct Identity {
    pub uuid: Uuid,
    /// The client's token; `None` if the server requires none.
    pub token: Option<String>,
}

/// The objects that a benchmark has created on the server.
pub(super) struct Identities {
    client: Client,
    /// the operator, who may delete devices
    operator: Option<Client>,
    protocol: Protocol,
    progress: Progress,
    devices: Vec<Identity>,
    subscriptions: Vec<(Identity, String)>,
    room: Option<(i64, Vec<Client>)>,
}

impl Identities {
    /// Creates nothing yet. `operator` is used to delete devices at the end.
    pub(super) fn new(
        target: &Target,
        protocol: Protocol,
        operator: Option<Client>,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::new(&target.url)?,
            operator,
            protocol,
            progress: progress.clone(),
            devices: Vec::new(),
            subscriptions: Vec::new(),
            room: None,
        })
    }

    /// Registers `count` new devices.
    pub(super) async fn devices(
        &mut self,
        run: &str,
        count: usize,
        token: Option<&str>,
    ) -> anyhow::Result<Vec<Identity>> {
        if self.protocol == Protocol::Nats {
            let token = token.map(str::to_owned);
            return Ok((0..count).map(|_| Identity { uuid: Uuid::new_v4(), token: token.clone() }).collect());
        }
        self.progress.step("registering devices", count);
        let mut registering = stream::iter(0..count)
            .map(|number| {
                let mut client = self.client.clone();
                async move {
                    let device = client.register_device(&format!("bench-{run}-{number}"), Uuid::new_v4()).await?;
                    Ok::<_, ClientError>(Identity { uuid: device.uuid, token: Some(device.access_token) })
                }
            })
            .buffer_unordered(AT_ONCE);
        let mut devices = Vec::with_capacity(count);
        let mut failed = None;
        while let Some(registered) = registering.next().await {
            match registered {
                Ok(device) => devices.push(device),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            self.progress.part();
        }
        drop(registering);
        // kept before the error is returned, so that they are cleaned up, too
        self.devices.extend(devices.iter().cloned());
        match failed {
            Some(error) => Err(explained(error)).context("cannot register the devices"),
            None => Ok(devices),
        }
    }

    /// Creates topics with these names for this owner, with a history that keeps so many publications.
    pub(super) async fn topics(&mut self, owner: &Identity, names: &[String], keep: Option<u32>) -> anyhow::Result<()> {
        if self.protocol == Protocol::Nats {
            return Ok(());
        }
        self.progress.step("creating topics", names.len());
        let owner = self.as_client(owner);
        let creating = stream::iter(names.to_vec()).map(|name| {
            let (owner, progress) = (owner.clone(), self.progress.clone());
            async move {
                let history = keep.map(|size| json!({ "size": size }));
                let topic = json!({ "topic_id": name, "history": history });
                match owner.post::<Value>("/topics/create", &topic).await {
                    Ok(_) => {}
                    // topics are not removed: it is from an earlier run
                    Err(ClientError::Refused { code, .. }) if code == "already_exists" => {
                        let topic: Value = owner.get(&format!("/topics/{name}")).await?;
                        ensure!(
                            topic["subscriber_count"] == 0,
                            "the topic {name} has subscribers: is another benchmark running?"
                        );
                    }
                    Err(error) => return Err(explained(error)),
                }
                progress.part();
                Ok(())
            }
        });
        creating.buffer_unordered(AT_ONCE).try_collect::<()>().await.context("cannot create the topics")
    }

    /// Subscribes each identity to its topic.
    pub(super) async fn subscribe(&mut self, pairs: Vec<(Identity, String)>) -> anyhow::Result<()> {
        if self.protocol == Protocol::Nats {
            return Ok(());
        }
        self.progress.step("subscribing", pairs.len());
        self.subscriptions.clone_from(&pairs);
        let subscribing = stream::iter(pairs).map(|(identity, topic)| {
            let (client, progress) = (self.as_client(&identity), self.progress.clone());
            async move {
                client.subscribe(&topic).await.map_err(explained)?;
                progress.part();
                anyhow::Ok(())
            }
        });
        subscribing.buffer_unordered(AT_ONCE).try_collect::<()>().await.context("cannot subscribe")
    }

    /// Creates or finds the room of the benchmarks. The members join it with their sockets, and leave it at the end.
    pub(super) async fn room(&mut self, operator: &Client, members: &[Identity]) -> anyhow::Result<i64> {
        let made: Result<Value, _> = operator.post("/api/rooms/", &json!({ "name": ROOM })).await;
        let room = match made {
            Ok(room) => room["id"].as_i64(),
            // rooms are not removed: it is from an earlier run
            Err(ClientError::Refused { code, detail, .. }) if code == "already_exists" || detail.contains("exists") => {
                find_room(operator).await?
            }
            Err(error) => return Err(explained(error)).context("cannot create the room"),
        };
        let Some(room) = room else { bail!("cannot find the id of the room {ROOM}") };
        let mut leaving: Vec<_> = members.iter().map(|member| self.as_client(member)).collect();
        leaving.push(operator.clone());
        self.room = Some((room, leaving));
        Ok(room)
    }

    /// Removes what can be removed. Returns a text about the rest.
    pub(super) async fn clean_up(&self) -> Option<String> {
        if self.protocol == Protocol::Nats {
            return None;
        }
        self.progress.wait("cleaning up");
        let body = |topic: &str| json!({ "topic_id": topic });
        // errors are ignored: the subscription has ended already
        stream::iter(&self.subscriptions)
            .for_each_concurrent(AT_ONCE, |(identity, topic)| async move {
                let _ = self.as_client(identity).post::<Value>("/topics/unsubscribe", &body(topic)).await;
            })
            .await;
        if let Some((room, members)) = &self.room {
            let path = format!("/api/rooms/{room}/leave");
            stream::iter(members)
                .for_each_concurrent(AT_ONCE, |member| {
                    let path = path.clone();
                    async move {
                        let _ = member.post::<Value>(&path, &json!({})).await;
                    }
                })
                .await;
        }
        let mut kept = Vec::new();
        let devices = self.delete_devices().await;
        if devices > 0 {
            let why =
                if self.operator.is_some() { "" } else { " (an operator may delete them: --token or --username)" };
            kept.push(format!("{devices} devices{why}"));
        }
        let topics: std::collections::HashSet<_> = self.subscriptions.iter().map(|(_, topic)| topic).collect();
        if !topics.is_empty() {
            kept.push(format!("{} topics", topics.len()));
        }
        if self.room.is_some() {
            kept.push(format!("the room {ROOM}"));
        }
        (!kept.is_empty()).then(|| format!("the broker keeps {}", kept.join(", ")))
    }

    /// Deletes the devices. Returns the number of those that are left.
    async fn delete_devices(&self) -> usize {
        let Some(operator) = &self.operator else { return self.devices.len() };
        let deleting = stream::iter(&self.devices).map(|device| async move {
            let request = operator.request(Method::DELETE, &format!("/devices/{}", device.uuid));
            operator.answer::<Value>(request).await.is_err()
        });
        deleting.buffer_unordered(AT_ONCE).filter(|is_left| std::future::ready(*is_left)).count().await
    }

    fn as_client(&self, identity: &Identity) -> Client {
        self.client.with_token(identity.token.as_deref().unwrap_or_default())
    }
}

async fn find_room(operator: &Client) -> anyhow::Result<Option<i64>> {
    let page = 100;
    let mut skip = 0;
    loop {
        let rooms: Vec<Value> = operator.get(&format!("/api/rooms/?skip={skip}&limit={page}")).await?;
        if let Some(room) = rooms.iter().find(|room| room["name"] == ROOM) {
            return Ok(room["id"].as_i64());
        }
        if rooms.len() < page {
            return Ok(None);
        }
        skip += page;
    }
}

/// Adds the limit to raise to a refusal by one of the broker's limits.
fn explained(error: ClientError) -> anyhow::Error {
    match &error {
        ClientError::Refused { status, detail, .. } if matches!(status.as_u16(), 429 | 503) => match limit(detail) {
            Some(key) => anyhow::anyhow!("{error}: raise {key} of that broker, or switch it off with 0"),
            None => error.into(),
        },
        _ => error.into(),
    }
}

/// The key of a limit in an error text of the broker.
pub(super) fn limit(text: &str) -> Option<&str> {
    let begin = text.find("limits.")?;
    let key = &text[begin..];
    let end = key.find(|c: char| !c.is_ascii_lowercase() && c != '_' && c != '.').unwrap_or(key.len());
    Some(&key[..end])
}

#[cfg(test)]
mod tests {
    use super::limit;

    #[test]
    fn the_key_of_a_limit_is_found_in_a_text() {
        let text = "Too many requests (limits.registrations_per_minute)";
        assert_eq!(limit(text), Some("limits.registrations_per_minute"));
        assert_eq!(limit("limits.connections"), Some("limits.connections"));
        assert_eq!(limit("no"), None);
    }
}
