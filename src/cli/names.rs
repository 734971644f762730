//! Resolves unique names to UUIDs.

use anyhow::bail;
use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    client::{Client, ClientError},
    terminal::output::{items, printable},
};

/// Most entries that an error lists.
const LISTED: usize = 10;

/// Devices and connected clients with their names.
pub(super) type Candidates = Vec<(Uuid, String)>;

/// The one of these candidates with this name. Case is ignored if no name matches exactly. The error says what the candidates
/// are, such as "connected client", and lists similar names, or the UUIDs of all with this name.
pub(super) fn unique(name: &str, candidates: &Candidates, what: &str) -> anyhow::Result<Uuid> {
    let of = |is_it: &dyn Fn(&str) -> bool| {
        candidates.iter().filter(|(_, candidate)| is_it(candidate)).map(|(uuid, _)| *uuid).collect::<Vec<_>>()
    };
    let lower = name.to_lowercase();
    let mut found = of(&|candidate| candidate == name);
    if found.is_empty() {
        found = of(&|candidate| candidate.to_lowercase() == lower);
    }
    let shown = printable(name);
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            let mut similar: Vec<_> = candidates
                .iter()
                .filter(|(_, candidate)| candidate.to_lowercase().contains(&lower))
                .map(|(_, candidate)| printable(candidate))
                .collect();
            similar.sort();
            similar.dedup();
            if similar.is_empty() {
                bail!("no {what} is named \"{shown}\"");
            }
            bail!("no {what} is named \"{shown}\"; there are: {}", listed(&similar))
        }
        several => {
            let uuids: Vec<_> = several.iter().map(Uuid::to_string).collect();
            bail!("{} are named \"{shown}\", give the UUID of one: {}", several.len(), listed(&uuids))
        }
    }
}

fn listed(items: &[String]) -> String {
    let rest = if items.len() > LISTED { ", …" } else { "" };
    items.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ") + rest
}

/// Parses a UUID, or finds the device or connected user with this name.
pub(super) async fn resolve(client: &Client, name: &str) -> anyhow::Result<Uuid> {
    if let Ok(uuid) = Uuid::try_parse(name) {
        return Ok(uuid);
    }
    let (mut candidates, what) = match devices(client, name).await {
        // a caller that is not an operator can only look among connected clients
        Err(ClientError::Refused { status, .. }) if status == 403 => (Vec::new(), "connected client"),
        devices => (devices?, "device or connected user"),
    };
    // commands to users go to their sockets, so connected users are candidates, too
    for (uuid, name) in connected(client).await? {
        if !candidates.iter().any(|(known, _)| *known == uuid) {
            candidates.push((uuid, name));
        }
    }
    unique(name, &candidates, what)
}

/// The devices whose name contains this text.
async fn devices(client: &Client, search: &str) -> Result<Candidates, ClientError> {
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let skip = found.len().to_string();
        let mut query = vec![("search", search), ("limit", "1000")];
        match &cursor {
            Some(cursor) => query.push(("cursor", cursor)),
            None if found.is_empty() => {}
            None => query.push(("skip", &skip)),
        }
        let page: Value = client.answer(client.request(Method::GET, "/devices").query(&query)).await?;
        let devices = items(&page, "devices");
        found.extend(devices.iter().filter_map(|device| {
            Some((Uuid::try_parse(device["uuid"].as_str()?).ok()?, device["name"].as_str()?.to_owned()))
        }));
        cursor = page["cursor"].as_str().map(str::to_owned);
        let is_last = page["total"].as_u64().is_none_or(|total| found.len() as u64 >= total);
        if devices.is_empty() || (cursor.is_none() && is_last) {
            return Ok(found);
        }
    }
}

/// All connected clients.
pub(super) async fn connected(client: &Client) -> Result<Candidates, ClientError> {
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut request = client.request(Method::GET, "/clients");
        if let Some(cursor) = &cursor {
            request = request.query(&[("cursor", cursor)]);
        }
        let page: Value = client.answer(request).await?;
        let clients = page["clients"].as_object().into_iter().flatten();
        found.extend(clients.filter_map(|(uuid, name)| Some((Uuid::try_parse(uuid).ok()?, name.as_str()?.to_owned()))));
        cursor = page["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_a_uuid_if_it_is_unique() {
        let uuids: Vec<_> = (1..=5).map(Uuid::from_u128).collect();
        let names = ["box", "Box", "Carol", "twin", "twin"];
        let candidates: Candidates = uuids.iter().copied().zip(names.map(str::to_owned)).collect();
        for (name, number) in [("box", 0), ("Box", 1), ("Carol", 2), ("carol", 2)] {
            assert_eq!(unique(name, &candidates, "client").unwrap(), uuids[number], "{name}");
        }
        for (name, expected) in [
            ("BOX", format!("2 are named \"BOX\", give the UUID of one: {}, {}", uuids[0], uuids[1])),
            ("twin", format!("2 are named \"twin\", give the UUID of one: {}, {}", uuids[3], uuids[4])),
            ("aro", "no client is named \"aro\"; there are: Carol".to_owned()),
            ("nobody", "no client is named \"nobody\"".to_owned()),
            ("\u{1b}[2J", "no client is named \"\\u{1b}[2J\"".to_owned()),
        ] {
            assert_eq!(unique(name, &candidates, "client").unwrap_err().to_string(), expected);
        }
    }
}
