//! The configured gateways, `[[gateways]]`.

use std::collections::BTreeMap;

use super::{GatewayEntry, Settings};
use crate::domain::gateways::{
    Address, EXPECTED, Gateway, MAX_ID, MAX_NAME_CHARS, Source, is_name, is_percent, is_rtt,
};

const KEY: &str = "gateways";

/// Reads and checks all entries.
///
/// # Errors
/// The key `gateways`, and the entry at fault with the reason.
pub(super) fn read(settings: &Settings) -> Result<Vec<Gateway>, (&'static str, String)> {
    let limit = settings.limits.gateways;
    if limit > 0 && settings.gateways.len() > limit {
        return Err((KEY, format!("{} gateways are more than limits.gateways allows", settings.gateways.len())));
    }
    let mut gateways = BTreeMap::new();
    for entry in &settings.gateways {
        let gateway = read_one(entry).map_err(|why| (KEY, format!("gateway {}: {why}", entry.id)))?;
        if gateways.insert(entry.id, gateway).is_some() {
            return Err((KEY, format!("gateway {}: the id is there twice", entry.id)));
        }
    }
    for (id, gateway) in &gateways {
        let mut above = gateway.parent_id;
        for _ in 0..=gateways.len() {
            let Some(parent) = above else { break };
            if parent == *id {
                return Err((KEY, format!("gateway {id}: parent_id: it would be behind itself")));
            }
            let Some(parent) = gateways.get(&parent) else {
                return Err((
                    KEY,
                    format!("gateway {id}: parent_id: there is no gateway {parent} in the configuration"),
                ));
            };
            above = parent.parent_id;
        }
    }
    Ok(gateways.into_values().collect())
}

fn read_one(entry: &GatewayEntry) -> Result<Gateway, String> {
    let GatewayEntry { id, name, address, parent_id, max_rtt_ms, max_loss_percent } = entry.clone();
    if !(0..=MAX_ID).contains(&id) {
        return Err(format!("id: must be from 0 to {MAX_ID}"));
    }
    if !is_name(&name) {
        return Err(format!("name: must have 1 to {MAX_NAME_CHARS} characters, none of them a control character"));
    }
    let address = Address::parse(&address).ok_or_else(|| format!("address: {EXPECTED}"))?;
    if !max_rtt_ms.is_none_or(is_rtt) {
        return Err("max_rtt_ms: must be greater than 0".to_owned());
    }
    if !max_loss_percent.is_none_or(is_percent) {
        return Err("max_loss_percent: must be from 0 to 100".to_owned());
    }
    Ok(Gateway { id, name, address, parent_id, max_rtt_ms, max_loss_percent, source: Source::Config })
}
