//! The configured gateways, `[[gateways]]`.

use std::collections::BTreeMap;

use super::{GatewayEntry, Settings};
use crate::domain::{
    gateways::{Address, EXPECTED, Gateway, MAX_NAME_CHARS, Source, is_behind_itself, is_name, is_percent, is_rtt},
    ids::GatewayId,
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
    let mut gateways: BTreeMap<GatewayId, Gateway> = BTreeMap::new();
    for entry in &settings.gateways {
        let gateway = read_one(entry).map_err(|why| (KEY, format!("gateway {}: {why}", entry.id)))?;
        if gateways.insert(gateway.id, gateway).is_some() {
            return Err((KEY, format!("gateway {}: the id is there twice", entry.id)));
        }
    }
    let parent_of = |id: GatewayId| gateways.get(&id).and_then(|gateway| gateway.parent_id);
    for (id, gateway) in &gateways {
        let Some(parent) = gateway.parent_id else { continue };
        if !gateways.contains_key(&parent) {
            let why = format!("gateway {id}: parent_id: there is no gateway {parent} in the configuration");
            return Err((KEY, why));
        }
        if is_behind_itself(*id, parent, parent_of) {
            return Err((KEY, format!("gateway {id}: parent_id: it would be behind itself")));
        }
    }
    Ok(gateways.into_values().collect())
}

fn read_one(entry: &GatewayEntry) -> Result<Gateway, String> {
    let GatewayEntry { id, name, address, parent_id, max_rtt_ms, max_loss_percent } = entry.clone();
    if !(0..=GatewayId::MAX.0).contains(&id) {
        return Err(format!("id: must be from 0 to {}", GatewayId::MAX));
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
    let (id, parent_id) = (GatewayId(id), parent_id.map(GatewayId));
    Ok(Gateway { id, name, address, parent_id, max_rtt_ms, max_loss_percent, source: Source::Config })
}
