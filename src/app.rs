//! Starts and stops the broker. Actors are created and connected to each other only here.
//!
//! | file | what it is |
//! | --- | --- |
//! | `bootstrap` | the first start: the data directory, the secret, the first account |
//! | `data` | the data directory, the database, and what the actors begin with |
//! | `identities` | tokens, accounts and passwords |
//! | `others` | whether the nodes that run already can be understood |
//! | `restored` | the files of a backup in place of those of the data directory |
//! | `actors` | the actors, and which tells which |
//! | `background` | periodic work, and the watch over it and over the actors |
//! | `broker` | the state that handlers and sessions share |
//! | `reload` | settings that change while the broker runs |
//! | `server` | the listener, the workers and the middleware |
//! | `stop` | the end |

mod actors;
mod background;
pub(crate) mod bootstrap;
mod broker;
mod data;
mod identities;
mod others;
mod reload;
pub(crate) mod restored;
mod server;
mod stop;

use std::{fmt, net::SocketAddr, path::PathBuf};

use actix_web::{dev::Server, web};
use chrono::{DateTime, Utc};

pub(crate) use self::reload::Reload;
pub(crate) use self::server::{capacity, worker_count};
use self::{
    actors::{Actors, Arbiters, ThisNode},
    broker::broker,
    data::{Data, DataDir},
    identities::Identities,
    server::{listen, serve, warn_of_risks},
};
use crate::{
    clock::Clock,
    cluster::{envelope::EnvelopeVersions, node::Node, shard::Names},
    protocol::outbound::rfc3339,
    services::{Audit, Webhooks},
    settings::LiveSettings,
    state::Broker,
    store::{Location, ServingBroker, Store},
};

/// This process as a node.
fn node(broker: &ServingBroker, envelopes: EnvelopeVersions, started_at: DateTime<Utc>) -> Node {
    Node {
        incarnation: broker.instance,
        host: broker.host.clone(),
        process_id: broker.process_id,
        address: broker.address.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        envelopes,
        started_at: rfc3339(started_at),
        sockets: 0,
    }
}

/// A broker that listens but does not serve yet; see [`Application::run_until_stopped`].
pub struct Application {
    broker: web::Data<Broker>,
    /// closed at the end
    store: Store,
    server: Server,
    arbiters: Arbiters,
    address: SocketAddr,
    dir: DataDir,
    first_password: Option<PathBuf>,
    has_accounts: bool,
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Application {
    /// Opens the database, starts the actors and listens. Connections are accepted from then on. Other nodes can send envelopes of
    /// these versions.
    ///
    /// # Errors
    /// The reason why the broker cannot start, as a text for the operator.
    pub async fn build(live: LiveSettings, envelopes: EnvelopeVersions) -> anyhow::Result<Self> {
        let settings = live.load();
        let (clock, workers) = (Clock::default(), worker_count(&settings));
        let dir = DataDir::open(&settings)?;
        // bound before the database is opened, so that a second server on the same address fails before it migrates
        let listener = listen(settings.http.bind)?;
        let address = listener.local_addr()?;
        warn_of_risks(&settings);
        let Data { store, held, database, restored, first_password, has_accounts } =
            Data::open(&live, address, &clock, (&dir.secret, envelopes)).await?;
        let identities = Identities::load(&settings, &clock, &dir.secret, &store, workers).await?;
        let (arbiters, accounts) = (Arbiters::start(), &identities.accounts);
        let node = node(&held.broker, envelopes, clock.now());
        let this = ThisNode { workers, node, names: Names::of(&dir.secret, database) };
        let actors = Actors::start(&arbiters, &live, &clock, this, &store, accounts, restored).await?;
        let audit = Audit::new(store.clone(), actors.journal.clone());
        let webhooks = Webhooks::new(settings.webhooks(), store.clone(), actors.journal.clone(), clock.clone())?;
        let extra = (audit, webhooks);
        let supervision = background::start(&arbiters, &live, (&clock, &store), accounts, &actors, held, &extra)?;
        let broker = web::Data::new(broker(live, clock, store.clone(), identities, actors, supervision, extra));
        let server = serve(broker.clone(), listener, workers)?;
        Ok(Self { broker, store, server, arbiters, address, dir, first_password, has_accounts })
    }

    /// The base URL: `http://` and the address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The file with the password of the first account, if this start created that account.
    pub fn first_password(&self) -> Option<&PathBuf> {
        self.first_password.as_ref()
    }

    /// The address that the broker listens on, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The location of the database.
    pub fn database(&self) -> &Location {
        &self.dir.database
    }

    /// Whether an account existed after the start.
    pub fn has_accounts(&self) -> bool {
        self.has_accounts
    }
}
