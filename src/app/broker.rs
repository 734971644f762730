//! The state that handlers and sessions share, put together at the start.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use super::{actors::Actors, identities::Identities};
use crate::{
    auth::{login::Logins, registration::Registrations},
    clock::Clock,
    domain::budget::Budgets,
    settings::Settings,
    state::{Broker, Readiness, Supervision},
    store::Store,
};

pub(super) fn broker(
    settings: Settings,
    clock: Clock,
    store: Store,
    identities: Identities,
    actors: Actors,
    supervision: Supervision,
) -> Broker {
    let Actors { clients, topics, rooms, commands, gateways, journal, relays, backplane } = actors;
    let Identities { accounts, passwords } = identities;
    let limits = &settings.limits;
    let sessions = Arc::new(clients.clone());
    let registrations = Registrations::new(
        settings.devices.registration,
        limits.registrations_per_minute,
        accounts.clone(),
        sessions.clone(),
        passwords.clone(),
        store.clone(),
    );
    let logins = Logins::new(
        limits.login_failures_per_minute,
        settings.auth.password_rules(),
        accounts.clone(),
        sessions,
        passwords,
        store.clone(),
    );
    Broker {
        stored_bytes: budget(limits.stored_bytes_per_minute, 60.0, 1.0),
        requests: budget(limits.requests_per_second, 1.0, 2.0),
        requests_of_addresses: budget(limits.requests_per_second_per_address, 1.0, 2.0),
        draining: AtomicBool::new(false),
        readiness: Readiness::default(),
        supervision,
        clock,
        store,
        accounts,
        registrations,
        logins,
        clients,
        topics,
        commands,
        rooms,
        gateways,
        journal,
        relays,
        backplane,
        settings,
    }
}

/// A budget of `limit` units per `secs` seconds. A burst may spend `at_once` times `limit`.
fn budget<K: Eq + Hash>(limit: u32, secs: f64, at_once: f64) -> Mutex<Budgets<K>> {
    Mutex::new(Budgets::new(f64::from(limit) / secs, f64::from(limit) * at_once))
}
