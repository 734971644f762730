//! Changes of gateways: each is checked against the other gateways, stored, and then sent to the actor. The store refuses one
//! whose author does not know what another node has changed; then it is checked again.

use std::sync::Arc;

use super::{
    super::messages::{Put, Remove},
    GatewayChange, GatewayError, Gateways, NewGateway,
};
use crate::{
    domain::{
        accounts::Account,
        gateways::{Gateway, GatewayState, Source, is_behind_itself},
        ids::GatewayId,
    },
    store::Current,
};

impl Gateways {
    /// Creates a gateway. It is probed at once.
    ///
    /// # Errors
    /// The reason why it is not created.
    pub async fn create(&self, new: NewGateway) -> Result<Arc<GatewayState>, GatewayError> {
        let turn = self.turn().await?;
        let created = loop {
            let version = self.version();
            let gateway = self.allowed(new.clone()).await?;
            match self.store.create_gateway(&gateway, version).await? {
                Current::Yes(true) => break self.put(gateway).await?,
                Current::Yes(false) => return Err(GatewayError::IdTaken),
                Current::No => self.catch_up().await?,
            }
        };
        self.known_everywhere(turn).await;
        Ok(created)
    }

    /// The gateway to be created, with its id.
    async fn allowed(&self, new: NewGateway) -> Result<Gateway, GatewayError> {
        let NewGateway { id, name, address, parent_id, max_rtt_ms, max_loss_percent } = new;
        if id.is_some_and(|id| self.board.get(id).is_some()) {
            return Err(GatewayError::IdTaken);
        }
        let most = self.settings.load().limits.gateways;
        if most > 0 && self.board.len() >= most {
            return Err(GatewayError::TooMany);
        }
        self.check_parent(id, parent_id)?;
        let id = match id {
            Some(id) => id,
            None => self.store.unused_gateway_id().await?,
        };
        if id > GatewayId::MAX {
            return Err(GatewayError::NoIdLeft);
        }
        Ok(Gateway { id, name, address, parent_id, max_rtt_ms, max_loss_percent, source: Source::Api })
    }

    /// Changes a gateway. It is probed at once.
    ///
    /// # Errors
    /// The reason why it is not changed.
    pub async fn update(&self, id: GatewayId, change: GatewayChange) -> Result<Arc<GatewayState>, GatewayError> {
        let turn = self.turn().await?;
        let changed = loop {
            let version = self.version();
            let gateway = self.changed_by(id, change.clone())?;
            match self.store.update_gateway(&gateway, version).await? {
                Current::Yes(true) => break self.put(gateway).await?,
                Current::Yes(false) => return Err(GatewayError::NotFound),
                Current::No => self.catch_up().await?,
            }
        };
        self.known_everywhere(turn).await;
        Ok(changed)
    }

    /// The gateway as it is to be after a change.
    fn changed_by(&self, id: GatewayId, change: GatewayChange) -> Result<Gateway, GatewayError> {
        let known = self.changeable(id)?;
        let old = &known.gateway;
        if let Some(parent_id) = change.parent_id {
            self.check_parent(Some(id), parent_id)?;
        }
        Ok(Gateway {
            id,
            name: change.name.unwrap_or_else(|| old.name.clone()),
            address: change.address.unwrap_or_else(|| old.address.clone()),
            parent_id: change.parent_id.unwrap_or(old.parent_id),
            max_rtt_ms: change.max_rtt_ms.unwrap_or(old.max_rtt_ms),
            max_loss_percent: change.max_loss_percent.unwrap_or(old.max_loss_percent),
            source: old.source,
        })
    }

    /// Deletes a gateway with its history. Devices and gateways behind it are behind none afterwards.
    ///
    /// # Errors
    /// The reason why it is not deleted.
    pub async fn delete(&self, id: GatewayId) -> Result<(), GatewayError> {
        let turn = self.turn().await?;
        let devices = loop {
            let version = self.version();
            self.changeable(id)?;
            match self.store.delete_gateway(id, version).await? {
                Current::Yes(devices) => break devices,
                Current::No => self.catch_up().await?,
            }
        };
        if !devices.is_empty() {
            self.devices_changed();
        }
        for device in devices {
            self.accounts.put(Account::from(device));
        }
        self.monitor.send(Remove(id)).await?;
        self.changed();
        self.known_everywhere(turn).await;
        Ok(())
    }

    /// The gateways of the configuration are these from now on. Others that were there are removed with their history.
    ///
    /// # Errors
    /// One of them has an id that a gateway has got over HTTP; then nothing changes. Or the database failed.
    pub async fn reconfigure(&self, configured: Vec<Gateway>) -> Result<(), GatewayError> {
        let _turn = self.turn().await?;
        self.catch_up().await?;
        let known = |id| self.board.get(id).map(|known| Gateway::clone(&known.gateway));
        let is_taken = |gateway: &Gateway| known(gateway.id).is_some_and(|known| known.source == Source::Api);
        if configured.iter().any(is_taken) {
            return Err(GatewayError::IdTaken);
        }
        if let Some(highest) = configured.iter().map(|gateway| gateway.id).max() {
            self.store.reserve_gateway_ids(highest).await?;
        }
        let is_gone = |known: &GatewayState| {
            let gateway = &known.gateway;
            gateway.source == Source::Config && configured.iter().all(|one| one.id != gateway.id)
        };
        for known in self.board.all().into_iter().filter(|known| is_gone(known)) {
            self.monitor.send(Remove(known.gateway.id)).await?;
        }
        // twice, since one may be behind another that is still where it was before
        for gateway in configured.iter().chain(&configured) {
            if known(gateway.id).as_ref() != Some(gateway) {
                self.monitor.send(Put(gateway.clone())).await?;
            }
        }
        Ok(())
    }

    fn changeable(&self, id: GatewayId) -> Result<Arc<GatewayState>, GatewayError> {
        let known = self.get(id)?;
        match known.gateway.source {
            Source::Api => Ok(known),
            Source::Config => Err(GatewayError::Configured),
        }
    }

    fn check_parent(&self, id: Option<GatewayId>, parent: Option<GatewayId>) -> Result<(), GatewayError> {
        let Some(parent) = parent else { return Ok(()) };
        let parent_of = |id| self.board.get(id).and_then(|known| known.gateway.parent_id);
        if id.is_some_and(|id| is_behind_itself(id, parent, parent_of)) {
            return Err(GatewayError::BehindItself(parent));
        }
        self.board.get(parent).map(drop).ok_or(GatewayError::ParentNotFound)
    }

    /// Sends a stored change to the actor, which probes the gateway.
    async fn put(&self, gateway: Gateway) -> Result<Arc<GatewayState>, GatewayError> {
        let id = gateway.id;
        self.monitor.send(Put(gateway)).await?;
        self.changed();
        self.get(id)
    }
}
