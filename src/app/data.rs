//! The data: the directory, the secret in it, and the database with what the actors begin with.

use std::{collections::HashMap, fs::File, net::SocketAddr, path::PathBuf};

use anyhow::Context;
use serde_json::json;

use super::{bootstrap, others, restored};
use crate::{
    clock::Clock,
    cluster::envelope::EnvelopeVersions,
    delivery::note_id,
    domain::{
        audit::{Action, Actor, Target},
        commands::Command,
        gateways::{Gateway, Transition},
        ids::GatewayId,
    },
    settings::{LiveSettings, Registration, Settings},
    store::{DatabaseLock, Location, ServingBroker, Sharing, Store, StoreError},
};

/// The data directory, which no other broker uses until this is dropped.
pub(super) struct DataDir {
    /// signs tokens
    pub secret: Vec<u8>,
    /// the location of the database, which may be elsewhere
    pub database: Location,
    _lock: File,
}

impl DataDir {
    pub(super) fn open(settings: &Settings) -> anyhow::Result<Self> {
        settings.check_secret()?;
        let dir = &settings.storage.data_dir;
        bootstrap::create_data_dir(dir)?;
        let database = Location::of(&settings.storage)?;
        let is_elsewhere = !settings.storage.database_url.is_empty();
        let start = bootstrap::Start { database_elsewhere: is_elsewhere.then_some(&database) };
        let lock = bootstrap::lock_data_dir(dir, Some(start))?;
        restored::finish(dir)?;
        let secret = bootstrap::secret(settings)?;
        Ok(Self { secret, database, _lock: lock })
    }
}

/// The database, which no other broker serves, with the present schema.
pub(super) struct Data {
    /// with the timeouts for serving clients
    pub store: Store,
    pub held: Held,
    /// tells this database from others
    pub database: i64,
    /// the file with the password of the first account, if this start created that account
    pub first_password: Option<PathBuf>,
    pub has_accounts: bool,
    pub restored: Restored,
}

/// The right to serve a database.
pub(super) struct Held {
    pub lock: DatabaseLock,
    /// this start of the broker
    pub broker: ServingBroker,
}

/// What the actors begin with.
pub(super) struct Restored {
    /// those of the configuration and those created over HTTP
    pub gateways: Vec<Gateway>,
    /// what was last known of each gateway
    pub transitions: HashMap<GatewayId, Transition>,
    /// the commands that the last process left
    pub unfinished: Vec<Command>,
}

impl Data {
    /// For a broker that listens at `address`, with the secret of all nodes and the versions of envelopes that this one
    /// understands.
    pub(super) async fn open(
        live: &LiveSettings,
        address: SocketAddr,
        clock: &Clock,
        (secret, envelopes): (&[u8], EnvelopeVersions),
    ) -> anyhow::Result<Self> {
        // has longer timeouts than the one that serves clients
        let settings = live.load();
        let starting = Store::connect(&settings.storage).await?.with_clock(clock.clone());
        let sharing = if settings.is_shared() { Sharing::Shared } else { Sharing::Alone };
        // before the lock, for which the others wait
        let stranger = match sharing {
            Sharing::Shared => others::without_common_version(&settings, &starting, secret, envelopes).await,
            Sharing::Alone => None,
        };
        let mut lock = starting.lock(sharing).await?;
        // what the others serve is not taken from them
        let is_first = lock.is_only_one();
        // a record may outlive its node for some seconds, but not the lock
        if let Some(stranger) = stranger.filter(|_| !is_first) {
            return Err(stranger.into());
        }
        starting.migrate_up().await.context("cannot bring the database's schema up to date")?;
        let broker = bootstrap::serving_broker(address, settings.auth.password_rules());
        let instance = broker.instance;
        starting.register_broker(&broker, &mut lock).await?;
        audit_start(&settings, &starting, &broker).await?;
        if sharing == Sharing::Shared {
            note_id(starting.newest_socket().await?);
        }
        if settings.devices.registration == Registration::Claim {
            warn_of_unbound_devices(&starting).await?;
        }
        let data = Self {
            store: starting.serving(live),
            held: Held { lock, broker },
            database: starting.database_number().await?,
            first_password: if is_first { bootstrap::create_first_admin(&starting, &settings).await? } else { None },
            has_accounts: starting.count_users().await? > 0,
            restored: Restored {
                gateways: all_gateways(&settings, &starting).await?,
                transitions: starting.last_gateway_transitions().await?.into_iter().collect(),
                unfinished: match sharing {
                    Sharing::Alone => starting.unfinished_commands(None).await?,
                    // those of another one that starts at the same time are not in there
                    Sharing::Shared if is_first => starting.unfinished_commands(Some(instance)).await?,
                    Sharing::Shared => Vec::new(),
                },
            },
        };
        starting.close().await;
        Ok(data)
    }
}

/// Records the start in the audit log. A full disk does not prevent it.
async fn audit_start(settings: &Settings, store: &Store, broker: &ServingBroker) -> anyhow::Result<()> {
    let details = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "process_id": broker.process_id,
        "settings": settings.changed,
    });
    let target = Target::of(broker.instance);
    match store.by(Actor::system()).audit(Action::BrokerStarted, Some(target), details).await {
        Err(error @ StoreError::Full(_)) => tracing::error!(%error, "the start is not in the audit log"),
        recorded => recorded?,
    }
    Ok(())
}

/// Warns if devices were registered without proof (`devices.registration = "open"`): until such a device registers again,
/// an impostor's registration looks the same as its own.
async fn warn_of_unbound_devices(store: &Store) -> anyhow::Result<()> {
    let devices = store.count_unbound_devices().await?;
    if devices > 0 {
        tracing::warn!(
            devices,
            "some devices were registered without proof, possibly by somebody else: a device is bound, and its earlier tokens become invalid, when it registers again with its device_key or a token; `switchboard devices rm` frees a UUID that somebody else has taken"
        );
    }
    Ok(())
}

/// The gateways of the configuration and those created over HTTP. Both share one id space.
async fn all_gateways(settings: &Settings, store: &Store) -> anyhow::Result<Vec<Gateway>> {
    let configured = settings.gateways();
    let created = store.gateways().await?;
    if let Some(taken) = created.iter().find(|created| configured.iter().any(|one| one.id == created.id)) {
        anyhow::bail!(
            "bad value for `gateways`: gateway {} has been created over HTTP already, as \"{}\": give yours another id",
            taken.id,
            taken.name
        );
    }
    if let Some(highest) = configured.iter().map(|gateway| gateway.id).max() {
        store.reserve_gateway_ids(highest).await?;
    }
    Ok(configured.into_iter().chain(created).collect())
}
