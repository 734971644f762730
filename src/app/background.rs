//! Work that is done again and again, beside the actors. Each loop is watched: when one ends, the process does.

use std::{sync::Arc, time::Duration};

use actix::ArbiterHandle;
use anyhow::Context;
use chrono::TimeDelta;

use super::{
    actors::{Actors, Arbiters},
    data::Held,
};
use crate::{
    auth::accounts::Accounts,
    clock::Clock,
    delivery::tick,
    metrics::traffic,
    services::{Audit, Webhooks},
    settings::{LiveSettings, Probes},
    state::Supervision,
    store::Store,
};

/// How often what is old is deleted.
const CLEANING: Duration = Duration::from_secs(3600);

/// How long the events of rooms are kept for nodes that have missed them.
const ROOM_EVENTS: TimeDelta = TimeDelta::minutes(10);

/// Starts all loops, and the thread that watches them and the actors.
pub(super) fn start(
    arbiters: &Arbiters,
    live: &LiveSettings,
    (clock, store): (&Clock, &Store),
    accounts: &Arc<Accounts>,
    actors: &Actors,
    held: Held,
    (audit, webhooks): &(Audit, Webhooks),
) -> anyhow::Result<Supervision> {
    let settings = live.load();
    let supervision = Supervision::default();
    actors.watch(&supervision);
    let loops = Loops { arbiter: arbiters.control.handle(), supervision: supervision.clone() };
    // what the actors deliver leaves at the end of a tick of their thread
    for (name, arbiter) in
        [("tick loop of the actors", &arbiters.control), ("tick loop of the gateway monitor", &arbiters.probing)]
    {
        let supervision = supervision.clone();
        arbiter.spawn_fn(move || {
            actix::spawn(supervision.watched(name, tick::run()));
            actix::spawn(traffic::flush_regularly());
        });
    }
    loops.spawn("account watcher", {
        let (accounts, clients) = (accounts.clone(), actors.clients.clone());
        let period = Duration::from_secs(settings.auth.recheck_secs);
        async move { accounts.watch(period, |change| clients.apply_here(change)).await }
    });
    loops.spawn("gateway watcher", actors.gateways.clone().share());
    loops.spawn("deletion of old rows", delete_what_is_old(store.clone(), clock.clone(), live.clone()));
    loops.spawn("deletion from topics' histories", clean_histories(store.clone()));
    loops.spawn(
        "deletion of old gateway history",
        thin_gateway_history(store.clone(), clock.clone(), settings.probes.clone()),
    );
    loops.spawn("deletion of old audit records", {
        let (store, live) = (store.clone(), live.clone());
        delete_old_audit(store, live)
    });
    loops.spawn("audit of repeated refusals", {
        let audit = audit.clone();
        async move { audit.record_repeats().await }
    });
    loops.spawn("webhooks", webhooks.clone().run());
    loops.spawn("takeover of commands", {
        let commands = actors.commands.clone();
        async move { commands.take_over().await }
    });
    loops.spawn("free space watcher", {
        let (store, storage) = (store.clone(), settings.storage.clone());
        async move { store.watch_space(storage.data_dir, storage.min_free_bytes).await }
    });
    loops.spawn("database lock", {
        let (store, supervision) = (store.clone(), supervision.clone());
        async move { supervision.fail(store.hold(held.lock, held.broker.instance).await) }
    });
    supervision.start().context("cannot start the thread that watches the actors")?;
    Ok(supervision)
}

/// Where loops run, and who watches them.
struct Loops {
    arbiter: ArbiterHandle,
    supervision: Supervision,
}

impl Loops {
    fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.arbiter.spawn(self.supervision.watched(name, work));
    }
}

/// Deletes old samples and transitions of gateways, once per [`CLEANING`]. Never returns.
async fn thin_gateway_history(store: Store, clock: Clock, probes: Probes) {
    let mut ticks = tokio::time::interval(CLEANING);
    loop {
        ticks.tick().await;
        let now = clock.now();
        let raw = now - TimeDelta::hours(probes.samples_hours.into());
        let all = now - TimeDelta::days(probes.history_days.into());
        if let Err(error) = store.thin_gateway_history(raw, all).await {
            tracing::warn!(%error, "cannot delete old gateway history");
        }
    }
}

/// Deletes records of the audit log that are older than `audit.retention_days`, once per [`CLEANING`]. Never returns.
async fn delete_old_audit(store: Store, settings: LiveSettings) {
    let mut ticks = tokio::time::interval(CLEANING);
    loop {
        ticks.tick().await;
        let days = settings.load().audit.retention_days;
        // by the one clock of all nodes: one node that is ahead must not delete the records of all
        let deleted = match store.database_time().await {
            Ok(now) => store.delete_audit_before(now - TimeDelta::days(days.into())).await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "old records of the audit log deleted (audit.retention_days)"),
            Err(error) => tracing::warn!(%error, "cannot delete old records of the audit log"),
        }
    }
}

/// Deletes what no topic's history keeps, once per [`CLEANING`] and when a history has ended. Never returns.
async fn clean_histories(store: Store) {
    let mut ticks = tokio::time::interval(CLEANING);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = store.history_ended() => {}
        }
        match store.clean_histories().await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "publications deleted that no topic's history keeps"),
            Err(error) => tracing::warn!(%error, "cannot delete what no topic's history keeps"),
        }
    }
}

/// Deletes finished commands, acknowledged messages that have ended, events of rooms and logins that are old enough, once per [`CLEANING`]. Never returns.
async fn delete_what_is_old(store: Store, clock: Clock, settings: LiveSettings) {
    let mut ticks = tokio::time::interval(CLEANING);
    loop {
        ticks.tick().await;
        let (days, hours) = {
            let settings = settings.load();
            (settings.commands.retention_days, settings.messages.retention_hours)
        };
        match store.delete_commands_before(clock.now() - TimeDelta::days(days.into())).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "old commands deleted (commands.retention_days)"),
            Err(error) => tracing::warn!(%error, "cannot delete old commands"),
        }
        match store.delete_messages_ended_before(clock.now() - TimeDelta::hours(hours.into())).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "old messages deleted (messages.retention_hours)"),
            Err(error) => tracing::warn!(%error, "cannot delete old messages"),
        }
        if let Err(error) = store.delete_room_events_after(ROOM_EVENTS).await {
            tracing::warn!(%error, "cannot delete old events of rooms");
        }
        if let Err(error) = store.forget_old_logins().await {
            tracing::warn!(%error, "cannot delete old logins");
        }
    }
}
