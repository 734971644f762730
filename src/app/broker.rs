//! The state that handlers and sessions share, put together at the start.

use std::sync::{Arc, Mutex, atomic::AtomicBool};

use super::{actors::Actors, identities::Identities};
use crate::{
    auth::{login::Logins, registration::Registrations},
    clock::Clock,
    domain::budget::Budgets,
    services::{Audit, Devices, Users, Webhooks},
    settings::LiveSettings,
    state::{Broker, Readiness, Supervision, Waiting},
    store::Store,
};

pub(super) fn broker(
    settings: LiveSettings,
    clock: Clock,
    store: Store,
    identities: Identities,
    actors: Actors,
    supervision: Supervision,
    (audit, webhooks): (Audit, Webhooks),
) -> Broker {
    let Actors { clients, topics, messages, rooms, commands, gateways, journal, relays, cluster } = actors;
    let Identities { accounts, passwords } = identities;
    let sessions = Arc::new(clients.clone());
    let backplane = cluster.backplane();
    let registrations = Registrations::new(
        settings.clone(),
        backplane.clone(),
        accounts.clone(),
        sessions.clone(),
        passwords.clone(),
        store.clone(),
    );
    let logins = Logins::new(backplane, settings.clone(), accounts.clone(), sessions, passwords, store.clone());
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
        requests: Mutex::new(Budgets::new(0.0, 0.0)),
        requests_of_addresses: Mutex::new(Budgets::new(0.0, 0.0)),
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
