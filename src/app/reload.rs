//! Settings that change while the broker runs.

use actix_web::web;
use serde_json::json;

use super::Application;
use crate::{
    domain::audit::{Action, Actor, Target},
    logging,
    settings::Reloaded,
    state::Broker,
};

/// Reads the settings again, and applies those that can change.
#[derive(Clone)]
pub struct Reload(web::Data<Broker>);

impl Application {
    /// For reloads while the broker runs.
    pub fn reload(&self) -> Reload {
        Reload(self.broker.clone())
    }
}

impl Reload {
    /// Reads the settings again, and applies those that can change. What was done is in the log, and what was not, too. With an error in
    /// the settings nothing changes.
    pub async fn run(&self) {
        let settings = &self.0.settings;
        let Reloaded { changed, at_restart } = match settings.reload() {
            Ok(reloaded) => reloaded,
            Err(error) => return tracing::error!(%error, "cannot reload the settings: all stay as they are"),
        };
        // also if they have not changed: those of the last reload may not have been applied
        let configured = settings.load().gateways();
        if let Err(error) = self.0.gateways.reconfigure(configured).await {
            tracing::error!(%error, "cannot apply the gateways of the configuration; try again");
        }
        if !at_restart.is_empty() {
            tracing::warn!(keys = at_restart.join(", "), "these settings have changed and need a restart");
        }
        settings.load().warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        tracing::info!(changed = changed.join(", "), "settings reloaded");
        // after these lines, which it may leave out
        if let Err(error) = logging::configure(&settings.load().log) {
            tracing::error!(%error, "cannot change the log level");
        }
        let (target, details) = (Target::of(self.0.cluster.incarnation()), json!({ "changed": changed }));
        self.0.audit.record(Actor::system(), Action::SettingsReloaded, target, details);
    }
}
