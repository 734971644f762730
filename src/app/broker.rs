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
    services::{Audit, Devices, Users, Webhooks},
    settings::Settings,
    state::{Broker, Readiness, Supervision, Waiting},
    store::Store,
};

pub(super) fn broker(
    settings: Settings,
    clock: Clock,
    store: Store,
    identities: Identities,
    actors: Actors,
    supervision: Supervision,
    (audit, webhooks): (Audit, Webhooks),
) -> Broker {
    let Actors { clients, topics, messages, rooms, commands, gateways, journal, relays, cluster } = actors;
    let Identities { accounts, passwords } = identities;
    let limits = &settings.limits;
    let sessions = Arc::new(clients.clone());
    let backplane = cluster.backplane();
    let registrations = Registrations::new(
        settings.devices.registration,
        limits.registrations_per_minute,
        backplane.clone(),
        accounts.clone(),
        sessions.clone(),
        passwords.clone(),
        store.clone(),
    );
    let logins = Logins::new(
        limits.login_failures_per_minute,
        backplane,
        settings.auth.password_rules(),
        accounts.clone(),
        sessions,
        passwords,
        store.clone(),
    );
    let devices = Devices::new(
        store.clone(),
        accounts.clone(),
        clients.clone(),
        rooms.clone(),
        gateways.clone(),
        commands.clone(),
        messages.clone(),
    );
    let users = Users::new(store.clone(), logins.clone(), rooms.clone());
    Broker {
        requests: budget(limits.requests_per_second),
        requests_of_addresses: budget(limits.requests_per_second_per_address),
        stopping: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        readiness: Readiness::new(store.clone(), journal.clone()),
        waiting: Waiting::new(store),
        supervision,
        clock,
        accounts,
        registrations,
        logins,
        devices,
        users,
        audit,
        webhooks,
        clients,
        topics,
        messages,
        commands,
        rooms,
        gateways,
        journal,
        relays,
        cluster,
        settings,
    }
}

/// Budgets of so many requests per second, of which twice as many may come at once.
fn budget<K: Eq + Hash>(per_second: u32) -> Mutex<Budgets<K>> {
    let per_second = f64::from(per_second);
    Mutex::new(Budgets::new(per_second, 2.0 * per_second))
}
